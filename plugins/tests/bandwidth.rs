//! bandwidth in namespaces of its own.

mod support;

use std::os::fd::AsFd;

use kernel::link::{self, Kind, Link, LinkId, NewEnd, Switch};
use kernel::tc::{self, Tbf};
use plugins::bandwidth::Bandwidth;
use serde_json::{Value, json};
use support::{Host, Pod, env_of, on_new_host, reference, with};

/// A pod on a veth called `outer`, and the result of whatever made it.
fn wired(host: &Host, outer: &str) -> (Pod, Value) {
    let pod = host.new_pod();
    let result = wire(host, &pod, outer, "eth0");
    (pod, result)
}

fn wire(host: &Host, pod: &Pod, outer: &str, inner: &str) -> Value {
    let peer = NewEnd { name: inner, mtu: Some(1400), netns: Some(pod.netns.as_fd()), ..NewEnd::default() };
    let near = NewEnd { name: outer, mtu: Some(1400), up: true, ..NewEnd::default() };
    host.socket().apply(&[link::create(&near, &Kind::Veth { peer })]).expect("a veth");
    json!({
        "cniVersion": "1.0.0",
        "interfaces": [{ "name": outer }, { "name": inner, "sandbox": pod.path }],
        "ips": [{ "address": "10.1.0.2/24", "interface": 1 }],
    })
}

fn conf(limits: &Value, prev: &Value) -> Value {
    let mut conf = json!({ "cniVersion": "1.0.0", "name": "net", "type": "bandwidth", "prevResult": prev });
    conf.as_object_mut().expect("an object").extend(limits.as_object().expect("an object").clone());
    conf
}

fn both() -> Value {
    json!({ "ingressRate": 8000, "ingressBurst": 16000, "egressRate": 16000, "egressBurst": 8000 })
}

/// 1 kB/s with a bucket of 2 s, and 2 kB/s with one of half a second, each with room for 25 ms more.
const INGRESS: Tbf = Tbf { rate: 1000, buffer: 31_250_000, limit: 2025 };
const EGRESS: Tbf = Tbf { rate: 2000, buffer: 7_812_500, limit: 1050 };

fn root_bucket(host: &Host, link: &LinkId) -> Option<Tbf> {
    let qdiscs = tc::qdiscs(&mut host.socket(), link.index).expect("qdiscs");
    qdiscs.iter().find(|qdisc| qdisc.is_root()).and_then(|qdisc| qdisc.tbf)
}

fn ifbs(host: &Host) -> Vec<Link> {
    let mut ifbs = host.links();
    ifbs.retain(|link| link.kind == "ifb");
    ifbs
}

fn redirects(host: &Host, veth: &str) -> Vec<u32> {
    let veth = host.link(veth).expect("the veth");
    let filters = tc::ingress_filters(&mut host.socket(), veth.id.index).expect("filters");
    filters.into_iter().flat_map(|filter| filter.redirects).collect()
}

fn shared_name(pod: &Pod) -> String {
    format!("bwp{}", plugins::owner::digest(&format!("net{}", pod.id), 12))
}

fn message(answer: Result<Value, Value>) -> String {
    answer.expect_err("refused")["msg"].as_str().expect("text").to_owned()
}

