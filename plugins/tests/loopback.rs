//! `loopback` in namespaces of its own, in every version.

mod support;

use cni::Version;
use plugins::loopback::Loopback;
use serde_json::{Value, json};
use support::{after, on_new_host, with};

fn conf(version: Version) -> Value {
    json!({ "cniVersion": version.as_str(), "name": "lo", "type": "loopback" })
}

#[test]
fn loopback_add_sets_lo_up_and_del_sets_it_down() {
    for version in Version::ALL {
        on_new_host(|host| {
            let (pod, conf) = (host.new_pod(), conf(version));
            let result = host.call(&Loopback, "ADD", &pod, &conf).expect("ADD");
            assert!(pod.link("lo").expect("lo").is_up());
            let after = after(&conf, version, &result);
            if version >= Version::V0_4_0 {
                host.call(&Loopback, "CHECK", &pod, &after).expect("CHECK after ADD");
            }
            host.call(&Loopback, "DEL", &pod, &after).expect("DEL");
            assert!(!pod.link("lo").expect("lo").is_up());
            if version >= Version::V0_4_0 {
                let error = host.call(&Loopback, "CHECK", &pod, &after).expect_err("CHECK after DEL");
                assert_eq!(error["msg"], "lo is down");
            }
            host.call(&Loopback, "DEL", &pod, &after).expect("DEL again");
        });
    }
}

#[test]
fn loopback_result_has_both_families() {
    on_new_host(|host| {
        let pod = host.new_pod();
        let result = host.call(&Loopback, "ADD", &pod, &conf(Version::V1_1_0)).expect("ADD");
        assert_eq!(
            result,
            json!({
                "cniVersion": "1.1.0",
                "interfaces": [{ "name": "lo", "mac": "00:00:00:00:00:00", "sandbox": pod.path }],
                "ips": [{ "interface": 0, "address": "127.0.0.1/8" }, { "interface": 0, "address": "::1/128" }],
            })
        );
        let old = host.call(&Loopback, "ADD", &pod, &conf(Version::V0_2_0)).expect("ADD");
        assert_eq!((&old["ip4"]["ip"], &old["ip6"]["ip"]), (&json!("127.0.0.1/8"), &json!("::1/128")));
    });
}

#[test]
fn loopback_prev_result_is_passed_through() {
    on_new_host(|host| {
        let pod = host.new_pod();
        let prev =
            json!({ "cniVersion": "1.0.0", "interfaces": [{ "name": "eth0" }], "dns": { "domain": "x" } });
        let conf = with(&conf(Version::V1_0_0), "prevResult", prev.clone());
        assert_eq!(host.call(&Loopback, "ADD", &pod, &conf).expect("ADD"), prev);
    });
}

#[test]
fn loopback_with_a_stranger_on_lo_is_an_error() {
    on_new_host(|host| {
        let pod = host.new_pod();
        pod.sh("ip address add 10.9.9.9/32 dev lo");
        let error = host.call(&Loopback, "ADD", &pod, &conf(Version::V1_1_0)).expect_err("a stranger");
        assert_eq!(error["msg"], "lo has 10.9.9.9/32, which is no loopback address");
    });
}

#[test]
fn loopback_del_without_a_namespace_succeeds() {
    on_new_host(|host| {
        let pod = host.new_pod();
        for netns in ["", "/no/such/netns", "/etc/hostname"] {
            let mut env = support::env_of("DEL", &pod, &host.bin_dir());
            env.iter_mut().find(|(key, _)| *key == "CNI_NETNS").expect("the variable").1 = netns.to_owned();
            host.call_env(&Loopback, &conf(Version::V1_1_0), &env).expect("DEL");
        }
        let mut env = support::env_of("ADD", &pod, &host.bin_dir());
        env[2].1 = "/etc/hostname".into();
        let error = host.call_env(&Loopback, &conf(Version::V1_1_0), &env).expect_err("no namespace");
        assert_eq!(error["code"], 8);
        assert!(error["msg"].as_str().unwrap().contains("/etc/hostname"), "{error}");
    });
}
