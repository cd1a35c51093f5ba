//! Network namespace handles and scoped entry.
//!
//! A netlink socket stays in the namespace it was opened in, so most work never enters a namespace at all:
//! [`crate::netlink::Socket::open_in`] enters once, on a thread of its own, and hands the socket back.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::{Error, Result};

const NSFS_MAGIC: i64 = 0x6e73_6673;
const PROC_SUPER_MAGIC: i64 = 0x9fa0;

/// An open network namespace. Cloning shares the descriptor.
#[derive(Debug, Clone)]
pub struct Netns {
    file: Arc<File>,
    path: PathBuf,
}

/// A namespace's identity: equal for two handles of the same namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct NetnsId {
    device: u64,
    inode: u64,
}

impl Netns {
    /// Opens the namespace at `path`.
    ///
    /// # Errors
    /// [`Error::Io`] with ENOENT when the path is missing ([`Error::is_absent`] is true then);
    /// [`Error::NotANetns`] when it is neither on nsfs nor on procfs, or a namespace of another kind.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let doing = || format!("open network namespace {}", path.display());
        // A pipe at that path must not make the caller wait for its other end.
        let opened = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path);
        let file = opened.map_err(|e| Error::io(doing(), e))?;
        let magic = filesystem_magic(&file).map_err(|e| Error::io(doing(), e))?;
        if (magic != NSFS_MAGIC && magic != PROC_SUPER_MAGIC) || !may_be_network(&file) {
            return Err(Error::NotANetns { path: path.to_owned() });
        }
        Ok(Netns { file: Arc::new(file), path: path.to_owned() })
    }

    /// A namespace by an open descriptor, such as the one SIOCGSKNS returns.
    pub(crate) fn from_fd(fd: std::os::fd::OwnedFd) -> Self {
        let path = PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()));
        Netns { file: Arc::new(File::from(fd)), path }
    }

    /// The calling thread's namespace.
    pub fn current() -> Result<Self> {
        Self::open("/proc/thread-self/ns/net")
    }

    /// The path it was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its identity.
    pub fn id(&self) -> Result<NetnsId> {
        let meta = self
            .file
            .metadata()
            .map_err(|e| Error::io(format!("stat network namespace {}", self.path.display()), e))?;
        Ok(NetnsId { device: meta.dev(), inode: meta.ino() })
    }

    /// Runs `work` inside the namespace, on a scoped thread that ends with it. The caller's thread never moves, so
    /// nothing can be left in the wrong namespace, by early return or by panic.
    ///
    /// # Errors
    /// [`Error::Io`] when the namespace cannot be entered (EPERM without CAP_SYS_ADMIN).
    ///
    /// # Panics
    /// With `work`'s own panic.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        std::thread::scope(|scope| {
            let inside = std::thread::Builder::new()
                .name("netns".into())
                .stack_size(256 * 1024)
                .spawn_scoped(scope, || self.enter().map(|()| work()))
                .map_err(|e| Error::io("start a thread for a network namespace", e))?;
            inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Moves the calling thread into the namespace for good. For threads and processes made for it.
    pub fn enter(&self) -> Result<()> {
        // SAFETY: setns only reads the descriptor, which outlives the call.
        if unsafe { libc::setns(self.file.as_raw_fd(), libc::CLONE_NEWNET) } == 0 {
            return Ok(());
        }
        Err(Error::io(format!("enter network namespace {}", self.path.display()), io::Error::last_os_error()))
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// False for namespaces of other kinds. Before Linux 4.11 the kernel does not tell.
fn may_be_network(file: &File) -> bool {
    const NS_GET_NSTYPE: libc::Ioctl = 0xb703;
    // SAFETY: this request takes no argument and touches no memory.
    let kind = unsafe { libc::ioctl(file.as_raw_fd(), NS_GET_NSTYPE) };
    kind < 0 || kind == libc::CLONE_NEWNET
}

fn filesystem_magic(file: &File) -> io::Result<i64> {
    let mut stat = std::mem::MaybeUninit::<libc::statfs>::zeroed();
    // SAFETY: fstatfs fills the struct it is given; zeroed bytes are a valid statfs.
    let status = unsafe { libc::fstatfs(file.as_raw_fd(), stat.as_mut_ptr()) };
    if status != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: initialised by zeroed() and then by the kernel.
    #[allow(clippy::unnecessary_cast, reason = "f_type's width differs between architectures")]
    Ok(unsafe { stat.assume_init() }.f_type as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn netns_missing_path_is_a_distinct_error_from_a_path_that_is_none() {
        let missing = Netns::open("/proc/self/ns/nosuch").expect_err("it does not exist");
        assert!(missing.is_absent(), "{missing}");
        let file = Netns::open("/etc/hostname").expect_err("a plain file");
        assert!(matches!(file, Error::NotANetns { .. }), "{file}");
        let other = Netns::open("/proc/self/ns/mnt").expect_err("a namespace of another kind");
        assert!(matches!(other, Error::NotANetns { .. }), "{other}");
    }

    #[test]
    fn netns_identity_is_the_same_for_two_handles_of_one_namespace() {
        let one = Netns::current().and_then(|n| n.id()).expect("our own namespace");
        let two = Netns::open("/proc/self/ns/net").and_then(|n| n.id()).expect("our own namespace");
        assert_eq!(one, two);
    }
}
