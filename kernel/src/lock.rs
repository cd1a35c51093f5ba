//! Advisory file locks that no crash can leave behind.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

use crate::{Error, Result};

/// An exclusive lock, held until dropped.
#[derive(Debug)]
#[must_use = "the lock is released when this is dropped"]
pub struct Lock {
    _file: File,
}

/// Takes the exclusive lock on `path`, waiting as long as it takes. The file is made with `mode` when missing.
pub fn exclusive(path: &Path, mode: u32) -> Result<Lock> {
    let file = open(path, mode)?;
    flock(&file, libc::LOCK_EX).map_err(|e| Error::io(format!("lock {}", path.display()), e))?;
    Ok(Lock { _file: file })
}

/// Takes the exclusive lock on `path`, waiting at most `patience`.
///
/// # Errors
/// [`Error::Io`] of kind `TimedOut` when somebody else keeps it.
pub fn exclusive_within(path: &Path, mode: u32, patience: Duration) -> Result<Lock> {
    let doing = || format!("lock {}", path.display());
    let file = open(path, mode)?;
    match flock(&file, libc::LOCK_EX | libc::LOCK_NB) {
        Ok(()) => return Ok(Lock { _file: file }),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
        Err(error) => return Err(Error::io(doing(), error)),
    }
    // The kernel has no lock with a deadline. A thread waits; when nobody listens any more it drops the lock unused.
    let (send, receive) = mpsc::channel();
    let waiter = move || {
        let outcome = flock(&file, libc::LOCK_EX).map(|()| Lock { _file: file });
        let _ = send.send(outcome);
    };
    std::thread::Builder::new().name("lock".into()).spawn(waiter).map_err(|e| Error::io(doing(), e))?;
    match receive.recv_timeout(patience) {
        Ok(outcome) => outcome.map_err(|e| Error::io(doing(), e)),
        Err(_) => Err(Error::io(doing(), io::Error::from(io::ErrorKind::TimedOut))),
    }
}

/// Takes the exclusive lock of the calling thread's network namespace: for what only this host's plug-ins share.
pub fn exclusive_netns() -> Result<Lock> {
    let doing = "lock the network namespace";
    let file = File::open("/proc/thread-self/ns/net").map_err(|e| Error::io(doing, e))?;
    flock(&file, libc::LOCK_EX).map_err(|e| Error::io(doing, e))?;
    Ok(Lock { _file: file })
}

fn open(path: &Path, mode: u32) -> Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(mode)
        .open(path)
        .map_err(|e| Error::io(format!("open lock file {}", path.display()), e))
}

fn flock(file: &File, operation: i32) -> io::Result<()> {
    loop {
        // SAFETY: flock takes no pointers; the descriptor is open as long as `file`.
        if unsafe { libc::flock(file.as_raw_fd(), operation) } == 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}
