//! `vxlan` on the real kernel, each test on a host of its own that the daemon has readied.

mod facts;
mod support;

use cni::Version;
use facts::{Facts, conf};
use plugins::vxlan::Vxlan;
use serde_json::{Value, json};
use support::{addresses, after, leases, on_new_host, with};

const CIDRS: [&str; 2] = ["10.1.0.0/24", "fd00:1::/64"];

fn msg(error: &Value) -> &str {
    error["msg"].as_str().expect("an error has a message")
}

#[test]
fn vxlan_takes_from_the_facts_what_the_configuration_leaves_out() {
    on_new_host(|host| {
        let facts = Facts::of("vxlan", &CIDRS);
        let conf = conf("vxlan", &facts, &host.state_dir());
        let (one, two) = (host.new_pod(), host.new_pod());
        let result = host.call(&Vxlan, "ADD", &one, &conf).expect("ADD");
        assert_eq!(addresses(&result), ["10.1.0.2/24", "fd00:1::2/64"]);
        assert_eq!(result["interfaces"][0]["name"], "bowline0");
        assert_eq!(one.link("eth0").unwrap().mtu, 1450);
        host.call(&Vxlan, "ADD", &two, &conf).expect("ADD of a second pod");
        for ip in ["10.1.0.1", "fd00:1::1", "10.1.0.2", "fd00:1::2"] {
            assert!(two.reaches(ip), "{ip}");
        }
        assert!(one.sh("ip route show default").contains("via 10.1.0.1"));
        assert!(one.sh("ip -6 route show default").contains("via fd00:1::1"));
        assert!(host.sh("bridge -d link").contains("hairpin on"));
        assert_eq!(host.sh("nft list ruleset"), "", "the daemon masquerades");
    });
}

#[test]
fn vxlan_del_leaves_what_bridge_leaves() {
    on_new_host(|host| {
        let facts = Facts::of("vxlan", &CIDRS);
        let conf = conf("vxlan", &facts, &host.state_dir());
        let (before, pod) = (host.footprint(), host.new_pod());
        let result = host.call(&Vxlan, "ADD", &pod, &conf).expect("ADD");
        facts.remove();
        let again = after(&conf, Version::V1_1_0, &result);
        host.call(&Vxlan, "DEL", &pod, &again).expect("DEL");
        host.call(&Vxlan, "DEL", &pod, &again).expect("DEL again");
        assert_eq!(leases(host), [""; 0]);
        host.sh("ip link del bowline0");
        assert_eq!(host.footprint(), before);
    });
}

/// A DEL must not fail, nor forget the lease, for what only matters to ADD.
#[test]
fn vxlan_del_does_not_mind_a_configuration_that_add_would_refuse() {
    on_new_host(|host| {
        let facts = Facts::of("vxlan", &CIDRS);
        let conf = conf("vxlan", &facts, &host.state_dir());
        let pod = host.new_pod();
        host.call(&Vxlan, "ADD", &pod, &conf).expect("ADD");
        host.call(&Vxlan, "DEL", &pod, &with(&conf, "vni", -5)).expect("DEL");
        assert_eq!(leases(host), [""; 0]);
        assert!(pod.link("eth0").is_none());
    });
}

#[test]
fn vxlan_what_the_configuration_says_goes_before_the_facts() {
    on_new_host(|host| {
        let facts = Facts::of("vxlan", &CIDRS);
        let mut conf = conf("vxlan", &facts, &host.state_dir());
        conf["MTU"] = json!(1400);
        conf["bridge"] = json!("pods0");
        conf["hairpinMode"] = json!(false);
        conf["ranges"] = json!([[{ "subnet": "10.9.0.0/24", "rangeStart": "10.9.0.77" }]]);
        let pod = host.new_pod();
        let result = host.call(&Vxlan, "ADD", &pod, &conf).expect("ADD");
        assert_eq!(addresses(&result), ["10.9.0.77/24"]);
        assert_eq!((pod.link("eth0").unwrap().mtu, host.link("pods0").is_some()), (1400, true));
        assert!(host.sh("bridge -d link").contains("hairpin off"));
    });
}

