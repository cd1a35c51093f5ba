//! The lab's system calls: the only unsafe code of this crate.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;

use kernel::{Error, Result};

fn check(doing: impl Into<String>, status: libc::c_int) -> Result<()> {
    if status == 0 { Ok(()) } else { Err(Error::io(doing, io::Error::last_os_error())) }
}

/// Moves the calling thread into new namespaces. With CLONE_NEWNS the thread also stops sharing its root and
/// working directory with the process, as the kernel demands.
pub(crate) fn unshare(flags: libc::c_int, doing: &str) -> Result<()> {
    // SAFETY: unshare takes no pointer; it changes the calling thread only, which the callers made for that.
    check(doing, unsafe { libc::unshare(flags) })
}

/// Moves the calling thread into the namespace behind `file`.
pub(crate) fn setns(file: &File, kind: libc::c_int, doing: &str) -> Result<()> {
    // SAFETY: setns only reads the descriptor, which outlives the call.
    check(doing, unsafe { libc::setns(file.as_raw_fd(), kind) })
}

/// mount(2).
pub(crate) fn mount(source: &str, target: &Path, kind: &str, flags: libc::c_ulong, data: &str) -> Result<()> {
    let doing = format!("mount {source} on {}", target.display());
    let target = c_path(target)?;
    let (source, kind, data) = (c_text(source)?, c_text(kind)?, c_text(data)?);
    // SAFETY: four NUL-terminated strings that outlive the call.
    let status =
        unsafe { libc::mount(source.as_ptr(), target.as_ptr(), kind.as_ptr(), flags, data.as_ptr().cast()) };
    check(doing, status)
}

/// umount2(2), lazily: users of the mount keep it until they are done.
pub(crate) fn unmount(target: &Path) -> Result<()> {
    let name = c_path(target)?;
    // SAFETY: a NUL-terminated string that outlives the call.
    check(format!("unmount {}", target.display()), unsafe { libc::umount2(name.as_ptr(), libc::MNT_DETACH) })
}

/// Whether the process runs with root's rights.
pub(crate) fn is_root() -> bool {
    // SAFETY: geteuid cannot fail and takes nothing.
    unsafe { libc::geteuid() == 0 }
}

/// Makes the whole process root of a user namespace of its own, so that the lab runs without privilege. Does nothing
/// for root.
///
/// # Errors
/// With the kernel's reason where unprivileged user namespaces are off, or when the process has more than one thread.
pub fn own_user_namespace() -> Result<()> {
    if is_root() {
        return Ok(());
    }
    // SAFETY: neither call can fail or takes anything.
    let (uid, gid) = unsafe { (libc::getuid(), libc::getgid()) };
    unshare(libc::CLONE_NEWUSER, "enter a user namespace of our own (or run as root)")?;
    let write = |file: &str, text: String| {
        std::fs::write(file, text).map_err(|e| Error::io(format!("write {file}"), e))
    };
    write("/proc/self/setgroups", "deny".into())?;
    write("/proc/self/uid_map", format!("0 {uid} 1"))?;
    write("/proc/self/gid_map", format!("0 {gid} 1"))
}

/// One ICMP or ICMPv6 datagram socket; the kernel fills in identifier and checksum.
pub(crate) fn ping_socket(v6: bool) -> Result<std::net::UdpSocket> {
    use std::os::fd::FromRawFd;
    let (family, protocol) =
        if v6 { (libc::AF_INET6, libc::IPPROTO_ICMPV6) } else { (libc::AF_INET, libc::IPPROTO_ICMP) };
    // SAFETY: plain socket creation; the result is checked before it is owned.
    let fd = unsafe { libc::socket(family, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, protocol) };
    if fd < 0 {
        return Err(Error::io("open a ping socket", io::Error::last_os_error()));
    }
    // SAFETY: fd is a fresh datagram socket that nobody else owns; UdpSocket only sends and receives on it.
    Ok(unsafe { std::net::UdpSocket::from_raw_fd(fd) })
}

fn c_text(text: &str) -> Result<std::ffi::CString> {
    std::ffi::CString::new(text).map_err(|_| Error::Invalid { what: format!("{text:?} holds a NUL") })
}

fn c_path(path: &Path) -> Result<std::ffi::CString> {
    use std::os::unix::ffi::OsStrExt;
    std::ffi::CString::new(path.as_os_str().as_bytes())
        .map_err(|_| Error::Invalid { what: format!("{} holds a NUL", path.display()) })
}
