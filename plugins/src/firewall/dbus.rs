//! As much of D-Bus as calling a method takes: a connection, calls with text arguments, and their answers.
//!
//! Written out because it is 200 lines, and the general crates add half a megabyte to a binary that is started once
//! per pod and verb. The wire format is that of the D-Bus specification, 0.43, "Message protocol".

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(30);
/// Longer messages are refused; the specification's limit is 128 MiB.
const MESSAGE_MAX: usize = 1 << 20;

const METHOD_CALL: u8 = 1;
const METHOD_RETURN: u8 = 2;
const ERROR: u8 = 3;
const FIELD_PATH: u8 = 1;
const FIELD_INTERFACE: u8 = 2;
const FIELD_MEMBER: u8 = 3;
const FIELD_ERROR_NAME: u8 = 4;
const FIELD_REPLY_SERIAL: u8 = 5;
const FIELD_DESTINATION: u8 = 6;
const FIELD_SIGNATURE: u8 = 8;

/// What is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Method<'a> {
    /// The bus name of whom it is asked.
    pub destination: &'a str,
    /// The object.
    pub path: &'a str,
    /// The interface.
    pub interface: &'a str,
    /// The method.
    pub member: &'a str,
}

/// The bus itself.
pub const fn of_bus(member: &str) -> Method<'_> {
    Method {
        destination: "org.freedesktop.DBus",
        path: "/org/freedesktop/DBus",
        interface: "org.freedesktop.DBus",
        member,
    }
}

/// Why a call failed.
#[derive(Debug)]
pub enum Failure {
    /// The connection did.
    Io(io::Error),
    /// Whoever was called refused.
    Refused {
        /// The error's name, such as `org.fedoraproject.FirewallD1.Exception`.
        name: String,
        /// Its text.
        text: String,
    },
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Failure::Io(error)
    }
}

/// A connection to a message bus.
#[derive(Debug)]
pub struct Bus {
    stream: UnixStream,
    serial: u32,
}

impl Bus {
    /// Connects to the bus that listens at `socket`, as the user that this process runs as.
    pub fn connect(socket: &Path) -> Result<Self, Failure> {
        let mut stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.write_all(b"\0AUTH EXTERNAL\r\nDATA\r\nBEGIN\r\n")?;
        // One answer to AUTH, asking for data that says who we are, and one to the empty data: the socket says it.
        let answers = [read_line(&mut stream)?, read_line(&mut stream)?];
        if !answers[1].starts_with("OK") {
            return Err(crooked(format!("the bus refused us: {}", answers.join("; "))).into());
        }
        let mut bus = Bus { stream, serial: 0 };
        bus.call(of_bus("Hello"), &[])?;
        Ok(bus)
    }

    /// Calls `method` with text arguments and returns the answer's body.
    pub fn call(&mut self, method: Method<'_>, arguments: &[&str]) -> Result<Body, Failure> {
        self.serial += 1;
        self.stream.write_all(&encode_call(self.serial, method, arguments))?;
        loop {
            let message = read_message(&mut self.stream)?;
            if message.reply_to != Some(self.serial) {
                continue;
            }
            match message.kind {
                METHOD_RETURN => return Ok(message.body),
                ERROR => {
                    let text = message.body.text().unwrap_or_default();
                    return Err(Failure::Refused { name: message.error_name, text });
                }
                _ => {}
            }
        }
    }
}

/// An answer's body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Body {
    bytes: Vec<u8>,
    big_endian: bool,
}

impl Body {
    /// Its first value, if it is text.
    pub fn text(&self) -> Option<String> {
        Reader { bytes: &self.bytes, at: 0, big_endian: self.big_endian }.text()
    }

    /// Its first value, if it is a boolean.
    pub fn boolean(&self) -> Option<bool> {
        Reader { bytes: &self.bytes, at: 0, big_endian: self.big_endian }.u32().map(|value| value != 0)
    }
}

fn crooked(why: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.into())
}

