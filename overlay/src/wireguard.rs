//! The node's WireGuard key: 32 random bytes in a file that nobody else reads.
//!
//! The file outlives reboots, so that peers need not learn a new public key. The kernel clamps the bytes to a key
//! (RFC 7748) and tells the public one.

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use kernel::random;

/// A private key.
#[derive(Clone, PartialEq, Eq)]
pub struct PrivateKey(pub(crate) [u8; 32]);

impl std::fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PrivateKey(..)")
    }
}

/// The key in the file at `path`, which is made, mode 0600, when it is absent.
///
/// # Errors
/// One sentence that names the file: it cannot be read or made, is not 32 bytes long, or others may read it.
pub fn key(path: &Path) -> Result<PrivateKey, String> {
    let shown = path.display();
    match fs::File::open(path) {
        Ok(file) => read(file).map_err(|why| format!("{shown}: {why}")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            make(path).map_err(|error| format!("{shown}: cannot make a WireGuard key: {error}"))
        }
        Err(error) => Err(format!("{shown}: {error}")),
    }
}

fn read(mut file: fs::File) -> Result<PrivateKey, String> {
    let mode = file.metadata().map_err(|error| error.to_string())?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(format!(
            "a private key that others may read (mode {mode:o}): chmod 600, or delete it for a new one"
        ));
    }
    let mut bytes = Vec::with_capacity(64);
    (&mut file).take(64).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    let length = bytes.len();
    let key = bytes.try_into().map(PrivateKey);
    key.map_err(|_| format!("{length} bytes where a key has 32: delete it for a new one"))
}

/// Written under another name first, so that a key is never half there.
fn make(path: &Path) -> io::Result<PrivateKey> {
    let bytes: [u8; 32] = random::bytes().map_err(io::Error::other)?;
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    // The name by which `bowline cleanup` finds it, should this program be killed now.
    let unfinished = &path.with_file_name(format!(".{name}.bowlined"));
    let written = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(unfinished);
    let result = written.and_then(|mut file| {
        file.write_all(&bytes)?;
        file.sync_all()?;
        fs::rename(unfinished, path)
    });
    if result.is_err() {
        let _ = fs::remove_file(unfinished);
    }
    result.map(|()| PrivateKey(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_made_once_and_read_by_its_owner_only() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("deep/wireguard.key");
        let made = key(&path).expect("a key");
        assert_eq!(key(&path).expect("the same key"), made);
        let mode = fs::metadata(&path).expect("the file").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(fs::read_dir(directory.path().join("deep")).expect("listed").count(), 1);
        assert_eq!(format!("{made:?}"), "PrivateKey(..)");
    }

    #[test]
    fn a_file_that_is_no_key_is_refused_with_what_to_do() {
        let directory = tempfile::tempdir().expect("a directory");
        for (name, bytes, mode, expected) in [
            ("short", 31, 0o600, "31 bytes where a key has 32: delete it for a new one"),
            ("long", 40, 0o600, "40 bytes where a key has 32: delete it for a new one"),
            (
                "open",
                32,
                0o640,
                "a private key that others may read (mode 640): chmod 600, or delete it for a new one",
            ),
        ] {
            let path = directory.path().join(name);
            fs::write(&path, vec![7; bytes]).expect("written");
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("set");
            let refusal = key(&path).expect_err(name);
            assert_eq!(refusal, format!("{}: {expected}", path.display()));
        }
    }
}
