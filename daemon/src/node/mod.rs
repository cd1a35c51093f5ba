//! What a node needs beside links and routes so that it can carry pods: sysctls, forwarding that no host firewall drops,
//! masquerade of what leaves the cluster.

pub mod forward;
pub mod masquerade;
pub mod merging;
pub mod pods;
pub mod sysctls;

use ipnetwork::IpNetwork;
use kernel::nft::Family as Table;
use overlay::Family;

/// What one look at the node changed, and what it could not.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outcome {
    /// A sentence for each change.
    pub changes: Vec<String>,
    /// What stays wrong, each a sentence.
    pub problems: Vec<String>,
}

impl Outcome {
    fn extend(&mut self, other: Outcome) {
        self.changes.extend(other.changes);
        self.problems.extend(other.problems);
    }
}

/// nf_tables' word for a family.
fn nft_family(family: Family) -> Table {
    match family {
        Family::V4 => Table::Ip,
        Family::V6 => Table::Ip6,
    }
}

/// The same networks without those that lie in another one, sorted: an interval set takes no overlaps.
pub fn without_overlaps(networks: impl IntoIterator<Item = IpNetwork>) -> Vec<IpNetwork> {
    let mut sorted: Vec<IpNetwork> = networks.into_iter().map(kernel::route::masked).collect();
    sorted.sort_by_key(|network| (network.ip(), network.prefix()));
    let mut kept: Vec<IpNetwork> = Vec::with_capacity(sorted.len());
    for network in sorted {
        if !kept.last().is_some_and(|last| last.contains(network.ip())) {
            kept.push(network);
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_within_others_go() {
        let networks =
            ["10.2.0.0/16", "10.1.2.0/24", "10.1.0.0/16", "10.1.0.0/24", "10.1.0.0/16", "fd00::/64"];
        let kept = without_overlaps(networks.iter().map(|text| text.parse().expect("a network")));
        let kept: Vec<String> = kept.iter().map(ToString::to_string).collect();
        assert_eq!(kept, ["10.1.0.0/16", "10.2.0.0/16", "fd00::/64"]);
    }
}
