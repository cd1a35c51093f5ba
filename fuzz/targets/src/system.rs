//! What the system answers: netlink messages, and the text of iptables-save.

use kernel::addr::Address;
use kernel::bridge::parse_vlans;
use kernel::fdb::Forward;
use kernel::iptables::Ruleset;
use kernel::link::Link;
use kernel::neigh::Neighbour;
use kernel::netlink::{Reply, attrs};
use kernel::route::Route;
use kernel::rule::Rule;
use kernel::tc::{Filter, Qdisc};
use kernel::wireguard::Device;

/// One netlink message: two bytes of type, then the family header and attributes.
pub fn netlink(bytes: &[u8]) {
    let Some((kind, payload)) = bytes.split_first_chunk::<2>() else { return };
    assert!(attrs(payload).count() <= payload.len() / 4 + 1, "every attribute takes room");
    let reply = Reply { kind: u16::from_le_bytes(*kind), payload: payload.to_vec() };
    let _ = (Address::parse(&reply), Link::parse(&reply), Neighbour::parse(&reply), Route::parse(&reply));
    let _ = (Forward::parse(&reply), Device::parse(std::slice::from_ref(&reply)));
    let _ = (Rule::parse(&reply), Qdisc::parse(&reply), Filter::parse(&reply));
    let port = payload.get(4..8).and_then(|index| index.try_into().ok()).map_or(1, u32::from_le_bytes);
    let _ = parse_vlans(&[reply], port);
}

/// The text of iptables-save. Each rule that is read is found again.
pub fn ruleset(bytes: &[u8]) {
    let ruleset = Ruleset::parse(&String::from_utf8_lossy(bytes));
    for chain in ruleset.chains() {
        assert!(ruleset.has_chain(chain));
        let _ = ruleset.policy(chain);
        for rule in ruleset.rules(chain) {
            assert!(ruleset.has_rule(chain, rule));
        }
    }
}
