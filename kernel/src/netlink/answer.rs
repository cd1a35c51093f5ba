//! What the kernel answers: messages taken apart, acknowledgements read.

use super::attr::{attrs, text};
use super::message::HEADER;

pub(super) const NLMSG_ERROR: u16 = 2;
pub(super) const NLMSG_DONE: u16 = 3;
pub(super) const NLMSG_OVERRUN: u16 = 4;
pub(super) const NLM_F_DUMP_INTR: u16 = 0x10;
const NLM_F_CAPPED: u16 = 0x100;
const NLM_F_ACK_TLVS: u16 = 0x200;
const NLMSGERR_ATTR_MSG: u16 = 1;

/// One message of an answer: its type and everything after the netlink header.
#[derive(Debug, Clone)]
pub struct Reply {
    /// nlmsg_type.
    pub kind: u16,
    /// Family header and attributes.
    pub payload: Vec<u8>,
}

/// What an acknowledgement says: 0 or the errno, and the kernel's own words where it has any.
pub(super) struct Answer {
    pub(super) errno: i32,
    pub(super) hint: String,
}

pub(super) struct Header {
    pub(super) length: usize,
    pub(super) kind: u16,
    pub(super) flags: u16,
    pub(super) sequence: u32,
}

pub(super) fn split_message(bytes: &[u8]) -> Option<(Header, &[u8])> {
    let word = |at: usize| Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    let half = |at: usize| Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?));
    let length = usize::try_from(word(0)?).ok()?;
    let body = bytes.get(HEADER..length)?;
    Some((Header { length, kind: half(4)?, flags: half(6)?, sequence: word(8)? }, body))
}

/// An NLMSG_ERROR or NLMSG_DONE payload: errno, then for errors the request's header (and body unless capped), then
/// attributes. An empty NLMSG_DONE is success; a crooked payload is EBADMSG.
pub(super) fn read_answer(payload: &[u8], flags: u16) -> Answer {
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
        if let Some(words) = payload.get(4 + skip..).and_then(|rest| attrs(rest).find_attr(NLMSGERR_ATTR_MSG))
        {
            hint = text(words);
        }
    }
    Answer { errno: number.saturating_neg(), hint }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::message::Message;
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
