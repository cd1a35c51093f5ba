//! How the nodes of a cluster reach each other's pods.
//!
//! ```text
//! Settings ┐
//! Local    ├─ plan ─► Plan ─┐
//! Peer ... ┘                ├─ diff ─► one netlink batch per kind of object ─► kernel
//!          kernel ─ observe ┘
//! ```
//! The daemon feeds it with the nodes of the API or of manifests, the plug-ins `vxlan` and `routed` with the `peers` of
//! their configuration. It is a crate of its own because both need the very same plan, and neither may link the other.
//!
//! Planning is pure. Each address family is planned for itself: a node's IPv4 pods are reached by its IPv4 address, its
//! IPv6 pods by its IPv6 address, and neither knows of the other.

pub mod attachment;
pub mod facts;
pub mod mac;
pub mod owner;
pub mod plan;
pub mod sync;
pub mod topology;
pub mod uplink;
pub mod wireguard;

pub use facts::NodeFacts;
pub use kernel::dual::{self, DualStack, Family};
pub use plan::Plan;
pub use sync::Dataplane;
pub use topology::{Abilities, Local, Mode, Peer, Settings, Uplink};

/// RTPROT number of every route and rule that bowline makes: `98 bowline` in rt_protos.
pub const ROUTE_PROTOCOL: u8 = 98;
/// The routing table by which pods reach the nodes beyond a tunnel.
pub const NODES_TABLE: u32 = 9800;
/// Alias of every link that bowline makes for the node: what does not have it is never changed.
pub const ALIAS: &str = "bowline";
