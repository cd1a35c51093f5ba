//! The Service proxy.
//!
//! ```text
//! Snapshot (Services, EndpointSlices, own Node) ─ plan ─► ServicePlan, one per family ─┬─ trace ─► the fate of a packet
//! Settings                                                                           └─ nftables: diff ─► one batch
//! ```
//! [`state`] holds what the API says, as far as a proxy cares. [`plan`] decides, purely, what every packet to a Service
//! gets; nothing is decided after it. [`nftables`] translates a plan into a table of its own and keeps it so.
//! README.md beside this crate explains the table, hook by hook.

pub mod conntrack;
pub mod nftables;
pub mod plan;
pub mod state;

pub use kernel::dual::{DualStack, Family};
pub use plan::{ServicePlan, Settings};
pub use state::Snapshot;
