//! `ptp` with host-local in namespaces of its own, in every version.

mod support;

use cni::Version;
use plugins::ptp::Ptp;
use serde_json::{Value, json};
use support::{Host, Pod, addresses, after, env_of, leases, on_new_host, veths, with};

fn conf(host: &Host, version: Version, subnets: &[&str]) -> Value {
    json!({
        "cniVersion": version.as_str(), "name": "net1", "type": "ptp", "ipMasq": true, "mtu": 5000,
        "ipam": host.host_local(subnets),
    })
}

const DUAL: [&str; 2] = ["10.1.1.0/24", "2001:db8:1::/66"];

/// ADD, CHECK where the version has it, DEL twice, and nothing left.
fn add_check_del(host: &Host, version: Version, conf: &Value, inspect: impl FnOnce(&Pod, &Value)) {
    let before = host.footprint();
    let pod = host.new_pod();
    let result = host.call(&Ptp, "ADD", &pod, conf).unwrap_or_else(|e| panic!("{version}: ADD: {e}"));
    assert_eq!(pod.addresses("eth0"), addresses(&result), "{version}");
    inspect(&pod, &result);
    let after = after(conf, version, &result);
    if version >= Version::V0_4_0 {
        host.call(&Ptp, "CHECK", &pod, &after).unwrap_or_else(|e| panic!("{version}: CHECK: {e}"));
    }
    for _ in 0..2 {
        host.call(&Ptp, "DEL", &pod, &after).unwrap_or_else(|e| panic!("{version}: DEL: {e}"));
        assert!(pod.link("eth0").is_none());
        assert_eq!((host.footprint(), leases(host)), (before.clone(), vec![]), "{version}");
    }
}

#[test]
fn ptp_add_del_v4_and_the_gateway_answers() {
    for version in Version::ALL {
        on_new_host(|host| {
            add_check_del(host, version, &conf(host, version, &DUAL[..1]), |pod, _| {
                assert_eq!(pod.link("eth0").expect("eth0").mtu, 5000);
                assert!(pod.reaches("10.1.1.1"));
                let routes = pod.sh("ip -4 route show");
                let subnet = "10.1.1.0/24 via 10.1.1.1 dev eth0 src 10.1.1.2";
                assert!(routes.contains("10.1.1.1 dev eth0 scope link src 10.1.1.2"), "{routes}");
                assert!(routes.contains(subnet), "{routes}");
                assert_eq!(host.sh("cat /proc/sys/net/ipv4/ip_forward"), "1\n");
            });
        });
    }
}

#[test]
fn ptp_dual_stack_and_both_gateways_answer_at_once() {
    for version in Version::ALL {
        on_new_host(|host| {
            add_check_del(host, version, &conf(host, version, &DUAL), |pod, _| {
                assert!(pod.reaches("10.1.1.1") && pod.reaches("2001:db8:1::1"));
                let own = pod.addresses("eth0");
                assert!(own.iter().all(|address| host.reaches(address.split('/').next().unwrap())));
            });
        });
    }
}

#[test]
fn ptp_result_lists_host_end_and_container_end() {
    on_new_host(|host| {
        let mut conf = conf(host, Version::V1_1_0, &DUAL[..1]);
        conf["ipam"]["routes"] = json!([{ "dst": "0.0.0.0/0", "mtu": 1300 }]);
        add_check_del(host, Version::V1_1_0, &conf, |pod, result| {
            let eth0 = pod.link("eth0").expect("eth0");
            let host_end = host.links().into_iter().find(|l| l.kind == "veth").expect("a host end");
            assert_eq!(
                result,
                &json!({
                    "cniVersion": "1.1.0",
                    "interfaces": [
                        { "name": host_end.id.name, "mac": host_end.mac_text(), "mtu": 5000 },
                        { "name": "eth0", "mac": eth0.mac_text(), "mtu": 5000, "sandbox": pod.path },
                    ],
                    "ips": [{ "interface": 1, "address": "10.1.1.2/24", "gateway": "10.1.1.1" }],
                    "routes": [{ "dst": "0.0.0.0/0", "mtu": 1300 }],
                })
            );
            let default = pod.sh("ip -4 route show default");
            assert!(default.contains("via 10.1.1.1") && default.contains("mtu 1300"), "{default}");
        });
    });
}

