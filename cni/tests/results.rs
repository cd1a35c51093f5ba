//! Results: golden JSON for every version, conversions between any two, and the laws of both.
//!
//! `UPDATE_GOLDEN=1 cargo test -p bowline-cni --test results` rewrites the golden files.

use std::path::Path;

use cni::result::{convert, decode, encode};
use cni::{AddResult, Code, Dns, Interface, IpConfig, Route, Version, json as js};
use proptest::prelude::*;
use serde_json::{Value, json};

/// Says everything that a result can say.
fn full() -> AddResult {
    let link = |name: &str, sandbox: &str| Interface {
        name: name.to_owned(),
        mac: "02:00:00:00:00:01".to_owned(),
        mtu: Some(1450),
        sandbox: sandbox.to_owned(),
        ..Interface::default()
    };
    let vhost =
        Interface { socket_path: "/run/vhost0".into(), pci_id: "00:01.0".into(), ..Interface::default() };
    let ip = |interface, address: &str, gateway: &str| IpConfig {
        interface,
        address: address.parse().unwrap(),
        gateway: gateway.parse().ok(),
    };
    let extras = Route {
        mtu: Some(1400),
        advmss: Some(1360),
        priority: Some(100),
        table: Some(0),
        scope: Some(253),
        ..Route::new("10.2.3.4/16".parse().unwrap(), None)
    };
    AddResult {
        interfaces: vec![link("br0", ""), link("eth0", "/run/netns/x"), vhost],
        ips: vec![
            ip(Some(0), "10.1.2.5/24", "10.1.2.1"),
            ip(None, "fd00::5/64", ""),
            ip(Some(1), "10.9.0.2/24", ""),
        ],
        routes: vec![
            Route::new("0.0.0.0/0".parse().unwrap(), "10.1.2.1".parse().ok()),
            extras,
            Route::new("::/0".parse().unwrap(), "fd00::1".parse().ok()),
        ],
        dns: Dns {
            nameservers: vec!["10.1.2.3".into(), "fd00::3".into()],
            domain: "example.org".into(),
            search: vec!["a.example.org".into()],
            options: vec!["ndots:5".into()],
        },
    }
}

/// Says as little as 0.1.0 accepts.
fn small() -> AddResult {
    let ip = IpConfig { interface: None, address: "10.1.2.5/24".parse().unwrap(), gateway: None };
    AddResult { ips: vec![ip], ..AddResult::default() }
}

#[test]
fn result_encode_golden_for_every_version() {
    for (name, result) in [("full", full()), ("small", small())] {
        for version in Version::ALL {
            let file =
                Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/{name}-{version}.json"));
            let text = js::indented(&encode(&result, version).unwrap());
            if std::env::var_os("UPDATE_GOLDEN").is_some() {
                std::fs::write(&file, &text).unwrap();
            }
            let expected = std::fs::read_to_string(&file).unwrap_or_default();
            assert_eq!(text, expected, "{}", file.display());
        }
    }
}

#[test]
fn result_convert_1_0_to_1_1_is_identity() {
    let newest = encode(&full(), Version::V1_1_0).unwrap();
    let older = convert(&newest, Version::V1_1_0, Version::V1_0_0).unwrap();
    assert_eq!(older["cniVersion"], "1.0.0");
    let back = convert(&older, Version::V1_0_0, Version::V1_1_0).unwrap();
    assert_eq!(back, newest);
    assert_eq!(decode(&older, Version::V0_1_0).unwrap(), (Version::V1_0_0, full_as_decoded()));
}

/// Route destinations lose host bits on the way.
fn full_as_decoded() -> AddResult {
    let mut result = full();
    result.routes[1].dst = "10.2.0.0/16".parse().unwrap();
    result
}