#[test]
fn both_ways_ingress_off_egress_off_names_and_rates_exact() {
    for (ingress, egress) in [(true, true), (false, true), (true, false), (false, false)] {
        on_new_host(|host| {
            let (pod, prev) = wired(host, "veth0");
            let mut limits = both();
            for (key, value) in limits.as_object_mut().expect("an object") {
                if !(if key.starts_with("in") { ingress } else { egress }) {
                    *value = json!(0);
                }
            }
            let conf = conf(&limits, &prev);
            let result = host.call(&Bandwidth, "ADD", &pod, &conf).expect("ADD");
            let veth = host.link("veth0").expect("the veth");
            assert_eq!(root_bucket(host, &veth.id), ingress.then_some(INGRESS));
            let made = ifbs(host);
            assert_eq!(made.len(), usize::from(egress));
            let interfaces = result["interfaces"].as_array().expect("a list");
            assert_eq!(interfaces.len(), 2 + made.len());
            for ifb in &made {
                assert_eq!(
                    (ifb.id.name.as_str(), ifb.mtu, ifb.txqlen),
                    (shared_name(&pod).as_str(), 1400, 0)
                );
                assert!(ifb.is_up() && ifb.alias.contains(&pod.id), "{ifb:?}");
                assert_eq!(root_bucket(host, &ifb.id), Some(EGRESS));
                assert_eq!(redirects(host, "veth0"), [ifb.id.index]);
                assert_eq!(
                    interfaces[2],
                    json!({ "name": ifb.id.name, "mac": ifb.mac_text() , "mtu": 1400 })
                );
            }
            let after = with(&conf, "prevResult", result);
            host.call(&Bandwidth, "CHECK", &pod, &after).expect("CHECK");
            host.call(&Bandwidth, "DEL", &pod, &after).expect("DEL");
            assert!(ifbs(host).is_empty());
        });
    }
}

#[test]
fn bad_pair_and_other_wrong_limits_name_key_and_value() {
    on_new_host(|host| {
        let (pod, prev) = wired(host, "veth0");
        for (limits, expected) in [
            (json!({ "ingressRate": 1000 }), "ingressBurst: 0 with ingressRate 1000"),
            (json!({ "ingressBurst": 1000 }), "ingressRate: 0 with ingressBurst 1000"),
            (json!({ "egressRate": 1000, "egressBurst": 0 }), "egressBurst: 0 with egressRate 1000"),
            (json!({ "egressBurst": 1000 }), "egressRate: 0 with egressBurst 1000"),
            (json!({ "egressRate": 7, "egressBurst": 80 }), "egressRate: 7 is below 8 bits"),
            (json!({ "egressRate": 80, "egressBurst": 7 }), "egressBurst: 7 is below 8 bits"),
            (
                json!({ "egressRate": 9_300_000_000_000_000_000_u64, "egressBurst": 1 << 30 }),
                "egressBurst: 1073741824 is less than what egressRate 9300000000000000000 lets through",
            ),
            (json!({ "ingressRate": -1, "ingressBurst": 8 }), "ingressRate: -1 is not an integer"),
            (
                json!({ "runtimeConfig": { "bandwidth": { "ingressRate": 1000 } } }),
                "runtimeConfig.bandwidth.ingressBurst: 0 with runtimeConfig.bandwidth.ingressRate 1000",
            ),
        ] {
            let conf = conf(&limits, &prev);
            let refused = message(host.call(&Bandwidth, "ADD", &pod, &conf));
            assert!(refused.starts_with(expected), "{refused}");
            host.call(&Bandwidth, "DEL", &pod, &conf).expect("DEL takes any limits");
        }
        assert_eq!(root_bucket(host, &host.link("veth0").expect("the veth").id), None);
        assert!(ifbs(host).is_empty());
    });
}

#[test]
fn burst_4gb_is_refused_and_one_step_below_accepted() {
    on_new_host(|host| {
        let (pod, prev) = wired(host, "veth0");
        let most = u64::from(u32::MAX) * 8;
        for direction in ["ingress", "egress"] {
            let limits = |burst: u64| {
                let mut limits = json!({});
                limits[format!("{direction}Rate")] = json!(8000);
                limits[format!("{direction}Burst")] = json!(burst);
                conf(&limits, &prev)
            };
            for burst in [most, most + 8, u64::MAX] {
                let refused = message(host.call(&Bandwidth, "ADD", &pod, &limits(burst)));
                assert!(
                    refused.starts_with(&format!("{direction}Burst: {burst} is 4 GiB or more")),
                    "{refused}"
                );
            }
            host.call(&Bandwidth, "ADD", &pod, &limits(most - 8)).expect("one step below");
        }
    });
}

#[test]
fn runtime_config_works() {
    on_new_host(|host| {
        let (pod, prev) = wired(host, "veth0");
        let runtime = json!({ "runtimeConfig": { "bandWidth": both() } });
        host.call(&Bandwidth, "ADD", &pod, &conf(&runtime, &prev)).expect("ADD");
        let veth = host.link("veth0").expect("the veth");
        assert_eq!((root_bucket(host, &veth.id), ifbs(host).len()), (Some(INGRESS), 1));
    });
}

