//! Listening to netlink's multicast groups: events with a deadline instead of sleeps.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::time::{Duration, Instant};

use super::{Protocol, Reply, Socket};
use crate::{Error, Netns, Result};

/// RTNLGRP_LINK: RTM_NEWLINK and RTM_DELLINK.
pub const GROUP_LINK: u32 = 1;
/// RTNLGRP_NEIGH: neighbours of both families, and forwarding entries (AF_BRIDGE).
pub const GROUP_NEIGH: u32 = 3;
/// RTNLGRP_IPV4_IFADDR: RTM_NEWADDR and RTM_DELADDR of IPv4.
pub const GROUP_IPV4_ADDR: u32 = 5;
/// RTNLGRP_IPV4_ROUTE: routes of IPv4.
pub const GROUP_IPV4_ROUTE: u32 = 7;
/// RTNLGRP_IPV4_RULE: routing rules of IPv4.
pub const GROUP_IPV4_RULE: u32 = 8;
/// RTNLGRP_IPV6_ROUTE: routes of IPv6.
pub const GROUP_IPV6_ROUTE: u32 = 11;
/// RTNLGRP_IPV6_RULE: routing rules of IPv6.
pub const GROUP_IPV6_RULE: u32 = 19;
/// RTNLGRP_IPV6_IFADDR: RTM_NEWADDR and RTM_DELADDR of IPv6.
pub const GROUP_IPV6_ADDR: u32 = 9;

/// NFNLGRP_NFTABLES of [`Protocol::Netfilter`]: every change of nf_tables.
pub const GROUP_NFTABLES: u32 = 7;
/// Datagrams that [`Monitor::pending`] reads at most: a storm must not keep its caller.
const PENDING_MAX: usize = 256;

/// A socket that receives the events of some groups.
#[derive(Debug)]
pub struct Monitor {
    socket: Socket,
}

impl Monitor {
    /// Subscribes to `groups` in the calling thread's namespace. Subscribe first, then look at the state, then wait:
    /// so that nothing falls between.
    pub fn open(groups: &[u32]) -> Result<Self> {
        Self::open_of(Protocol::Route, groups)
    }

    /// As [`Monitor::open`], for the groups of another protocol.
    pub fn open_of(protocol: Protocol, groups: &[u32]) -> Result<Self> {
        let socket = Socket::open(protocol)?;
        socket.bind()?;
        for group in groups {
            socket.join(*group)?;
        }
        Ok(Monitor { socket })
    }

    /// Subscribes to `groups` in `netns`.
    pub fn open_in(netns: &Netns, groups: &[u32]) -> Result<Self> {
        netns.run(|| Self::open(groups))?
    }

    /// Shows events to `until` until it answers true. False means that `deadline` came first.
    ///
    /// # Errors
    /// [`Error::Io`] with ENOBUFS when events were lost: look at the state again.
    pub fn wait(&mut self, deadline: Instant, mut until: impl FnMut(&Reply) -> bool) -> Result<bool> {
        while ready(self.socket.as_fd(), deadline.saturating_duration_since(Instant::now()))? {
            if self.socket.events()?.iter().any(&mut until) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The events that are there, without waiting; many, but perhaps not yet all.
    ///
    /// # Errors
    /// As [`Monitor::wait`].
    pub fn pending(&mut self) -> Result<Vec<Reply>> {
        let mut events = Vec::new();
        for _ in 0..PENDING_MAX {
            if !ready(self.socket.as_fd(), Duration::ZERO)? {
                break;
            }
            events.extend(self.socket.events()?);
        }
        Ok(events)
    }
}

impl AsFd for Monitor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Whether `fd` becomes readable within `patience`.
pub(crate) fn ready(fd: BorrowedFd<'_>, patience: Duration) -> Result<bool> {
    ready_either([fd], patience).map(|[ready]| ready)
}

/// Which of `fds` are readable, waiting for the first at most `patience`.
pub(crate) fn ready_either<const N: usize>(
    fds: [BorrowedFd<'_>; N],
    patience: Duration,
) -> Result<[bool; N]> {
    let deadline = Instant::now() + patience;
    let mut polls = fds.map(|fd| libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 });
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let millis = i32::try_from(left.as_micros().div_ceil(1000)).unwrap_or(i32::MAX);
        // SAFETY: the pointer and count describe `polls`, which outlives the call.
        if unsafe { libc::poll(polls.as_mut_ptr(), N as libc::nfds_t, millis) } >= 0 {
            return Ok(polls.map(|poll| poll.revents != 0));
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(Error::io("wait for a netlink event", error));
        }
    }
}
