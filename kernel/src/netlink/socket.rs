//! A blocking netlink socket that sends many requests at once and matches every answer to its question.
//!
//! The kernel handles the messages of one `sendmsg` in order, goes on after a failed one, and has queued every
//! acknowledgement before `sendmsg` returns; reading them afterwards can't block.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::Arc;

use super::answer::{
    Answer, NLM_F_DUMP_INTR, NLMSG_DONE, NLMSG_ERROR, NLMSG_OVERRUN, Reply, read_answer, split_message,
};
use super::op::Op;
use super::sockopt::{option, set_option};
use crate::{Error, Netns, Result, linger};

/// More used-up siblings than any plug-in call leaves; a long-lived process closes the oldest.
const RETIRED_MAX: usize = 32;
const SIOCGSKNS: libc::Ioctl = 0x894c;
/// A dump that changed underneath is taken again this often; then the partial data is used, as the reference does.
const DUMP_TRIES: usize = 5;
/// Room in the receive buffer that an acknowledgement takes at most: its few hundred bytes and the kernel's own account
/// of them. Those to all requests of one `sendmsg` must fit.
const ACKNOWLEDGEMENT: usize = 3 * 1024;

/// Which netlink family a socket speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// Links, addresses, routes, neighbours, rules, tc.
    Route,
    /// nf_tables, conntrack.
    Netfilter,
    /// Generic netlink families.
    Generic,
}

/// A netlink socket, bound to the network namespace it was opened in.
#[derive(Debug)]
pub struct Socket {
    /// Shared with nobody; counted so that [`Drop`] can let it live on.
    pub(super) fd: Arc<OwnedFd>,
    protocol: Protocol,
    /// Used-up siblings. Closing a netfilter socket soon after a deletion waits 10 to 300 ms for the kernel to free
    /// what was deleted, so they are kept until this socket is closed, when that wait comes anyway.
    retired: Vec<Arc<OwnedFd>>,
    pub(super) sequence: u32,
    buffer: Vec<u8>,
    /// Requests per `sendmsg`.
    pipeline: usize,
    writes: usize,
}

