//! `routed` on the real kernel, each test on a host of its own that the daemon has readied.

mod facts;
mod support;

use cni::Version;
use facts::{Facts, conf};
use plugins::routed::Routed;
use serde_json::{Value, json};
use support::{Host, addresses, after, leases, on_new_host, with};

const CIDRS: [&str; 2] = ["10.1.0.0/24", "fd00:1::/64"];

/// What a node has of its own: a link with an address of each family.
fn uplink(host: &Host) {
    host.sh(
        "ip link add outside0 type veth peer outside1 && ip link set outside1 up && ip link set outside0 up
         ip addr add 192.0.2.1/24 dev outside0 && ip -6 addr add 2001:db8::1/64 dev outside0 nodad",
    );
}

fn msg(error: &Value) -> &str {
    error["msg"].as_str().expect("an error has a message")
}

#[test]
fn routed_gives_host_addresses_and_one_gateway_for_all() {
    on_new_host(|host| {
        uplink(host);
        let facts = Facts::of("routed", &CIDRS);
        let conf = conf("routed", &facts, &host.state_dir());
        let (one, two) = (host.new_pod(), host.new_pod());
        let result = host.call(&Routed, "ADD", &one, &conf).expect("ADD");
        assert_eq!(addresses(&result), ["10.1.0.2/32", "fd00:1::2/128"]);
        let gateways: Vec<_> = result["ips"].as_array().unwrap().iter().map(|ip| &ip["gateway"]).collect();
        assert_eq!(gateways, ["169.254.1.1", "fe80::1"]);
        assert_eq!(result["interfaces"][1]["mtu"], 1450);
        assert_eq!(one.addresses("eth0"), ["10.1.0.2/32", "fd00:1::2/128"]);
        host.call(&Routed, "ADD", &two, &conf).expect("ADD of a second pod");
        for ip in ["10.1.0.2", "fd00:1::2"] {
            assert!(host.reaches(ip) && two.reaches(ip), "{ip}");
        }
        // From one host end to the next: no bridge, no detour.
        let ends: Vec<_> = host.links().into_iter().filter(|link| link.id.name.starts_with("veth")).collect();
        assert_eq!(ends.len(), 2);
        assert!(ends.iter().all(|end| end.mac_text() == "62:6c:ff:ff:ff:ff" && end.mtu == 1450), "{ends:?}");
    });
}

#[test]
fn routed_routes_carry_our_protocol() {
    on_new_host(|host| {
        let facts = Facts::of("routed", &CIDRS);
        let pod = host.new_pod();
        host.call(&Routed, "ADD", &pod, &conf("routed", &facts, &host.state_dir())).expect("ADD");
        let routes = host.sh("ip -4 route show proto 98; ip -6 route show proto 98");
        let destinations: Vec<_> = routes.lines().filter_map(|line| line.split(' ').next()).collect();
        assert_eq!(destinations, ["10.1.0.2", "fd00:1::2"], "{routes}");
    });
}

/// Proxy ARP needs a route to the gateway's address, which a node without default route has not.
#[test]
fn routed_pods_find_their_gateway_on_a_node_without_default_route() {
    on_new_host(|host| {
        let facts = Facts::of("routed", &CIDRS);
        let pod = host.new_pod();
        uplink(host);
        host.call(&Routed, "ADD", &pod, &conf("routed", &facts, &host.state_dir())).expect("ADD");
        assert_eq!(host.sh("ip route show default"), "");
        assert!(pod.reaches("192.0.2.1"));
    });
}