#[test]
fn vxlan_the_bridge_follows_the_pods_mtu() {
    on_new_host(|host| {
        let facts = Facts::of("vxlan", &CIDRS);
        let conf = conf("vxlan", &facts, &host.state_dir());
        for mtu in [1400, 1450, 1450] {
            let result = host.call(&Vxlan, "ADD", &host.new_pod(), &with(&conf, "mtu", mtu)).expect("ADD");
            let seen: Vec<_> = result["interfaces"].as_array().unwrap().iter().map(|i| &i["mtu"]).collect();
            assert_eq!(seen, [mtu; 3]);
            assert_eq!(host.link("bowline0").unwrap().mtu, mtu);
        }
    });
}

#[test]
fn vxlan_check_finds_an_mtu_that_is_too_large() {
    on_new_host(|host| {
        let facts = Facts::of("vxlan", &CIDRS);
        let conf = conf("vxlan", &facts, &host.state_dir());
        let pod = host.new_pod();
        let result = host.call(&Vxlan, "ADD", &pod, &conf).expect("ADD");
        let conf = after(&conf, Version::V1_1_0, &result);
        host.call(&Vxlan, "CHECK", &pod, &conf).expect("CHECK");
        pod.sh("ip link set eth0 mtu 1400");
        host.call(&Vxlan, "CHECK", &pod, &conf).expect("less is a later plug-in's choice");
        pod.sh("ip link set eth0 mtu 1451");
        let error = host.call(&Vxlan, "CHECK", &pod, &conf).expect_err("too large");
        assert!(msg(&error).contains("eth0 has MTU 1451, more than the 1450"), "{error}");
        pod.sh("ip link set eth0 mtu 1450 && ip addr del 10.1.0.2/24 dev eth0");
        let error = host.call(&Vxlan, "CHECK", &pod, &conf).expect_err("no address");
        assert!(msg(&error).contains("10.1.0.2/24"), "{error}");
    });
}

#[test]
fn vxlan_without_facts_is_not_ready() {
    on_new_host(|host| {
        let facts = Facts::of("vxlan", &CIDRS);
        let conf = conf("vxlan", &facts, &host.state_dir());
        let (pod, before) = (host.new_pod(), host.footprint());
        host.call(&Vxlan, "STATUS", &pod, &conf).expect("STATUS");
        facts.remove();
        for (verb, code) in [("STATUS", 50), ("ADD", 11)] {
            let error = host.call(&Vxlan, verb, &pod, &conf).expect_err(verb);
            assert_eq!(error["code"], code, "{error}");
            assert!(
                msg(&error).starts_with("vxlan: ") && msg(&error).contains("node.json is absent"),
                "{error}"
            );
        }
        assert_eq!(host.footprint(), before);
        host.call(&Vxlan, "GC", &pod, &with(&conf, "cni.dev/valid-attachments", json!([]))).expect("GC");
    });
}

#[test]
fn vxlan_gc_removes_what_is_not_valid() {
    on_new_host(|host| {
        let facts = Facts::of("vxlan", &CIDRS);
        let conf = conf("vxlan", &facts, &host.state_dir());
        let (one, two) = (host.new_pod(), host.new_pod());
        host.call(&Vxlan, "ADD", &one, &conf).expect("ADD");
        host.call(&Vxlan, "ADD", &two, &conf).expect("ADD");
        let valid = json!([{ "containerID": two.id, "ifname": "eth0" }]);
        host.call(&Vxlan, "GC", &one, &with(&conf, "cni.dev/valid-attachments", valid)).expect("GC");
        assert_eq!(leases(host), ["10.1.0.3", "fd00:1::3"]);
        assert!(one.link("eth0").is_none() && two.link("eth0").is_some());
    });
}

#[test]
fn vxlan_the_bridges_refusals_come_in_its_own_name() {
    on_new_host(|host| {
        let facts = Facts::of("vxlan", &CIDRS);
        let conf = conf("vxlan", &facts, &host.state_dir());
        let error = host.call(&Vxlan, "ADD", &host.new_pod(), &with(&conf, "vlan", 5000)).expect_err("vlan");
        assert_eq!(msg(&error), "vxlan: vlan: 5000 is outside 0..4094");
    });
}
