//! `bridge`'s options, each seen in the kernel.

mod support;

use cni::Version;
use plugins::bridge::Bridge;
use serde_json::{Value, json};
use support::{Host, Pod, after, env_of, leases, on_new_host, veths, with};

const SUBNETS: [&str; 2] = ["10.1.2.0/24", "2001:db8:1::/64"];

fn conf(host: &Host, keys: Value) -> Value {
    let mut conf = json!({
        "cniVersion": "1.1.0", "name": "net1", "type": "bridge", "bridge": "br0", "isGateway": true,
        "ipam": host.host_local(&SUBNETS),
    });
    conf.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
    conf
}

fn in_every_version(test: impl Fn(&Host, Version) + Sync) {
    for version in Version::ALL {
        on_new_host(|host| test(host, version));
    }
}

fn at(conf: &Value, version: Version) -> Value {
    with(conf, "cniVersion", version.as_str())
}

fn add(host: &Host, pod: &Pod, conf: &Value) -> Value {
    host.call(&Bridge, "ADD", pod, conf).unwrap_or_else(|e| panic!("ADD: {e}"))
}

fn del(host: &Host, pod: &Pod, conf: &Value) {
    host.call(&Bridge, "DEL", pod, conf).unwrap_or_else(|e| panic!("DEL: {e}"));
}

/// The pod's end on the host.
fn port(host: &Host) -> kernel::link::Link {
    let mut ports = host.links().into_iter().filter(|l| l.kind == "veth" && l.peer_netns.is_some());
    ports.next().expect("a port")
}

#[test]
fn bridge_promisc() {
    in_every_version(|host, version| {
        let (pod, conf) = (host.new_pod(), at(&conf(host, json!({ "promiscMode": true })), version));
        let result = add(host, &pod, &conf);
        assert!(host.link("br0").expect("the bridge").is_promisc());
        if version >= Version::V0_4_0 {
            let after = after(&conf, version, &result);
            host.call(&Bridge, "CHECK", &pod, &after).expect("CHECK");
            host.sh("ip link set br0 promisc off");
            host.call(&Bridge, "CHECK", &pod, &after).expect_err("promiscuous mode is off");
        }
        // A network that does not ask for it leaves it alone.
        host.sh("ip link set br0 promisc on");
        add(host, &host.new_pod(), &with(&conf, "promiscMode", false));
        assert!(host.link("br0").expect("the bridge").is_promisc());
    });
}

#[test]
fn bridge_hairpin_and_isolation() {
    for (hairpin, isolation) in [(false, false), (true, false), (false, true), (true, true)] {
        in_every_version(|host, version| {
            let keys = json!({ "hairpinMode": hairpin, "portIsolation": isolation });
            let (pod, conf) = (host.new_pod(), at(&conf(host, keys), version));
            add(host, &pod, &conf);
            let state = port(host).port.expect("a bridge port");
            assert_eq!((state.hairpin, state.isolated), (hairpin, isolation));
        });
    }
}

#[test]
fn bridge_isolation_keeps_pods_apart() {
    for isolation in [false, true] {
        on_new_host(|host| {
            let conf = conf(host, json!({ "portIsolation": isolation, "isDefaultGateway": true }));
            let [one, two] = [host.new_pod(), host.new_pod()];
            add(host, &one, &conf);
            add(host, &two, &conf);
            assert!(one.reaches("10.1.2.1") && one.reaches("2001:db8:1::1"), "the gateway is not isolated");
            if isolation {
                assert!(one.is_ignored_by("10.1.2.3") && one.is_ignored_by("2001:db8:1::3"));
            } else {
                assert!(one.reaches("10.1.2.3") && one.reaches("2001:db8:1::3"));
            }
        });
    }
}

#[test]
fn bridge_stable_mac() {
    in_every_version(|host, version| {
        let conf = at(&conf(host, json!({})), version);
        let mac = || host.link("br0").expect("the bridge").mac_text();
        let pods = [host.new_pod(), host.new_pod(), host.new_pod()];
        let mut seen = Vec::new();
        let results: Vec<_> = pods
            .iter()
            .map(|pod| {
                let result = add(host, pod, &conf);
                // The smallest address of all ports: a bridge that follows its ports would take it.
                host.sh(&format!("ip link set {} address 00:00:00:00:00:01", port(host).id.name));
                seen.push(mac());
                result
            })
            .collect();
        for (pod, result) in pods.iter().zip(&results) {
            del(host, pod, &after(&conf, version, result));
            seen.push(mac());
        }
        assert!(seen.iter().all(|mac| *mac == seen[0] && mac != "00:00:00:00:00:01"), "{seen:?}");
    });
}

