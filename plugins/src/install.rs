//! `bowline-cni install`: this binary into a directory, once on disk and under every plug-in's name.
//!
//! A temporary file is written, synced and hard-linked, and each link renamed over its name: a runtime that starts a
//! plug-in meanwhile runs the old one or the new one, never half a file.

use std::fs::{self, File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use kernel::{Error, Result};

/// What tells our binaries from others: these bytes are somewhere in the file.
#[used]
static MARKER: [u8; 50] = *b"bowline-cni multi-call binary \xf0\x9f\xaa\xa2 5f1b0c5a9d2e47\0";

/// What to do about a file that is not ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Foreign {
    /// Refuse, before anything is changed.
    Keep,
    /// Replace it.
    Replace,
}

/// Installs this binary into `dir` (made if missing) under each of `names`.
///
/// # Errors
/// [`Error::Invalid`] for a name that is no plug-in's, and for one that a foreign binary has; [`Error::Io`].
pub fn install(dir: &Path, names: &[&str], foreign: Foreign) -> Result<()> {
    if let Some(unknown) = names.iter().find(|name| crate::find(name).is_none()) {
        let known: Vec<_> = crate::TABLE.iter().map(|plugin| plugin.name()).collect();
        return Err(Error::Invalid {
            what: format!("no plugin `{unknown}`; there are {}", known.join(", ")),
        });
    }
    if foreign == Foreign::Keep
        && let Some(file) = names.iter().map(|name| dir.join(name)).find(|file| is_foreign(file))
    {
        let what = format!("{} is not bowline's; --force replaces it", file.display());
        return Err(Error::Invalid { what });
    }
    fs::create_dir_all(dir).map_err(|e| Error::io(format!("make directory {}", dir.display()), e))?;
    let copy = Temporary::beside(dir, "bowline-cni")?;
    copy_self(&copy.path).map_err(|e| Error::io(format!("write {}", copy.path.display()), e))?;
    for name in names {
        let link = Temporary::beside(dir, name)?;
        let target = dir.join(name);
        link_or_copy(&copy.path, &link.path)
            .and_then(|()| fs::rename(&link.path, &target))
            .map_err(|e| Error::io(format!("install {}", target.display()), e))?;
    }
    File::open(dir)
        .and_then(|handle| handle.sync_all())
        .map_err(|e| Error::io(format!("sync directory {}", dir.display()), e))
}

/// A name that goes when dropped, if it still exists.
struct Temporary {
    path: PathBuf,
}

impl Temporary {
    fn beside(dir: &Path, name: &str) -> Result<Self> {
        Ok(Temporary { path: dir.join(format!(".{name}.{}", kernel::random::hex8()?)) })
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // Renamed away already when all went well.
        let _ = fs::remove_file(&self.path);
    }
}

fn copy_self(to: &Path) -> io::Result<()> {
    let bytes = fs::read("/proc/self/exe")?;
    let mut file = File::options().write(true).create_new(true).open(to)?;
    file.write_all(&bytes)?;
    file.set_permissions(Permissions::from_mode(0o755))?;
    file.sync_all()
}

/// Some file systems have no hard links.
fn link_or_copy(from: &Path, to: &Path) -> io::Result<()> {
    fs::hard_link(from, to).or_else(|_| {
        fs::copy(from, to)?;
        File::open(to)?.sync_all()
    })
}

/// Whether something is there that is not ours; what cannot be read is not ours.
fn is_foreign(file: &Path) -> bool {
    match fs::read(file) {
        Ok(bytes) => !bytes.windows(MARKER.len()).any(|window| window == MARKER),
        Err(_) => fs::symlink_metadata(file).is_ok(),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    fn names_in(dir: &Path) -> Vec<String> {
        let entries = fs::read_dir(dir).unwrap();
        let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn one_file_under_every_name_and_again_over_itself() {
        let dir = tempfile::tempdir().unwrap();
        let bin = dir.path().join("bin");
        let names: Vec<_> = crate::TABLE.iter().map(|plugin| plugin.name()).collect();
        for _ in 0..2 {
            install(&bin, &names, Foreign::Keep).expect("installs over its own");
            assert_eq!(names_in(&bin), names, "no temporary file is left");
            let meta = fs::metadata(bin.join(names[0])).unwrap();
            assert_eq!((meta.nlink(), meta.mode() & 0o777), (names.len() as u64, 0o755));
        }
    }

    #[test]
    fn foreign_binaries_and_unknown_names_are_refused_first() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("loopback"), "#!/bin/sh\n").unwrap();
        let refusal = install(dir.path(), &["loopback"], Foreign::Keep).expect_err("foreign");
        assert!(refusal.to_string().contains("loopback is not bowline's"), "{refusal}");
        let refusal = install(dir.path(), &["loopback", "pear"], Foreign::Replace).expect_err("unknown");
        assert!(refusal.to_string().starts_with("no plugin `pear`"), "{refusal}");
        assert_eq!(fs::read(dir.path().join("loopback")).unwrap(), b"#!/bin/sh\n");
        install(dir.path(), &["loopback"], Foreign::Replace).expect("forced");
        assert!(!is_foreign(&dir.path().join("loopback")));
        assert_eq!(names_in(dir.path()), ["loopback"]);
    }
}
