//! Files that appear whole or not at all, extended attributes, and who this machine is.
//!
//! State on disk must survive a kill between any two system calls, so nothing is ever written under its final name:
//! an unnamed file is filled first and then linked.

use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// File systems that one running kernel at a time can have mounted for writing.
const LOCAL_DISKS: [i64; 6] = [
    0xef53,      // ext2, ext3, ext4
    0x5846_5342, // xfs
    0x9123_683e, // btrfs
    0xf2f5_2010, // f2fs
    0x0102_1994, // tmpfs
    0x794c_7630, // overlay
];

/// A file in `dir` without a name: gone with its descriptor unless [`link`] names it.
///
/// # Errors
/// `Unsupported` where the file system has no such files; else why nothing can be written there.
pub fn unnamed_in(dir: &Path, mode: u32) -> io::Result<File> {
    let opened = OpenOptions::new().write(true).mode(mode).custom_flags(libc::O_TMPFILE).open(dir);
    opened.map_err(|e| match e.raw_os_error() {
        // A kernel or file system that does not know the flag takes it for O_DIRECTORY with writing.
        Some(libc::EOPNOTSUPP | libc::EISDIR | libc::EINVAL) => io::ErrorKind::Unsupported.into(),
        _ => e,
    })
}

/// Opens a file for reading, but neither follows a symbolic link nor waits for a pipe's other end.
pub fn open_regular(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path)
}

/// Opens a file to lock it; a pipe's other end is not waited for.
pub fn open_lock(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)
}

/// All of a regular file that has at most `limit` bytes, symbolic links followed. Nothing that may never end is read:
/// a pipe without a writer, a device.
///
/// # Errors
/// Why it cannot be opened or read; `InvalidInput` for what is no regular file, `FileTooLarge` for a longer one.
pub fn read_whole(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    let kind = file.metadata()?.file_type();
    if kind.is_dir() {
        return Err(io::Error::from_raw_os_error(libc::EISDIR));
    }
    if !kind.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    let mut bytes = Vec::new();
    io::Read::read_to_end(&mut io::Read::take(file, limit.saturating_add(1)), &mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("it has more than {limit} bytes")));
    }
    Ok(bytes)
}

/// Names an unnamed file. `AlreadyExists` when the name is taken: nothing is ever replaced.
pub fn link(file: &File, name: &Path) -> io::Result<()> {
    let from = c_string(format!("/proc/self/fd/{}", file.as_raw_fd()).as_bytes())?;
    let to = c_string(name.as_os_str().as_bytes())?;
    // SAFETY: both strings end in NUL and outlive the call.
    let status = unsafe {
        libc::linkat(libc::AT_FDCWD, from.as_ptr(), libc::AT_FDCWD, to.as_ptr(), libc::AT_SYMLINK_FOLLOW)
    };
    succeeded(status.into())
}

