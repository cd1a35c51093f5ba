//! A blocking netlink socket that sends many requests at once and matches every answer to its question.
//!
//! The kernel handles the messages of one `sendmsg` in order, goes on after a failed one, and has queued every
//! acknowledgement before `sendmsg` returns; reading them afterwards can't block.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::Arc;

use super::attr::attrs;
use super::message::{HEADER, Message};
use super::sockopt::{option, set_option};
use crate::{Errno, Error, Netns, Result, linger};

const NLMSG_DONE: u16 = 3;
const NLMSG_ERROR: u16 = 2;
const NLMSG_OVERRUN: u16 = 4;
const NLM_F_DUMP_INTR: u16 = 0x10;
const NLM_F_CAPPED: u16 = 0x100;
const NLM_F_ACK_TLVS: u16 = 0x200;
const NLMSGERR_ATTR_MSG: u16 = 1;
const NFNL_MSG_BATCH_BEGIN: u16 = 0x10;
const NFNL_MSG_BATCH_END: u16 = 0x11;
const NFNL_BATCH_GENID: u16 = 1;
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

/// One request with the sentence that says what it does, for errors: "add address 10.1.0.1/24 to cni0".
#[derive(Debug, Clone)]
pub struct Op {
    /// What is being done, on what.
    pub doing: String,
    /// The request.
    pub message: Message,
    tolerate: Tolerate,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tolerate {
    Nothing,
    Present,
    Absent,
    Unsupported,
}

impl Op {
    /// A request whose every refusal is an error.
    pub fn new(doing: impl Into<String>, message: Message) -> Self {
        Op { doing: doing.into(), message, tolerate: Tolerate::Nothing }
    }

    /// EEXIST is success: the thing is there.
    #[must_use]
    pub fn or_present(mut self) -> Self {
        self.tolerate = Tolerate::Present;
        self
    }

    /// Absence is success: the thing is gone ([`Error::is_absent`]).
    #[must_use]
    pub fn or_absent(mut self) -> Self {
        self.tolerate = Tolerate::Absent;
        self
    }

    /// A kernel that cannot do it is success: it was wished for, not needed ([`Error::is_unsupported`]).
    #[must_use]
    pub fn or_unsupported(mut self) -> Self {
        self.tolerate = Tolerate::Unsupported;
        self
    }

    fn judge(&self, answer: Answer) -> Result<()> {
        if answer.errno == 0 {
            return Ok(());
        }
        let error =
            Error::Kernel { doing: self.doing.clone(), errno: Errno(answer.errno), hint: answer.hint };
        match self.tolerate {
            Tolerate::Present if error.is_present() => Ok(()),
            Tolerate::Absent if error.is_absent() => Ok(()),
            Tolerate::Unsupported if error.is_unsupported() => Ok(()),
            _ => Err(error),
        }
    }
}

/// One message of an answer: its type and everything after the netlink header.
#[derive(Debug, Clone)]
pub struct Reply {
    /// nlmsg_type.
    pub kind: u16,
    /// Family header and attributes.
    pub payload: Vec<u8>,
}

struct Answer {
    errno: i32,
    hint: String,
}

/// A netlink socket, bound to the network namespace it was opened in.
#[derive(Debug)]
pub struct Socket {
    /// Shared with nobody; counted so that [`Drop`] can let it live on.
    fd: Arc<OwnedFd>,
    protocol: Protocol,
    /// Used-up siblings. Closing a netfilter socket soon after a deletion waits 10 to 300 ms for the kernel to free
    /// what was deleted, so they are kept until this socket is closed, when that wait comes anyway.
    retired: Vec<Arc<OwnedFd>>,
    sequence: u32,
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

    /// Sends nf_tables requests as one atomic batch: all or nothing.
    ///
    /// With `generation` the kernel refuses the batch (ERESTART) when the ruleset changed since that generation was
    /// read. Only the last request asks for an acknowledgement, so the answers to a large batch can't overflow.
    ///
    /// # Errors
    /// The first refusal in the batch's order; nothing was changed then.
    pub fn transaction(&mut self, subsystem: u16, generation: Option<u32>, ops: &[Op]) -> Result<()> {
        let Some(last_op) = ops.last() else { return Ok(()) };
        let begin = self.next_sequence();
        let mut bytes = Vec::with_capacity(ops.len() * 128 + 64);
        batch_edge(NFNL_MSG_BATCH_BEGIN, subsystem, generation).seal(begin, 0, &mut bytes);
        let first = self.sequence;
        for (index, op) in ops.iter().enumerate() {
            let ack = if index + 1 == ops.len() { libc::NLM_F_ACK as u16 } else { 0 };
            op.message.seal(self.next_sequence(), ack, &mut bytes);
        }
        let last = self.sequence.wrapping_sub(1);
        let end = self.next_sequence();
        batch_edge(NFNL_MSG_BATCH_END, subsystem, None).seal(end, 0, &mut bytes);
        self.ensure_send_buffer(bytes.len());
        self.send(&bytes, &last_op.doing)?;

        let mut failure: Option<Error> = None;
        let mut finished = false;
        while !finished {
            self.receive(&last_op.doing, |of, kind, flags, payload| {
                if kind != NLMSG_ERROR {
                    return true;
                }
                let answer = read_answer(payload, flags);
                let index = of.wrapping_sub(first) as usize;
                if of == begin || of == end {
                    finished |= answer.errno != 0;
                    let whole = Op::new("commit an nf_tables batch", Message::new(0, 0, &[]));
                    failure = failure.take().or(whole.judge(answer).err());
                } else if let Some(op) = ops.get(index) {
                    failure = failure.take().or(op.judge(answer).err());
                    finished |= of == last;
                }
                true
            })?;
        }
        failure.map_or(Ok(()), Err)
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

    fn next_sequence(&mut self) -> u32 {
        let sequence = self.sequence;
        self.sequence = self.sequence.wrapping_add(1);
        sequence
    }

    fn ensure_send_buffer(&self, bytes: usize) {
        const DEFAULT: usize = 128 * 1024;
        if bytes > DEFAULT {
            let size = i32::try_from(bytes.saturating_mul(2)).unwrap_or(i32::MAX);
            // Without CAP_NET_ADMIN in the initial user namespace the forced form fails; the plain one is capped.
            if set_option(self.fd.as_raw_fd(), libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, size).is_err() {
                let _ = set_option(self.fd.as_raw_fd(), libc::SOL_SOCKET, libc::SO_SNDBUF, size);
            }
        }
    }

    fn send(&mut self, bytes: &[u8], doing: &str) -> Result<()> {
        self.writes += 1;
        // SAFETY: the pointer and length describe `bytes`, which outlives the call.
        let sent = unsafe { libc::send(self.fd.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), 0) };
        if sent < 0 {
            return Err(Error::io(doing, io::Error::last_os_error()));
        }
        Ok(())
    }

