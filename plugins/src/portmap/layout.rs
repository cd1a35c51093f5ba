//! The names of the nf_tables objects, see [`super::nftables`].

use kernel::nft::{Base, Chain, ChainKind, Family, Hook, Table, Type};

use super::waiting::Map;

pub(super) const NAME: &str = "bowline_hostport";
pub(super) const PREROUTING: Chain<'_> =
    Chain::base("prerouting", Base::new(ChainKind::Nat, Hook::Prerouting, -100));
pub(super) const OUTPUT: Chain<'_> = Chain::base("output", Base::new(ChainKind::Nat, Hook::Output, -100));
pub(super) const POSTROUTING: Chain<'_> =
    Chain::base("postrouting", Base::new(ChainKind::Nat, Hook::Postrouting, 100));
pub(super) const LOOPBACK: Chain<'_> =
    Chain::base("loopback", Base::new(ChainKind::Filter, Hook::Prerouting, -300));
pub(super) const HOSTPORTS: &str = "hostports";
pub(super) const PORTS: &str = "ports";
pub(super) const ADDRESSES: &str = "addresses";
pub(super) const WHEN: &str = "when";
pub(super) const FAMILIES: [Family; 2] = [Family::Ip, Family::Ip6];

pub(super) fn table_of(family: Family) -> Table<'static> {
    Table::new(family, NAME)
}

pub(super) fn ip_type(family: Family) -> Type {
    if family == Family::Ip6 { Type::Ipv6 } else { Type::Ipv4 }
}

/// `set` as a map of ports; none when it is none.
pub(super) fn ports_map<'a>(table: &'a Table<'a>, set: &'a str) -> Option<Map<'a>> {
    const V4: [Type; 5] = [Type::Ipv4, Type::Proto, Type::Port, Type::Ipv4, Type::Port];
    const V6: [Type; 5] = [Type::Ipv6, Type::Proto, Type::Port, Type::Ipv6, Type::Port];
    let types: &'static [Type; 5] = if table.family == Family::Ip6 { &V6 } else { &V4 };
    let key = match () {
        () if is_called(set, PORTS) => &types[1..3],
        () if is_called(set, ADDRESSES) => &types[..3],
        () => return None,
    };
    Some(Map { table, name: set, key, data: &types[3..] })
}

/// Whether `set` is the one called `what` of some group.
pub(super) fn is_called(set: &str, what: &str) -> bool {
    set.strip_prefix(what).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
}