/// And with one, proxy ARP and the link-local address answer pods that have forgotten what ADD told them.
#[test]
fn routed_pods_that_forget_their_gateway_find_it_again() {
    on_new_host(|host| {
        let facts = Facts::of("routed", &CIDRS);
        let pod = host.new_pod();
        uplink(host);
        host.sh("ip route add default via 192.0.2.2");
        host.call(&Routed, "ADD", &pod, &conf("routed", &facts, &host.state_dir())).expect("ADD");
        assert!(pod.sh("ip neigh show dev eth0 nud permanent").contains("169.254.1.1"));
        pod.sh("ip link set eth0 down && ip link set eth0 up
                ip route add 169.254.1.1 dev eth0 scope link && ip route add default via 169.254.1.1
                ip -6 route replace default via fe80::1 dev eth0");
        assert!(!pod.sh("ip neigh show dev eth0 nud permanent").contains("169.254.1.1"), "it has forgotten");
        assert!(pod.reaches("192.0.2.1") && pod.reaches("2001:db8::1"));
    });
}

#[test]
fn routed_del_leaves_the_host_as_before() {
    on_new_host(|host| {
        let facts = Facts::of("routed", &CIDRS);
        let conf = conf("routed", &facts, &host.state_dir());
        let (before, pod) = (host.footprint(), host.new_pod());
        let result = host.call(&Routed, "ADD", &pod, &conf).expect("ADD");
        // The daemon is gone, and its facts with it.
        facts.remove();
        let again = after(&conf, Version::V1_1_0, &result);
        host.call(&Routed, "DEL", &pod, &again).expect("DEL");
        host.call(&Routed, "DEL", &pod, &again).expect("DEL again");
        assert_eq!(host.footprint(), before);
        assert_eq!(leases(host), [""; 0]);
    });
}

#[test]
fn routed_an_address_in_use_names_its_owner() {
    on_new_host(|host| {
        let facts = Facts::of("routed", &CIDRS);
        let conf = conf("routed", &facts, &host.state_dir());
        let (one, two) = (host.new_pod(), host.new_pod());
        let first = host.call(&Routed, "ADD", &one, &conf).expect("ADD");
        let owner = first["interfaces"][0]["name"].as_str().unwrap();
        std::fs::remove_dir_all(host.state_dir()).expect("the leases are lost");
        let before = host.footprint();
        let error = host.call(&Routed, "ADD", &two, &conf).expect_err("the address is taken");
        assert!(msg(&error).contains("10.1.0.2 belongs to") && msg(&error).contains(owner), "{error}");
        assert!(msg(&error).contains(&one.id), "{error}");
        assert_eq!(host.footprint(), before);
        assert_eq!(leases(host), [""; 0]);
    });
}

#[test]
fn routed_check_finds_what_is_lost() {
    on_new_host(|host| {
        let facts = Facts::of("routed", &CIDRS);
        let conf = conf("routed", &facts, &host.state_dir());
        let pod = host.new_pod();
        let result = host.call(&Routed, "ADD", &pod, &conf).expect("ADD");
        let end = result["interfaces"][0]["name"].as_str().unwrap();
        let conf = after(&conf, Version::V1_1_0, &result);
        host.call(&Routed, "CHECK", &pod, &conf).expect("CHECK");
        for (breaking, mending, words) in [
            (
                "ip route del 10.1.0.2".into(),
                format!("ip route add 10.1.0.2 dev {end}"),
                "route to 10.1.0.2/32",
            ),
            (
                "ip -6 route del fd00:1::2".into(),
                format!("ip -6 route add fd00:1::2 dev {end}"),
                "fd00:1::2/128",
            ),
            (
                format!("ip addr del fe80::1/64 dev {end}"),
                format!("ip addr add fe80::1/64 dev {end} nodad"),
                "fe80::1",
            ),
            (
                format!("echo 0 > /proc/sys/net/ipv4/conf/{end}/proxy_arp"),
                format!("echo 1 > /proc/sys/net/ipv4/conf/{end}/proxy_arp"),
                "proxy_arp",
            ),
            (
                format!("ip link set {end} address 02:00:00:00:00:01"),
                format!("ip link set {end} address 62:6c:ff:ff:ff:ff"),
                "02:00:00:00:00:01",
            ),
        ] {
            host.sh(&breaking);
            let error = host.call(&Routed, "CHECK", &pod, &conf).expect_err(&breaking);
            assert!(msg(&error).contains(words), "{breaking}: {error}");
            host.sh(&mending);
            host.call(&Routed, "CHECK", &pod, &conf).expect(&mending);
        }
        pod.sh("ip link set eth0 mtu 1500");
        let error = host.call(&Routed, "CHECK", &pod, &conf).expect_err("the MTU is too large");
        assert!(msg(&error).contains("MTU 1500, more than the 1450"), "{error}");
    });
}

#[test]
fn routed_without_facts_is_not_ready() {
    on_new_host(|host| {
        let facts = Facts::of("routed", &CIDRS);
        let conf = conf("routed", &facts, &host.state_dir());
        let pod = host.new_pod();
        host.call(&Routed, "STATUS", &pod, &conf).expect("STATUS");
        facts.remove();
        for (verb, code) in [("STATUS", 50), ("ADD", 11)] {
            let error = host.call(&Routed, verb, &pod, &conf).expect_err(verb);
            assert_eq!(error["code"], code, "{error}");
            assert!(msg(&error).contains("node.json is absent: bowlined has not (yet) readied"), "{error}");
        }
        facts.write("{}");
        let error = host.call(&Routed, "STATUS", &pod, &conf).expect_err("no facts");
        assert!(msg(&error).contains("missing field"), "{error}");
        let complete = with(&with(&conf, "subnets", json!(CIDRS)), "mtu", 1400);
        host.call(&Routed, "ADD", &pod, &complete).expect("nothing is left out");
        assert_eq!(pod.link("eth0").unwrap().mtu, 1400);
    });
}

#[test]
fn routed_gc_removes_what_is_not_valid() {
    on_new_host(|host| {
        let facts = Facts::of("routed", &CIDRS);
        let conf = conf("routed", &facts, &host.state_dir());
        let (one, two) = (host.new_pod(), host.new_pod());
        host.call(&Routed, "ADD", &one, &conf).expect("ADD");
        host.call(&Routed, "ADD", &two, &conf).expect("ADD");
        facts.remove();
        let valid = json!([{ "containerID": two.id, "ifname": "eth0" }]);
        host.call(&Routed, "GC", &one, &with(&conf, "cni.dev/valid-attachments", valid)).expect("GC");
        assert_eq!(leases(host), ["10.1.0.3", "fd00:1::3"]);
        assert!(one.link("eth0").is_none() && two.link("eth0").is_some());
        assert_eq!(host.sh("ip route show proto 98").lines().count(), 1);
    });
}

#[test]
fn routed_one_family_leaves_the_other_alone() {
    for (cidr, address, other) in [(CIDRS[0], "10.1.0.2", "-6"), (CIDRS[1], "fd00:1::2", "-4")] {
        on_new_host(|host| {
            uplink(host);
            let facts = Facts::of("routed", &[cidr]);
            let pod = host.new_pod();
            let before = host.sh(&format!("ip {other} route show table all"));
            host.call(&Routed, "ADD", &pod, &conf("routed", &facts, &host.state_dir())).expect("ADD");
            assert!(host.reaches(address));
            assert_eq!(host.sh(&format!("ip {other} route show table all")), before);
        });
    }
}
