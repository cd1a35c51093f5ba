//! What does not depend on Services: jumps from the hooks, marks, masquerade, forwarding.

use kernel::iptables::Table;

use super::names::{
    CANARY, EXTERNAL_SERVICES, FIREWALL, FORWARD, MARK_MASQ, NODE_PORTS, POSTROUTING, PROXY_FIREWALL,
    SERVICES,
};
use super::render::Localhost;
use super::rule::{comment, join, to};
use crate::Family;
use crate::plan::{NodePorts, Site};

/// The counter of packets that conntrack could not make sense of.
pub(super) const INVALID_COUNTER: &str = "ct_state_invalid_dropped_pkts";

/// What decides how the skeleton looks, beside the site.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Features {
    /// Whether MASQUERADE can choose ports at random.
    pub(super) random_fully: bool,
    /// Whether packets without a place in any flow are dropped; not where TCP's windows are not checked either.
    pub(super) drops_invalid: bool,
    /// Whether the kernel counts by name.
    pub(super) counts: bool,
    /// Whether node ports of IPv4 are to be served on loopback.
    pub(super) localhost_node_ports: bool,
}

/// A jump from a built-in chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Jump {
    pub(super) table: Table,
    pub(super) hook: &'static str,
    pub(super) rule: String,
}

/// The jumps in the order in which each is put at the top of its chain: the last one is first there.
pub(super) fn jumps() -> Vec<Jump> {
    const NEW: &str = "-m conntrack --ctstate NEW";
    let rows: [(Table, &[&'static str], &str, &str, &str); 8] = [
        (
            Table::Filter,
            &["INPUT", "FORWARD"],
            EXTERNAL_SERVICES,
            "kubernetes externally-visible service portals",
            NEW,
        ),
        (Table::Filter, &["INPUT"], NODE_PORTS, "kubernetes health check service ports", ""),
        (Table::Filter, &["FORWARD", "OUTPUT"], SERVICES, "kubernetes service portals", NEW),
        (Table::Filter, &["FORWARD"], FORWARD, "kubernetes forwarding rules", ""),
        (
            Table::Filter,
            &["INPUT", "OUTPUT", "FORWARD"],
            PROXY_FIREWALL,
            "kubernetes load balancer firewall",
            NEW,
        ),
        (Table::Nat, &["OUTPUT", "PREROUTING"], SERVICES, "kubernetes service portals", ""),
        (Table::Nat, &["POSTROUTING"], POSTROUTING, "kubernetes postrouting rules", ""),
        (Table::Filter, &["INPUT", "OUTPUT"], FIREWALL, "", ""),
    ];
    let mut jumps = Vec::new();
    for (table, hooks, chain, words, condition) in rows {
        let words = if words.is_empty() { String::new() } else { comment(words) };
        let rule = join(&[condition, &words, "-j", chain]);
        jumps.extend(hooks.iter().map(|hook| Jump { table, hook, rule: rule.clone() }));
    }
    jumps
}

/// The chains whose rules are always the same.
pub(super) fn chains(site: &Site, features: &Features) -> Vec<(Table, &'static str, Vec<String>)> {
    let mark = format!("{:#x}", site.masquerade_mark);
    let mut forward = vec![
        join(&[&comment("kubernetes forwarding rules"), &format!("-m mark --mark {mark}/{mark} -j ACCEPT")]),
        join(&[
            &comment("kubernetes forwarding conntrack rule"),
            "-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
        ]),
    ];
    if features.drops_invalid {
        let counter = if features.counts {
            format!("-m nfacct --nfacct-name  {INVALID_COUNTER}")
        } else {
            String::new()
        };
        forward.insert(0, join(&["-m conntrack --ctstate INVALID", &counter, "-j DROP"]));
    }
    let random = if features.random_fully { "--random-fully" } else { "" };
    let masquerade = join(&[&comment("kubernetes service traffic requiring SNAT"), "-j MASQUERADE", random]);
    let postrouting = vec![
        format!("-m mark ! --mark {mark}/{mark} -j RETURN"),
        format!("-j MARK --set-xmark {mark}/0x0"),
        masquerade,
    ];
    vec![
        (Table::Filter, FORWARD, forward),
        (Table::Nat, MARK_MASQ, vec![format!("-j MARK --set-xmark {mark}/{mark}")]),
        (Table::Nat, POSTROUTING, postrouting),
        (Table::Filter, CANARY, Vec::new()),
        (Table::Mangle, CANARY, Vec::new()),
        (Table::Nat, CANARY, Vec::new()),
    ]
}

/// The rules after all others of chain KUBE-SERVICES of table nat: they lead to the node ports.
pub(super) fn to_node_ports(site: &Site, features: &Features) -> Vec<String> {
    let words = comment("kubernetes service nodeports; NOTE: this must be the last rule in this chain");
    let is_on_loopback = serves_localhost(site, features);
    match &site.node_ports {
        NodePorts::Everywhere => {
            let except = match site.family {
                Family::V4 if is_on_loopback => "",
                Family::V4 => "! -d 127.0.0.0/8",
                Family::V6 => "! -d ::1/128",
            };
            vec![join(&[except, &words, "-m addrtype --dst-type LOCAL -j", NODE_PORTS])]
        }
        NodePorts::On(ips) => {
            let loopback = is_on_loopback.then(|| join(&["-d 127.0.0.1/32", &words, "-j", NODE_PORTS]));
            let addresses = ips.iter().map(|ip| join(&[&to(*ip), &words, "-j", NODE_PORTS]));
            loopback.into_iter().chain(addresses).collect()
        }
    }
}

/// The rule that keeps strangers from services on loopback while packets to it are routed.
pub(super) fn localhost_guard() -> String {
    join(&[
        "! -s 127.0.0.0/8 -d 127.0.0.0/8",
        &comment("block incoming localnet connections"),
        "-m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP",
    ])
}

/// Whether that rule is needed.
pub(super) fn guards_localhost(family: Family, features: &Features) -> bool {
    family == Family::V4 && features.localhost_node_ports
}

/// How node ports on loopback are served.
pub(super) fn localhost(site: &Site, features: &Features) -> Localhost {
    match (serves_localhost(site, features), features.counts) {
        (false, _) => Localhost::Off,
        (true, false) => Localhost::On,
        (true, true) => Localhost::Counted,
    }
}

fn serves_localhost(site: &Site, features: &Features) -> bool {
    guards_localhost(site.family, features) && site.has_loopback_node_ports
}
