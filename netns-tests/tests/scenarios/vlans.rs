//! bridge with VLANs: access ports, trunks, and a gateway in a VLAN.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use lab::network::Request;
use lab::traffic::{Server, ask_tcp, is_silent_ping, ping};
use lab::{Network, Space, on_both_with_vlans};
use serde_json::{Value, json};

use crate::conflists::{bridge, list};

/// The VLANs of a port, expanded; PVID and untagged ones marked.
fn table(space: &Space, port: &str) -> BTreeMap<u64, BTreeSet<String>> {
    let listed: Value = serde_json::from_str(&space.sh("bridge -j -c vlan")).unwrap();
    let of_port = listed.as_array().unwrap().iter().find(|entry| entry["ifname"] == port);
    let vlans = of_port.and_then(|entry| entry["vlans"].as_array()).cloned().unwrap_or_default();
    let mut table = BTreeMap::new();
    for vlan in &vlans {
        let flags = vlan["flags"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let flags: BTreeSet<String> = flags.map(str::to_owned).collect();
        let first = vlan["vlan"].as_u64().unwrap();
        for id in first..=vlan["vlanEnd"].as_u64().unwrap_or(first) {
            table.insert(id, flags.clone());
        }
    }
    table
}

fn untagged(ids: &[u64]) -> BTreeMap<u64, BTreeSet<String>> {
    let flags: BTreeSet<String> = ["Egress Untagged", "PVID"].map(str::to_owned).into();
    ids.iter().map(|id| (*id, flags.clone())).collect()
}

fn tagged(ids: impl IntoIterator<Item = u64>) -> BTreeMap<u64, BTreeSet<String>> {
    ids.into_iter().map(|id| (id, BTreeSet::new())).collect()
}

/// Runs a layer-2 bridge with these keys and gives the port's and the bridge's table.
fn tables(node: &lab::Node, subject: &lab::Subject, keys: Value) -> [BTreeMap<u64, BTreeSet<String>>; 2] {
    let mut plugin = json!({"type": "bridge", "bridge": "cni0"});
    for (key, value) in keys.as_object().into_iter().flatten() {
        plugin[key] = value.clone();
    }
    let network = Network::new(subject, list("flat", json!([plugin])));
    let pod = node.pod("a");
    let on_a = network.add(node, &pod, Request::default()).unwrap();
    let seen = [table(node, &on_a.host_end("veth")), table(node, "cni0")];
    on_a.del(node).unwrap();
    node.delete_bridge("cni0");
    pod.remove_netns_path();
    seen
}

on_both_with_vlans! {
    /// An access port carries its VLAN untagged, and pods of different VLANs don't meet.
    fn l2_vlan_100(node, subject) {
        let keys = |vlan: u64| json!([{"type": "bridge", "bridge": "cni0", "vlan": vlan, "preserveDefaultVlan": false}]);
        let in_100 = Network::new(subject, list("a-hundred", keys(100)));
        let in_200 = Network::new(subject, list("two-hundred", keys(200)));
        let pods: Vec<_> = ["a", "b", "c"].iter().map(|name| node.pod(name)).collect();
        let mut on = Vec::new();
        for (index, network) in [&in_100, &in_100, &in_200].into_iter().enumerate() {
            on.push(network.add(node, &pods[index], Request::default()).unwrap());
            pods[index].sh(&format!("ip addr add 10.5.0.{}/24 dev eth0", index + 1));
        }
        let vlans = table(node, &on[0].host_end("veth"));
        assert!(vlans.get(&100) == untagged(&[100]).get(&100), "{vlans:?}");
        assert!(ping(&pods[0], Ipv4Addr::new(10, 5, 0, 2)), "the same VLAN");
        assert!(is_silent_ping(&pods[0], Ipv4Addr::new(10, 5, 0, 3)), "another VLAN");
        on.iter().for_each(|attachment| attachment.del(node).unwrap());
        node.delete_bridge("cni0");
    }

    /// Trunk ports carry their VLANs tagged, single ones and ranges.
    fn l2_trunk(node, subject) {
        if subject.is_reference {
            // Debian's 1.1.1 has no trunks: the story is that it takes no notice of the key.
            let [port, _] = tables(node, subject, json!({"vlanTrunk": [{"id": 101}]}));
            assert!(!port.contains_key(&101));
            return;
        }
        let trunk = json!({"vlanTrunk": [{"id": 101}, {"minID": 200, "maxID": 210}]});
        let [port, _] = tables(node, subject, trunk);
        let mut expected = tagged([101].into_iter().chain(200..=210));
        expected.extend(untagged(&[1]));
        assert_eq!(port, expected);
        let both = json!({"vlan": 100, "vlanTrunk": [{"minID": 200, "maxID": 210}]});
        let [port, _] = tables(node, subject, both);
        let mut expected = tagged(200..=210);
        expected.extend(untagged(&[100]));
        assert_eq!(port, expected, "vlan and trunk");
    }

    /// VLAN 1, which the kernel gives every port, goes unless it is to be preserved.
    fn no_default_vlan(node, subject) {
        let [port, _] = tables(node, subject, json!({"vlan": 100, "preserveDefaultVlan": true}));
        assert!(port.contains_key(&1) && port.contains_key(&100), "{port:?}");
        if !subject.is_reference {
            // Debian's 1.1.1 does not know the key and always preserves.
            let [port, _] = tables(node, subject, json!({"vlan": 100, "preserveDefaultVlan": false}));
            assert_eq!(port, untagged(&[100]));
        }
    }

    /// A gateway in a VLAN: its address is on `cni0.100`, pods reach it, and through it the outside.
    fn l3_vlan_gw(node, subject) {
        let plugin = bridge(&["10.1.0.0/24", "fd00:1::/64"], json!({"vlan": 100}));
        let network = Network::new(subject, list("pods", json!([plugin])));
        let (a, b) = (node.pod("a"), node.pod("b"));
        let on_a = network.add(node, &a, Request::default()).unwrap();
        let on_b = network.add(node, &b, Request::default()).unwrap();
        let gateway = node.sh("ip -o addr show dev cni0.100");
        assert!(gateway.contains("10.1.0.1/24") && gateway.contains("fd00:1::1/64"), "{gateway}");
        assert!(!node.sh("ip -o addr show dev cni0").contains("10.1.0.1"));
        for (family, address) in ["10.1.0.1", "fd00:1::1"].into_iter().enumerate() {
            assert!(ping(&a, address.parse::<IpAddr>().unwrap()), "{address}");
            let server = Server::tcp(&b, (on_b.ips()[family], 80), "b");
            assert_eq!(ask_tcp(&a, server.address), Some(format!("b {}", on_a.ips()[family])));
        }
        if !subject.is_reference {
            // The reference fixes the bridge's MAC address only together with a gateway address on the bridge itself.
            on_a.check(node).unwrap();
        }
        on_a.del(node).unwrap();
        on_b.del(node).unwrap();
        // The gateway's cable belongs to the node, as the bridge does.
        let _ = node.try_sh("ip link delete cni0.100");
        node.delete_bridge("cni0");
    }
}
