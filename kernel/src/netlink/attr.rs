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

/// A big-endian u16 (ports).
pub fn u16_be(bytes: &[u8]) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(..2)?.try_into().ok()?))
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::netlink::Message;

    #[test]
    fn what_a_message_wrote_is_read_back() {
        let mut message = Message::new(16, 0, &[]);
        message.text(3, "eth0").u32(4, 1500).nested(18, |m| {
            m.text(1, "veth").ip(2, "10.1.2.3".parse().expect("an address"));
        });
        let read: Vec<_> = attrs(&message.bytes[16..]).collect();
        assert_eq!(read.iter().map(|(kind, _)| *kind).collect::<Vec<_>>(), [3, 4, 18]);
        assert_eq!(text(read[0].1), "eth0");
        assert_eq!(u32_ne(read[1].1), Some(1500));
        let inner = attrs(read[2].1);
        assert_eq!(inner.find_attr(1).map(text).as_deref(), Some("veth"));
        assert_eq!(inner.find_attr(2).and_then(ip), Some("10.1.2.3".parse().expect("an address")));
    }

    #[test]
    fn an_attribute_that_overruns_its_container_ends_the_iteration() {
        assert_eq!(attrs(&[8, 0, 1, 0, 1, 2, 3]).count(), 0);
        assert_eq!(attrs(&[3, 0, 1, 0]).count(), 0);
        assert_eq!(attrs(&[4, 0, 1, 0]).collect::<Vec<_>>(), [(1, &[][..])]);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
            for (_, payload) in attrs(&bytes) {
                let _ = (text(payload), ip(payload), u16_ne(payload), u32_be(payload), u64_ne(payload));
            }
        }
    }
}
