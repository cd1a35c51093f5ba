//! Everything that helps to understand a failure, printed when a test panics.

use crate::Space;

const COMMANDS: [&str; 12] = [
    "ip -d -s link",
    "ip addr",
    "ip route show table all",
    "ip -6 route show table all",
    "ip neigh",
    "ip rule",
    "bridge vlan",
    "tc -s qdisc",
    "nft -a list ruleset",
    "iptables-save -c",
    "ip6tables-save -c",
    "conntrack -L",
];

/// The state of one namespace as text.
pub fn text(title: &str, space: &Space) -> String {
    let mut text = format!("======== {title} ========\n");
    for command in COMMANDS {
        let said = space.try_sh(command).unwrap_or_else(|e| e.to_string());
        if !said.trim().is_empty() {
            text.push_str(&format!("-------- {command}\n{said}\n"));
        }
    }
    text
}
