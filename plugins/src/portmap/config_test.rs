use cni::{Code, Interface, IpConfig};
use serde_json::{Value, json};

use super::*;

fn parse(extra: Value) -> Result<Config> {
    let mut conf = json!({ "cniVersion": "1.1.0", "name": "net", "type": "portmap" });
    for (key, value) in extra.as_object().expect("an object") {
        conf[key] = value.clone();
    }
    Config::parse(&NetConf::parse(conf.to_string()).expect("a configuration"))
}

fn mapping(mapping: Value) -> Result<Mapping> {
    parse(json!({ "runtimeConfig": { "portMappings": [mapping] } })).map(|config| config.mappings[0])
}

fn refusal(extra: Value) -> String {
    let error = parse(extra).expect_err("it must be refused");
    assert_eq!(error.code, Code::INVALID_CONFIG, "{error}");
    error.msg
}

#[test]
fn parse_golden_config() {
    let config = parse(json!({
        "snat": false,
        "masqAll": true,
        "conditionsV4": ["-s", "1.2.3.4"],
        "conditionsV6": ["!", "-s", "12::34"],
        "markMasqBit": 5,
        "RuntimeConfig": { "portMappings": [
            { "hostPort": 8080, "containerPort": 80, "protocol": "tcp" },
            { "hostPort": 8081, "containerPort": 81, "protocol": "UDP", "hostIP": "0.0.0.0" },
            { "hostPort": 8082, "containerPort": 82, "protocol": "sctp", "hostIP": "2001:db8::1" },
        ]},
    }))
    .expect("a good configuration");
    let port =
        |host_port, container_port, protocol, host| Mapping { host_port, container_port, protocol, host };
    let words = |words: &[&str]| Conditions::Iptables(words.iter().map(|w| (*w).to_owned()).collect());
    let expected = Config {
        choice: Choice::Iptables,
        mappings: vec![
            port(8080, 80, Protocol::Tcp, HostAddress::Every),
            port(8081, 81, Protocol::Udp, HostAddress::EveryLike("0.0.0.0".parse().expect("an address"))),
            port(8082, 82, Protocol::Sctp, HostAddress::One("2001:db8::1".parse().expect("an address"))),
        ],
        snat: false,
        masq_all: true,
        set_mark: SetMark::Bit(5),
        conditions_v4: words(&["-s", "1.2.3.4"]),
        conditions_v6: words(&["!", "-s", "12::34"]),
    };
    assert_eq!(config, expected);
    let default = parse(json!({})).expect("nothing is needed");
    assert_eq!((default.choice, default.snat, default.masq_all), (Choice::Nftables, true, false));
    assert_eq!(default.set_mark, SetMark::Bit(13));
}

#[test]
fn parse_ports_and_protocols_name_key_and_value() {
    let rows = [
        (json!({ "hostPort": 0, "containerPort": 1 }), "portMappings[0].hostPort: 0 is outside 1..65535"),
        (json!({ "containerPort": 1 }), "portMappings[0].hostPort: 0 is outside"),
        (json!({ "hostPort": -1, "containerPort": 1 }), "portMappings[0].hostPort: -1 is outside"),
        (json!({ "hostPort": 65536, "containerPort": 1 }), "portMappings[0].hostPort: 65536 is outside"),
        (json!({ "hostPort": 1, "containerPort": 0 }), "portMappings[0].containerPort: 0 is outside"),
        (json!({ "hostPort": 1, "containerPort": -7 }), "portMappings[0].containerPort: -7 is outside"),
        (json!({ "hostPort": 1, "containerPort": 70000 }), "portMappings[0].containerPort: 70000 is outside"),
        (json!({ "hostPort": 1, "containerPort": 1, "protocol": "icmp" }), "protocol: \"icmp\" is none of"),
        (
            json!({ "hostPort": 1, "containerPort": 1, "hostIP": "localhost" }),
            "hostIP: \"localhost\" is no IP",
        ),
    ];
    for (raw, expected) in rows {
        let error = mapping(raw).expect_err(expected);
        assert!(error.msg.starts_with("portmap: runtimeConfig.") && error.msg.contains(expected), "{error}");
    }
    let edges = mapping(json!({ "hostPort": 65535, "containerPort": 1 })).expect("the edges are good");
    assert_eq!((edges.host_port, edges.container_port, edges.protocol), (65535, 1, Protocol::Tcp));
}

