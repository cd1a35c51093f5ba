//! Building one netlink message. Pure: bytes in, bytes out; the socket fills in sequence numbers.

use std::net::IpAddr;

pub(crate) const HEADER: usize = 16;
const NLA_F_NESTED: u16 = 1 << 15;

/// One netlink request: header, family header, attributes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    pub(crate) bytes: Vec<u8>,
}

/// Where a nested attribute began; closed by [`Message::end`].
#[derive(Debug)]
#[must_use]
pub struct Nest(usize);

impl Message {
    /// A request of type `kind` with `flags` (NLM_F_REQUEST is added) and the family header `family_header`.
    pub fn new(kind: u16, flags: i32, family_header: &[u8]) -> Self {
        let mut bytes = Vec::with_capacity(256);
        bytes.extend_from_slice(&0u32.to_ne_bytes());
        bytes.extend_from_slice(&kind.to_ne_bytes());
        #[allow(clippy::cast_sign_loss, clippy::cast_possible_truncation, reason = "NLM_F_* fit in 16 bits")]
        bytes.extend_from_slice(&((flags | libc::NLM_F_REQUEST) as u16).to_ne_bytes());
        bytes.extend_from_slice(&[0; 8]);
        bytes.extend_from_slice(family_header);
        let mut message = Message { bytes };
        message.pad();
        message
    }

    /// The message's type.
    pub fn kind(&self) -> u16 {
        u16::from_ne_bytes([self.bytes[4], self.bytes[5]])
    }

    /// Family header and attributes, as the kernel gets them, and repeats them in announcements.
    pub fn payload(&self) -> &[u8] {
        self.bytes.get(16..).unwrap_or(&[])
    }

    /// The message's flags.
    pub fn flags(&self) -> u16 {
        u16::from_ne_bytes([self.bytes[6], self.bytes[7]])
    }

    /// Appends an attribute with raw bytes.
    pub fn raw(&mut self, kind: u16, payload: &[u8]) -> &mut Self {
        let length = u16::try_from(4 + payload.len()).expect("an attribute is at most 64 KiB");
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(payload);
        self.pad();
        self
    }

    /// Appends a flag attribute (no payload).
    pub fn flag(&mut self, kind: u16) -> &mut Self {
        self.raw(kind, &[])
    }

    /// Appends a u8.
    pub fn u8(&mut self, kind: u16, value: u8) -> &mut Self {
        self.raw(kind, &[value])
    }

    /// Appends a native-endian u16.
    pub fn u16(&mut self, kind: u16, value: u16) -> &mut Self {
        self.raw(kind, &value.to_ne_bytes())
    }

    /// Appends a native-endian u32.
    pub fn u32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.raw(kind, &value.to_ne_bytes())
    }

    /// Appends a native-endian u64.
    pub fn u64(&mut self, kind: u16, value: u64) -> &mut Self {
        self.raw(kind, &value.to_ne_bytes())
    }

    /// Appends a big-endian u16.
    pub fn u16_be(&mut self, kind: u16, value: u16) -> &mut Self {
        self.raw(kind, &value.to_be_bytes())
    }

    /// Appends a big-endian u32.
    pub fn u32_be(&mut self, kind: u16, value: u32) -> &mut Self {
        self.raw(kind, &value.to_be_bytes())
    }

    /// Appends a big-endian u64.
    pub fn u64_be(&mut self, kind: u16, value: u64) -> &mut Self {
        self.raw(kind, &value.to_be_bytes())
    }

    /// Appends text with its terminating zero.
    pub fn text(&mut self, kind: u16, value: &str) -> &mut Self {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.raw(kind, &bytes)
    }

    /// Appends an address, 4 or 16 bytes.
    pub fn ip(&mut self, kind: u16, value: IpAddr) -> &mut Self {
        match value {
            IpAddr::V4(ip) => self.raw(kind, &ip.octets()),
            IpAddr::V6(ip) => self.raw(kind, &ip.octets()),
        }
    }

    /// Appends bytes that are no attribute (a header inside a nest, such as VETH_INFO_PEER's ifinfomsg).
    pub fn bare(&mut self, bytes: &[u8]) -> &mut Self {
        self.bytes.extend_from_slice(bytes);
        self.pad();
        self
    }

    /// Opens a nested attribute, with NLA_F_NESTED.
    pub fn begin(&mut self, kind: u16) -> Nest {
        self.begin_plain(kind | NLA_F_NESTED)
    }

    /// Opens a nested attribute without NLA_F_NESTED, where old kernels compare the type exactly.
    pub fn begin_plain(&mut self, kind: u16) -> Nest {
        let at = self.bytes.len();
        self.bytes.extend_from_slice(&[0, 0]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        Nest(at)
    }

    /// Closes `nest`.
    pub fn end(&mut self, nest: Nest) -> &mut Self {
        let length = u16::try_from(self.bytes.len() - nest.0).expect("a nested attribute is at most 64 KiB");
        self.bytes[nest.0..nest.0 + 2].copy_from_slice(&length.to_ne_bytes());
        self
    }

    /// A nested attribute whose content `fill` writes.
    pub fn nested(&mut self, kind: u16, fill: impl FnOnce(&mut Message)) -> &mut Self {
        let nest = self.begin(kind);
        fill(self);
        self.end(nest)
    }

    /// The finished bytes with `sequence` and extra `flags`.
    pub(crate) fn seal(&self, sequence: u32, flags: u16, out: &mut Vec<u8>) {
        let at = out.len();
        out.extend_from_slice(&self.bytes);
        let length = u32::try_from(self.bytes.len()).expect("a message is under 4 GiB");
        out[at..at + 4].copy_from_slice(&length.to_ne_bytes());
        out[at + 6..at + 8].copy_from_slice(&(self.flags() | flags).to_ne_bytes());
        out[at + 8..at + 12].copy_from_slice(&sequence.to_ne_bytes());
        while !out.len().is_multiple_of(4) {
            out.push(0);
        }
    }

    fn pad(&mut self) {
        while !self.bytes.len().is_multiple_of(4) {
            self.bytes.push(0);
        }
    }
}
