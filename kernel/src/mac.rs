//! Hardware addresses.

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

use ipnetwork::IpNetwork;

use crate::{Error, Result};

/// A link's hardware address: 6 bytes on Ethernet, 8 on EUI-64 media, 20 on InfiniBand.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Mac(Vec<u8>);

impl Mac {
    /// The address of these bytes; `None` when there are none (a tunnel) or too many.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        (1..=32).contains(&bytes.len()).then(|| Mac(bytes.to_vec()))
    }

    /// An Ethernet address.
    pub fn ethernet(bytes: [u8; 6]) -> Self {
        Mac(bytes.to_vec())
    }

    /// Whether an Ethernet link may bear it: six bytes, not all zero, not of a group.
    pub fn is_assignable(&self) -> bool {
        self.0.len() == 6 && self.0[0] & 1 == 0 && self.0.iter().any(|byte| *byte != 0)
    }

    /// The link-local address that the kernel makes of an Ethernet address: modified EUI-64 (RFC 4291, appendix A).
    pub fn link_local(&self) -> Option<IpNetwork> {
        let [a, b, c, d, e, f]: [u8; 6] = self.0.as_slice().try_into().ok()?;
        let group = |high: u8, low: u8| u16::from_be_bytes([high, low]);
        let ip = Ipv6Addr::new(0xfe80, 0, 0, 0, group(a ^ 2, b), group(c, 0xff), group(0xfe, d), group(e, f));
        IpNetwork::new(ip.into(), 64).ok()
    }

    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, byte) in self.0.iter().enumerate() {
            write!(f, "{}{byte:02x}", if at == 0 { "" } else { ":" })?;
        }
        Ok(())
    }
}

impl FromStr for Mac {
    type Err = Error;

    /// Reads `00:00:5e:00:53:01`, `00-00-5e-00-53-01` and `0000.5e00.5301`, of 6, 8 or 20 bytes, as Go does.
    fn from_str(text: &str) -> Result<Self> {
        let invalid = || Error::Invalid { what: format!("`{text}` is not a hardware address") };
        let (separator, width) = match text.as_bytes().get(2) {
            Some(b':') => (':', 2),
            Some(b'-') => ('-', 2),
            _ => ('.', 4),
        };
        let mut bytes = Vec::with_capacity(6);
        for group in text.split(separator) {
            if group.len() != width || !group.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(invalid());
            }
            for pair in group.as_bytes().chunks(2) {
                let pair = std::str::from_utf8(pair).map_err(|_| invalid())?;
                bytes.push(u8::from_str_radix(pair, 16).map_err(|_| invalid())?);
            }
        }
        matches!(bytes.len(), 6 | 8 | 20).then_some(Mac(bytes)).ok_or_else(invalid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_that_go_reads() {
        for (text, shown) in [
            ("00:00:5E:00:53:01", Some("00:00:5e:00:53:01")),
            ("00-00-5e-00-53-01", Some("00:00:5e:00:53:01")),
            ("0000.5e00.5301", Some("00:00:5e:00:53:01")),
            ("02:00:5e:10:00:00:00:01", Some("02:00:5e:10:00:00:00:01")),
            ("", None),
            ("00:00:5e:00:53", None),
            ("00:00:5e:00:53:0g", None),
            ("00:00:5e:00:53:01:", None),
            ("00:00-5e:00:53:01", None),
            ("é0:00:5e:00:53:01", None),
            ("+0:00:5e:00:53:01", None),
        ] {
            assert_eq!(text.parse::<Mac>().ok().map(|m| m.to_string()).as_deref(), shown, "{text}");
        }
    }
}