/// Sets the extended attribute `name` (`user.something`) of an open file.
pub fn set_attribute(file: &File, name: &str, value: &[u8]) -> io::Result<()> {
    let name = c_string(name.as_bytes())?;
    // SAFETY: the name ends in NUL, the value is read for its length only; both outlive the call.
    let status =
        unsafe { libc::fsetxattr(file.as_raw_fd(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0) };
    succeeded(status.into())
}

/// The extended attribute `name` of an open file; `None` when there is none, or none can be had, or it is longer
/// than `N` bytes.
pub fn attribute<const N: usize>(file: &File, name: &str) -> Option<Vec<u8>> {
    let name = c_string(name.as_bytes()).ok()?;
    let mut value = [0_u8; N];
    // SAFETY: the name ends in NUL; the kernel writes at most `N` bytes into `value`.
    let length = unsafe { libc::fgetxattr(file.as_raw_fd(), name.as_ptr(), value.as_mut_ptr().cast(), N) };
    let length = usize::try_from(length).ok()?;
    value.get(..length).map(<[u8]>::to_vec)
}

/// Whether an open file lies on a file system that no other machine can be writing to at the same time.
pub fn is_on_local_disk(file: &File) -> bool {
    let mut stat = std::mem::MaybeUninit::<libc::statfs>::zeroed();
    // SAFETY: fstatfs fills the struct it is given; zeroed bytes are a valid statfs.
    if unsafe { libc::fstatfs(file.as_raw_fd(), stat.as_mut_ptr()) } != 0 {
        return false;
    }
    // SAFETY: initialised by zeroed() and then by the kernel.
    #[allow(clippy::unnecessary_cast, reason = "f_type's width differs between architectures")]
    let magic = unsafe { stat.assume_init() }.f_type as i64;
    LOCAL_DISKS.contains(&(magic & 0xffff_ffff))
}

/// The running kernel's boot: 32 hexadecimal digits, other ones after every boot.
pub fn boot_id() -> Option<String> {
    hexadecimal(&std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?)
}

/// The installed system's identity (machine-id(5)): 32 hexadecimal digits.
pub fn machine_id() -> Option<String> {
    hexadecimal(&std::fs::read_to_string("/etc/machine-id").ok()?)
}

fn hexadecimal(text: &str) -> Option<String> {
    let digits: String = text.trim().chars().filter(|c| *c != '-').collect();
    let random = digits.len() == 32
        && digits.bytes().all(|b| b.is_ascii_hexdigit())
        && digits.bytes().any(|b| b != digits.as_bytes()[0]);
    random.then_some(digits)
}

fn c_string(bytes: &[u8]) -> io::Result<CString> {
    CString::new(bytes).map_err(|_| io::ErrorKind::InvalidInput.into())
}

fn succeeded(status: i64) -> io::Result<()> {
    if status == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn scratch(name: &str) -> std::path::PathBuf {
        let dir = std::env::temp_dir().join(format!("kernel-file-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a scratch directory");
        dir
    }

    #[test]
    fn what_may_never_end_is_not_read() {
        let dir = scratch("endless");
        let (file, link) = (dir.join("file"), dir.join("link"));
        std::fs::write(&file, b"12345").expect("written");
        std::os::unix::fs::symlink(&file, &link).expect("linked");
        let kind = |path: &str, limit| read_whole(Path::new(path), limit).map_err(|e| e.kind());
        let shown = link.display().to_string();
        assert_eq!(kind(&shown, 5), Ok(b"12345".to_vec()));
        assert_eq!(kind(&shown, 4), Err(io::ErrorKind::FileTooLarge));
        assert_eq!(kind("/dev/zero", 5), Err(io::ErrorKind::InvalidInput));
        assert_eq!(kind("/", 5), Err(io::ErrorKind::IsADirectory));
        assert_eq!(kind("/nonexistent", 5), Err(io::ErrorKind::NotFound));
        let pipe = dir.join("pipe");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status().expect("coreutils");
        assert!(made.success());
        assert_eq!(kind(&pipe.display().to_string(), 5), Err(io::ErrorKind::InvalidInput));
        std::fs::remove_dir_all(dir).expect("removed");
    }

    #[test]
    fn an_unnamed_file_is_seen_only_once_it_is_linked_and_never_replaces() {
        let dir = scratch("link");
        let mut file = unnamed_in(&dir, 0o600).expect("an unnamed file");
        file.write_all(b"whole").expect("written");
        assert_eq!(std::fs::read_dir(&dir).expect("listed").count(), 0);
        link(&file, &dir.join("name")).expect("linked");
        assert_eq!(std::fs::read(dir.join("name")).expect("read"), b"whole");
        let other = unnamed_in(&dir, 0o600).expect("another");
        let taken = link(&other, &dir.join("name")).expect_err("the name is taken");
        assert_eq!(taken.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read(dir.join("name")).expect("read"), b"whole");
        std::fs::remove_dir_all(dir).expect("removed");
    }

    #[test]
    fn an_attribute_is_read_back_and_its_absence_is_none() {
        let dir = scratch("xattr");
        let file = File::create(dir.join("f")).expect("created");
        assert_eq!(attribute::<40>(&file, "user.bowline.test"), None);
        set_attribute(&file, "user.bowline.test", b"value").expect("set");
        assert_eq!(attribute::<40>(&file, "user.bowline.test").as_deref(), Some(&b"value"[..]));
        assert_eq!(attribute::<3>(&file, "user.bowline.test"), None, "longer than asked for");
        std::fs::remove_dir_all(dir).expect("removed");
    }

    #[test]
    fn identities_that_say_nothing_are_none() {
        assert_eq!(hexadecimal("uninitialized\n"), None);
        assert_eq!(hexadecimal("00000000-0000-0000-0000-000000000000\n"), None);
        assert_eq!(
            hexadecimal("73cf2f6e-c363-4126-acdf-d0c4ecc2f603\n").as_deref(),
            Some("73cf2f6ec3634126acdfd0c4ecc2f603")
        );
    }
}
