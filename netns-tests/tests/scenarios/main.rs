//! What every plug-in does to real packets, told as stories, each on a node of its own that must be as before.
//! Stories in `on_both!` run on our plug-ins and on the reference's.

mod bandwidth;
mod bridge;
mod conflists;
mod containerd;
mod crash;
mod firewall;
mod instrument;
mod ipam;
mod loopback;
mod matrices;
mod no_exec;
mod parallel;
mod peers;
mod portmap;
mod ptp;
mod swap;
mod tuning;
mod vlans;
mod wrong_input;