#[test]
fn result_convert_two_families_down_to_0_1_0() {
    let down = encode(&full(), Version::V0_1_0).unwrap();
    let ip4 = json!({"ip":"10.1.2.5/24","gateway":"10.1.2.1",
        "routes":[{"dst":"0.0.0.0/0","gw":"10.1.2.1"},{"dst":"10.2.0.0/16"}]});
    assert_eq!(down["ip4"], ip4);
    assert_eq!(down["ip6"], json!({"ip":"fd00::5/64","routes":[{"dst":"::/0","gw":"fd00::1"}]}));
    let mut v4_only = full();
    v4_only.ips.remove(1);
    let down = encode(&v4_only, Version::V0_2_0).unwrap();
    assert_eq!(down.get("ip6"), None, "no address, no routes");
}

#[test]
fn result_convert_0_2_0_round_trip_with_and_without_route_gateways() {
    for routes in [json!([{"dst":"0.0.0.0/0","gw":"10.1.2.1"}]), json!([{"dst":"10.0.0.0/8"}])] {
        let old = json!({"cniVersion":"0.2.0","ip4":{"ip":"10.1.2.5/24","gateway":"10.1.2.1","routes":routes},
            "ip6":{"ip":"fd00::5/64","routes":[{"dst":"::/0"}]},"dns":{"nameservers":["10.1.2.3"]}});
        for version in Version::ALL {
            let there = convert(&old, Version::V0_1_0, version).unwrap();
            assert_eq!(there["cniVersion"], version.as_str());
            assert_eq!(convert(&there, Version::V0_1_0, Version::V0_2_0).unwrap(), old, "by {version}");
        }
    }
}

#[test]
fn result_convert_without_ips_down_is_an_error() {
    for version in [Version::V0_1_0, Version::V0_2_0] {
        let e = encode(&AddResult::default(), version).unwrap_err();
        assert_eq!((e.code, e.msg.as_str()), (Code::INVALID_CONFIG, "cannot convert: no valid IP addresses"));
    }
    assert_eq!(
        encode(&AddResult::default(), Version::V0_4_0).unwrap(),
        json!({"cniVersion":"0.4.0","dns":{}})
    );
    assert_eq!(encode(&AddResult::default(), Version::V1_1_0).unwrap(), json!({"cniVersion":"1.1.0"}));
}

#[test]
fn interface_index_0_survives_and_missing_stays_missing() {
    for version in &Version::ALL[2..] {
        let encoded = encode(&full(), *version).unwrap();
        assert_eq!(encoded["ips"][0]["interface"], 0);
        assert_eq!(encoded["ips"][1].get("interface"), None);
        let (_, decoded) = decode(&encoded, Version::V0_1_0).unwrap();
        let indices: Vec<_> = decoded.ips.iter().map(|ip| ip.interface).collect();
        assert_eq!(indices, [Some(0), None, Some(1)], "{version}");
    }
}

#[test]
fn prev_result_version_unknown_or_missing() {
    assert_eq!(decode(&json!({}), Version::V0_4_0).unwrap().0, Version::V0_4_0);
    assert_eq!(decode(&Value::Null, Version::V1_1_0).unwrap(), (Version::V1_1_0, AddResult::default()));
    let e = decode(&json!({"cniVersion": "0.5.0"}), Version::V0_4_0).unwrap_err();
    assert_eq!(e.code, Code::INCOMPATIBLE_VERSION);
}

#[test]
fn decoding_is_lenient_and_addresses_are_canonical() {
    let text = r#"{"CNIVERSION":"1.1.0","Interfaces":[{"Name":"eth0","mtu":0,"new":1}],"dns":null,
        "ips":[{"Address":"::ffff:10.1.2.5/120","gateway":""}],"routes":[{"dst":"10.1.2.5/8","gw":null}]}"#;
    let (_, result) = cni::result::decode_bytes(text.as_bytes(), Version::V0_1_0).unwrap();
    let expected = json!({"cniVersion":"1.1.0","interfaces":[{"name":"eth0"}],
        "ips":[{"address":"10.1.2.5/24"}],"routes":[{"dst":"10.0.0.0/8"}]});
    assert_eq!(encode(&result, Version::V1_1_0).unwrap(), expected);
}

