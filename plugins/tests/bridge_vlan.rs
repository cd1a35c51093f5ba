//! `bridge` and VLANs: the exact tables of the pod's port and of the bridge.
//!
//! A kernel may be built without VLAN filtering. There these tests run in a virtual machine.

mod support;

use std::sync::OnceLock;

use cni::Version;
use kernel::bridge::{VlanFlags, VlanTable};
use lab::vm::{kernel_filters_vlans, run_in_a_vm};
use plugins::bridge::Bridge;
use serde_json::{Value, json};
use support::{Host, after, env_of, leases, on_new_host, veths, with};

const ACCESS: VlanFlags = VlanFlags { pvid: true, untagged: true };
const TAGGED: VlanFlags = VlanFlags { pvid: false, untagged: false };
const UNTAGGED: VlanFlags = VlanFlags { pvid: false, untagged: true };

fn conf(version: Version, keys: Value) -> Value {
    let mut conf =
        json!({ "cniVersion": version.as_str(), "name": "net1", "type": "bridge", "bridge": "br0" });
    conf.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
    conf
}

fn table(host: &Host, name: &str) -> VlanTable {
    let link = host.link(name).expect("the link");
    kernel::bridge::vlans(&mut host.socket(), &link.id).expect("list VLANs")
}

fn port(host: &Host) -> String {
    let mut ports = host.links().into_iter().filter(|l| l.kind == "veth" && l.peer_netns.is_some());
    ports.next().expect("a port").id.name
}

/// Runs the test called `name` here if this kernel can; else all of this program's, once, in a virtual machine.
fn with_vlans(name: &str, test: impl FnOnce()) {
    if kernel_filters_vlans() {
        return test();
    }
    static OUTCOME: OnceLock<String> = OnceLock::new();
    let said = OUTCOME.get_or_init(|| run_in_a_vm("bridge_"));
    assert!(said.contains(&format!("test {name} ... ok")), "in the virtual machine:\n{said}");
}

/// One row in every version: the port's table after ADD, the bridge's own, CHECK, and nothing after DEL.
fn holds(keys: &Value, wanted: &[(u16, VlanFlags)]) {
    for version in Version::ALL {
        on_new_host(|host| {
            let mut conf = conf(version, keys.clone());
            if version < Version::V0_3_0 {
                // Layer 2 has no result in these versions.
                conf["ipam"] = host.host_local(&["10.1.2.0/24"]);
            }
            let pod = host.new_pod();
            let result = host.call(&Bridge, "ADD", &pod, &conf).unwrap_or_else(|e| panic!("ADD: {e}"));
            assert!(host.link("br0").expect("the bridge").bridge.expect("its state").vlan_filtering);
            assert_eq!(table(host, &port(host)), wanted.iter().copied().collect(), "{keys} {version}");
            assert_eq!(table(host, "br0"), [(1, ACCESS)].into(), "the bridge itself stays in VLAN 1");
            let after = after(&conf, version, &result);
            if version >= Version::V0_4_0 {
                host.call(&Bridge, "CHECK", &pod, &after).expect("CHECK");
                host.sh(&format!("bridge vlan add vid 77 dev {}", port(host)));
                host.call(&Bridge, "CHECK", &pod, &after).expect_err("one VLAN too many");
                host.sh(&format!(
                    "bridge vlan del vid 77 dev {0}; bridge vlan del vid {1} dev {0}",
                    port(host),
                    wanted[0].0
                ));
                host.call(&Bridge, "CHECK", &pod, &after).expect_err("one VLAN too few");
            }
            host.call(&Bridge, "DEL", &pod, &after).expect("DEL");
            assert_eq!((veths(host), leases(host)), (0, vec![]));
        });
    }
}

#[test]
fn bridge_l2_vlan_100() {
    with_vlans("bridge_l2_vlan_100", || {
        holds(&json!({ "vlan": 100 }), &[(100, ACCESS)]);
    });
}

#[test]
fn bridge_l2_trunk_101_and_200_to_210() {
    with_vlans("bridge_l2_trunk_101_and_200_to_210", || {
        let tagged = [101].into_iter().chain(200..=210).map(|id| (id, TAGGED));
        let wanted: Vec<_> = [(1, ACCESS)].into_iter().chain(tagged).collect();
        holds(&json!({ "vlanTrunk": [{ "id": 101 }, { "minID": 200, "maxID": 210 }] }), &wanted);
    });
}

