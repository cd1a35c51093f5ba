//! The rules that are always there. They depend on the site alone; README.md explains them.

use kernel::nft::{Batch, Chain, Field, Hook, Ports, Rule, Table, Value};

use super::layout::{Map, frontend};
use crate::Family;
use crate::nftables::{Section, from_pods, hook, masquerading, nft_family, reject, write_sections};
use crate::plan::Site;
use crate::state::Protocol;

/// All chains.
pub(super) fn sections(site: &Site) -> Vec<Section> {
    let regular = |name, comment, rules| Section { chain: Chain::regular(name).comment(comment), rules };
    let base = |chain, rules| Section { chain, rules };
    vec![
        regular("reject", "nobody listens", reject(site.family).to_vec()),
        regular("no-frontend", "other ports of virtual addresses, unused ClusterIPs", no_frontend(site)),
        regular("from-pods", "", from(site, &[Map::Masquerade], Map::Inside)),
        regular("from-node", "", from(site, &MASQUERADED_FROM_NODE, Map::Inside)),
        regular("from-outside", "", from_outside(site)),
        regular("services", "", services(site)),
        base(
            hook("prerouting", Hook::Prerouting, -100, "from pods and from outside"),
            // What comes from this host to itself has passed the output hook.
            vec![Rule::new().is_not(Field::Iifname, Value::IfName("lo")).jump("services")],
        ),
        base(hook("output", Hook::Output, -100, "from this node"), vec![Rule::new().jump("services")]),
        base(
            hook("postrouting", Hook::Postrouting, 100, "masquerade"),
            // IPVS translates without conntrack's knowing: no flow of it has the status dnat.
            masquerading(site, rule(site), Map::Hairpins.name()).to_vec(),
        ),
    ]
}

/// Writes the table with everything in it that is empty at first, and all chains in the place of those that exist.
pub(super) fn write(batch: &mut Batch, table: &Table<'_>, (family, sections): (Family, &[Section])) {
    batch.add_table(table);
    for map in Map::ALL {
        batch.add_set(table, &map.set(family));
    }
    write_sections(batch, table, sections);
}

/// This node's processes are masqueraded wherever anybody is.
const MASQUERADED_FROM_NODE: [Map; 3] = [Map::Masquerade, Map::MasqueradeOthers, Map::MasqueradeNode];

fn rule(site: &Site) -> Rule {
    Rule::in_family(nft_family(site.family))
}

fn services(site: &Site) -> Vec<Rule> {
    let family = nft_family(site.family);
    let frontend = frontend(site.family);
    let mut client = frontend.to_vec();
    client.push(Field::Saddr(family));
    let at = |map: Map| rule(site).in_set(&frontend, map.name());
    let unknown = rule(site).not_in_set(&frontend, Map::Frontends.name());
    let from_virtual = rule(site).in_set(&[Field::Saddr(family)], Map::Addresses.name());
    let mut rules = vec![
        unknown.goto("no-frontend"),
        at(Map::Ranged)
            .not_in_set(&client, Map::Allowed.name())
            .drop()
            .comment("outside loadBalancerSourceRanges"),
        at(Map::Reject).goto("reject"),
        at(Map::Drop).drop().comment("would be served on another node"),
        from_virtual
            .set_mark_bits(site.masquerade_mark)
            .comment("a process of this node: its packets to a virtual address have that as their source"),
    ];
    rules.extend(from_pods(site).map(|pods| pods.goto("from-pods")));
    rules.push(rule(site).from_this_host().goto("from-node"));
    rules.push(Rule::new().goto("from-outside"));
    rules
}

fn no_frontend(site: &Site) -> Vec<Rule> {
    let family = nft_family(site.family);
    let to_ours = || rule(site).in_set(&[Field::Daddr(family)], Map::Addresses.name());
    // ICMP or ICMPv6.
    let icmp = Value::Proto(if site.family == Family::V4 { 1 } else { 58 });
    let check = to_ours()
        .is(Field::L4proto, Value::Proto(Protocol::Tcp.number()))
        .in_set(&[Field::Dport], Map::HealthChecks.name());
    let mut rules = vec![
        rule(site)
            .ct_established_or_related()
            .accept()
            .comment("a reset to a process of this node, sent below from and to a virtual address"),
        to_ours().is(Field::L4proto, icmp).accept().comment("virtual addresses answer a ping"),
        check.accept().comment("load balancers may ask by their own address"),
        to_ours().goto("reject").comment("or else this host would answer"),
    ];
    let leaving = rule(site).in_set(&[Field::Daddr(family)], Map::Leaving.name());
    rules.push(leaving.drop().comment("here for the connections there are"));
    for network in &site.service_cidrs {
        let nobodys = rule(site).within(Field::Daddr(family), *network).drop();
        rules.push(nobodys.comment("nobody's ClusterIP"));
    }
    rules
}

fn from(site: &Site, masqueraded: &[Map], elsewhere: Map) -> Vec<Rule> {
    let frontend = frontend(site.family);
    let marks = masqueraded
        .iter()
        .map(|map| rule(site).in_set(&frontend, map.name()).set_mark_bits(site.masquerade_mark));
    let elsewhere = rule(site)
        .dnat_by_map(nft_family(site.family), &frontend, elsewhere.name(), Ports::Mapped)
        .comment("to the virtual server of the ClusterIP, which has the right endpoints");
    marks.chain([elsewhere]).collect()
}

fn from_outside(site: &Site) -> Vec<Rule> {
    let dropped = rule(site).in_set(&frontend(site.family), Map::DropOutside.name()).drop();
    let others = from(site, &[Map::Masquerade, Map::MasqueradeOthers], Map::Outside);
    [dropped.comment("would be served on another node")].into_iter().chain(others).collect()
}