#[test]
fn backend_options_of_the_other_are_refused_by_name() {
    let rows = [
        (json!({ "backend": "nftables", "markMasqBit": 5 }), "markMasqBit: \"5\" cannot be used"),
        (
            json!({ "backend": "nftables", "externalSetMarkChain": "KUBE-MARK-MASQ" }),
            "externalSetMarkChain: \"KUBE-MARK-MASQ\" cannot be used",
        ),
        (
            json!({ "backend": "nftables", "conditionsV4": ["!", "-s", "1.2.3.4"] }),
            "conditionsV4: \"! -s 1.2.3.4\" cannot be used",
        ),
        (
            json!({ "backend": "iptables", "conditionsV6": ["ip6", "saddr", "fd00::1"] }),
            "conditionsV6: \"ip6 saddr fd00::1\" cannot be used",
        ),
        (
            json!({ "conditionsV4": ["ip", "saddr", "1.2.3.4"], "conditionsV6": ["-s", "::1"] }),
            "conditionsV6: \"-s ::1\" is for iptables, conditionsV4 for nftables",
        ),
        (json!({ "backend": "ipfw" }), "backend: \"ipfw\" is none of"),
        (json!({ "markMasqBit": 32 }), "markMasqBit: 32 is outside 0..31"),
        (json!({ "markMasqBit": -1 }), "markMasqBit: -1 is outside 0..31"),
        (json!({ "markMasqBit": 1, "externalSetMarkChain": "X" }), "externalSetMarkChain: \"X\" excludes"),
        (json!({ "externalSetMarkChain": "" }), "externalSetMarkChain: "),
        (json!({ "externalSetMarkChain": "a b" }), "externalSetMarkChain: \"a b\""),
        (json!({ "externalSetMarkChain": "X\n-F" }), "externalSetMarkChain: "),
        (json!({ "conditionsV4": ["-s", "1.2.3.4\n-F"] }), "conditionsV4: "),
    ];
    for (extra, expected) in rows {
        let msg = refusal(extra);
        assert!(msg.starts_with("portmap: ") && msg.contains(expected), "{msg}");
    }
}

#[test]
fn backend_unset_is_nftables_unless_an_option_is_for_iptables() {
    let rows = [
        (json!({}), Choice::Nftables),
        (json!({ "backend": "" }), Choice::Nftables),
        (json!({ "backend": "iptables" }), Choice::Iptables),
        (json!({ "backend": "auto" }), Choice::Auto),
        (json!({ "conditionsV4": ["ip", "saddr", "1.2.3.4"] }), Choice::Nftables),
        (json!({ "backend": "auto", "conditionsV4": ["ip", "saddr", "1.2.3.4"] }), Choice::Nftables),
        (json!({ "conditionsV4": ["!", "-s", "1.2.3.4"] }), Choice::Iptables),
        (json!({ "externalSetMarkChain": "KUBE-MARK-MASQ" }), Choice::Iptables),
        (json!({ "conditionsV4": [], "conditionsV6": null }), Choice::Nftables),
    ];
    for (extra, expected) in rows {
        assert_eq!(parse(extra.clone()).map(|config| config.choice), Ok(expected), "{extra}");
    }
}

#[test]
fn parse_interface_index_absent_is_tolerated() {
    let ifname = IfName::parse("eth0").expect("a name");
    let interface = |name: &str, sandbox: &str| Interface {
        name: name.into(),
        sandbox: sandbox.into(),
        ..Interface::default()
    };
    let ip = |interface, address: &str| IpConfig {
        interface,
        address: address.parse().expect("an address"),
        gateway: None,
    };
    let prev = |ips| AddResult {
        interfaces: vec![interface("cni0", ""), interface("eth0", "/ns"), interface("eth1", "/ns")],
        ips,
        ..AddResult::default()
    };
    let rows = [
        (vec![ip(None, "10.1.0.2/24")], Some("10.1.0.2/24")),
        (vec![ip(Some(0), "10.1.0.1/24"), ip(Some(1), "10.1.0.2/24")], Some("10.1.0.2/24")),
        (vec![ip(Some(2), "10.2.0.1/24"), ip(Some(1), "10.1.0.2/24")], Some("10.1.0.2/24")),
        (vec![ip(Some(9), "10.1.0.2/24")], Some("10.1.0.2/24")),
        (vec![ip(Some(-1), "10.1.0.2/24")], Some("10.1.0.2/24")),
        (vec![ip(Some(2), "10.2.0.1/24")], None),
        (vec![ip(Some(1), "fd00::2/64")], None),
    ];
    for (ips, v4) in rows {
        let found = PodAddresses::of(&prev(ips.clone()), &ifname).v4;
        assert_eq!(found, v4.map(|text| text.parse().expect("an address")), "{ips:?}");
    }
}
