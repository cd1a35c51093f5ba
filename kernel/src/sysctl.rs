//! Kernel settings under /proc/sys, of the calling thread's network namespace.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use crate::{Error, Result};

/// Where `key` lives. Its first separator decides how it is read, as in sysctl(8): `net/ipv4/conf/eth0.1/forwarding`
/// is taken as it stands; in `net.ipv4.conf.eth0/1.forwarding` dots and slashes change places.
pub fn path(key: &str) -> PathBuf {
    let mut path = PathBuf::from("/proc/sys");
    if key.find(['.', '/']).is_some_and(|at| key.as_bytes()[at] == b'.') {
        let swapped = key.chars().map(|c| match c {
            '.' => '/',
            '/' => '.',
            other => other,
        });
        path.push(swapped.collect::<String>());
    } else {
        path.push(key.trim_start_matches('/'));
    }
    path
}

/// A tree of keys. Every namespace's `net` stands under the one /proc of the node, and the kernel finds a name there by
/// passing those of all other namespaces: at a thousand pods that is half a millisecond for the first key.
#[derive(Debug)]
pub struct Keys {
    /// The root of a procfs of our own; `None` is /proc.
    own: Option<OwnedFd>,
}

impl Keys {
    /// The node's /proc.
    pub fn shared() -> Self {
        Keys { own: None }
    }

    /// A procfs of our own, mounted nowhere and gone with this value; /proc where the kernel gives none (before 5.2,
    /// or in a user namespace).
    pub fn fresh() -> Self {
        Keys { own: mount_procfs() }
    }

    fn open(&self, key: &str, access: i32) -> io::Result<fs::File> {
        let path = path(key);
        let (root, path) = match (&self.own, path.strip_prefix("/proc")) {
            (Some(root), Ok(below)) => (root.as_raw_fd(), below),
            _ => (libc::AT_FDCWD, path.as_path()),
        };
        let path = CString::new(path.as_os_str().as_bytes())?;
        // SAFETY: the path is a terminated text that outlives the call.
        let fd = unsafe { libc::openat(root, path.as_ptr(), access | libc::O_CLOEXEC) };
        owned(fd.into()).map(fs::File::from).ok_or_else(io::Error::last_os_error)
    }

    /// The value of `key`, blanks around it removed.
    pub fn read(&self, key: &str) -> Result<String> {
        let failed = |e| Error::io(format!("read sysctl {key}"), e);
        let mut file = self.open(key, libc::O_RDONLY).map_err(failed)?;
        // Some keys (bitmaps such as ip_local_reserved_ports) give all that fits at once, and then nothing more.
        let mut value = vec![0; 64 * 1024];
        let length = io::Read::read(&mut file, &mut value).map_err(failed)?;
        value.truncate(length);
        Ok(String::from_utf8_lossy(&value).trim().to_owned())
    }

    /// Writes `value` whatever is there.
    ///
    /// A container that is not privileged has a /proc/sys that can't be written. Its manifest mounts the node's
    /// /proc/sys/net at [`OF_THE_NODE`], which is written then.
    pub fn write(&self, key: &str, value: &str) -> Result<()> {
        let failed = |e| Error::io(format!("set sysctl {key} to `{value}`"), e);
        let file = self.open(key, libc::O_WRONLY).or_else(|error| of_the_node(key, error));
        let mut file = file.map_err(failed)?;
        io::Write::write_all(&mut file, value.as_bytes()).map_err(failed)
    }

    /// Writes `value` unless it is there already; says whether it wrote.
    pub fn ensure(&self, key: &str, value: &str) -> Result<bool> {
        if self.read(key)? == value {
            return Ok(false);
        }
        self.write(key, value).map(|()| true)
    }

    /// Like [`Keys::ensure`], but a key that the kernel lacks (IPv6 off) is no error.
    pub fn ensure_if_known(&self, key: &str, value: &str) -> Result<bool> {
        match self.ensure(key, value) {
            Err(error) if error.is_absent() => Ok(false),
            other => other,
        }
    }

