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
    /// Destinations of our routes in other tables: the addresses of nodes.
    pub nodes: BTreeSet<String>,
    /// The addresses behind the FDB entries of our tunnels.
    pub forwarding: BTreeSet<String>,
    /// The addresses of our tunnels' permanent neighbours.
    pub neighbours: BTreeSet<String>,
}

impl Tables {
    /// What `node` holds now.
    ///
    /// # Panics
    /// When ip(8) or bridge(8) fails.
    pub fn of(node: &Space) -> Tables {
        let mut tables = Tables::default();
        let routes = |command: &str| {
            let said = node.sh(&format!("{command} proto {PROTOCOL}"));
            // Those of our own pods lead nowhere and to no peer.
            let lines =
                said.lines().filter(|line| !line.starts_with("unreachable") && !line.contains("dev lo"));
            lines.map(str::to_owned).collect::<Vec<_>>()
        };
        for line in
            routes("ip -4 route show table all").into_iter().chain(routes("ip -6 route show table all"))
        {
            let destination = line.split_whitespace().next().unwrap_or_default().to_owned();
            let of_nodes = line.contains(" table ");
            if of_nodes {
                tables.nodes.insert(destination)
            } else {
                tables.routes.insert(destination)
            };
        }
        for line in node.sh("bridge fdb show").lines().filter(|line| line.contains("dev bowline")) {
            let mut words = line.split_whitespace().skip_while(|word| *word != "dst");
            tables.forwarding.extend(words.nth(1).map(str::to_owned));
        }
        let neighbours =
            node.sh("ip -4 neigh show nud permanent") + &node.sh("ip -6 neigh show nud permanent");
        for line in neighbours.lines().filter(|line| line.contains("dev bowline")) {
            tables.neighbours.extend(line.split_whitespace().next().map(str::to_owned));
        }
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
                tables.neighbours.extend(cidr.split('/').next().map(str::to_owned));
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
