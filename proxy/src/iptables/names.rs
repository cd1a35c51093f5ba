//! Chains, by the names that kube-proxy gives them.

use std::net::SocketAddr;

use sha2::{Digest, Sha256};

use crate::state::{Protocol, ServicePortName};

/// The chains whose names don't depend on Services.
pub(super) const SERVICES: &str = "KUBE-SERVICES";
pub(super) const EXTERNAL_SERVICES: &str = "KUBE-EXTERNAL-SERVICES";
pub(super) const NODE_PORTS: &str = "KUBE-NODEPORTS";
pub(super) const FORWARD: &str = "KUBE-FORWARD";
pub(super) const PROXY_FIREWALL: &str = "KUBE-PROXY-FIREWALL";
pub(super) const POSTROUTING: &str = "KUBE-POSTROUTING";
pub(super) const MARK_MASQ: &str = "KUBE-MARK-MASQ";
pub(super) const CANARY: &str = "KUBE-PROXY-CANARY";
/// Shared with the kubelet, so never flushed and never removed.
pub(super) const FIREWALL: &str = "KUBE-FIREWALL";

const ENDPOINT: &str = "KUBE-SEP-";
const CLUSTER: &str = "KUBE-SVC-";
const LOCAL: &str = "KUBE-SVL-";
const EXTERNAL: &str = "KUBE-EXT-";
const RANGES: &str = "KUBE-FW-";
/// What old versions called the chain for external policy Local.
const OLD_EXTERNAL: &str = "KUBE-XLB-";

/// Chains of single Service ports, those first that others lead to.
const OF_PORTS: [&str; 6] = [ENDPOINT, CLUSTER, LOCAL, EXTERNAL, OLD_EXTERNAL, RANGES];
/// Characters of the hash in a chain's name: with the longest prefix within the 28 that the kernel takes.
const HASH: usize = 16;

/// The chains of one Service port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PortChains {
    /// Balances for policy Cluster.
    pub(super) cluster: String,
    /// Balances for policy Local.
    pub(super) local: String,
    /// Where frontends other than the ClusterIP lead.
    pub(super) external: String,
    /// Where load balancer IPs with source ranges lead.
    pub(super) ranges: String,
}

impl PortChains {
    pub(super) fn new(name: &ServicePortName) -> Self {
        let hash = hash(&[&title(name), protocol(name.protocol)]);
        let chain = |prefix: &str| format!("{prefix}{hash}");
        PortChains {
            cluster: chain(CLUSTER),
            local: chain(LOCAL),
            external: chain(EXTERNAL),
            ranges: chain(RANGES),
        }
    }
}

/// The chain of one endpoint of a Service port.
pub(super) fn endpoint_chain(title: &str, of: Protocol, endpoint: SocketAddr) -> String {
    format!("{ENDPOINT}{}", hash(&[title, protocol(of), &endpoint.to_string()]))
}

/// What comments call a Service port: `default/web:http`, the same for every protocol.
pub(super) fn title(name: &ServicePortName) -> String {
    match &*name.port {
        "" => name.service.to_string(),
        port => format!("{}:{port}", name.service),
    }
}

/// As iptables spells it.
pub(super) fn protocol(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
        Protocol::Sctp => "sctp",
    }
}

/// Whether a chain is that of a single Service port or endpoint.
pub(super) fn is_of_port(chain: &str) -> bool {
    OF_PORTS.iter().any(|prefix| chain.starts_with(prefix))
}

/// The order in which chains can be written one after the other: each leads to earlier ones only. Removing them goes
/// the other way.
pub(super) fn rank(chain: &str) -> usize {
    match OF_PORTS.iter().position(|prefix| chain.starts_with(prefix)) {
        Some(kind) => 1 + kind,
        None if chain == MARK_MASQ => 0,
        None if chain == NODE_PORTS => 1 + OF_PORTS.len(),
        None => 2 + OF_PORTS.len(),
    }
}

/// Whether kube-proxy's iptables mode makes a chain of this name, for itself alone.
pub(super) fn is_ours(chain: &str) -> bool {
    const OF_ALL: [&str; 8] =
        [SERVICES, EXTERNAL_SERVICES, NODE_PORTS, FORWARD, PROXY_FIREWALL, POSTROUTING, MARK_MASQ, CANARY];
    OF_ALL.contains(&chain) || is_of_port(chain)
}

/// The first 16 digits, base 32, of the SHA-256 of all parts together.
fn hash(parts: &[&str]) -> String {
    const DIGITS: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    let mut digest = Sha256::new();
    parts.iter().for_each(|part| digest.update(part.as_bytes()));
    let bytes = digest.finalize();
    let bit = |at: usize| bytes[at / 8] >> (7 - at % 8) & 1;
    let digit =
        |index: usize| (0..5).fold(0, |value, offset| value << 1 | usize::from(bit(index * 5 + offset)));
    (0..HASH).map(|index| char::from(DIGITS[digit(index)])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::ServiceName;

    /// Chains that are in many a published listing.
    #[test]
    fn names_are_those_of_every_cluster() {
        let rows = [
            ("default", "kubernetes", "https", Protocol::Tcp, "KUBE-SVC-NPX46M4PTMTKRN6Y"),
            ("kube-system", "kube-dns", "dns", Protocol::Udp, "KUBE-SVC-TCOU7JCQXEZGVUNU"),
            ("kube-system", "kube-dns", "dns-tcp", Protocol::Tcp, "KUBE-SVC-ERIFXISQEP7F7OF4"),
            ("kube-system", "kube-dns", "metrics", Protocol::Tcp, "KUBE-SVC-JD5MR3NA4I4DYORP"),
        ];
        for (namespace, service, port, protocol, expected) in rows {
            let service = ServiceName::new(namespace, service);
            let name = ServicePortName { service, port: port.into(), protocol };
            assert_eq!(PortChains::new(&name).cluster, expected, "{name}");
        }
    }

    #[test]
    fn the_order_of_writing_is_that_of_leading() {
        let chains = [MARK_MASQ, "KUBE-SEP-A", "KUBE-SVC-A", "KUBE-EXT-A", "KUBE-FW-A", NODE_PORTS, SERVICES]
            .map(rank);
        assert!(chains.is_sorted_by(|a, b| a < b), "{chains:?}");
    }

    #[test]
    fn the_kubelets_chains_are_not_ours() {
        for other in [FIREWALL, "KUBE-KUBELET-CANARY", "KUBE-IPTABLES-HINT", "KUBE-ROUTER-INPUT", "INPUT"] {
            assert!(!is_ours(other), "{other}");
        }
        for own in [SERVICES, CANARY, "KUBE-SEP-224HLQO7KOJM7CW5", "KUBE-XLB-224HLQO7KOJM7CW5"] {
            assert!(is_ours(own), "{own}");
        }
    }
}
