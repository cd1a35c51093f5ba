//! Files that others read while they are written: whole or not at all.

use std::fs::{self, File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Makes `path` hold `bytes` with `mode`, unless it does; says whether it wrote. Directories above are made.
///
/// The bytes are under another name first, which no container runtime takes for a configuration, and on disk before
/// they get theirs.
///
/// # Errors
/// A sentence that names the file.
pub fn ensure(path: &Path, bytes: &[u8], mode: u32) -> Result<bool, String> {
    if holds(path, bytes, mode) {
        return Ok(false);
    }
    write(path, bytes, mode).map(|()| true).map_err(|error| format!("write {}: {error}", path.display()))
}

/// Removes `path`; says whether it was there.
///
/// # Errors
/// A sentence that names the file.
pub fn remove(path: &Path) -> Result<bool, String> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(format!("remove {}: {error}", path.display())),
    }
}

fn holds(path: &Path, bytes: &[u8], mode: u32) -> bool {
    let has_mode = fs::symlink_metadata(path)
        .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o7777 == mode);
    has_mode && fs::read(path).is_ok_and(|present| present == bytes)
}

fn write(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let directory = path.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(directory)?;
    let unfinished = Unfinished(unfinished(path));
    // One of a predecessor that was killed here.
    let _ = fs::remove_file(&unfinished.0);
    let mut file = File::options().write(true).create_new(true).open(&unfinished.0)?;
    file.set_permissions(Permissions::from_mode(mode))?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&unfinished.0, path)?;
    File::open(directory)?.sync_all()
}

/// The name under which `path` is written; a daemon that is killed then leaves it.
pub fn unfinished(path: &Path) -> PathBuf {
    path.with_file_name(format!(".{}.bowlined", path.file_name().unwrap_or_default().to_string_lossy()))
}

/// A name that goes when dropped, if it still exists.
struct Unfinished(PathBuf);

impl Drop for Unfinished {
    fn drop(&mut self) {
        // Renamed away already when all went well.
        let _ = fs::remove_file(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn the_same_again_writes_nothing_and_another_mode_is_another_file() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("deep/f");
        assert_eq!(ensure(&path, b"1", 0o600), Ok(true));
        let inode = fs::metadata(&path).expect("there").ino();
        assert_eq!(ensure(&path, b"1", 0o600), Ok(false));
        assert_eq!(fs::metadata(&path).expect("there").ino(), inode);
        assert_eq!(ensure(&path, b"1", 0o644), Ok(true));
        assert_eq!(ensure(&path, b"2", 0o644), Ok(true));
        assert_eq!(fs::read(&path).expect("read"), b"2");
        let names = fs::read_dir(dir.path().join("deep")).expect("listed").count();
        assert_eq!(names, 1, "nothing unfinished is left");
        assert_eq!((remove(&path), remove(&path)), (Ok(true), Ok(false)));
    }

    #[test]
    fn what_a_killed_predecessor_left_is_no_obstacle() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("f.conflist");
        fs::write(unfinished(&path), "half").expect("written");
        assert_eq!(ensure(&path, b"whole", 0o600), Ok(true));
        assert_eq!(fs::read_dir(dir.path()).expect("listed").count(), 1);
        assert!(
            ![".conf", ".conflist", ".json"]
                .iter()
                .any(|end| unfinished(&path).display().to_string().ends_with(end))
        );
    }

    #[test]
    fn an_error_names_the_file() {
        let error = ensure(Path::new("/proc/none/f"), b"", 0o600).expect_err("no such directory can be made");
        assert!(error.starts_with("write /proc/none/f: "), "{error}");
    }
}