fn read_line(stream: &mut UnixStream) -> io::Result<String> {
    let mut line = Vec::new();
    let mut byte = [0];
    while !line.ends_with(b"\r\n") {
        stream.read_exact(&mut byte)?;
        line.push(byte[0]);
        if line.len() > 512 {
            return Err(crooked("the bus answers without end"));
        }
    }
    Ok(String::from_utf8_lossy(&line).trim_end().to_owned())
}

fn encode_call(serial: u32, method: Method<'_>, arguments: &[&str]) -> Vec<u8> {
    let mut body = Vec::new();
    for argument in arguments {
        put_text(&mut body, argument);
    }
    let mut message = vec![b'l', METHOD_CALL, 0, 1];
    put_u32(&mut message, length(body.len()));
    put_u32(&mut message, serial);
    put_u32(&mut message, 0);
    let fields_at = message.len();
    let fields = [
        (FIELD_PATH, b'o', method.path),
        (FIELD_INTERFACE, b's', method.interface),
        (FIELD_MEMBER, b's', method.member),
        (FIELD_DESTINATION, b's', method.destination),
    ];
    for (field, kind, value) in fields {
        pad(&mut message, 8);
        message.extend_from_slice(&[field, 1, kind, 0]);
        put_text(&mut message, value);
    }
    if !arguments.is_empty() {
        pad(&mut message, 8);
        let signature = "s".repeat(arguments.len());
        message.extend_from_slice(&[FIELD_SIGNATURE, 1, b'g', 0]);
        message.push(u8::try_from(signature.len()).unwrap_or(u8::MAX));
        message.extend_from_slice(signature.as_bytes());
        message.push(0);
    }
    let fields_length = length(message.len() - fields_at);
    message[fields_at - 4..fields_at].copy_from_slice(&fields_length.to_le_bytes());
    pad(&mut message, 8);
    message.extend_from_slice(&body);
    message
}

