//! The lab: nodes, pods and an outside world in network namespaces, made to be looked at, tested and thrown away.
//!
//! ```text
//!   outside                      node (own netns and mounts)                     pods
//!  +---------------------+      +------------------------------------+      +-----------+
//!  | 203.0.113.1         | veth | eth0 203.0.113.2   (plug-ins make   |      | eth0      |
//!  | 2001:db8:113::1     +------+      2001:db8:113::2   the rest)    +------+           |
//!  | 198.51.100.7 (far)  |      | /run /var/lib /etc /opt are its own |      |           |
//!  +---------------------+      +------------------------------------+      +-----------+
//! ```
//!
//! Nothing here is bowline's own machinery: links are set up with ip(8), rulesets are read with nft(8), plug-ins
//! are driven by the few lines of [`network`]. A defect of ours can thus not hide in the instrument that looks for it.
//!
//! Nothing outlives the process: namespaces hang on descriptors, files on a private tmpfs, plug-ins on their parent.

pub mod apiserver;
pub mod by_hand;
pub mod capture;
pub mod chance;
pub mod cluster;
pub mod containerd;
pub mod conversation;
pub mod daemon;
pub mod dump;
pub mod fault;
pub mod kubelet;
pub mod load;
pub mod manifests;
pub mod network;
pub mod node;
pub mod plugin;
pub mod readme;
pub mod rendered;
pub mod scenario;
pub mod space;
mod sys;
pub mod tables;
pub mod trace;
pub mod traffic;
pub mod vm;
pub mod wait;

pub use capture::{Capture, Packet};
pub use chance::Chance;
pub use cluster::Cluster;
pub use conversation::Conversation;
pub use daemon::Daemon;
pub use network::{Attachment, Network};
pub use node::{Node, Pod};
pub use plugin::{Refusal, Subject};
pub use space::Space;
pub use sys::{own_user_namespace, pin_to_one_processor};
pub use tables::Tables;
pub use trace::Snapshot;
