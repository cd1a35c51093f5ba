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
    /// Leave it, and install the others.
    Skip,
}

/// Installs this binary into `dir` (made if missing) under each of `names`, unless it is there already, byte for byte.
/// Returns the names that were left to others, which are none but with [`Foreign::Skip`].
///
/// # Errors
/// [`Error::Invalid`] for a name that is no plug-in's, and for one that a foreign binary has; [`Error::Io`].
pub fn install<'a>(dir: &Path, names: &[&'a str], foreign: Foreign) -> Result<Vec<&'a str>> {
    if let Some(unknown) = names.iter().find(|name| crate::find(name).is_none()) {
        let known: Vec<_> = crate::TABLE.iter().map(|plugin| plugin.name()).collect();
        return Err(Error::Invalid {
            what: format!("no plugin `{unknown}`; there are {}", known.join(", ")),
        });
    }
    let bytes = fs::read("/proc/self/exe").map_err(|e| Error::io("read the running program", e))?;
    let is_missing = |name: &&&str| fs::read(dir.join(name)).ok().as_deref() != Some(&bytes);
    let missing: Vec<&str> = names.iter().filter(is_missing).copied().collect();
    let (taken, wanted): (Vec<&str>, Vec<&str>) = match foreign {
        Foreign::Replace => (Vec::new(), missing),
        Foreign::Keep | Foreign::Skip => missing.into_iter().partition(|name| is_foreign(&dir.join(name))),
    };
    if let (Foreign::Keep, Some(name)) = (foreign, taken.first()) {
        let what = format!("{} is not bowline's; --force replaces it", dir.join(name).display());
        return Err(Error::Invalid { what });
    }
    if !wanted.is_empty() {
        write(dir, &wanted, &bytes)?;
    }
    Ok(taken)
}

fn write(dir: &Path, names: &[&str], bytes: &[u8]) -> Result<()> {
    fs::create_dir_all(dir).map_err(|e| Error::io(format!("make directory {}", dir.display()), e))?;
    let copy = Temporary::beside(dir, "bowline-cni")?;
    write_program(&copy.path, bytes).map_err(|e| Error::io(format!("write {}", copy.path.display()), e))?;
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

/// Removes each of `names` that is ours from `dir`, temporary files of a killed installation included, and returns what
/// is removed; with [`Removal::Tell`] nothing is.
///
/// # Errors
/// [`Error::Io`] naming the file.
pub fn uninstall(dir: &Path, names: &[&str], removal: Removal) -> Result<Vec<PathBuf>> {
    let Ok(entries) = fs::read_dir(dir) else { return Ok(Vec::new()) };
    let is_name = |file: &str| names.contains(&file) || is_temporary(file, names);
    let files = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut ours: Vec<PathBuf> = files.filter(|file| is_name(file)).map(|file| dir.join(file)).collect();
    ours.retain(|file| file.is_file() && !is_foreign(file));
    ours.sort();
    if removal == Removal::Now {
        for file in &ours {
            fs::remove_file(file).map_err(|e| Error::io(format!("remove {}", file.display()), e))?;
        }
    }
    Ok(ours)
}

/// Whether something goes, or is only told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Removal {
    /// It goes.
    Now,
    /// It is told.
    Tell,
}

/// `.NAME.xxxxxxxx`, as [`Temporary::beside`] makes it.
fn is_temporary(file: &str, names: &[&str]) -> bool {
    let hidden = file.strip_prefix('.').and_then(|rest| rest.rsplit_once('.'));
    hidden.is_some_and(|(name, end)| end.len() == 8 && (name == "bowline-cni" || names.contains(&name)))
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

fn write_program(to: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::options().write(true).create_new(true).open(to)?;
    file.write_all(bytes)?;
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

    #[test]
    fn ours_goes_and_what_others_have_put_there_stays() {
        let dir = tempfile::tempdir().unwrap();
        let names = ["bridge", "loopback"];
        install(dir.path(), &["loopback"], Foreign::Keep).expect("installed");
        fs::copy(dir.path().join("loopback"), dir.path().join(".bridge.0123abcd")).unwrap();
        for foreign in ["bridge", "flannel", ".bridge.89abcdef"] {
            fs::write(dir.path().join(foreign), "#!/bin/sh\n").unwrap();
        }
        for removal in [Removal::Tell, Removal::Now] {
            let ours = uninstall(dir.path(), &names, removal).expect("looked at");
            assert_eq!(ours, [".bridge.0123abcd", "loopback"].map(|name| dir.path().join(name)));
        }
        assert!(uninstall(dir.path(), &names, Removal::Now).expect("again").is_empty());
        assert_eq!(names_in(dir.path()), [".bridge.89abcdef", "bridge", "flannel"]);
    }

    #[test]
    fn others_are_passed_over_and_what_is_there_is_not_written_again() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("bridge"), "#!/bin/sh\n").unwrap();
        let names = ["bridge", "loopback"];
        assert_eq!(install(dir.path(), &names, Foreign::Skip).expect("installed"), ["bridge"]);
        assert_eq!(fs::read(dir.path().join("bridge")).unwrap(), b"#!/bin/sh\n");
        let inode = || fs::metadata(dir.path().join("loopback")).unwrap().ino();
        let first = inode();
        install(dir.path(), &names, Foreign::Skip).expect("again");
        assert_eq!(inode(), first, "the same bytes are not written again");
    }
}