#[test]
fn bridge_vlan_and_trunk() {
    with_vlans("bridge_vlan_and_trunk", || {
        let keys = json!({ "vlan": 100, "vlanTrunk": [{ "id": 101 }, { "minID": 200, "maxID": 201 }] });
        holds(&keys, &[(100, ACCESS), (101, TAGGED), (200, TAGGED), (201, TAGGED)]);
    });
}

#[test]
fn bridge_no_default_vlan_unless_preserved() {
    with_vlans("bridge_no_default_vlan_unless_preserved", || {
        holds(&json!({ "vlan": 100, "preserveDefaultVlan": false }), &[(100, ACCESS)]);
        holds(&json!({ "vlan": 100, "preserveDefaultVlan": true }), &[(1, UNTAGGED), (100, ACCESS)]);
    });
}

/// The gateway of a VLAN has a link of its own, made by the first pod and gone with the last.
#[test]
fn bridge_l3_vlan_gw() {
    with_vlans("bridge_l3_vlan_gw", || {
        for version in Version::ALL {
            on_new_host(|host| {
                let subnets = ["10.1.2.0/24", "2001:db8:1::/64"];
                let keys =
                    json!({ "vlan": 100, "isDefaultGateway": true, "ipam": host.host_local(&subnets) });
                let conf = conf(version, keys);
                let [one, two] = [host.new_pod(), host.new_pod()];
                let first = host.call(&Bridge, "ADD", &one, &conf).unwrap_or_else(|e| panic!("ADD: {e}"));
                let second = host.call(&Bridge, "ADD", &two, &conf).expect("ADD");
                let addresses = host.sh("ip -o address show dev br0.100 scope global");
                assert!(
                    addresses.contains("10.1.2.1/24") && addresses.contains("2001:db8:1::1/64"),
                    "{addresses}"
                );
                assert!(!host.sh("ip -o address show dev br0").contains("10.1.2.1"));
                assert!(one.reaches("10.1.2.1") && two.reaches("2001:db8:1::1") && one.reaches("10.1.2.3"));
                if version >= Version::V0_3_0 {
                    assert_eq!(first["interfaces"][3]["name"], "br0.100");
                }
                if version >= Version::V0_4_0 {
                    host.call(&Bridge, "CHECK", &one, &after(&conf, version, &first)).expect("CHECK");
                }
                host.call(&Bridge, "DEL", &one, &after(&conf, version, &first)).expect("DEL");
                assert!(host.link("br0.100").is_some() && two.reaches("10.1.2.1"), "a pod still needs it");
                let mut env = env_of("DEL", &two, &host.bin_dir());
                env[2].1 = String::new();
                let last = after(&conf, version, &second);
                if version >= Version::V0_4_0 {
                    host.call_env(&Bridge, &last, &env).expect("DEL without the pod");
                } else {
                    host.call(&Bridge, "DEL", &two, &last).expect("DEL");
                }
                assert_eq!((host.link("br0.100"), veths(host)), (None, 0));
            });
        }
    });
}

#[test]
fn bridge_vlan_range_is_refused_by_the_plug_in() {
    on_new_host(|host| {
        for id in [-100, 5000] {
            let conf = with(&conf(Version::V1_1_0, json!({})), "vlan", id);
            let error = host.call(&Bridge, "ADD", &host.new_pod(), &conf).expect_err("no VLAN id");
            assert_eq!(error["msg"], format!("bridge: vlan: {id} is outside 0..4094"));
            assert_eq!(error["code"], 7);
            host.call(&Bridge, "DEL", &host.new_pod(), &conf).expect("DEL is tolerant");
        }
        assert!(host.links().is_empty());
    });
}

#[test]
fn bridge_vlans_are_refused_cleanly_by_a_kernel_without_them() {
    on_new_host(|host| {
        let keys = json!({ "vlan": 100, "ipam": host.host_local(&["10.1.2.0/24"]) });
        let added = host.call(&Bridge, "ADD", &host.new_pod(), &conf(Version::V1_1_0, keys));
        if kernel_filters_vlans() {
            added.expect("ADD");
            return;
        }
        let error = added.expect_err("a kernel without VLAN filtering refuses");
        let said = "bridge: vlan, vlanTrunk: this kernel's bridges cannot filter VLANs";
        assert!(error["msg"].as_str().unwrap().starts_with(said), "{error}");
        assert_eq!((host.links(), leases(host)), (vec![], vec![]));
    });
}