#[test]
fn static_wins_over_runtime_config() {
    on_new_host(|host| {
        let (pod, prev) = wired(host, "veth0");
        let limits = json!({ "ingressRate": 0, "runtimeConfig": { "bandwidth": both() } });
        host.call(&Bandwidth, "ADD", &pod, &conf(&limits, &prev)).expect("ADD");
        let veth = host.link("veth0").expect("the veth");
        assert_eq!((root_bucket(host, &veth.id), ifbs(host).len()), (None, 0), "any key at the top wins");
    });
}

#[test]
fn many_host_veths_no_peer_no_interfaces_peer_not_in_prev_result() {
    on_new_host(|host| {
        let (pod, mut prev) = wired(host, "veth0");
        let _other = wired(host, "veth1");
        prev["interfaces"].as_array_mut().expect("a list").insert(0, json!({ "name": "veth1" }));
        host.call(&Bandwidth, "ADD", &pod, &conf(&both(), &prev)).expect("many host veths");
        assert_eq!(root_bucket(host, &host.link("veth1").expect("the other").id), None);
        let mut elsewhere = prev.clone();
        elsewhere["interfaces"][1]["sandbox"] = json!("/somewhere");
        let other = json!({ "cniVersion": "1.0.0", "interfaces": [{ "name": "veth1" }] });
        for lacking in [other, elsewhere, json!({ "cniVersion": "1.0.0" })] {
            let refused = message(host.call(&Bandwidth, "ADD", &pod, &conf(&both(), &lacking)));
            assert!(
                refused.contains("veth0, the other end of eth0, is not among prevResult's interfaces"),
                "{refused}"
            );
        }
        let dummy = host.new_pod();
        dummy.sh("ip link add eth0 type bridge");
        let refused = message(host.call(&Bandwidth, "ADD", &dummy, &conf(&both(), &prev)));
        assert!(refused.contains("eth0 has no other end on the host"), "{refused}");
        let bare = host.new_pod();
        let refused = message(host.call(&Bandwidth, "ADD", &bare, &conf(&both(), &prev)));
        assert!(refused.contains("no interface eth0 in"), "{refused}");
        let mut alone = conf(&both(), &prev);
        alone.as_object_mut().expect("an object").remove("prevResult");
        let refused = message(host.call(&Bandwidth, "ADD", &pod, &alone));
        assert!(refused.starts_with("prevResult: missing"), "{refused}");
    });
}

#[test]
fn add_again_changes_nothing_and_a_second_interface_gets_an_ifb_of_its_own() {
    on_new_host(|host| {
        let (mut pod, prev) = wired(host, "veth0");
        let first = conf(&both(), &prev);
        let result = host.call(&Bandwidth, "ADD", &pod, &first).expect("ADD");
        assert_eq!(host.call(&Bandwidth, "ADD", &pod, &first).expect("ADD again"), result);
        assert_eq!((ifbs(host).len(), redirects(host, "veth0").len()), (1, 1));
        let prev = wire(host, &pod, "veth1", "eth1");
        pod.ifname = "eth1".into();
        let second = conf(&both(), &prev);
        let result = host.call(&Bandwidth, "ADD", &pod, &second).expect("ADD of eth1");
        let second = with(&second, "prevResult", result);
        host.call(&Bandwidth, "CHECK", &pod, &second).expect("CHECK of eth1");
        let names: Vec<String> = ifbs(host).into_iter().map(|ifb| ifb.id.name).collect();
        assert!(names.len() == 2 && names.contains(&shared_name(&pod)), "{names:?}");
        host.call(&Bandwidth, "DEL", &pod, &second).expect("DEL of eth1");
        assert_eq!(ifbs(host)[0].id.name, shared_name(&pod), "eth0 keeps its own");
        pod.ifname = "eth0".into();
        host.call(&Bandwidth, "CHECK", &pod, &first).expect("eth0 is as it was");
        host.call(&Bandwidth, "DEL", &pod, &first).expect("DEL of eth0");
        assert!(ifbs(host).is_empty());
    });
}

