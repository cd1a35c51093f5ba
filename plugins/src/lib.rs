//! The CNI plug-ins of bowline: one binary, every plug-in name.
//!
//! A plug-in is a [`cni::Plugin`] in [`TABLE`]. It gets one validated [`cni::Call`], decodes its own keys, and works
//! through `kernel`; only the dispatcher reads the environment and writes stdout.

pub mod address;
pub mod backend;
pub mod bandwidth;
pub mod bridge;
pub mod cable;
pub mod cluster;
pub mod configure;
pub mod dns;
pub mod drift;
pub mod error;
pub mod firewall;
pub mod host_local;
pub mod install;
pub mod ipam;
pub mod iptables;
pub mod loopback;
pub mod masquerade;
pub mod owner;
pub mod pod;
pub mod portmap;
pub mod ptp;
pub mod routed;
pub mod spoof;
pub mod static_ipam;
pub mod tagged;
pub mod tuning;
pub mod undo;
pub mod veth;
pub mod vxlan;

pub use error::kernel_error;

/// Every plug-in of the binary, sorted by name. The binary serves the one whose name is its argv\[0\].
pub static TABLE: &[&dyn cni::Plugin] = &[
    &bandwidth::Bandwidth,
    &bridge::Bridge,
    &firewall::Firewall,
    &host_local::HostLocal,
    &loopback::Loopback,
    &portmap::Portmap,
    &ptp::Ptp,
    &routed::Routed,
    &static_ipam::Static,
    &tuning::Tuning,
    &vxlan::Vxlan,
];

/// The plug-in with this exact name.
pub fn find(name: &str) -> Option<&'static dyn cni::Plugin> {
    TABLE.iter().copied().find(|plugin| plugin.name() == name)
}
