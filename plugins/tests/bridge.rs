//! `bridge` with host-local in namespaces of its own, in every version: addresses, routes, DNS, results.

mod support;

use cni::Version;
use plugins::bridge::Bridge;
use plugins::host_local::HostLocal;
use serde_json::{Value, json};
use support::{Host, Pod, addresses, after, env_of, leases, on_new_host, veths, with};

fn conf(version: Version, keys: Value) -> Value {
    let mut conf = json!({
        "cniVersion": version.as_str(), "name": "net1", "type": "bridge", "bridge": "br0",
    });
    conf.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
    conf
}

fn gateway_conf(host: &Host, version: Version, subnets: &[&str]) -> Value {
    conf(version, json!({ "isDefaultGateway": true, "ipMasq": false, "ipam": host.host_local(subnets) }))
}

/// ADD, then what every attachment has, CHECK where the version has it, DEL twice, and nothing left.
fn add_check_del(host: &Host, version: Version, conf: &Value, inspect: impl FnOnce(&Pod, &Value)) {
    let pod = host.new_pod();
    let result = host.call(&Bridge, "ADD", &pod, conf).unwrap_or_else(|e| panic!("{version}: ADD: {e}"));
    assert_eq!(result["cniVersion"], version.as_str());
    assert_eq!(host.link("br0").expect("the bridge").kind, "bridge");
    assert_eq!(pod.addresses("eth0"), addresses(&result), "{version}");
    inspect(&pod, &result);
    let after = after(conf, version, &result);
    if version >= Version::V0_4_0 {
        host.call(&Bridge, "CHECK", &pod, &after).unwrap_or_else(|e| panic!("{version}: CHECK: {e}"));
        host.call(&Bridge, "CHECK", &pod, &after).expect("CHECK again");
    }
    for _ in 0..2 {
        host.call(&Bridge, "DEL", &pod, &after).unwrap_or_else(|e| panic!("{version}: DEL: {e}"));
        assert!(pod.link("eth0").is_none());
        assert_eq!((veths(host), leases(host)), (0, Vec::<String>::new()));
    }
    assert!(host.link("br0").is_some(), "the bridge stays");
}

#[test]
fn bridge_add_del_of_v4_v6_dual_stack_and_three_subnets() {
    let rows: [(&str, &[&str]); 4] = [
        ("v4", &["10.1.2.0/24"]),
        ("v6", &["2001:db8:1::/64"]),
        ("dual stack", &["10.1.2.0/24", "2001:db8:1::/64"]),
        ("three subnets", &["192.168.0.0/24", "192.168.1.0/24", "192.168.2.0/24"]),
    ];
    for version in Version::ALL {
        for (name, subnets) in rows {
            if version < Version::V0_3_0 && subnets.len() == 3 {
                continue;
            }
            on_new_host(|host| {
                let mut conf = gateway_conf(host, version, subnets);
                // Several IPv4 gateways on one bridge are in each other's way.
                if subnets.len() == 3 {
                    conf = with(&with(&conf, "isDefaultGateway", false), "isGateway", false);
                }
                add_check_del(host, version, &conf, |pod, _| {
                    assert_eq!(pod.addresses("eth0").len(), subnets.len(), "{name}");
                    if name.contains('6') || name.contains("dual") {
                        let sysctl =
                            pod.sh("cd /proc/sys/net/ipv6/conf/eth0; cat accept_dad keep_addr_on_down");
                        assert_eq!(sysctl, "0\n1\n", "{name}");
                        assert_eq!(host.sh("cat /proc/sys/net/ipv6/conf/br0/accept_ra"), "0\n");
                    }
                    if subnets.len() < 3 {
                        let routes = pod.sh("ip -4 route show default; ip -6 route show default");
                        assert_eq!(routes.matches("default via").count(), subnets.len(), "{name}: {routes}");
                    }
                });
            });
        }
    }
}

#[test]
fn bridge_create_and_the_result_lists_bridge_host_end_and_container_end() {
    on_new_host(|host| {
        let conf = with(&gateway_conf(host, Version::V1_1_0, &["10.1.2.0/24"]), "mtu", 1400);
        add_check_del(host, Version::V1_1_0, &conf, |pod, result| {
            let eth0 = pod.link("eth0").expect("eth0");
            let host_end = host.links().into_iter().find(|l| l.kind == "veth").expect("a host end");
            let bridge = host.link("br0").expect("the bridge");
            assert_eq!(
                result,
                &json!({
                    "cniVersion": "1.1.0",
                    "interfaces": [
                        { "name": "br0", "mac": bridge.mac_text(), "mtu": 1400 },
                        { "name": host_end.id.name, "mac": host_end.mac_text(), "mtu": 1400 },
                        { "name": "eth0", "mac": eth0.mac_text(), "mtu": 1400, "sandbox": pod.path },
                    ],
                    "ips": [{ "interface": 2, "address": "10.1.2.2/24", "gateway": "10.1.2.1" }],
                    "routes": [{ "dst": "0.0.0.0/0", "gw": "10.1.2.1" }],
                })
            );
            assert_eq!(pod.sh("cat /proc/sys/net/ipv4/conf/eth0/arp_notify"), "1\n");
            assert_eq!(host.sh("cat /proc/sys/net/ipv4/ip_forward"), "1\n");
        });
    });
}