/// A bridge that somebody else made is pinned when it becomes the gateway.
#[test]
fn bridge_stable_mac_of_an_existing_bridge() {
    on_new_host(|host| {
        host.sh("ip link add br0 type bridge");
        let pod = host.new_pod();
        let result = add(host, &pod, &conf(host, json!({})));
        let pinned = host.link("br0").expect("the bridge").mac_text();
        assert_eq!(result["interfaces"][0]["mac"], pinned);
        host.sh("ip link add p0 address 00:00:00:00:00:01 type veth peer name p1; ip link set p0 master br0");
        assert_eq!(host.link("br0").expect("the bridge").mac_text(), pinned);
    });
}

#[test]
fn bridge_explicit_mac_reaches_the_pod() {
    let (a, b, c) = ("c2:11:22:33:44:55", "c2:11:22:33:44:66", "c2:11:22:33:44:77");
    let args = json!({ "args": { "cni": { "mac": b } } });
    let both = json!({ "args": { "cni": { "mac": b } }, "runtimeConfig": { "mac": c } });
    for (keys, chosen) in [(json!({}), a), (args, b), (both, c)] {
        in_every_version(|host, version| {
            let (pod, conf) = (host.new_pod(), at(&conf(host, keys.clone()), version));
            let mut env = env_of("ADD", &pod, &host.bin_dir());
            env.push(("CNI_ARGS", format!("IgnoreUnknown=true;MAC={a}")));
            host.call_env(&Bridge, &conf, &env).expect("ADD");
            assert_eq!(pod.link("eth0").expect("eth0").mac_text(), chosen);
        });
    }
}

#[test]
fn bridge_late_failure_releases_everything() {
    in_every_version(|host, version| {
        let mut conf = at(&conf(host, json!({ "ipMasq": true, "macspoofchk": true })), version);
        conf["ipam"]["routes"] = json!([{ "dst": "192.0.2.0/24", "gw": "203.0.113.1" }]);
        host.sh("ip link add br0 type bridge; ip link set br0 up");
        let pod = host.new_pod();
        let rules = host.sh("nft list ruleset");
        let error = host.call(&Bridge, "ADD", &pod, &conf).expect_err("a next hop out of reach");
        assert!(error["msg"].as_str().unwrap().contains("192.0.2.0/24 via 203.0.113.1"), "{error}");
        assert_eq!((veths(host), leases(host), pod.link("eth0")), (0, vec![], None));
        assert_eq!(host.sh("nft list ruleset"), rules);
    });
}

/// What an ADD made for itself goes when it fails, early or late; the bridge of a living pod stays.
#[test]
fn bridge_late_failure_leaves_no_bridge_of_its_own() {
    on_new_host(|host| {
        let before = host.sh("ip -d link; ip -4 route show table all; nft list ruleset");
        let pod = host.new_pod();
        for (key, value) in [
            ("ipam", json!({ "type": "no-such-plugin" })),
            ("ipam", json!({ "type": "host-local", "subnet": "10.1.0.1/24" })),
            (
                "ipam",
                json!({ "type": "static", "addresses": [{ "address": "10.1.0.5/24" }],
                "routes": [{ "dst": "192.0.2.0/24", "gw": "203.0.113.1" }] }),
            ),
            ("dns", json!(5)),
        ] {
            let mut wrong = conf(host, json!({ "ipMasq": true }));
            wrong[key] = value;
            host.call(&Bridge, "ADD", &pod, &wrong).expect_err("wrong input");
            let after = host.sh("ip -d link; ip -4 route show table all; nft list ruleset");
            assert_eq!(after, before, "{key}: {}", wrong[key]);
            assert_eq!(leases(host), Vec::<String>::new());
        }
        let neighbour = host.new_pod();
        add(host, &neighbour, &conf(host, json!({})));
        let mut wrong = conf(host, json!({}));
        wrong["ipam"] = json!({ "type": "no-such-plugin" });
        host.call(&Bridge, "ADD", &pod, &wrong).expect_err("wrong input");
        assert!(host.link("br0").is_some());
    });
}