#[test]
fn existing_clsact_with_foreign_filters_is_tolerated_and_kept() {
    on_new_host(|host| {
        let (pod, prev) = wired(host, "veth0");
        host.sh("tc qdisc add dev veth0 clsact");
        host.sh(
            "tc filter add dev veth0 ingress prio 1 protocol ip u32 match ip dport 53 0xffff classid 1:1",
        );
        let conf = conf(&both(), &prev);
        host.call(&Bandwidth, "ADD", &pod, &conf).expect("ADD");
        assert_eq!(redirects(host, "veth0"), [ifbs(host)[0].id.index]);
        assert!(host.sh("tc filter show dev veth0 ingress").contains("protocol ip pref 1 u32"));
        host.call(&Bandwidth, "ADD", &pod, &conf).expect("ADD again");
        assert_eq!(redirects(host, "veth0").len(), 1);
        host.call(&Bandwidth, "CHECK", &pod, &conf).expect("CHECK");
    });
}

#[test]
fn check_negative_every_missing_piece_is_found() {
    for (title, break_it, expected) in [
        ("the pod's bucket", "tc qdisc del dev veth0 root", "veth0 has no token bucket"),
        ("another kind of qdisc", "tc qdisc replace dev veth0 root pfifo", "veth0 has no token bucket"),
        (
            "another rate",
            "tc qdisc replace dev veth0 root handle 1: tbf rate 9kbit burst 2000 limit 2025",
            "the token bucket of veth0 is",
        ),
        ("the ifb's bucket", "tc qdisc del dev $IFB root", "has no token bucket"),
        ("the redirect", "tc qdisc del dev veth0 ingress", "is not redirected to"),
        ("the ifb", "ip link del $IFB", "there is no ifb"),
        ("the ifb down", "ip link set $IFB down", "is down"),
    ] {
        on_new_host(|host| {
            let (pod, prev) = wired(host, "veth0");
            let conf = conf(&both(), &prev);
            let result = host.call(&Bandwidth, "ADD", &pod, &conf).expect("ADD");
            let after = with(&conf, "prevResult", result);
            host.call(&Bandwidth, "CHECK", &pod, &after).expect("right after ADD");
            host.sh(&break_it.replace("$IFB", &ifbs(host)[0].id.name));
            let found = message(host.call(&Bandwidth, "CHECK", &pod, &after));
            assert!(found.contains(expected), "{title}: {found}");
        });
    }
}

#[test]
fn del_matrix_without_netns_prev_result_or_ifb_and_twice() {
    on_new_host(|host| {
        let (pod, prev) = wired(host, "veth0");
        let full = conf(&both(), &prev);
        let mut bare =
            json!({ "cniVersion": "1.0.0", "name": "net", "type": "bandwidth", "ingressRate": "?" });
        for netns in ["", "/no/such/netns"] {
            host.call(&Bandwidth, "ADD", &pod, &full).expect("ADD");
            let mut env = env_of("DEL", &pod, &host.bin_dir());
            env[2].1 = netns.into();
            host.call_env(&Bandwidth, &bare, &env).expect("DEL");
            assert!(ifbs(host).is_empty());
            host.call_env(&Bandwidth, &bare, &env).expect("DEL again");
        }
        bare["name"] = json!("other");
        host.call(&Bandwidth, "ADD", &pod, &full).expect("ADD");
        host.call(&Bandwidth, "DEL", &pod, &bare).expect("DEL of another network");
        assert_eq!(ifbs(host).len(), 1);
    });
}