/// CHECK right after ADD, again, and after the IPAM plug-in's own.
#[test]
fn bridge_add_check_del() {
    for version in Version::ALL.into_iter().filter(|version| *version >= Version::V0_4_0) {
        on_new_host(|host| {
            let conf = with(&gateway_conf(host, version, &["10.1.2.0/24"]), "ipMasq", true);
            let pod = host.new_pod();
            let result = host.call(&Bridge, "ADD", &pod, &conf).expect("ADD");
            let after = after(&conf, version, &result);
            host.call(&Bridge, "CHECK", &pod, &after).expect("CHECK");
            host.call(&HostLocal, "CHECK", &pod, &after).expect("the IPAM plug-in's CHECK");
            host.call(&Bridge, "CHECK", &pod, &after).expect("CHECK again");
            let without = with(&after, "prevResult", Value::Null);
            let error = host.call(&Bridge, "CHECK", &pod, &without).expect_err("no prevResult");
            assert_eq!(error["msg"], "bridge: prevResult: CHECK needs it");
            host.call(&Bridge, "DEL", &pod, &after).expect("DEL");
            host.call(&Bridge, "CHECK", &pod, &after).expect_err("CHECK after DEL");
        });
    }
}

#[test]
fn bridge_dns_of_resolv_conf_is_in_the_result() {
    for version in Version::ALL {
        on_new_host(|host| {
            std::fs::create_dir_all(host.state_dir()).unwrap();
            let file = host.state_dir().join("resolv.conf");
            std::fs::write(&file, "nameserver 192.0.2.0\n").unwrap();
            let mut conf = gateway_conf(host, version, &["10.1.2.0/24"]);
            conf["ipam"]["resolvConf"] = json!(file);
            add_check_del(host, version, &conf, |_, result| {
                assert_eq!(result["dns"], json!({ "nameservers": ["192.0.2.0"] }));
            });
            let own = with(&conf, "dns", json!({ "nameservers": [] }));
            add_check_del(host, version, &own, |_, result| {
                assert!(result["dns"].as_object().is_none_or(|dns| dns.is_empty()), "{result}");
            });
        });
    }
}

#[test]
fn bridge_existing_bridge_is_reused() {
    for version in Version::ALL {
        on_new_host(|host| {
            host.sh("ip link add br0 type bridge");
            let before = host.link("br0").expect("the bridge");
            let conf = gateway_conf(host, version, &["10.1.2.0/24"]);
            add_check_del(host, version, &conf, |_, _| {
                assert_eq!(host.link("br0").expect("the bridge").id, before.id);
            });
        });
    }
}

#[test]
fn bridge_name_of_another_link_is_refused() {
    on_new_host(|host| {
        host.sh("ip link add br0 type veth peer name other0");
        let conf = gateway_conf(host, Version::V1_1_0, &["10.1.2.0/24"]);
        let error = host.call(&Bridge, "ADD", &host.new_pod(), &conf).expect_err("no bridge");
        assert_eq!(error["code"], 7);
        assert_eq!(error["msg"], "bridge: bridge: `br0` exists already and is no bridge but a veth");
        assert_eq!(leases(host), Vec::<String>::new());
    });
}

#[test]
fn bridge_l2_without_ipam() {
    for version in Version::ALL {
        on_new_host(|host| {
            let conf = conf(version, json!({}));
            if version < Version::V0_3_0 {
                let pod = host.new_pod();
                let added = host.call(&Bridge, "ADD", &pod, &conf);
                let error = added.expect_err("a result without addresses has no form in 0.1 and 0.2");
                assert!(error["msg"].as_str().unwrap().contains("no valid IP addresses"), "{error}");
                assert_eq!((veths(host), pod.link("eth0")), (0, None), "nothing is left");
                return;
            }
            add_check_del(host, version, &conf, |pod, result| {
                assert!(pod.link("eth0").expect("eth0").is_up());
                assert!(result["ips"].is_null(), "{result}");
            });
        });
    }
}

#[test]
fn bridge_del_unconfigured() {
    for version in Version::ALL {
        on_new_host(|host| {
            let conf = gateway_conf(host, version, &["10.1.2.0/24"]);
            let pod = host.new_pod();
            host.call(&Bridge, "DEL", &pod, &conf).expect("DEL without ADD");
            for netns in ["", "/no/such/netns"] {
                let mut env = env_of("DEL", &pod, &host.bin_dir());
                env[2].1 = netns.to_owned();
                host.call_env(&Bridge, &conf, &env).expect("DEL without a namespace");
            }
            assert!(host.links().is_empty(), "DEL makes nothing");
        });
    }
}