/// libcni keeps the result of an earlier ADD when a later one fails half-way: DEL goes by what it finds as well.
#[test]
fn bridge_del_with_the_result_of_an_earlier_add_leaves_nothing() {
    on_new_host(|host| {
        let (pod, conf) = (host.new_pod(), conf(host, json!({ "ipMasq": true })));
        let before = host.sh("nft list ruleset");
        let first = add(host, &pod, &conf);
        del(host, &pod, &after(&conf, Version::V1_1_0, &first));
        let second = add(host, &pod, &conf);
        assert_ne!(first["ips"], second["ips"]);
        del(host, &pod, &after(&conf, Version::V1_1_0, &first));
        assert_eq!((veths(host), leases(host), host.sh("nft list ruleset")), (0, vec![], before));
    });
}

/// A namespace path that leads to another pod by now, and a name that is another network's: neither is ours to delete.
#[test]
fn bridge_del_leaves_what_is_of_another() {
    on_new_host(|host| {
        let (one, two) = (host.new_pod(), host.new_pod());
        let conf = conf(host, json!({ "ipMasq": true }));
        add(host, &one, &conf);
        let of_two = add(host, &two, &conf);
        let mut other_network = conf.clone();
        other_network["name"] = json!("net2");
        host.call(&Bridge, "ADD", &two, &other_network).expect_err("eth0 is there already");
        host.call(&Bridge, "DEL", &two, &other_network).expect("DEL of what was not made");
        host.call(&Bridge, "CHECK", &two, &after(&conf, Version::V1_1_0, &of_two)).expect("two is whole");
        let mut env = env_of("DEL", &one, &host.bin_dir());
        for (key, value) in &mut env {
            if *key == "CNI_NETNS" {
                *value = env_of("DEL", &two, &host.bin_dir())
                    .iter()
                    .find(|(k, _)| *k == "CNI_NETNS")
                    .unwrap()
                    .1
                    .clone();
            }
        }
        host.call_env(&Bridge, &conf, &env).expect("DEL by a path that is another's");
        host.call(&Bridge, "CHECK", &two, &after(&conf, Version::V1_1_0, &of_two)).expect("two is whole");
        assert_eq!((veths(host), leases(host).len()), (1, 2), "one is gone");
        assert!(!host.sh("nft list ruleset").contains(&one.id));
    });
}

#[test]
fn bridge_late_failure_of_a_second_add_leaves_the_first() {
    on_new_host(|host| {
        let (pod, conf) = (host.new_pod(), conf(host, json!({ "ipMasq": true, "macspoofchk": true })));
        let result = add(host, &pod, &conf);
        let error = host.call(&Bridge, "ADD", &pod, &conf).expect_err("eth0 is there already");
        assert!(error["msg"].as_str().unwrap().contains("eth0 exists already"), "{error}");
        host.call(&Bridge, "CHECK", &pod, &after(&conf, Version::V1_1_0, &result)).expect("CHECK");
    });
}

/// Each backend's rules come with ADD and go with DEL.
fn masquerades(backend: &Value, lists: &str, shows: &str) {
    in_every_version(|host, version| {
        let keys = json!({ "ipMasq": true, "ipMasqBackend": backend });
        let (pod, conf) = (host.new_pod(), at(&conf(host, keys), version));
        let before = host.sh(lists);
        let result = add(host, &pod, &conf);
        let rules = host.sh(lists);
        assert!(rules.contains(shows) && !before.contains(shows), "{rules}");
        del(host, &pod, &after(&conf, version, &result));
        assert!(!host.sh(lists).contains(shows));
    });
}

#[test]
fn bridge_masq_backend_default_and_nftables() {
    for backend in [Value::Null, json!("nftables")] {
        masquerades(&backend, "nft list ruleset", "masquerade");
    }
}

#[test]
fn bridge_masq_backend_iptables() {
    masquerades(&json!("iptables"), "iptables -t nat -S; ip6tables -t nat -S", "-j MASQUERADE");
}

#[test]
fn bridge_spoof_rules_come_and_go() {
    in_every_version(|host, version| {
        let (pod, conf) = (host.new_pod(), at(&conf(host, json!({ "macspoofchk": true })), version));
        let result = add(host, &pod, &conf);
        let rules = host.sh("nft list ruleset");
        let mac = pod.link("eth0").expect("eth0").mac_text();
        assert!(rules.contains(&mac) && rules.contains(&port(host).id.name), "{rules}");
        assert!(pod.reaches("10.1.2.1"), "its own address may send");
        pod.sh("ip link set eth0 address 02:00:00:00:00:99");
        assert!(pod.is_ignored_by("10.1.2.1"), "a forged one may not");
        del(host, &pod, &after(&conf, version, &result));
        assert_eq!(host.sh("nft list ruleset"), "");
    });
}

