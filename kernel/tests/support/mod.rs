//! A network namespace per test, on a thread of its own: a test binary's other threads stay where they are.
#![allow(dead_code, reason = "every test binary compiles its own copy and uses part of it")]

use kernel::Netns;
use kernel::link::{self, Kind, NewEnd};
use kernel::netlink::{Protocol, Socket};

/// Runs `test` on a thread in a fresh network namespace, which goes when the thread and its handles do.
pub fn in_new_netns<T: Send>(test: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let inside = scope.spawn(|| {
            // SAFETY: unshare takes a flag; the thread is this test's own.
            assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNET) }, 0, "run the tests as root");
            test()
        });
        inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// A second namespace, kept by its handle.
pub fn new_netns() -> Netns {
    in_new_netns(|| Netns::current().expect("a handle of the new namespace"))
}

/// A socket in the calling thread's namespace.
pub fn socket() -> Socket {
    Socket::open(Protocol::Route).expect("a netlink socket")
}

/// A socket in `netns`.
pub fn socket_in(netns: &Netns) -> Socket {
    Socket::open_in(netns, Protocol::Route).expect("a netlink socket")
}

/// Whether this kernel was built with VLAN filtering for bridges.
pub fn kernel_filters_vlans() -> bool {
    in_new_netns(|| {
        let mut socket = socket();
        let probe = NewEnd { name: "probe0", ..NewEnd::default() };
        match socket.apply(&[link::create(&probe, &Kind::Bridge { vlan_filtering: true })]) {
            Ok(()) => true,
            Err(error) if error.errno().is_some_and(|errno| errno.0 == libc::EOPNOTSUPP) => false,
            Err(error) => panic!("{error}"),
        }
    })
}