fn text() -> impl Strategy<Value = String> {
    "[a-z0-9<&:/.é]{0,8}"
}

fn net() -> impl Strategy<Value = ipnetwork::IpNetwork> {
    (any::<std::net::IpAddr>(), 0..=128u8).prop_filter_map(
        "mapped addresses print as IPv4",
        |(ip, prefix)| {
            let prefix = if ip.is_ipv4() { prefix % 33 } else { prefix };
            (ip.to_canonical() == ip).then(|| ipnetwork::IpNetwork::new(ip, prefix).unwrap())
        },
    )
}

fn ip() -> impl Strategy<Value = std::net::IpAddr> {
    any::<std::net::IpAddr>().prop_map(|ip| ip.to_canonical())
}

fn result() -> impl Strategy<Value = AddResult> {
    let nonzero = || prop::option::of(1..u32::MAX);
    let link = (text(), text(), nonzero(), text(), text(), text()).prop_map(
        |(name, mac, mtu, sandbox, socket_path, pci_id)| Interface {
            name,
            mac,
            mtu,
            sandbox,
            socket_path,
            pci_id,
        },
    );
    let address = (prop::option::of(any::<i64>()), net(), prop::option::of(ip()))
        .prop_map(|(interface, address, gateway)| IpConfig { interface, address, gateway });
    let extras =
        (nonzero(), nonzero(), nonzero(), prop::option::of(any::<u32>()), prop::option::of(any::<u8>()));
    let route = (net(), prop::option::of(ip()), extras).prop_map(
        |(dst, gw, (mtu, advmss, priority, table, scope))| {
            let dst = ipnetwork::IpNetwork::new(dst.network(), dst.prefix()).unwrap();
            Route { dst, gw, mtu, advmss, priority, table, scope }
        },
    );
    let texts = || prop::collection::vec(text(), 0..3);
    let dns = (texts(), text(), texts(), texts()).prop_map(|(nameservers, domain, search, options)| Dns {
        nameservers,
        domain,
        search,
        options,
    });
    let list = 0..4usize;
    let parts = (
        prop::collection::vec(link, list.clone()),
        prop::collection::vec(address, list.clone()),
        prop::collection::vec(route, list),
        dns,
    );
    parts.prop_map(|(interfaces, ips, routes, dns)| AddResult { interfaces, ips, routes, dns })
}

fn version() -> impl Strategy<Value = Version> {
    prop::sample::select(Version::ALL.to_vec())
}

proptest! {
    #[test]
    fn encode_then_decode_is_identity_in_1_x(result in result(), newest in any::<bool>()) {
        let version = if newest { Version::V1_1_0 } else { Version::V1_0_0 };
        let text = js::indented(&encode(&result, version).unwrap());
        let value = js::parse(text.as_bytes()).unwrap();
        prop_assert_eq!(decode(&value, Version::V0_1_0).unwrap(), (version, result));
    }

    /// What a version cannot say is lost once, and nothing more is lost by any further detour among versions that
    /// can say at least as much.
    #[test]
    fn conversions_lose_only_once(result in result(), a in version(), b in version()) {
        let (low, high) = (a.min(b), a.max(b));
        if let Ok(first) = encode(&result, low) {
            let there = convert(&first, low, high).unwrap();
            prop_assert_eq!(convert(&there, high, low).unwrap(), first);
        }
    }

    #[test]
    fn decode_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200), version in version()) {
        let _ = cni::result::decode_bytes(&bytes, version);
    }

    #[test]
    fn decode_of_mutilated_results_never_panics(result in result(), version in version(), cut in 0..400usize, with in any::<u8>()) {
        if let Ok(value) = encode(&result, version) {
            let mut bytes = value.to_string().into_bytes();
            let at = cut % bytes.len();
            bytes[at] = with;
            let _ = cni::result::decode_bytes(&bytes, version);
            let _ = cni::result::decode_bytes(&bytes[..at], version);
        }
    }
}
