//! Hardware addresses that every node can work out for every other.

use std::net::IpAddr;

use kernel::Mac;
use sha2::{Digest, Sha512};

/// The hardware address of the VXLAN device of the node with address `ip`.
///
/// It is a function of the address alone, so that no node has to publish it, and a node that comes back with a new disk
/// comes back with the old address. Of IPv4 all four bytes are in it; of IPv6 40 bits of a hash, so two addresses can
/// in theory clash, which [`crate::plan::plan`] reports. Locally administered and unicast.
pub fn vtep(ip: IpAddr) -> Mac {
    match ip {
        IpAddr::V4(ip) => {
            let [a, b, c, d] = ip.octets();
            Mac::ethernet([0x62, 0x6c, a, b, c, d])
        }
        IpAddr::V6(ip) => {
            let hash = Sha512::digest(ip.octets());
            Mac::ethernet([0x62, hash[0], hash[1], hash[2], hash[3], hash[4]])
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_one_hardware_address_for_ever() {
        for (ip, mac) in [
            ("192.0.2.1", "62:6c:c0:00:02:01"),
            ("255.255.255.255", "62:6c:ff:ff:ff:ff"),
            ("2001:db8::1", "62:11:f9:25:d3:30"),
        ] {
            let made = vtep(ip.parse().expect("an address"));
            assert_eq!(made.to_string(), mac, "{ip}");
            assert!(made.is_assignable(), "{ip}");
        }
    }
}