fn masquerades(host: &Host, backend: Value, lists: &str, shows: &str) {
    for version in Version::ALL {
        for subnets in [&DUAL[..1], &DUAL[1..], &DUAL[..]] {
            let conf = with(&conf(host, version, subnets), "ipMasqBackend", backend.clone());
            add_check_del(host, version, &conf, |_, _| {
                let rules = host.sh(lists);
                assert!(rules.contains(shows), "{rules}");
            });
        }
    }
}

#[test]
fn ptp_masq_nftables_backend() {
    on_new_host(|host| masquerades(host, json!("nftables"), "nft list ruleset", "masquerade"));
    on_new_host(|host| masquerades(host, Value::Null, "nft list ruleset", "masquerade"));
}

#[test]
fn ptp_masq_iptables_backend() {
    on_new_host(|host| {
        // The tables themselves are iptables' own, and stay.
        host.sh("for i in iptables ip6tables; do $i -t nat -I POSTROUTING; $i -t nat -D POSTROUTING 1; done");
        let lists = "iptables -t nat -S; ip6tables -t nat -S";
        masquerades(host, json!("iptables"), lists, "-j MASQUERADE");
    });
}

#[test]
fn ptp_del_unconfigured_and_del_without_pod_or_prev_result() {
    for version in Version::ALL {
        on_new_host(|host| {
            let conf = conf(host, version, &DUAL);
            let before = host.footprint();
            let pod = host.new_pod();
            for netns in [pod.path.to_str().unwrap(), "", "/no/such/netns"] {
                let env = del_env(host, &pod, netns);
                host.call_env(&Ptp, &conf, &env).expect("DEL without ADD");
                assert_eq!(host.footprint(), before, "DEL makes nothing");
            }
            for netns in ["", "/no/such/netns"] {
                let result = host.call(&Ptp, "ADD", &pod, &conf).expect("ADD");
                let env = del_env(host, &pod, netns);
                let after = after(&conf, version, &result);
                host.call_env(&Ptp, &after, &env).expect("DEL without a namespace");
                assert_eq!(leases(host), Vec::<String>::new());
                assert_eq!(host.footprint(), before, "{version}: {netns:?}");
            }
        });
    }
}

fn del_env(host: &Host, pod: &Pod, netns: &str) -> Vec<(&'static str, String)> {
    let mut env = env_of("DEL", pod, &host.bin_dir());
    env[2].1 = netns.to_owned();
    env
}

#[test]
fn ptp_status_is_ipams() {
    on_new_host(|host| {
        let pod = host.new_pod();
        let conf = conf(host, Version::V1_1_0, &["10.1.1.0/30"]);
        host.call(&Ptp, "STATUS", &pod, &conf).expect("STATUS of an empty pool");
        host.call(&Ptp, "ADD", &pod, &conf).expect("ADD");
        let error = host.call(&Ptp, "STATUS", &pod, &conf).expect_err("the pool is used up");
        assert_eq!(error["code"], 50, "{error}");
        let none = with(&conf, "ipam", json!({ "type": "no-such-plugin" }));
        let error = host.call(&Ptp, "STATUS", &pod, &none).expect_err("no IPAM plug-in");
        assert!(error["msg"].as_str().unwrap().contains("no-such-plugin"), "{error}");
    });
}

#[test]
fn ptp_without_ipam_is_refused_by_name() {
    on_new_host(|host| {
        let conf = with(&conf(host, Version::V1_1_0, &DUAL), "ipam", json!({}));
        let error = host.call(&Ptp, "ADD", &host.new_pod(), &conf).expect_err("no IPAM");
        assert_eq!((&error["code"], &error["msg"]), (&json!(7), &json!("ptp: ipam.type: it is required")));
    });
}

#[test]
fn ptp_dns_kept_overridden_and_empty_list() {
    for version in Version::ALL {
        on_new_host(|host| {
            std::fs::create_dir_all(host.state_dir()).unwrap();
            let file = host.state_dir().join("resolv.conf");
            std::fs::write(&file, "nameserver 192.0.2.0\nsearch a.example\n").unwrap();
            let mut base = conf(host, version, &DUAL[..1]);
            base["ipam"]["resolvConf"] = json!(file);
            let kept = json!({ "nameservers": ["192.0.2.0"], "search": ["a.example"] });
            let own = json!({ "nameservers": ["192.0.2.1"], "domain": "b.example" });
            for (given, shown) in
                [(Value::Null, kept), (own.clone(), own), (json!({ "nameservers": [] }), json!({}))]
            {
                let conf = with(&base, "dns", given);
                add_check_del(host, version, &conf, |_, result| {
                    let dns = if result["dns"].is_null() { json!({}) } else { result["dns"].clone() };
                    assert_eq!(dns, shown, "{version}");
                });
            }
        });
    }
}

