//! Deleting a link without waiting for its memory (see [`crate::linger`]).

use std::io::{self, Write};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use super::attr::u32_ne;
use super::message::Message;
use super::monitor::{GROUP_LINK, Monitor, ready_either};
use super::{Op, Protocol, Reply, Socket};
use crate::{Error, Netns, Result};

const RTM_DELLINK: u16 = 17;
/// The kernel announces the departure within microseconds; this is for a machine that hardly runs at all.
const PATIENCE: Duration = Duration::from_secs(20);

/// Deletes the link with `index` in `netns` (`None`: the calling thread's) and returns once the kernel has announced
/// that it is gone. A thread stays in the kernel a little longer; the process should linger for it.
///
/// A link that does not exist is success. `name` is for the error only.
pub fn delete_link_early(netns: Option<&Netns>, index: u32, name: &str) -> Result<()> {
    let doing = format!("delete link {name}");
    let (mut monitor, mut socket) = match netns {
        Some(netns) => netns
            .run(|| Ok::<_, Error>((Monitor::open(&[GROUP_LINK])?, Socket::open(Protocol::Route)?)))??,
        None => (Monitor::open(&[GROUP_LINK])?, Socket::open(Protocol::Route)?),
    };
    let (finished, report) = io::pipe().map_err(|e| Error::io(&doing, e))?;
    let op = delete_link(&doing, index);
    let deletion = std::thread::Builder::new()
        .name("delete link".into())
        .stack_size(128 * 1024)
        .spawn(move || {
            let outcome = socket.apply(&[op]);
            // The reader may have left: it has seen the announcement.
            let _ = (&report).write_all(&[u8::from(outcome.is_err())]);
            outcome
        })
        .map_err(|e| Error::io(&doing, e))?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        let patience = deadline.saturating_duration_since(Instant::now());
        let [announced, ended] = ready_either([monitor.as_fd(), finished.as_fd()], patience)?;
        if ended || !announced {
            return deletion.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        }
        if monitor.wait(Instant::now(), |event| is_departure(event, index))? {
            return Ok(());
        }
    }
}

fn delete_link(doing: &str, index: u32) -> Op {
    let mut header = [0; 16];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    Op::new(doing, Message::new(RTM_DELLINK, 0, &header)).or_absent()
}

/// RTM_DELLINK of AF_UNSPEC for `index`; AF_BRIDGE ones only say that a port left its bridge.
fn is_departure(event: &Reply, index: u32) -> bool {
    event.kind == RTM_DELLINK
        && event.payload.first() == Some(&0)
        && event.payload.get(4..8).and_then(u32_ne) == Some(index)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::attr::attrs;

    const RTM_NEWLINK: u16 = 16;
    const RTM_GETLINK: u16 = 18;
    const IFLA_IFNAME: u16 = 3;
    const IFLA_LINKINFO: u16 = 18;

    fn index_of(socket: &mut Socket, name: &str) -> Result<u32> {
        let mut message = Message::new(RTM_GETLINK, 0, &[0; 16]);
        message.text(IFLA_IFNAME, name);
        let replies = socket.request(&Op::new(format!("look up link {name}"), message))?;
        assert!(attrs(&replies[0].payload[16..]).count() > 0);
        Ok(replies[0].payload.get(4..8).and_then(u32_ne).expect("an index"))
    }

    /// The kernel announces a link's departure before it waits for its memory, and the link is then out of sight.
    #[test]
    fn a_link_is_gone_when_its_deletion_returns_early() {
        std::thread::spawn(|| {
            // SAFETY: unshare with a flag; this thread is the test's own.
            assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNET) }, 0, "run as root");
            let mut socket = Socket::open(Protocol::Route).expect("a socket");
            let mut veth = Message::new(RTM_NEWLINK, libc::NLM_F_CREATE | libc::NLM_F_EXCL, &[0; 16]);
            veth.text(IFLA_IFNAME, "early0").nested(IFLA_LINKINFO, |m| {
                m.raw(1, b"veth");
            });
            socket.apply(&[Op::new("create veth early0", veth)]).expect("a veth");
            let index = index_of(&mut socket, "early0").expect("it is there");
            delete_link_early(None, index, "early0").expect("it can be deleted");
            assert!(index_of(&mut socket, "early0").expect_err("it is gone").is_absent());
            delete_link_early(None, index, "early0").expect("absent is success");
            let refusal = delete_link_early(None, 1, "lo").expect_err("the loopback link stays");
            assert!(refusal.to_string().starts_with("delete link lo: "), "{refusal}");
        })
        .join()
        .expect("the test thread");
    }
}
