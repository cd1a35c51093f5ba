//! Frames of a WebSocket, as far as a server's answer needs them (RFC 6455, 5.2).
//!
//! Nothing is ever sent after the handshake: the command has no input, and what is asked of it takes less time than any
//! ping could wait. So there is a reader and no writer.

/// No frame is larger than this, in bytes.
const LARGEST: u64 = 16 << 20;

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The beginning of a message, or all of it.
    Message,
    /// More of the message before.
    Continuation,
    /// The end of the conversation.
    Close,
    /// A ping or a pong.
    Control,
}

/// One frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// What it is.
    pub kind: Kind,
    /// Whether its message ends with it.
    pub is_last: bool,
    /// What it carries.
    pub payload: Vec<u8>,
}

/// The first frame of `bytes` and its length there; `None` when it is not whole yet.
///
/// # Errors
/// A sentence: no server may send that.
pub fn parse(bytes: &[u8]) -> Result<Option<(Frame, usize)>, String> {
    let Some((&[first, second], rest)) = bytes.split_first_chunk() else { return Ok(None) };
    if first & 0x70 != 0 {
        return Err("a frame of an extension that nobody asked for".into());
    }
    if second & 0x80 != 0 {
        return Err("a masked frame: only clients mask".into());
    }
    let kind = match first & 0x0f {
        0 => Kind::Continuation,
        1 | 2 => Kind::Message,
        8 => Kind::Close,
        9 | 10 => Kind::Control,
        other => return Err(format!("a frame of the unknown kind {other}")),
    };
    let (length, rest) = match second & 0x7f {
        126 => match rest.split_first_chunk() {
            Some((length, rest)) => (u64::from(u16::from_be_bytes(*length)), rest),
            None => return Ok(None),
        },
        127 => match rest.split_first_chunk() {
            Some((length, rest)) => (u64::from_be_bytes(*length), rest),
            None => return Ok(None),
        },
        short => (u64::from(short), rest),
    };
    if length > LARGEST {
        return Err(format!("a frame of {length} bytes"));
    }
    let Some(payload) = usize::try_from(length).ok().and_then(|length| rest.get(..length)) else {
        return Ok(None);
    };
    let frame = Frame { kind, is_last: first & 0x80 != 0, payload: payload.to_vec() };
    Ok(Some((frame, bytes.len() - rest.len() + payload.len())))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn frames_of_every_length_and_kind() {
        let whole = |head: &[u8], length: usize| [head, &vec![7; length]].concat();
        for (bytes, kind, is_last, length) in [
            (whole(&[0x82, 3], 3), Kind::Message, true, 3),
            (whole(&[0x01, 0], 0), Kind::Message, false, 0),
            (whole(&[0x80, 126, 1, 0], 256), Kind::Continuation, true, 256),
            (whole(&[0x82, 127, 0, 0, 0, 0, 0, 1, 0, 0], 65536), Kind::Message, true, 65536),
            (whole(&[0x88, 2], 2), Kind::Close, true, 2),
            (whole(&[0x89, 0], 0), Kind::Control, true, 0),
        ] {
            let expected = Frame { kind, is_last, payload: vec![7; length] };
            let longer = [&bytes[..], b"next"].concat();
            assert_eq!(parse(&longer), Ok(Some((expected, bytes.len()))));
            for cut in [0, 1, bytes.len() - 1] {
                let partial = parse(&bytes[..cut.min(bytes.len() - 1)]);
                assert_eq!(partial, Ok(None), "{cut} of {}", bytes.len());
            }
        }
    }

    #[test]
    fn what_no_server_sends_is_refused() {
        for (bytes, what) in [
            (&[0xc2, 0][..], "extension"),
            (&[0x82, 0x80], "masked"),
            (&[0x83, 0], "unknown kind 3"),
            (&[0x82, 127, 1, 0, 0, 0, 0, 0, 0, 0], "bytes"),
        ] {
            let error = parse(bytes).expect_err(what);
            assert!(error.contains(what), "{error}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(Some((_, length))) = parse(&bytes) {
                prop_assert!(length <= bytes.len());
            }
        }
    }
}
