//! By which link a node talks to others, among all the links that a node can have.

mod cluster;
mod ground;

use std::net::IpAddr;

use ground::sh;
use kernel::netlink::{Protocol, Socket};
use lab::Space;
use overlay::uplink::{Choice, find};
use overlay::{DualStack, Uplink};

/// eth0 with the default routes, eth1 beside it, a pod bridge, and a tunnel of ours.
fn host() -> Space {
    let space = ground::node(1);
    for line in [
        "ip link add eth1 mtu 9000 type veth peer name far1; ip link set far1 up; ip link set eth1 up",
        "ip addr add 198.51.100.1/26 dev eth1; ip addr add 2001:db8:9::1/64 dev eth1 nodad",
        "ip addr add 192.0.2.7/24 dev eth0; ip -6 addr add fd00:99::1/64 dev eth0 nodad preferred_lft 0",
        "ip route add default via 192.0.2.254 dev eth0; ip route add default via 198.51.100.60 dev eth1 metric 5",
        "ip -6 route add default via 2001:db8::fe dev eth0",
        "ip link add bowline.1 type vxlan id 1 dstport 8472; ip link set bowline.1 alias bowline; ip link set bowline.1 up",
        "ip addr add 10.1.0.0/32 dev bowline.1",
    ] {
        sh(&space, line);
    }
    space
}

fn ask(space: &Space, choice: &str, node_ips: &[&str]) -> Result<DualStack<Option<Uplink>>, String> {
    let ips = DualStack::first_of(node_ips.iter().map(|ip| ip.parse::<IpAddr>().expect("an address")));
    let choice: Choice = choice.parse()?;
    space.run(|| find(&mut Socket::open(Protocol::Route).expect("a socket"), &choice, &ips))
}

#[test]
fn the_uplink_is_where_peers_know_the_node_unless_the_administrator_says_otherwise() {
    let space = host();
    for (choice, node_ips, v4, v6) in [
        // By what peers send to, whatever the default routes say; other families have none.
        (
            "",
            &["198.51.100.1", "2001:db8:9::1"][..],
            "eth1 198.51.100.1/26 9000",
            "eth1 2001:db8:9::1/64 9000",
        ),
        ("auto", &["192.0.2.7"], "eth0 192.0.2.7/24 1500", ""),
        ("", &["2001:db8::1"], "", "eth0 2001:db8::1/64 1500"),
        ("", &["198.51.100.1", "2001:db8::1"], "eth1 198.51.100.1/26 9000", "eth0 2001:db8::1/64 1500"),
        // Nobody knows it yet: by default route, the first address that lasts.
        ("", &[], "eth0 192.0.2.1/24 1500", "eth0 2001:db8::1/64 1500"),
        // Known by an address that no link has, behind a translating router.
        ("", &["203.0.113.9"], "eth0 192.0.2.1/24 1500", ""),
        ("eth1", &[], "eth1 198.51.100.1/26 9000", "eth1 2001:db8:9::1/64 9000"),
        ("eth0", &["192.0.2.7"], "eth0 192.0.2.7/24 1500", "eth0 2001:db8::1/64 1500"),
        ("198.51.100.1", &["192.0.2.1"], "eth1 198.51.100.1/26 9000", "eth1 2001:db8:9::1/64 9000"),
        ("192.0.2.7", &[], "eth0 192.0.2.7/24 1500", "eth0 2001:db8::1/64 1500"),
        ("198.51.100.0/24", &[], "eth1 198.51.100.1/26 9000", "eth1 2001:db8:9::1/64 9000"),
        ("2001:db8:9::/48", &[], "eth1 198.51.100.1/26 9000", "eth1 2001:db8:9::1/64 9000"),
        ("fd00:99::/64", &[], "eth0 192.0.2.1/24 1500", "eth0 fd00:99::1/64 1500"),
    ] {
        let found = ask(&space, choice, node_ips).expect(choice);
        let shown = |uplink: &Option<Uplink>| {
            uplink.as_ref().map(|u| format!("{} {}/{} {}", u.link, u.ip, u.prefix, u.mtu)).unwrap_or_default()
        };
        assert_eq!(
            (shown(&found.v4).as_str(), shown(&found.v6).as_str()),
            (v4, v6),
            "`{choice}` {node_ips:?}"
        );
    }
}

#[test]
fn a_choice_that_no_link_fits_is_one_sentence() {
    let space = host();
    sh(&space, "ip link add down0 type veth peer name far2; ip addr add 203.0.113.1/24 dev down0");
    for (choice, sentence) in [
        ("eth7", "uplink: there is no link `eth7` that is up"),
        ("down0", "uplink: there is no link `down0` that is up"),
        ("bowline.1", "uplink: there is no link `bowline.1` that is up"),
        ("lo", "uplink: there is no link `lo` that is up"),
        ("10.1.0.0", "uplink: no link that is up has the address 10.1.0.0"),
        ("203.0.113.0/24", "uplink: no link that is up has an address in 203.0.113.0/24"),
        ("a/b", "`a/b` is no network in CIDR form, and no link has a name with a slash"),
        (
            "a name of too many bytes",
            "`a name of too many bytes` is no link's name (at most 15 bytes), address, or network",
        ),
    ] {
        assert_eq!(ask(&space, choice, &[]).expect_err(choice), sentence);
    }
}
