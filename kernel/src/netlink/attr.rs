//! Reading attributes from what the kernel sent. Never panics: a short or crooked attribute ends the iteration.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Mask that takes NLA_F_NESTED and NLA_F_NET_BYTEORDER off an attribute's type.
const TYPE_MASK: u16 = 0x3fff;

/// An iterator over (type, payload) pairs.
#[derive(Debug, Clone)]
pub struct Attrs<'a> {
    rest: &'a [u8],
}

/// The attributes in `bytes`.
pub fn attrs(bytes: &[u8]) -> Attrs<'_> {
    Attrs { rest: bytes }
}

impl<'a> Iterator for Attrs<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let length = usize::from(u16_ne(self.rest.get(0..2)?)?);
        let kind = u16_ne(self.rest.get(2..4)?)? & TYPE_MASK;
        let payload = self.rest.get(4..length)?;
        self.rest = self.rest.get(length.next_multiple_of(4)..).unwrap_or(&[]);
        Some((kind, payload))
    }
}

impl<'a> Attrs<'a> {
    /// The payload of the last attribute of type `kind`.
    pub fn find_attr(&self, kind: u16) -> Option<&'a [u8]> {
        self.clone().filter(|(k, _)| *k == kind).last().map(|(_, payload)| payload)
    }
}

/// A native-endian u16.
pub fn u16_ne(bytes: &[u8]) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?))
}

/// A native-endian u32.
pub fn u32_ne(bytes: &[u8]) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?))
}

/// A native-endian u64.
pub fn u64_ne(bytes: &[u8]) -> Option<u64> {
    Some(u64::from_ne_bytes(bytes.get(..8)?.try_into().ok()?))
}

/// A big-endian u32 (nf_tables' numbers).
pub fn u32_be(bytes: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(..4)?.try_into().ok()?))
}

/// A big-endian u64.
pub fn u64_be(bytes: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(bytes.get(..8)?.try_into().ok()?))
}

/// Text up to the first zero byte; invalid UTF-8 is replaced.
pub fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

/// An address of 4 or 16 bytes.
pub fn ip(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => Some(IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?))),
        16 => Some(IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?))),
        _ => None,
    }
}
