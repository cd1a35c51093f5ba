//! SCTP by its sockets, which the standard library has none of: streams all the same, once they are there.

use std::io::{Error, Read, Write};
use std::mem::size_of_val;
use std::net::{SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use lab::{Space, wait};

const IPPROTO_SCTP: i32 = 132;

fn socket(space: &Space) -> OwnedFd {
    space.run(|| {
        // SAFETY: a plain system call; the descriptor is owned at once.
        let fd = unsafe { libc::socket(libc::AF_INET, libc::SOCK_STREAM, IPPROTO_SCTP) };
        assert!(fd >= 0, "an SCTP socket: {}", Error::last_os_error());
        // SAFETY: just opened, and nobody else's.
        unsafe { OwnedFd::from_raw_fd(fd) }
    })
}

fn raw(address: SocketAddrV4) -> libc::sockaddr_in {
    libc::sockaddr_in {
        sin_family: libc::AF_INET as libc::sa_family_t,
        sin_port: address.port().to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(address.ip().octets()) },
        sin_zero: [0; 8],
    }
}

/// Answers every association with its name, until the test ends.
pub fn serve(space: &Space, at: SocketAddrV4, name: &'static str) {
    let socket = socket(space);
    let address = raw(at);
    // SAFETY: the address lives through the call and its length is its own.
    let bound = unsafe {
        libc::bind(
            socket.as_raw_fd(),
            std::ptr::from_ref(&address).cast(),
            size_of_val(&address) as libc::socklen_t,
        )
    };
    assert_eq!(bound, 0, "bind {at}: {}", Error::last_os_error());
    // SAFETY: a plain system call on a socket of ours.
    let listens = unsafe { libc::listen(socket.as_raw_fd(), 16) };
    assert_eq!(listens, 0, "listen at {at}: {}", Error::last_os_error());
    let listener = TcpListener::from(socket);
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            let _ = stream.write_all(name.as_bytes());
        }
    });
}

/// Who answers.
pub fn ask(from: &Space, to: SocketAddr) -> String {
    let SocketAddr::V4(to) = to else { panic!("IPv4 alone") };
    let socket = socket(from);
    let address = raw(to);
    // SAFETY: the address lives through the call and its length is its own.
    let connected = unsafe {
        libc::connect(
            socket.as_raw_fd(),
            std::ptr::from_ref(&address).cast(),
            size_of_val(&address) as libc::socklen_t,
        )
    };
    assert_eq!(connected, 0, "connect to {to}: {}", Error::last_os_error());
    let mut stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(wait::patience())).expect("a time-out can be set");
    let mut answer = [0; 64];
    let length = stream.read(&mut answer).expect("an answer");
    String::from_utf8_lossy(&answer[..length]).into_owned()
}