    /// Reads one datagram and shows each of its messages as (sequence, type, flags, payload).
    fn receive(&mut self, doing: &str, mut visit: impl FnMut(u32, u16, u16, &[u8]) -> bool) -> Result<()> {
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

struct Header {
    length: usize,
    kind: u16,
    flags: u16,
    sequence: u32,
}

fn split_message(bytes: &[u8]) -> Option<(Header, &[u8])> {
    let word = |at: usize| Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    let half = |at: usize| Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?));
    let length = usize::try_from(word(0)?).ok()?;
    let body = bytes.get(HEADER..length)?;
    Some((Header { length, kind: half(4)?, flags: half(6)?, sequence: word(8)? }, body))
}

/// An NLMSG_ERROR or NLMSG_DONE payload: errno, then for errors the request's header (and body unless capped), then
/// attributes. An empty NLMSG_DONE is success; a crooked payload is EBADMSG.
fn read_answer(payload: &[u8], flags: u16) -> Answer {
    let Some(number) = payload.get(..4).and_then(|b| b.try_into().ok()).map(i32::from_ne_bytes) else {
        let errno = if payload.is_empty() { 0 } else { libc::EBADMSG };
        return Answer { errno, hint: String::new() };
    };
    let mut hint = String::new();
    if flags & NLM_F_ACK_TLVS != 0 {
        let skip = if flags & NLM_F_CAPPED != 0 {
            HEADER
        } else {
            payload.get(4..).and_then(split_message).map_or(HEADER, |(header, _)| header.length)
        };
        if let Some(text) = payload.get(4 + skip..).and_then(|rest| attrs(rest).find_attr(NLMSGERR_ATTR_MSG))
        {
            hint = super::attr::text(text);
        }
    }
    Answer { errno: number.saturating_neg(), hint }
}

fn batch_edge(kind: u16, subsystem: u16, generation: Option<u32>) -> Message {
    let [high, low] = subsystem.to_be_bytes();
    let mut message = Message::new(kind, 0, &[0, 0, high, low]);
    if let Some(generation) = generation {
        message.u32_be(NFNL_BATCH_GENID, generation);
    }
    message
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn answer_bytes(errno: i32, hint: &str) -> Vec<u8> {
        let mut bytes = (-errno).to_ne_bytes().to_vec();
        bytes.extend_from_slice(&[0; HEADER]);
        let mut tail = Message::new(0, 0, &[]);
        tail.text(NLMSGERR_ATTR_MSG, hint);
        bytes.extend_from_slice(&tail.bytes[HEADER..]);
        bytes
    }

    #[test]
    fn a_capped_acknowledgement_gives_errno_and_the_kernels_hint() {
        let answer =
            read_answer(&answer_bytes(libc::EINVAL, "Unknown device type"), NLM_F_CAPPED | NLM_F_ACK_TLVS);
        assert_eq!((answer.errno, answer.hint.as_str()), (libc::EINVAL, "Unknown device type"));
    }

    #[test]
    fn presence_and_absence_are_success_only_where_they_are_wished() {
        type Row = (fn(Op) -> Op, i32, bool);
        let rows: [Row; 6] = [
            (|op| op, 0, true),
            (|op| op, libc::EEXIST, false),
            (Op::or_present, libc::EEXIST, true),
            (Op::or_present, libc::ENOENT, false),
            (Op::or_absent, libc::ENODEV, true),
            (Op::or_absent, libc::EBUSY, false),
        ];
        for (index, (make, errno, fine)) in rows.into_iter().enumerate() {
            let op = make(Op::new("try", Message::new(16, 0, &[])));
            assert_eq!(op.judge(Answer { errno, hint: String::new() }).is_ok(), fine, "row {index}");
        }
    }

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

    proptest! {
        #[test]
        fn any_answer_is_read_without_panic(
            bytes in proptest::collection::vec(any::<u8>(), 0..256),
            flags in any::<u16>(),
        ) {
            let _ = read_answer(&bytes, flags);
            let _ = split_message(&bytes);
        }
    }
}
