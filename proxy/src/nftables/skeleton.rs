//! The rules that are always there. They depend on the site alone; README.md explains them.

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnetwork::Ipv4Network;
use kernel::nft::{
    Base, Batch, Chain, ChainKind, Cmp, Element, Field, Hook, Reg, Reject, Rule, Table, Value, Verdict,
};

use super::layout::{Map, WAYS, WAYS_BY_SOURCE, clients, frontend, nft_family};
use super::spread::{BY_SOURCE, DROP, REJECT, WAY};
use crate::Family;
use crate::plan::{Detect, NodePorts, Site};
use crate::state::Protocol;

/// 127.0.0.0/8.
const LOOPBACK: Option<Ipv4Network> = Ipv4Network::new_checked(Ipv4Addr::new(127, 0, 0, 0), 8);

/// A chain with its rules.
#[derive(Debug)]
pub(crate) struct Section {
    pub(crate) chain: Chain<'static>,
    pub(crate) rules: Vec<Rule>,
}

/// All chains that don't depend on pools.
pub(super) fn sections(site: &Site) -> Vec<Section> {
    vec![
        Section {
            chain: Chain::regular("reject").comment("nobody listens"),
            rules: reject(site.family).to_vec(),
        },
        Section {
            chain: Chain::regular("drop").comment("would be served on another node"),
            rules: vec![Rule::new().drop()],
        },
        Section {
            chain: Chain::regular("by-source").comment("traffic policy Local"),
            rules: by_source(site),
        },
        Section {
            chain: Chain::regular("ways"),
            rules: vec![by_way(site.family).verdict_map_at(WAYS.name, Reg(0))],
        },
        Section {
            chain: Chain::regular("ways-by-source"),
            rules: vec![by_way(site.family).verdict_map_at(WAYS_BY_SOURCE.name, Reg(0))],
        },
        Section { chain: Chain::regular("services"), rules: services(site) },
        Section {
            chain: hook("prerouting", Hook::Prerouting, -100, "from pods and from outside"),
            rules: vec![Rule::new().jump("services")],
        },
        Section {
            chain: hook("output", Hook::Output, -100, "from this node"),
            rules: vec![Rule::new().jump("services")],
        },
        Section {
            chain: hook("postrouting", Hook::Postrouting, 100, "masquerade"),
            rules: postrouting(site),
        },
    ]
}

/// A base chain that sees the first packet of each flow.
pub(crate) fn hook(name: &'static str, hook: Hook, priority: i32, comment: &'static str) -> Chain<'static> {
    Chain::base(name, Base::new(ChainKind::Nat, hook, priority)).comment(comment)
}

/// A reset reaches a connecting process at once; an ICMP error may have to wait for its next try, and the kernel
/// sends one per second only.
pub(crate) fn reject(family: Family) -> [Rule; 2] {
    let unreachable = match family {
        Family::V4 => Reject::PortUnreachableV4,
        Family::V6 => Reject::PortUnreachableV6,
    };
    let tcp = Value::Proto(Protocol::Tcp.number());
    [Rule::new().is(Field::L4proto, tcp).reject(Reject::TcpReset), Rule::new().reject(unreachable)]
}

fn services(site: &Site) -> Vec<Rule> {
    let family = nft_family(site.family);
    let frontend = frontend(site.family);
    let rule = || Rule::in_family(family);
    let mut client = frontend.to_vec();
    client.push(Field::Saddr(family));
    let outside_ranges =
        rule().in_set(&frontend, Map::Ranged.name()).not_in_set(&client, Map::Allowed.name());
    let known = rule().set_priority_by(&frontend, Map::Frontends.name()).goto("ways");
    let here = match site.node_ports {
        NodePorts::Everywhere => not_loopback(site.family, rule()).to_this_host(),
        NodePorts::On(_) => rule().in_set(&[Field::Daddr(family)], Map::NodePortAddresses.name()),
    };
    let node_port = here.set_priority_by(&[Field::L4proto, Field::Dport], Map::NodePorts.name()).goto("ways");
    let other_port = rule().in_set(&[Field::Daddr(family)], Map::ClusterIps.name()).goto("reject");
    let mut rules = vec![
        outside_ranges.drop().comment("outside loadBalancerSourceRanges"),
        known.comment("ClusterIPs, external IPs, load balancer IPs"),
        node_port.comment("NodePorts"),
        other_port.comment("a ClusterIP, but none of its ports"),
    ];
    for network in &site.service_cidrs {
        let nobodys = rule().within(Field::Daddr(family), *network).drop();
        rules.push(nobodys.comment("nobody's ClusterIP"));
    }
    rules
}