#[test]
fn bridge_container_down() {
    on_new_host(|host| {
        let keys = json!({ "ipam": {}, "disableContainerInterface": true });
        let (pod, conf) = (host.new_pod(), conf(host, keys));
        let result = add(host, &pod, &conf);
        assert!(!pod.link("eth0").expect("eth0").is_up());
        let after = after(&conf, Version::V1_1_0, &result);
        host.call(&Bridge, "CHECK", &pod, &after).expect("CHECK");
        del(host, &pod, &after);
        let both = with(&conf, "ipam", host.host_local(&SUBNETS));
        let error = host.call(&Bridge, "ADD", &pod, &both).expect_err("no use for addresses");
        assert_eq!(error["code"], 7);
        assert!(error["msg"].as_str().unwrap().contains("disableContainerInterface"), "{error}");
        assert_eq!((veths(host), leases(host)), (0, vec![]));
    });
}

#[test]
fn bridge_ensure_addr_conflicts_with_and_without_force_address() {
    let (v4, v6) = ("10.1.2.1/24", "2001:db8:1::1/64");
    for (present, conflicts) in [
        ("192.0.2.9/24", true),
        (v4, false),
        ("2001:db8:1::9/64", true),
        ("2001:db8:9::1/64", false),
        (v6, false),
    ] {
        for force in [false, true] {
            in_every_version(|host, version| {
                host.sh(&format!("ip link add br0 type bridge; ip address add {present} dev br0 nodad"));
                let conf = at(&conf(host, json!({ "forceAddress": force })), version);
                let added = host.call(&Bridge, "ADD", &host.new_pod(), &conf);
                if conflicts && !force {
                    let error = added.expect_err("an address is in the way");
                    let wanted = if present.contains(':') { v6 } else { v4 };
                    let said = format!("br0 already has address {present}, which differs from {wanted}");
                    assert_eq!(error["msg"], said, "{present}");
                    assert_eq!((veths(host), leases(host)), (0, vec![]));
                    return;
                }
                added.expect("ADD");
                let addresses = host.sh("ip -o address show dev br0 scope global");
                assert_eq!(addresses.contains(present), !conflicts, "{addresses}");
                assert!(addresses.contains(v4) && addresses.contains(v6), "{addresses}");
            });
        }
    }
}

#[test]
fn bridge_duplicate_detection_is_waited_for() {
    on_new_host(|host| {
        let (pod, conf) = (host.new_pod(), conf(host, json!({ "enabledad": true })));
        add(host, &pod, &conf);
        let sysctl = pod.sh("cd /proc/sys/net/ipv6/conf/eth0; cat accept_dad enhanced_dad");
        assert_eq!(sysctl, "1\n1\n");
        let addresses = pod.sh("ip -6 address show dev eth0 scope global");
        assert!(addresses.contains("2001:db8:1::2/64") && !addresses.contains("tentative"), "{addresses}");
        // Somebody else on the link has the next address.
        let other = host.new_pod();
        let squatter = with(&conf, "ipam", json!({}));
        add(host, &other, &squatter);
        other.sh("ip address add 2001:db8:1::3/64 dev eth0 nodad");
        let error = host.call(&Bridge, "ADD", &host.new_pod(), &conf).expect_err("a duplicate");
        assert!(error["msg"].as_str().unwrap().contains("2001:db8:1::3/64 is in use"), "{error}");
    });
}

#[test]
fn bridge_status_is_ipams_and_the_bridges() {
    on_new_host(|host| {
        let (pod, conf) = (host.new_pod(), conf(host, json!({ "ipMasq": true, "macspoofchk": true })));
        host.call(&Bridge, "STATUS", &pod, &conf).expect("STATUS");
        host.sh("ip link add br0 type veth peer name other0");
        let error = host.call(&Bridge, "STATUS", &pod, &conf).expect_err("no bridge can be made");
        assert_eq!(error["code"], 50, "{error}");
        host.sh("ip link del br0");
        let mut tiny = conf.clone();
        tiny["ipam"] = host.host_local(&["10.1.3.0/30"]);
        add(host, &pod, &tiny);
        let error = host.call(&Bridge, "STATUS", &pod, &tiny).expect_err("the pool is used up");
        assert_eq!(error["code"], 50, "{error}");
    });
}
