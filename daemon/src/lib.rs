//! `bowlined`: one per node, makes a cluster of single nodes.
//!
//! ```text
//! API or manifests ─ source ─► Objects ─┐
//!                                       ├─ overlay::plan ─► difference ─► kernel
//!  kernel events ──── observe ─► Local ─┘                                   │
//!                                        node.json, plug-ins, conflist ◄────┘ once pods can be carried
//! ```
//! The only crate that knows tokio and kube. What it does to the kernel goes by `bowline-kernel`'s synchronous sockets:
//! a batch of netlink requests is answered before the call returns, so there is nothing to await.

pub mod agent;
pub mod cleanup;
pub mod config;
pub mod conflist;
mod ear;
pub mod file;
pub mod http;
pub mod install;
pub mod kube_proxy;
pub mod lock;
pub mod log;
pub mod metrics;
pub mod node;
pub mod objects;
pub mod proxy;
pub mod source;
pub mod status;
pub mod stop;
pub mod survey;
