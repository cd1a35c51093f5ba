//! One daemon on a node: a second one is told so.

use std::io::ErrorKind;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;
use std::time::{Duration, Instant};

use kernel::lock::{Lock, exclusive_within};

/// Name of the lock file in the run directory; it holds the number of the daemon's process.
pub const FILE: &str = "bowlined.pid";
/// A name that a network namespace has once, gone with its owner.
const NAME: &[u8] = b"bowline/bowlined";
/// The same, of whoever serves Services.
const PROXY_NAME: &[u8] = b"bowline/services";
/// How long a former daemon is waited for: the kernel takes a moment to bury one that was killed, or one is about to end.
const PATIENCE: Duration = Duration::from_secs(3);
/// The same where nobody but a dead one's remains can be in the way for long.
const MOMENT: Duration = Duration::from_millis(500);
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(20);

/// What makes this the node's only daemon, until dropped.
#[derive(Debug)]
pub struct OnlyOne {
    _lock: Lock,
    _name: UnixDatagram,
}

/// Becomes the only daemon of this node: of the run directory, and of the network namespace whatever the directory.
///
/// # Errors
/// A sentence that names the other's process.
pub fn acquire(run: &Path) -> Result<OnlyOne, String> {
    let path = run.join(FILE);
    std::fs::create_dir_all(run).map_err(|error| format!("make directory {}: {error}", run.display()))?;
    let lock = exclusive_within(&path, 0o644, PATIENCE).map_err(|error| match holder(run) {
        Some(pid) => {
            format!("bowlined runs on this node already, as process {pid} ({} is locked)", path.display())
        }
        None => crate::log::chain_of(&error),
    })?;
    let name = own(NAME).map_err(|error| match error.kind() {
        ErrorKind::AddrInUse => {
            "another bowlined, with another runDir, serves this network namespace already".to_owned()
        }
        _ => format!("look for another bowlined: {error}"),
    })?;
    let pid = std::process::id();
    std::fs::write(&path, format!("{pid}\n"))
        .map_err(|error| format!("write {}: {error}", path.display()))?;
    Ok(OnlyOne { _lock: lock, _name: name })
}

/// Owns a name as soon as nobody else does.
fn own(name: &[u8]) -> std::io::Result<UnixDatagram> {
    let address = SocketAddr::from_abstract_name(name)?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        match UnixDatagram::bind_addr(&address) {
            Err(error) if error.kind() == ErrorKind::AddrInUse && Instant::now() < deadline => {
                // Nobody tells when a name is free: the pause between two looks.
                std::thread::sleep(PAUSE);
            }
            other => return other,
        }
    }
}

/// What makes this the only Service proxy of a network namespace, until dropped.
#[derive(Debug)]
pub struct OnlyProxy {
    _name: UnixDatagram,
}

/// Becomes the only Service proxy of this network namespace, as bowlined or as kube-proxy: two would undo each other's
/// rules.
///
/// # Errors
/// A sentence.
pub fn acquire_proxy() -> Result<OnlyProxy, String> {
    let name = own(PROXY_NAME).map_err(|error| match error.kind() {
        ErrorKind::AddrInUse => {
            "another bowlined serves the Services of this network namespace already".to_owned()
        }
        _ => format!("look for another Service proxy: {error}"),
    })?;
    Ok(OnlyProxy { _name: name })
}

/// The process that the lock file names, whether or not it still runs.
pub fn holder(run: &Path) -> Option<u32> {
    std::fs::read_to_string(run.join(FILE)).ok()?.trim().parse().ok()
}

/// Whether no daemon runs on the run directory. Makes nothing.
///
/// # Errors
/// A sentence that names the process of the one that does.
pub fn is_free(run: &Path) -> Result<(), String> {
    let path = run.join(FILE);
    if !path.exists() {
        return Ok(());
    }
    match exclusive_within(&path, 0o644, MOMENT) {
        Ok(_) => Ok(()),
        Err(_) => {
            Err(holder(run).map_or("bowlined runs".into(), |pid| format!("bowlined runs as process {pid}")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_one_is_told_the_first_ones_process() {
        let dir = tempfile::tempdir().expect("a directory");
        let lock = exclusive_within(&dir.path().join(FILE), 0o644, Duration::ZERO).expect("locked");
        std::fs::write(dir.path().join(FILE), "4711\n").expect("written");
        let refusal = acquire(dir.path()).expect_err("locked");
        assert!(refusal.starts_with("bowlined runs on this node already, as process 4711"), "{refusal}");
        assert_eq!(is_free(dir.path()), Err("bowlined runs as process 4711".into()));
        drop(lock);
        assert_eq!(is_free(dir.path()), Ok(()));
    }
}
