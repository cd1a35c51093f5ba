//! What configurations mean, and every refusal.

use serde_json::json;

use super::*;

fn complete() -> Value {
    json!({
        "cniVersion": "1.1.0", "name": "n", "type": "vxlan",
        "subnets": ["10.1.0.0/24", "fd00:1::/64"], "nodeIPs": ["192.0.2.1", "2001:db8::1"],
        "vni": 7, "port": 4789, "uplink": "eth1", "mtu": 1400,
        "peers": [
            { "name": "b", "ips": ["192.0.2.2", "2001:db8::2"], "podCIDRs": ["10.2.0.0/24", "fd00:2::/64"] },
            { "ip": "192.0.2.3", "podCIDR": "10.3.0.0/24" },
        ],
    })
}

fn parse(conf: &Value) -> Result<Conf> {
    Conf::parse(&NetConf::parse(conf.to_string().into_bytes()).unwrap(), Kind::Vxlan)
}

/// What is said when the value at a JSON pointer of the complete configuration is replaced by this JSON.
fn refusal(pointer: &str, wrong: &str) -> String {
    let (mut conf, wrong) = (complete(), serde_json::from_str(wrong).unwrap());
    conf["ipMasq"] = json!(true);
    match conf.pointer_mut(pointer) {
        Some(place) => *place = wrong,
        None => conf[pointer.trim_start_matches('/')] = wrong,
    }
    parse(&conf).map(|accepted| panic!("{pointer}: accepted as {accepted:?}")).unwrap_err().msg
}

#[test]
fn a_cluster_can_be_written_down() {
    let conf = parse(&complete()).unwrap();
    assert!(conf.has_addresses && conf.mtu == Some(1400));
    let cluster = conf.peers.unwrap();
    let Settings { mode, vni, vxlan_port, mtu, .. } = cluster.settings;
    assert_eq!((mode, vni, vxlan_port, mtu), (Mode::Vxlan, 7, 4789, Some(1400)));
    assert_eq!(
        (cluster.uplink.to_string().as_str(), cluster.ip_masq, cluster.peers.len()),
        ("eth1", true, 2)
    );
    assert_eq!(cluster.node_ips.v6, Some("2001:db8::1".parse().unwrap()));
    assert_eq!(cluster.peers[0].pod_cidrs.v6, Some("fd00:2::/64".parse().unwrap()));
    assert_eq!((cluster.peers[1].name.as_str(), cluster.peers[1].ips.v6), ("peers[1]", None));
}

#[test]
fn everything_can_be_left_to_the_node() {
    let conf = parse(&json!({ "cniVersion": "1.1.0", "name": "n", "type": "vxlan" })).unwrap();
    assert!(!conf.has_addresses && conf.mtu.is_none() && conf.peers.is_none());
    assert_eq!(conf.facts, PathBuf::from("/run/bowline/node.json"));
}

#[test]
fn addresses_can_come_from_elsewhere() {
    for keys in [
        json!({ "ipam": { "type": "static" } }),
        json!({ "ipam": { "ranges": [[{ "subnet": "10.1.0.0/24" }]] } }),
        json!({ "ipam": { "subnet": "10.1.0.0/24" } }),
        json!({ "runtimeConfig": { "ipRanges": [[{ "subnet": "10.1.0.0/24" }]] } }),
    ] {
        let mut conf = json!({ "cniVersion": "1.1.0", "name": "n", "type": "vxlan" });
        conf.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
        assert!(parse(&conf).unwrap().has_addresses, "{keys}");
    }
}

/// Where in the complete configuration, what is wrong there (JSON), and what is said.
const WRONG: [(&str, &str, &str); 17] = [
    ("/vni", "0", "vni: 0 is outside 1..16777215"),
    ("/vni", "16777216", "vni: 16777216 is outside 1..16777215"),
    ("/port", "65536", "port: 65536 is outside 1..65535"),
    ("/mtu", "-1", "mtu: -1 is outside 68..65535"),
    ("/subnets", "[]", "subnet: it is required with peers: the pod CIDR of this node"),
    (
        "/subnets/0",
        "\"10.1.0.7/24\"",
        "subnets[0]: 10.1.0.7/24 has host bits set; the network address is 10.1.0.0",
    ),
    ("/subnets/1", "\"10.9.0.0/24\"", "subnet: 10.9.0.0/24 is a second IPv4 pod CIDR beside 10.1.0.0/24"),
    ("/nodeIPs/1", "\"192.0.2.9\"", "nodeIPs[1]: 192.0.2.9 is a second IPv4 address beside 192.0.2.1"),
    ("/nodeIPs/0", "\"127.0.0.1\"", "nodeIPs[0]: 127.0.0.1 is no address of a node"),
    ("/peers/1/ip", "null", "peers[1].ip: there is no IPv4 address by which to reach 10.3.0.0/24"),
    ("/peers/1/podCIDR", "null", "peers[1].podCIDR: it is required"),
    ("/peers/1/podCIDR", "\"10.2.0.0/16\"", "peers[1].podCIDR: 10.2.0.0/16 overlaps 10.2.0.0/24, b"),
    (
        "/peers/0/podCIDRs/0",
        "\"10.0.0.0/8\"",
        "peers[0].podCIDR: 10.0.0.0/8 overlaps 10.1.0.0/24, this node's subnet",
    ),
    (
        "/peers/0/podCIDRs/0",
        "\"10.2.0.1/24\"",
        "peers[0].podCIDRs[0]: 10.2.0.1/24 has host bits set; the network address is 10.2.0.0",
    ),
    ("/peers", "null", "ipMasq: true needs peers; without them bowlined masquerades what leaves the cluster"),
    ("/uplink", "\"eth 1\"", "uplink: `eth 1` is no link's name (at most 15 bytes), address, or network"),
    ("/ipMasqBackend", "\"iptables\"", "ipMasqBackend: \"iptables\": only \"nftables\" masquerades here"),
];

#[test]
fn every_wrong_value_is_named() {
    for (pointer, wrong, sentence) in WRONG {
        assert_eq!(refusal(pointer, wrong), format!("vxlan: {sentence}"), "{pointer}");
    }
}

#[test]
fn what_is_no_such_value_at_all_is_named_too() {
    for (pointer, wrong) in [
        ("/peers/1/ip", "elephant"),
        ("/peers/0/podCIDRs/1", "fd00:2::/129"),
        ("/subnets/0", "10.1.0.0"),
        ("/vni", "one"),
    ] {
        let said = refusal(pointer, &json!(wrong).to_string());
        let key = pointer.rsplit('/').find(|word| word.parse::<u8>().is_err()).unwrap();
        assert!(said.starts_with("vxlan: ") && said.contains(key) && said.contains(wrong), "{said}");
    }
}