impl Socket {
    /// Opens a socket in the calling thread's namespace.
    pub fn open(protocol: Protocol) -> Result<Self> {
        let number = match protocol {
            Protocol::Route => libc::NETLINK_ROUTE,
            Protocol::Netfilter => libc::NETLINK_NETFILTER,
            Protocol::Generic => libc::NETLINK_GENERIC,
        };
        // SAFETY: plain socket creation; the result is checked before it is owned.
        let fd = unsafe { libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, number) };
        if fd < 0 {
            return Err(Error::io("open a netlink socket", io::Error::last_os_error()));
        }
        // SAFETY: fd is a fresh descriptor that nobody else owns.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        for option in [libc::NETLINK_EXT_ACK, libc::NETLINK_CAP_ACK, libc::NETLINK_GET_STRICT_CHK] {
            // Absent before Linux 4.12, 4.3, 4.20: the answers are then merely longer or the filters coarser.
            let _ = set_option(fd.as_raw_fd(), libc::SOL_NETLINK, option, 1);
        }
        let _ = set_option(fd.as_raw_fd(), libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, 1 << 20);
        let room = option(fd.as_raw_fd(), libc::SOL_SOCKET, libc::SO_RCVBUF).unwrap_or(0);
        Ok(Socket {
            pipeline: (usize::try_from(room).unwrap_or(0) / ACKNOWLEDGEMENT).clamp(16, 512),
            writes: 0,
            fd: Arc::new(fd),
            protocol,
            retired: Vec::new(),
            sequence: 1,
            buffer: vec![0; 64 * 1024],
        })
    }

    /// Opens a socket in `netns`; it stays there whatever thread uses it.
    pub fn open_in(netns: &Netns, protocol: Protocol) -> Result<Self> {
        netns.run(|| Self::open(protocol))?
    }

    /// Opens a second socket for the same protocol in the same network namespace, whatever the calling thread's is.
    pub fn sibling(&self) -> Result<Self> {
        // SAFETY: SIOCGSKNS takes no argument and returns a fresh descriptor or an error.
        let fd = unsafe { libc::ioctl(self.fd.as_raw_fd(), SIOCGSKNS) };
        if fd < 0 {
            return Err(Error::io("find a netlink socket's network namespace", io::Error::last_os_error()));
        }
        // SAFETY: fd is a fresh descriptor that nobody else owns.
        let home = Netns::from_fd(unsafe { OwnedFd::from_raw_fd(fd) });
        if home.id()? == Netns::current()?.id()? {
            Self::open(self.protocol)
        } else {
            Self::open_in(&home, self.protocol)
        }
    }

    /// Sends every request, pipelined, and returns the first refusal. Requests after a refused one are carried out
    /// all the same, so those that depend on it fail too, silently.
    pub fn apply(&mut self, ops: &[Op]) -> Result<()> {
        self.apply_each(ops)?.into_iter().collect()
    }

    /// Sends every request, pipelined; one result for each.
    ///
    /// # Errors
    /// The outer error means that the socket failed and the kernel's state is unknown.
    pub fn apply_each(&mut self, ops: &[Op]) -> Result<Vec<Result<()>>> {
        let mut results = Vec::with_capacity(ops.len());
        for part in ops.chunks(self.pipeline) {
            let first = self.sequence;
            let mut bytes = Vec::with_capacity(part.len() * 128);
            for op in part {
                op.message.seal(self.next_sequence(), libc::NLM_F_ACK as u16, &mut bytes);
            }
            self.send(&bytes, &part[0].doing)?;
            let mut answers: Vec<Option<Answer>> = part.iter().map(|_| None).collect();
            while answers.iter().any(Option::is_none) {
                self.receive(&part[0].doing, |sequence, kind, flags, payload| {
                    let slot = sequence.wrapping_sub(first) as usize;
                    if kind == NLMSG_ERROR && slot < answers.len() {
                        answers[slot] = Some(read_answer(payload, flags));
                    }
                    true
                })?;
            }
            results
                .extend(part.iter().zip(answers.into_iter().flatten()).map(|(op, answer)| op.judge(answer)));
        }
        Ok(results)
    }

    /// Sends one request and returns what the kernel answers beside its acknowledgement.
    pub fn request(&mut self, op: &Op) -> Result<Vec<Reply>> {
        let sequence = self.next_sequence();
        let mut bytes = Vec::new();
        op.message.seal(sequence, libc::NLM_F_ACK as u16, &mut bytes);
        self.send(&bytes, &op.doing)?;
        let mut replies = Vec::new();
        let mut answer = None;
        while answer.is_none() {
            self.receive(&op.doing, |of, kind, flags, payload| {
                if of == sequence && kind == NLMSG_ERROR {
                    answer = Some(read_answer(payload, flags));
                } else if of == sequence {
                    replies.push(Reply { kind, payload: payload.to_vec() });
                }
                true
            })?;
        }
        answer.map_or(Ok(()), |answer| op.judge(answer)).map(|()| replies)
    }

    /// Lists objects: NLM_F_DUMP is added. An interrupted dump is taken again, at most five times in all.
    pub fn dump(&mut self, op: &Op) -> Result<Vec<Reply>> {
        let mut replies = Vec::new();
        for _ in 0..DUMP_TRIES {
            replies.clear();
            let interrupted = self.dump_once(op, |reply| {
                replies.push(reply);
                true
            })?;
            if !interrupted {
                break;
            }
        }
        Ok(replies)
    }

    /// Lists objects and shows each as it comes. Whether the listing was undisturbed: objects may be missing from one
    /// that was interrupted, and it is for the caller to take it again.
    pub(crate) fn dump_each(&mut self, op: &Op, mut visit: impl FnMut(Reply)) -> Result<bool> {
        let interrupted = self.dump_once(op, |reply| {
            visit(reply);
            true
        })?;
        Ok(!interrupted)
    }

    /// Lists objects until `visit` answers false. What the kernel had still to say would sit in the socket's way, so
    /// this uses up a sibling, which is closed later: see `retired`.
    pub fn dump_until(&mut self, op: &Op, visit: impl FnMut(Reply) -> bool) -> Result<()> {
        let mut sibling = self.sibling()?;
        // The kernel fills pages as large as our buffer; 8 KiB is its own least (NLMSG_GOODSIZE).
        sibling.buffer.truncate(8 * 1024);
        let outcome = sibling.dump_once(op, visit).map(|_| ());
        if self.retired.len() >= RETIRED_MAX {
            self.retired.remove(0);
        }
        self.retired.push(Arc::clone(&sibling.fd));
        outcome
    }

    fn dump_once(&mut self, op: &Op, mut visit: impl FnMut(Reply) -> bool) -> Result<bool> {
        let sequence = self.next_sequence();
        let mut bytes = Vec::new();
        op.message.seal(sequence, libc::NLM_F_DUMP as u16, &mut bytes);
        self.send(&bytes, &op.doing)?;
        let mut interrupted = false;
        let mut outcome: Option<Result<()>> = None;
        while outcome.is_none() {
            self.receive(&op.doing, |of, kind, flags, payload| {
                if of != sequence || outcome.is_some() {
                    return true;
                }
                interrupted |= flags & NLM_F_DUMP_INTR != 0;
                match kind {
                    NLMSG_DONE | NLMSG_ERROR => {
                        outcome = Some(op.judge(read_answer(payload, flags)));
                    }
                    _ if !visit(Reply { kind, payload: payload.to_vec() }) => outcome = Some(Ok(())),
                    _ => {}
                }
                true
            })?;
        }
        outcome.unwrap_or(Ok(())).map(|()| interrupted)
    }

    /// Takes a port number. Only then is the socket told what others announce: the kernel keeps its own announcements
    /// from port 0, which is every socket that never sent anything.
    pub(crate) fn bind(&self) -> Result<()> {
        // SAFETY: all zeroes are a valid sockaddr_nl.
        let mut address: libc::sockaddr_nl = unsafe { std::mem::zeroed() };
        address.nl_family = libc::AF_NETLINK as libc::sa_family_t;
        let size = libc::socklen_t::try_from(size_of::<libc::sockaddr_nl>()).unwrap_or(12);
        // SAFETY: the pointer and size describe `address`, which outlives the call.
        let status = unsafe { libc::bind(self.fd.as_raw_fd(), (&raw const address).cast(), size) };
        if status == 0 { Ok(()) } else { Err(Error::io("bind a netlink socket", io::Error::last_os_error())) }
    }

    /// Subscribes to a multicast group.
    pub(crate) fn join(&self, group: u32) -> Result<()> {
        let group = i32::try_from(group).unwrap_or(i32::MAX);
        set_option(self.fd.as_raw_fd(), libc::SOL_NETLINK, libc::NETLINK_ADD_MEMBERSHIP, group)
            .map_err(|e| Error::io(format!("subscribe to netlink group {group}"), e))
    }

    /// Reads one datagram of events. Blocks while there is none.
    pub(crate) fn events(&mut self) -> Result<Vec<Reply>> {
        let mut events = Vec::new();
        self.receive("read netlink events", |_, kind, _, payload| {
            events.push(Reply { kind, payload: payload.to_vec() });
            true
        })?;
        Ok(events)
    }

    /// How often this socket has written to the kernel: each time one request, or as many as were ready.
    pub fn writes(&self) -> usize {
        self.writes
    }

    pub(super) fn next_sequence(&mut self) -> u32 {
        let sequence = self.sequence;
        self.sequence = self.sequence.wrapping_add(1);
        sequence
    }

    pub(super) fn send(&mut self, bytes: &[u8], doing: &str) -> Result<()> {
        self.writes += 1;
        // SAFETY: the pointer and length describe `bytes`, which outlives the call.
        let sent = unsafe { libc::send(self.fd.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), 0) };
        if sent < 0 {
            return Err(Error::io(doing, io::Error::last_os_error()));
        }
        Ok(())
    }

    /// Reads one datagram and shows each of its messages as (sequence, type, flags, payload).
    pub(super) fn receive(
        &mut self,
        doing: &str,
        mut visit: impl FnMut(u32, u16, u16, &[u8]) -> bool,
    ) -> Result<()> {
        let length = loop {
            // SAFETY: the pointer and length describe `buffer`, which outlives the call.
            let n = unsafe {
                libc::recv(
                    self.fd.as_raw_fd(),
                    self.buffer.as_mut_ptr().cast(),
                    self.buffer.len(),
                    libc::MSG_TRUNC,
                )
            };
            match usize::try_from(n) {
                Ok(n) if n > self.buffer.len() => {
                    return Err(Error::Malformed {
                        doing: doing.to_owned(),
                        why: "a netlink answer was cut",
                    });
                }
                Ok(n) => break n,
                Err(_) => {
                    let error = io::Error::last_os_error();
                    if error.kind() != io::ErrorKind::Interrupted {
                        return Err(Error::io(doing, error));
                    }
                }
            }
        };
        let mut rest = &self.buffer[..length];
        while let Some((header, body)) = split_message(rest) {
            if header.kind == NLMSG_OVERRUN {
                return Err(Error::Malformed { doing: doing.to_owned(), why: "netlink answers were lost" });
            }
            if !visit(header.sequence, header.kind, header.flags, body) {
                break;
            }
            rest = rest.get(header.length.next_multiple_of(4)..).unwrap_or(&[]);
        }
        Ok(())
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Closing is what the kernel makes wait, so a process that has still to answer leaves it to its own end.
impl Drop for Socket {
    fn drop(&mut self) {
        if self.protocol == Protocol::Netfilter && linger::is_answering_early() {
            self.retired.push(Arc::clone(&self.fd));
            self.retired.drain(..).for_each(std::mem::forget);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::Message;

    #[test]
    fn a_refusal_says_what_was_tried() {
        let mut socket = Socket::open(Protocol::Route).expect("a route socket needs no privilege");
        const RTM_GETLINK: u16 = 18;
        const IFLA_IFNAME: u16 = 3;
        let mut message = Message::new(RTM_GETLINK, 0, &[0; 16]);
        message.text(IFLA_IFNAME, "nosuchlink0");
        let error =
            socket.request(&Op::new("look up link nosuchlink0", message)).expect_err("it does not exist");
        assert!(error.is_absent(), "{error}");
        assert!(error.to_string().starts_with("look up link nosuchlink0: "), "{error}");
    }

    #[test]
    fn more_requests_than_one_pipeline_each_get_their_own_answer() {
        let mut socket = Socket::open(Protocol::Route).expect("a route socket needs no privilege");
        const RTM_GETLINK: u16 = 18;
        const IFLA_IFNAME: u16 = 3;
        let ops: Vec<Op> = (0..150)
            .map(|i| {
                let name = if i % 2 == 0 { "lo" } else { "nosuchlink0" };
                let mut message = Message::new(RTM_GETLINK, 0, &[0; 16]);
                message.text(IFLA_IFNAME, name);
                Op::new(format!("look up {i}"), message)
            })
            .collect();
        let results = socket.apply_each(&ops).expect("the socket works");
        assert_eq!(results.len(), 150);
        for (i, result) in results.iter().enumerate() {
            assert_eq!(result.is_ok(), i % 2 == 0, "row {i}: {result:?}");
        }
    }
}