fn by_source(site: &Site) -> Vec<Rule> {
    let family = nft_family(site.family);
    let by = |rule: Rule, map: Map| {
        let pool = rule.load_at(Reg(0), &[Field::Priority]).bits_at(Reg(0), !WAY, 0);
        pool.map_at(map.name(), Reg(0), Reg(0)).priority_from(Reg(0))
    };
    let mut rules = Vec::new();
    if let Some(pods) = from_pods(site) {
        rules.push(by(pods, Map::Inside).goto("ways-by-source").comment("pods: short circuit"));
    }
    let node = Rule::in_family(family).from_this_host();
    rules.push(node.clone().set_mark_bits(site.masquerade_mark));
    rules.push(by(node, Map::Inside).goto("ways-by-source").comment("this node: short circuit"));
    let others = by(Rule::in_family(family), Map::Outside).goto("ways-by-source");
    rules.push(others.comment("everybody else: endpoints of this node"));
    rules
}

fn by_way(family: Family) -> Rule {
    Rule::in_family(nft_family(family)).load_at(Reg(0), &[Field::Priority]).bits_at(Reg(0), WAY, 0)
}

fn postrouting(site: &Site) -> Vec<Rule> {
    let family = nft_family(site.family);
    masquerading(site, Rule::in_family(family).ct_dnat(), Map::Hairpins.name()).to_vec()
}

/// The two reasons to masquerade: what was decided before, and `translated` packets of an endpoint to itself.
pub(crate) fn masquerading(site: &Site, translated: Rule, hairpins: &str) -> [Rule; 2] {
    let family = nft_family(site.family);
    let mark = site.masquerade_mark;
    let marked = Rule::in_family(family).has_mark_bits(mark).clear_mark_bits(mark);
    let to_itself = translated.in_set(&[Field::Saddr(family), Field::Daddr(family)], hairpins);
    [
        marked.masquerade_fully_random().comment("as decided before the endpoint was chosen"),
        to_itself.masquerade_fully_random().comment("an endpoint that is its own client"),
    ]
}

fn not_loopback(family: Family, rule: Rule) -> Rule {
    let daddr = Field::Daddr(nft_family(family));
    match (family, LOOPBACK) {
        (Family::V4, Some(network)) => rule.outside(daddr, network.into()),
        (Family::V4, None) => rule,
        (Family::V6, _) => rule.is_not(daddr, Ipv6Addr::LOCALHOST.into()),
    }
}

/// Matches packets of pods; none where they are not told from others.
pub(crate) fn from_pods(site: &Site) -> Option<Rule> {
    matches_pods(site, Cmp::Equal)
}

/// Matches packets of everybody else.
pub(super) fn not_from_pods(site: &Site) -> Option<Rule> {
    matches_pods(site, Cmp::NotEqual)
}

fn matches_pods(site: &Site, op: Cmp) -> Option<Rule> {
    let family = nft_family(site.family);
    let rule = Rule::in_family(family);
    Some(match (site.detect.as_ref()?, op) {
        (Detect::Source(network), Cmp::Equal) => rule.within(Field::Saddr(family), *network),
        (Detect::Source(network), Cmp::NotEqual) => rule.outside(Field::Saddr(family), *network),
        (Detect::Interface(name), Cmp::Equal) => rule.is(Field::Iifname, Value::IfName(name)),
        (Detect::Interface(name), Cmp::NotEqual) => rule.is_not(Field::Iifname, Value::IfName(name)),
        (Detect::InterfacePrefix(prefix), op) => rule.iifname_starts(op, prefix),
    })
}

/// Declares the table with everything in it that is empty at first. What exists already stays as it is.
pub(super) fn declare(batch: &mut Batch, table: &Table<'_>, family: Family) {
    batch.add_table(table);
    for map in Map::ALL {
        batch.add_set(table, &map.set(family));
    }
    batch.add_set(table, &clients(family)).add_set(table, &WAYS).add_set(table, &WAYS_BY_SOURCE);
}

/// Writes the chains anew, in the place of those that exist.
pub(crate) fn write(batch: &mut Batch, table: &Table<'_>, sections: &[Section]) {
    for section in sections {
        batch.add_chain(table, &section.chain).flush_chain(table, section.chain.name);
    }
    for section in sections {
        for rule in &section.rules {
            batch.add_rule(table, section.chain.name, rule);
        }
    }
}

/// The ways that are always there, in both verdict maps.
pub(super) fn fixed_ways() -> Vec<(&'static str, Element)> {
    let way = |map: &'static str, number, chain: &str| {
        let element = Element::new(&[Value::ClassId(number)]).verdict(Verdict::Goto(chain.to_owned()));
        (map, element)
    };
    vec![
        way(WAYS.name, REJECT, "reject"),
        way(WAYS.name, DROP, "drop"),
        way(WAYS.name, BY_SOURCE, "by-source"),
        way(WAYS_BY_SOURCE.name, REJECT, "reject"),
        way(WAYS_BY_SOURCE.name, DROP, "drop"),
    ]
}
