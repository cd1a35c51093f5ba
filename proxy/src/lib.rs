//! The Service proxy.
//!
//! ```text
//! Snapshot (Services, EndpointSlices, own Node) ─ plan ─► ServicePlan, one per family ─┬─ trace ─► the fate of a packet
//! Settings                                                                           └─ nftables: diff ─► one batch
//! ```
//! [`state`] holds what the API says, as far as a proxy cares. [`plan`] decides, purely, what every packet to a Service
//! gets; nothing is decided after it. A [`Dataplane`] translates a plan: [`nftables`] into a table of its own,
//! [`iptables`] into kube-proxy's chains, [`ipvs`] into virtual servers.
//! README.md beside this crate explains the table, hook by hook.

pub mod conntrack;
mod dataplane;
pub mod engine;
pub mod iptables;
pub mod ipvs;
pub mod nftables;
mod options;
pub mod plan;
pub mod state;

pub use dataplane::{Dataplane, Mode, Report, RuleCount, Served};
pub use engine::{Change, Changes};
pub use kernel::dual::{DualStack, Family};
pub use options::{IptablesOptions, IpvsOptions, Options};
pub use plan::{ServicePlan, Settings};
pub use state::Snapshot;
