//! Kernel settings under /proc/sys, of the calling thread's network namespace.

use std::fs;
use std::io;
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

/// The value of `key`, blanks around it removed.
pub fn read(key: &str) -> Result<String> {
    let failed = |e| Error::io(format!("read sysctl {key}"), e);
    let mut file = fs::File::open(path(key)).map_err(failed)?;
    // Some keys (bitmaps such as ip_local_reserved_ports) give all that fits at once, and then nothing more.
    let mut value = vec![0; 64 * 1024];
    let length = io::Read::read(&mut file, &mut value).map_err(failed)?;
    value.truncate(length);
    Ok(String::from_utf8_lossy(&value).trim().to_owned())
}

/// Writes `value` whatever is there.
pub fn write(key: &str, value: &str) -> Result<()> {
    let doing = || format!("set sysctl {key} to `{value}`");
    let mut file = fs::OpenOptions::new().write(true).open(path(key)).map_err(|e| Error::io(doing(), e))?;
    io::Write::write_all(&mut file, value.as_bytes()).map_err(|e| Error::io(doing(), e))
}

/// Writes `value` unless it is there already; says whether it wrote.
pub fn ensure(key: &str, value: &str) -> Result<bool> {
    if read(key)? == value {
        return Ok(false);
    }
    write(key, value).map(|()| true)
}

/// Like [`ensure`], but a key that the kernel lacks (IPv6 off) is no error.
pub fn ensure_if_known(key: &str, value: &str) -> Result<bool> {
    match ensure(key, value) {
        Err(error) if error.is_absent() => Ok(false),
        other => other,
    }
}

/// Like [`write()`], but a key that the kernel lacks (IPv6 off) is no error.
pub fn write_if_known(key: &str, value: &str) -> Result<()> {
    match write(key, value) {
        Err(error) if error.is_absent() => Ok(()),
        other => other,
    }
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
