//! Listening for TCP in one address family, and in no other.
//!
//! The standard library's listener on `[::]` takes IPv4 too where the sysctl `net.ipv6.bindv6only` is 0, as it is by
//! default; then nobody can listen on `0.0.0.0` with the same port.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use crate::error::{Error, Result};
use crate::netlink::set_option;

/// Connections that wait to be accepted.
const BACKLOG: i32 = 128;

/// Listens on `address`. Accepting does not block.
///
/// # Errors
/// The kernel's refusal; [`Error::is_in_use`] when somebody else listens there.
pub fn tcp(address: SocketAddr) -> Result<TcpListener> {
    let failed = |source| Error::io(format!("listen on {address}"), source);
    listen(address).map_err(failed)
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let domain = if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: socket takes no pointers.
    let fd = unsafe { libc::socket(domain, kind, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor was just made and is owned by nobody else.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    set_option(fd, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
    if address.is_ipv6() {
        set_option(fd, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, 1)?;
    }
    bind(socket.as_raw_fd(), address)?;
    // SAFETY: listen takes no pointers.
    if unsafe { libc::listen(socket.as_raw_fd(), BACKLOG) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(TcpListener::from(socket))
}

fn bind(fd: i32, address: SocketAddr) -> io::Result<()> {
    let status = match address {
        SocketAddr::V4(address) => {
            let raw = libc::sockaddr_in {
                sin_family: libc::AF_INET as libc::sa_family_t,
                sin_port: address.port().to_be(),
                sin_addr: libc::in_addr { s_addr: u32::from(*address.ip()).to_be() },
                sin_zero: [0; 8],
            };
            let size = size_of::<libc::sockaddr_in>() as libc::socklen_t;
            // SAFETY: the pointer and size describe `raw`, which outlives the call.
            unsafe { libc::bind(fd, (&raw const raw).cast(), size) }
        }
        SocketAddr::V6(address) => {
            let raw = libc::sockaddr_in6 {
                sin6_family: libc::AF_INET6 as libc::sa_family_t,
                sin6_port: address.port().to_be(),
                sin6_flowinfo: 0,
                sin6_addr: libc::in6_addr { s6_addr: address.ip().octets() },
                sin6_scope_id: address.scope_id(),
            };
            let size = size_of::<libc::sockaddr_in6>() as libc::socklen_t;
            // SAFETY: the pointer and size describe `raw`, which outlives the call.
            unsafe { libc::bind(fd, (&raw const raw).cast(), size) }
        }
    };
    if status == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_family_has_a_port_of_its_own() {
        let v4 = tcp("0.0.0.0:0".parse().unwrap()).unwrap();
        let port = v4.local_addr().unwrap().port();
        let _v6 = tcp(SocketAddr::from(([0_u16; 8], port))).expect("the other family's port is free");
        let again = tcp(SocketAddr::from(([127, 0, 0, 1], port))).expect_err("taken");
        assert!(again.is_in_use(), "{again}");
        assert_eq!(again.to_string(), format!("listen on 127.0.0.1:{port}"));
    }
}