fn length(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

fn pad(bytes: &mut Vec<u8>, to: usize) {
    bytes.resize(bytes.len().next_multiple_of(to), 0);
}

fn put_u32(bytes: &mut Vec<u8>, value: u32) {
    pad(bytes, 4);
    bytes.extend_from_slice(&value.to_le_bytes());
}

fn put_text(bytes: &mut Vec<u8>, text: &str) {
    put_u32(bytes, length(text.len()));
    bytes.extend_from_slice(text.as_bytes());
    bytes.push(0);
}

#[derive(Debug, PartialEq, Eq)]
struct Message {
    kind: u8,
    reply_to: Option<u32>,
    error_name: String,
    body: Body,
}

/// The fixed part of a message is 16 bytes: it ends with the length of the fields.
const FIXED: usize = 16;

fn read_message(stream: &mut impl Read) -> io::Result<Message> {
    let mut fixed = [0; FIXED];
    stream.read_exact(&mut fixed)?;
    let (fields, body) = lengths(&fixed)?;
    let mut rest = vec![0; fields.next_multiple_of(8) + body];
    stream.read_exact(&mut rest)?;
    let whole = [fixed.as_slice(), &rest].concat();
    read_whole(&whole, fields).ok_or_else(|| crooked("a D-Bus message can't be read"))
}

fn lengths(fixed: &[u8; FIXED]) -> io::Result<(usize, usize)> {
    let reader =
        |at| Reader { bytes: fixed, at, big_endian: fixed[0] == b'B' }.u32().unwrap_or(u32::MAX) as usize;
    let (body, fields) = (reader(4), reader(12));
    if !matches!(fixed[0], b'l' | b'B') || body > MESSAGE_MAX || fields > MESSAGE_MAX {
        return Err(crooked("a D-Bus message with a bad header"));
    }
    Ok((fields, body))
}

fn read_whole(bytes: &[u8], fields: usize) -> Option<Message> {
    let big_endian = bytes.first()? == &b'B';
    let mut reader = Reader { bytes: bytes.get(..FIXED + fields)?, at: FIXED, big_endian };
    let (mut reply_to, mut error_name) = (None, String::new());
    while reader.at < reader.bytes.len() {
        reader.align(8);
        let field = reader.u8()?;
        let signature = reader.signature()?;
        match (field, signature.as_str()) {
            (FIELD_REPLY_SERIAL, "u") => reply_to = Some(reader.u32()?),
            (FIELD_ERROR_NAME, "s") => error_name = reader.text()?,
            (_, "u") => drop(reader.u32()?),
            (_, "s" | "o") => drop(reader.text()?),
            (_, "g") => drop(reader.signature()?),
            _ => return None,
        }
    }
    let body = bytes.get((FIXED + fields).next_multiple_of(8)..)?.to_vec();
    Some(Message { kind: *bytes.get(1)?, reply_to, error_name, body: Body { bytes: body, big_endian } })
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    big_endian: bool,
}

impl Reader<'_> {
    fn align(&mut self, to: usize) {
        self.at = self.at.next_multiple_of(to);
    }

    fn u8(&mut self) -> Option<u8> {
        let value = *self.bytes.get(self.at)?;
        self.at += 1;
        Some(value)
    }

    fn u32(&mut self) -> Option<u32> {
        self.align(4);
        let bytes: [u8; 4] = self.bytes.get(self.at..self.at + 4)?.try_into().ok()?;
        self.at += 4;
        Some(if self.big_endian { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) })
    }

    fn text(&mut self) -> Option<String> {
        let length = self.u32()? as usize;
        self.take(length)
    }

    fn signature(&mut self) -> Option<String> {
        let length = usize::from(self.u8()?);
        self.take(length)
    }

    /// Text and the zero byte after it.
    fn take(&mut self, length: usize) -> Option<String> {
        let text = self.bytes.get(self.at..self.at.checked_add(length)?)?;
        self.at += length + 1;
        String::from_utf8(text.to_vec()).ok()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_call_is_encoded_as_the_specification_says() {
        let bytes = encode_call(1, of_bus("Hello"), &[]);
        assert_eq!(&bytes[..16], b"l\x01\0\x01\0\0\0\0\x01\0\0\0\x6d\0\0\0");
        assert_eq!(&bytes[16..32], b"\x01\x01o\0\x15\0\0\0/org/fre");
        assert_eq!(bytes.len() % 8, 0);
        let bytes = encode_call(7, of_bus("NameHasOwner"), &["a.b"]);
        assert!(bytes.ends_with(b"\x03\0\0\0a.b\0"));
        assert!(bytes.windows(7).any(|w| w == b"\x08\x01g\0\x01s\0"), "{bytes:?}");
    }

    #[test]
    fn an_answer_is_read() {
        let mut bytes = vec![b'l', ERROR, 1, 1];
        put_u32(&mut bytes, 7);
        put_u32(&mut bytes, 3);
        put_u32(&mut bytes, 0);
        bytes.extend_from_slice(&[FIELD_REPLY_SERIAL, 1, b'u', 0]);
        put_u32(&mut bytes, 42);
        pad(&mut bytes, 8);
        bytes.extend_from_slice(&[FIELD_ERROR_NAME, 1, b's', 0]);
        put_text(&mut bytes, "x.Y");
        let fields = length(bytes.len() - 16);
        bytes[12..16].copy_from_slice(&fields.to_le_bytes());
        pad(&mut bytes, 8);
        put_text(&mut bytes, "no");
        let message = read_message(&mut bytes.as_slice()).expect("a message");
        assert_eq!((message.kind, message.reply_to, message.error_name.as_str()), (ERROR, Some(42), "x.Y"));
        assert_eq!(message.body.text().as_deref(), Some("no"));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), big in any::<bool>()) {
            let mut bytes = bytes;
            if let Some(first) = bytes.first_mut() {
                *first = if big { b'B' } else { b'l' };
            }
            let _ = read_message(&mut bytes.as_slice());
            for fields in 0..64 {
                let _ = read_whole(&bytes, fields);
            }
        }
    }
}
