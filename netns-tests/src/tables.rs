//! What a node's kernel holds for other nodes, read with ip(8) and bridge(8): to compare with what it must hold.

use std::collections::BTreeSet;

use crate::Space;
use crate::manifests::Entry;

/// RTPROT number of bowline's routes and rules.
const PROTOCOL: &str = "98";

/// Routes, FDB entries and neighbours towards peers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tables {
    /// Destinations of our routes in the main table that lead to other nodes.
    pub routes: BTreeSet<String>,
    /// The addresses of nodes to which packets of pods alone are led: by our routes in other tables, by those that have a
    /// source, and by what is taken off the uplink.
    pub nodes: BTreeSet<String>,
    /// The addresses behind the FDB entries of our tunnels.
    pub forwarding: BTreeSet<String>,
    /// Destinations of the routes whose gateways are permanent neighbours of our tunnels, and the addresses of such
    /// neighbours that no route needs.
    pub neighbours: BTreeSet<String>,
}

impl Tables {
    /// What `node` holds now.
    ///
    /// # Panics
    /// When ip(8) or bridge(8) fails.
    pub fn of(node: &Space) -> Tables {
        let mut tables = Tables { nodes: diverted(node), ..Tables::default() };
        let mut idle = neighbours(node);
        let known = idle.clone();
        for line in routes(node) {
            let destination = line.split_whitespace().next().unwrap_or_default().to_owned();
            if line.contains(" table ") || line.contains(" from ") {
                tables.nodes.insert(destination);
                continue;
            }
            let gateway = word_after(&line, "via").unwrap_or_default();
            idle.remove(&gateway);
            if known.contains(&gateway) {
                tables.neighbours.insert(destination.clone());
            }
            tables.routes.insert(destination);
        }
        tables.neighbours.extend(idle);
        let entries = node.sh("bridge fdb show");
        let ours = entries.lines().filter(|line| line.contains("dev bowline"));
        tables.forwarding.extend(ours.filter_map(|line| word_after(line, "dst")));
        tables
    }

    /// What a node must hold in vxlan mode when these are its peers.
    pub fn of_vxlan<'a>(peers: impl IntoIterator<Item = &'a Entry>) -> Tables {
        let mut tables = Tables::default();
        for peer in peers {
            for cidr in &peer.pod_cidrs {
                let Some(ip) = peer.ips.iter().find(|ip| ip.is_ipv6() == cidr.contains(':')) else {
                    continue;
                };
                tables.routes.insert(cidr.clone());
                tables.nodes.insert(ip.to_string());
                tables.forwarding.insert(ip.to_string());
                tables.neighbours.insert(cidr.clone());
            }
        }
        tables
    }

    /// What is missing (`-`) and what is too much (`+`) in comparison with `wanted`; empty when nothing is.
    pub fn difference(&self, wanted: &Tables) -> String {
        let rows = [
            ("route", &self.routes, &wanted.routes),
            ("route to a node", &self.nodes, &wanted.nodes),
            ("FDB entry", &self.forwarding, &wanted.forwarding),
            ("neighbour", &self.neighbours, &wanted.neighbours),
        ];
        let mut text = String::new();
        for (what, here, there) in rows {
            text.extend(there.difference(here).map(|missing| format!("- {what} {missing}\n")));
            text.extend(here.difference(there).map(|stale| format!("+ {what} {stale}\n")));
        }
        text
    }
}

/// Our routes that lead to other nodes, as ip(8) writes them; those of our own pods lead nowhere, or to a pod's link.
fn routes(node: &Space) -> Vec<String> {
    let both =
        ["-4", "-6"].map(|family| node.sh(&format!("ip {family} route show table all proto {PROTOCOL}")));
    let lines = both.iter().flat_map(|said| said.lines());
    lines
        .filter(|line| !line.starts_with("unreachable") && !line.contains("dev lo"))
        .filter(|line| line.contains(" via ") || line.contains(" dev bowline") || line.contains(" encap "))
        .map(str::to_owned)
        .collect()
}

/// The nodes to which packets of pods are taken off the uplink.
fn diverted(node: &Space) -> BTreeSet<String> {
    // Where nothing is, there is no table.
    let listed = node.try_sh("nft list map netdev bowline_divert nodes").unwrap_or_default();
    let words: Vec<&str> = listed.split_whitespace().collect();
    let pairs = words.windows(3).filter(|pair| pair[1] == ":" && pair[0].contains('.'));
    pairs.map(|pair| pair[0].to_owned()).collect()
}

/// The permanent neighbours of our tunnels.
fn neighbours(node: &Space) -> BTreeSet<String> {
    let both = ["-4", "-6"].map(|family| node.sh(&format!("ip {family} neigh show nud permanent")));
    let ours = both.iter().flat_map(|said| said.lines()).filter(|line| line.contains("dev bowline"));
    ours.filter_map(|line| line.split_whitespace().next().map(str::to_owned)).collect()
}

fn word_after(line: &str, word: &str) -> Option<String> {
    line.split_whitespace().skip_while(|found| *found != word).nth(1).map(str::to_owned)
}