#[test]
fn ptp_check_negative() {
    let drifts = [
        ("the host's route", "ip route del 10.1.1.2/32", ""),
        ("forwarding", "sysctl -qw net.ipv4.ip_forward=0", ""),
        ("forwarding of IPv6", "sysctl -qw net.ipv6.conf.all.forwarding=0", ""),
        ("the address", "", "ip address del 10.1.1.2/24 dev eth0"),
        ("a route of the result", "", "ip route del 192.0.2.0/24"),
        ("eth0 is down", "", "ip link set eth0 down"),
        ("eth0 is gone", "", "ip link del eth0"),
        ("its MAC", "", "ip link set eth0 address 02:00:00:00:00:99"),
        ("masquerade", "nft delete table inet bowline_masquerade", ""),
        ("the lease", "rm \"$STATE\"/net1/10.1.1.2", ""),
    ];
    for (what, on_host, in_pod) in drifts {
        on_new_host(|host| {
            let mut conf = conf(host, Version::V1_1_0, &DUAL);
            conf["ipam"]["routes"] =
                json!([{ "dst": "192.0.2.0/24", "table": 77 }, { "dst": "192.0.2.0/24" }]);
            let pod = host.new_pod();
            let result = host.call(&Ptp, "ADD", &pod, &conf).expect("ADD");
            let after = after(&conf, Version::V1_1_0, &result);
            host.call(&Ptp, "CHECK", &pod, &after).expect("CHECK after ADD");
            let state = host.state_dir();
            host.sh(&format!("STATE={}; {on_host}", state.display()));
            pod.sh(in_pod);
            // The route is still in its other table; the one without a table may have moved.
            if what == "a route of the result" {
                host.call(&Ptp, "CHECK", &pod, &after).expect("a route may move to another table");
                pod.sh("ip route del 192.0.2.0/24 table 77");
            }
            host.call(&Ptp, "CHECK", &pod, &after).expect_err(what);
            host.call(&Ptp, "DEL", &pod, &after).expect("DEL");
        });
    }
}

#[test]
fn gc_matrix_of_ptp() {
    on_new_host(|host| {
        let conf = conf(host, Version::V1_1_0, &DUAL);
        let before = host.footprint();
        let [stays, goes] = [host.new_pod(), host.new_pod()];
        let result = host.call(&Ptp, "ADD", &stays, &conf).expect("ADD");
        host.call(&Ptp, "ADD", &goes, &conf).expect("ADD");
        host.call(&Ptp, "GC", &stays, &conf).expect("GC that does not say what is valid");
        assert_eq!((leases(host).len(), veths(host)), (4, 2), "removes nothing");
        let valid = json!([{ "containerID": stays.id, "ifname": "eth0" }]);
        for _ in 0..2 {
            let request = with(&conf, "cni.dev/valid-attachments", valid.clone());
            host.call(&Ptp, "GC", &stays, &request).expect("GC");
            assert_eq!((leases(host).len(), veths(host)), (2, 1));
            let after = after(&conf, Version::V1_1_0, &result);
            host.call(&Ptp, "CHECK", &stays, &after).expect("the valid one is whole");
        }
        let nothing = with(&conf, "cni.dev/valid-attachments", json!([]));
        host.call(&Ptp, "GC", &stays, &nothing).expect("GC of everything");
        assert_eq!((leases(host), host.footprint()), (vec![], before));
    });
}

#[test]
fn ptp_late_failure_leaves_nothing() {
    on_new_host(|host| {
        let mut conf = conf(host, Version::V1_1_0, &DUAL);
        conf["ipam"]["routes"] = json!([{ "dst": "192.0.2.0/24", "gw": "203.0.113.1" }]);
        let before = host.footprint();
        let pod = host.new_pod();
        let error = host.call(&Ptp, "ADD", &pod, &conf).expect_err("a next hop out of reach");
        assert!(error["msg"].as_str().unwrap().contains("192.0.2.0/24 via 203.0.113.1"), "{error}");
        assert_eq!((host.footprint(), leases(host), veths(host)), (before, vec![], 0));
        assert!(pod.link("eth0").is_none());
    });
}