    /// Like [`Keys::write`], but a key that the kernel lacks (IPv6 off) is no error.
    pub fn write_if_known(&self, key: &str, value: &str) -> Result<()> {
        match self.write(key, value) {
            Err(error) if error.is_absent() => Ok(()),
            other => other,
        }
    }
}

/// Where a container that is not privileged finds the node's /proc/sys/net.
pub const OF_THE_NODE: &str = "/host/proc/sys/net";

/// The file of `key` below [`OF_THE_NODE`], open for writing; `error` where that is no help.
fn of_the_node(key: &str, error: io::Error) -> io::Result<fs::File> {
    let is_container = matches!(error.raw_os_error(), Some(libc::EROFS | libc::EACCES));
    match path(key).strip_prefix("/proc/sys/net") {
        Ok(below) if is_container => {
            fs::File::options().write(true).open(PathBuf::from(OF_THE_NODE).join(below)).map_err(|_| error)
        }
        _ => Err(error),
    }
}

/// [`Keys::read`] of the node's /proc.
pub fn read(key: &str) -> Result<String> {
    Keys::shared().read(key)
}

/// [`Keys::write`] to the node's /proc.
pub fn write(key: &str, value: &str) -> Result<()> {
    Keys::shared().write(key, value)
}

/// [`Keys::ensure`] in the node's /proc.
pub fn ensure(key: &str, value: &str) -> Result<bool> {
    Keys::shared().ensure(key, value)
}

/// [`Keys::ensure_if_known`] in the node's /proc.
pub fn ensure_if_known(key: &str, value: &str) -> Result<bool> {
    Keys::shared().ensure_if_known(key, value)
}

/// [`Keys::write_if_known`] to the node's /proc.
pub fn write_if_known(key: &str, value: &str) -> Result<()> {
    Keys::shared().write_if_known(key, value)
}

fn mount_procfs() -> Option<OwnedFd> {
    const FSOPEN_CLOEXEC: libc::c_long = 1;
    const FSCONFIG_CMD_CREATE: libc::c_long = 6;
    const FSMOUNT_CLOEXEC: libc::c_long = 1;
    const MOUNT_ATTRIBUTES: libc::c_long = 2 | 4 | 8; // nosuid, nodev, noexec
    let null = std::ptr::null::<libc::c_char>();
    // SAFETY: the name is a constant text; the call makes a descriptor or fails.
    let context = owned(unsafe { libc::syscall(libc::SYS_fsopen, c"proc".as_ptr(), FSOPEN_CLOEXEC) })?;
    let fd = libc::c_long::from(context.as_raw_fd());
    // SAFETY: this command takes neither key nor value; the descriptor is open.
    let created = unsafe { libc::syscall(libc::SYS_fsconfig, fd, FSCONFIG_CMD_CREATE, null, null, 0) };
    if created != 0 {
        return None;
    }
    // SAFETY: scalar arguments only; the descriptor is open.
    owned(unsafe { libc::syscall(libc::SYS_fsmount, fd, FSMOUNT_CLOEXEC, MOUNT_ATTRIBUTES) })
}

fn owned(descriptor: libc::c_long) -> Option<OwnedFd> {
    let descriptor = RawFd::try_from(descriptor).ok().filter(|fd| *fd >= 0)?;
    // SAFETY: fresh from a system call that makes descriptors; nobody else owns it.
    Some(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sysctl_dot_and_slash_separators() {
        for (key, file) in [
            ("net.ipv4.ip_forward", "net/ipv4/ip_forward"),
            ("net/ipv4/ip_forward", "net/ipv4/ip_forward"),
            ("net.ipv4.conf.eth0/1.forwarding", "net/ipv4/conf/eth0.1/forwarding"),
            ("net/ipv4/conf/eth0.1/forwarding", "net/ipv4/conf/eth0.1/forwarding"),
            ("net/ipv6/conf/cni0.100/accept_ra", "net/ipv6/conf/cni0.100/accept_ra"),
            ("hostname", "hostname"),
            ("", ""),
        ] {
            assert_eq!(path(key), PathBuf::from("/proc/sys").join(file), "{key}");
        }
    }
}