#[test]
fn gc_matrix_removes_ifbs_of_dead_attachments_only() {
    on_new_host(|host| {
        let pods: Vec<Pod> = (0..3)
            .map(|n| {
                let (pod, prev) = wired(host, &format!("veth{n}"));
                let name = if n == 2 { "other" } else { "net" };
                host.call(&Bandwidth, "ADD", &pod, &with(&conf(&both(), &prev), "name", name)).expect("ADD");
                pod
            })
            .collect();
        host.sh("ip link add foreign0 type ifb && ip link add bwp012345678901 type ifb");
        let marked = host.link(&shared_name(&pods[1])).expect("an ifb").alias;
        host.sh(&format!("ip link add other0 type bridge && ip link set other0 alias '{marked}'"));
        let gc = |valid: Option<Value>| {
            let mut conf = json!({ "cniVersion": "1.1.0", "name": "net", "type": "bandwidth" });
            if let Some(valid) = valid {
                conf["cni.dev/valid-attachments"] = valid;
            }
            host.call(&Bandwidth, "GC", &pods[0], &conf).expect("GC");
            ifbs(host).len()
        };
        assert_eq!(gc(None), 5);
        assert_eq!(gc(Some(json!([{ "containerID": pods[0].id, "ifname": "eth0" }]))), 4);
        assert!(host.link(&shared_name(&pods[0])).is_some());
        assert_eq!(gc(Some(json!([]))), 3, "the other network's and the two without an owner");
        assert!(host.link("other0").is_some(), "other plugins' links are theirs to remove");
    });
}

#[test]
fn failed_add_leaves_nothing() {
    on_new_host(|host| {
        let (pod, prev) = wired(host, "veth0");
        let own = format!("bwp{}", plugins::owner::digest(&format!("net{}/eth0", pod.id), 12));
        host.sh(&format!("ip link add {} type bridge && ip link add {own} type bridge", shared_name(&pod)));
        let state = || {
            let links = host.links().into_iter().map(|link| (link.id.name, link.kind, link.alias));
            (links.collect::<Vec<_>>(), host.sh("tc qdisc"))
        };
        let before = state();
        let refused = message(host.call(&Bandwidth, "ADD", &pod, &conf(&both(), &prev)));
        assert!(refused.contains(&own) && refused.contains("taken"), "{refused}");
        assert_eq!(state(), before);
        assert_eq!(root_bucket(host, &host.link("veth0").expect("the veth").id), None);
        host.call(&Bandwidth, "DEL", &pod, &conf(&both(), &prev)).expect("DEL");
        assert!(host.link(&own).is_some(), "not an ifb, not ours");
    });
}

#[test]
fn mixed_fleet_reference_and_ours_check_and_delete_each_others_work() {
    let huge = json!({ "ingressRate": 1_000_000, "ingressBurst": i32::MAX, "egressRate": 1_000_000, "egressBurst": i32::MAX });
    for limits in [both(), huge.clone()] {
        on_new_host(|host| {
            let (pod, prev) = wired(host, "veth0");
            let by_reference = conf(&limits, &prev);
            let result = reference("bandwidth", "ADD", &pod, &by_reference).expect("the reference's ADD");
            let after = with(&by_reference, "prevResult", result);
            host.call(&Bandwidth, "CHECK", &pod, &after).expect("our CHECK");
            host.call(&Bandwidth, "DEL", &pod, &after).expect("our DEL");
            assert!(ifbs(host).is_empty());

            let (pod, prev) = wired(host, "veth1");
            let by_us = conf(&limits, &prev);
            let result = host.call(&Bandwidth, "ADD", &pod, &by_us).expect("our ADD");
            let after = with(&by_us, "prevResult", result);
            if limits != huge {
                reference("bandwidth", "CHECK", &pod, &after).expect("the reference's CHECK");
            }
            reference("bandwidth", "DEL", &pod, &after).expect("the reference's DEL");
            assert!(ifbs(host).is_empty());
        });
    }
}

#[test]
fn pass_through_without_limits() {
    on_new_host(|host| {
        let (pod, prev) = wired(host, "veth0");
        for limits in
            [json!({}), json!({ "runtimeConfig": {} }), json!({ "ingressRate": 0, "ingressBurst": null })]
        {
            let conf = conf(&limits, &prev);
            let result = host.call(&Bandwidth, "ADD", &pod, &conf).expect("ADD");
            assert_eq!(result["interfaces"], prev["interfaces"]);
            host.call(&Bandwidth, "CHECK", &pod, &conf).expect("CHECK");
            host.call(&Bandwidth, "DEL", &pod, &conf).expect("DEL");
        }
        let veth = host.link("veth0").expect("the veth");
        host.socket().apply(&[link::set_up(&veth.id, Switch::Off)]).expect("still there");
    });
}
