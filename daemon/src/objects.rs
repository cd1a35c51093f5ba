//! What the daemon keeps of the API's objects: only what it acts upon.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use ipnetwork::IpNetwork;

/// The annotation by which a node publishes its WireGuard public key (base64), in that mode alone.
pub const WIREGUARD_KEY: &str = "bowline.dev/wireguard-public-key";

/// A Node.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Node {
    /// `metadata.name`.
    pub name: String,
    /// `metadata.uid`: another one under the same name is another node.
    pub uid: String,
    /// `metadata.creationTimestamp` in seconds since 1970: of two that claim one pod CIDR the newer is right.
    pub created: i64,
    /// `status.addresses` of type InternalIP, in order; where there are none those of type ExternalIP; where there are
    /// none of these the annotation `alpha.kubernetes.io/provided-node-ip`.
    pub ips: Vec<IpAddr>,
    /// `spec.podCIDRs`, else `spec.podCIDR`.
    pub pod_cidrs: Vec<IpNetwork>,
    /// The annotation [`WIREGUARD_KEY`].
    pub wireguard_key: Option<[u8; 32]>,
    /// Whether the condition NetworkUnavailable is there, and True.
    pub network_unavailable: Option<bool>,
}

/// All objects of one moment. Snapshots are replaced, never changed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Objects {
    /// By name.
    pub nodes: BTreeMap<String, Arc<Node>>,
}
