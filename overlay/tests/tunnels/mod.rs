//! The same stories for links that not every kernel has: here, or all of them in one emulated machine.

use lab::cluster::Families;
use lab::vm::run_with_tunnels;
use overlay::Mode;

use super::story;

#[test]
fn ipip_carries_packets() {
    run_with_tunnels("tunnels::", "tunnels::ipip_carries_packets", || {
        story(Mode::Ipip, Families::Dual);
    });
}

#[test]
fn wireguard_carries_packets() {
    run_with_tunnels("tunnels::", "tunnels::wireguard_carries_packets", || {
        story(Mode::Wireguard, Families::Dual);
    });
}
