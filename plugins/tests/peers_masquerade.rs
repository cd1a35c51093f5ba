//! Masquerading for static peers on the real kernel, each test in a network namespace of its own. Needs root and `nft`.

#[path = "../../kernel/tests/netns/mod.rs"]
mod netns;

use cni::{Attachment, ContainerId, IfName, IpConfig, NetConf};
use netns::{in_new_netns, listing, matches_golden};
use plugins::cluster::{Conf, Kind, Static, masquerade};
use plugins::owner::Owner;
use serde_json::json;

/// A node with peers, whose own addresses are known.
fn cluster(peers: &serde_json::Value) -> Static {
    let conf = json!({
        "cniVersion": "1.1.0", "name": "red", "type": "vxlan", "nodeIPs": ["192.0.2.1", "2001:db8::1"],
        "subnets": ["10.1.0.0/24", "fd00:1::/64"], "peers": peers,
    });
    let conf = NetConf::parse(conf.to_string().into_bytes()).unwrap();
    Conf::parse(&conf, Kind::Vxlan).unwrap().peers.unwrap()
}

fn one_peer() -> Static {
    cluster(&json!([{ "ips": ["192.0.2.2", "2001:db8::2"], "podCIDRs": ["10.2.0.0/24", "fd00:2::/64"] }]))
}

fn owner(id: &str) -> Owner {
    let ifname = IfName::parse("eth0").unwrap();
    Owner::new("red", &Attachment { container_id: ContainerId::parse(id).unwrap(), ifname })
}

fn ips(addresses: &[&str]) -> Vec<IpConfig> {
    let ip = |a: &&str| IpConfig { interface: None, address: a.parse().unwrap(), gateway: None };
    addresses.iter().map(ip).collect()
}

#[test]
fn peers_masquerade_knows_who_is_inside() {
    in_new_netns(|| {
        masquerade::ensure(&one_peer(), &owner("one"), &ips(&["10.1.0.2/24", "fd00:1::2/64"])).unwrap();
        masquerade::ensure(&one_peer(), &owner("two"), &ips(&["10.1.0.3/32"])).unwrap();
        matches_golden("peers-masquerade", &listing());
    });
}

#[test]
fn peers_masquerade_twice_is_a_no_op_and_the_last_pod_takes_the_table_along() {
    in_new_netns(|| {
        let (before, own) = (listing(), ips(&["10.1.0.2/24"]));
        masquerade::ensure(&one_peer(), &owner("one"), &own).unwrap();
        let once = listing();
        masquerade::ensure(&one_peer(), &owner("one"), &own).unwrap();
        assert_eq!(listing(), once);
        masquerade::check(&one_peer(), &owner("one"), &own).unwrap();
        masquerade::remove(&owner("two"), &own).unwrap();
        assert_eq!(listing(), once, "another's");
        masquerade::remove(&owner("one"), &own).unwrap();
        masquerade::remove(&owner("one"), &own).unwrap();
        assert_eq!(listing(), before);
    });
}

#[test]
fn peers_masquerade_is_removed_without_addresses_to_go_by() {
    in_new_netns(|| {
        let before = listing();
        masquerade::ensure(&one_peer(), &owner("one"), &ips(&["10.1.0.2/24", "fd00:1::2/64"])).unwrap();
        masquerade::remove(&owner("one"), &[]).unwrap();
        assert_eq!(listing(), before);
    });
}

#[test]
fn peers_masquerade_follows_the_peers_and_keeps_the_pods() {
    in_new_netns(|| {
        let own = ips(&["10.1.0.2/24"]);
        masquerade::ensure(&one_peer(), &owner("one"), &own).unwrap();
        let more = cluster(&json!([{ "ip": "192.0.2.9", "podCIDR": "10.9.0.0/24" }]));
        let stale = masquerade::check(&more, &owner("one"), &own).expect_err("the peers have changed").msg;
        assert!(stale.contains("not those for these peers"), "{stale}");
        masquerade::ensure(&more, &owner("two"), &ips(&["10.1.0.3/24"])).unwrap();
        let now = listing();
        assert!(now.contains("10.9.0.0/24") && !now.contains("10.2.0.0/24"), "{now}");
        assert!(now.contains("10.1.0.2 comment") && now.contains("10.1.0.3 comment"), "{now}");
        masquerade::check(&more, &owner("one"), &own).unwrap();
    });
}

/// A pod CIDR that holds a node's address, or another constant range, is no trouble: intervals may not overlap.
#[test]
fn peers_masquerade_takes_networks_within_networks() {
    in_new_netns(|| {
        let nested = cluster(
            &json!([{ "ip": "10.2.0.9", "podCIDR": "10.2.0.0/24" }, { "ip": "169.254.7.7", "podCIDR": "10.3.0.0/24" }]),
        );
        masquerade::ensure(&nested, &owner("one"), &ips(&["10.1.0.2/24"])).unwrap();
        assert!(!listing().contains("10.2.0.9"));
    });
}

#[test]
fn peers_masquerade_gc_keeps_valid_pods() {
    in_new_netns(|| {
        let before = listing();
        masquerade::ensure(&one_peer(), &owner("one"), &ips(&["10.1.0.2/24"])).unwrap();
        masquerade::ensure(&one_peer(), &owner("two"), &ips(&["10.1.0.3/24"])).unwrap();
        masquerade::gc("red", &[owner("two").attachment]).unwrap();
        assert!(!listing().contains("10.1.0.2") && listing().contains("10.1.0.3"));
        masquerade::gc("red", &[]).unwrap();
        assert_eq!(listing(), before);
    });
}
