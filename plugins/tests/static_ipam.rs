//! static through the dispatcher.

mod ipam;

use cni::Version;
use ipam::{Request, addresses};
use plugins::static_ipam::Static;
use serde_json::{Value, json};

fn conf(ipam: Value) -> Value {
    json!({ "cniVersion": "1.1.0", "name": "net", "type": "bridge", "ipam": ipam })
}

/// The addresses, or the message.
fn add(conf: &Value, args: &str) -> Result<Vec<String>, String> {
    let answer = Request { args, ..Request::new("ADD", "dummy", conf) }.serve(&Static);
    answer.map(|r| addresses(&r)).map_err(|e| e["msg"].as_str().expect("text").to_owned())
}

#[test]
fn static_addresses_routes_and_dns_from_config() {
    let conf = conf(json!({
        "type": "static",
        "addresses": [
            { "address": "10.10.0.1/24", "gateway": "10.10.0.254" },
            { "address": "3ffe:ffff:0:01ff::1/64", "gateway": "3ffe:ffff:0::1" },
        ],
        "routes": [{ "dst": "0.0.0.0/0" }, { "dst": "192.168.0.0/16", "gw": "10.10.5.1" }],
        "dns": { "nameservers": ["8.8.8.8"], "domain": "example.com", "search": ["example.com"] },
    }));
    let result = Request::new("ADD", "dummy", &conf).serve(&Static).expect("ADD");
    assert_eq!(
        result["ips"],
        json!([
            { "address": "10.10.0.1/24", "gateway": "10.10.0.254" },
            { "address": "3ffe:ffff:0:1ff::1/64", "gateway": "3ffe:ffff::1" },
        ])
    );
    assert_eq!((&result["routes"], &result["dns"]), (&conf["ipam"]["routes"], &conf["ipam"]["dns"]));
    for verb in ["DEL", "DEL", "STATUS", "GC"] {
        Request::new(verb, "dummy", &conf).serve(&Static).expect(verb);
    }
}

#[test]
fn static_addresses_from_cni_args_one_and_several() {
    let conf = conf(json!({ "type": "static" }));
    assert_eq!(add(&conf, "IP=10.10.0.1/24").expect("one"), ["10.10.0.1"]);
    let args = "IP=10.10.0.1/24,11.11.0.1/24,fd00::5/64;GATEWAY=10.10.0.254,fd00::1;IgnoreUnknown=1;X=y";
    let several = Request { args, ..Request::new("ADD", "dummy", &conf) }.serve(&Static).expect("several");
    assert_eq!(
        several["ips"],
        json!([
            { "address": "10.10.0.1/24", "gateway": "10.10.0.254" },
            { "address": "11.11.0.1/24" },
            { "address": "fd00::5/64", "gateway": "fd00::1" },
        ])
    );
}

#[test]
fn static_precedence_config_with_cni_args_then_args_then_runtime_config() {
    let mut conf = conf(json!({ "type": "static", "addresses": [{ "address": "10.10.0.1/24" }] }));
    let args = "IP=10.11.0.1/24";
    assert_eq!(add(&conf, args).expect("two sources"), ["10.10.0.1", "10.11.0.1"]);
    conf["args"] = json!({ "cni": { "ips": ["10.12.0.1/24"] } });
    assert_eq!(add(&conf, args).expect("replaced"), ["10.12.0.1"]);
    conf["runtimeConfig"] = json!({ "ips": ["10.13.0.1/24", "fd00::13/64"] });
    assert_eq!(add(&conf, args).expect("replaced again"), ["10.13.0.1", "fd00::13"]);
}

#[test]
fn static_ecmp_routes_are_kept() {
    let routes = json!([{ "dst": "0.0.0.0/0", "gw": "10.0.0.1" }, { "dst": "0.0.0.0/0", "gw": "10.0.0.2" }]);
    let conf = conf(json!({ "addresses": [{ "address": "10.0.0.5/24" }], "routes": routes }));
    let result = Request::new("ADD", "dummy", &conf).serve(&Static).expect("ADD");
    assert_eq!(result["routes"], routes);
}

#[test]
fn static_invalid_cidr_from_each_of_four_sources_names_key_and_value() {
    let empty = conf(json!({}));
    let with = |key: &str, value: Value| {
        let mut conf = empty.clone();
        conf[key] = value;
        conf
    };
    for (conf, args, message) in [
        (
            conf(json!({ "addresses": [{ "address": "10.0.0.1" }] })),
            "",
            "ipam.addresses[0].address: \"10.0.0.1\" is not",
        ),
        (empty.clone(), "IP=10.0.0.1", "CNI_ARGS: IP: \"10.0.0.1\" is not"),
        (with("args", json!({ "cni": { "ips": ["10.0.0.1"] } })), "", "args.cni.ips[0]: \"10.0.0.1\" is not"),
        (
            with("runtimeConfig", json!({ "ips": ["10.0.0.1"] })),
            "",
            "runtimeConfig.ips[0]: \"10.0.0.1\" is not",
        ),
        (empty.clone(), "GATEWAY=10.0.0.1/24", "CNI_ARGS: GATEWAY: \"10.0.0.1/24\" is not"),
        (empty.clone(), "IP=10.0.0.1/24,10.0.0.1/24", "ipam: address 10.0.0.1/24 is given twice"),
    ] {
        let error = add(&conf, args).expect_err("refused");
        assert!(error.starts_with(message), "{error}");
    }
}

#[test]
fn static_missing_ipam_is_an_error_even_with_args_or_runtime_config() {
    for (key, value) in [
        ("args", json!({ "cni": { "ips": ["10.0.0.1/24"] } })),
        ("runtimeConfig", json!({ "ips": ["10.0.0.1/24"] })),
    ] {
        let mut conf = json!({ "cniVersion": "1.1.0", "name": "net", "type": "bridge" });
        conf[key] = value;
        let error = add(&conf, "").expect_err("no ipam");
        assert!(error.starts_with("ipam: missing"), "{error}");
        Request::new("DEL", "dummy", &conf).serve(&Static).expect("DEL ignores the configuration");
    }
}

#[test]
fn static_one_address_per_family_before_0_3_0() {
    for version in Version::ALL {
        let mut conf =
            conf(json!({ "addresses": [{ "address": "10.0.0.1/24" }, { "address": "10.0.0.2/24" }] }));
        conf["cniVersion"] = json!(version.as_str());
        let answer = Request::new("ADD", "dummy", &conf).serve(&Static);
        assert_eq!(answer.is_ok(), version >= Version::V0_3_0, "{version}: {answer:?}");
    }
}

#[test]
fn static_check_finds_a_missing_address_and_another_gateway() {
    let mut conf = conf(json!({ "addresses": [{ "address": "10.0.0.5/24", "gateway": "10.0.0.1" }] }));
    let check = |conf: &Value| {
        let answer = Request::new("CHECK", "dummy", conf).serve(&Static);
        answer.map(drop).map_err(|e| e["msg"].as_str().expect("text").to_owned())
    };
    assert!(check(&conf).expect_err("no prevResult").starts_with("prevResult: missing"));
    conf["prevResult"] = Request::new("ADD", "dummy", &conf).serve(&Static).expect("ADD");
    check(&conf).expect("right after ADD");
    conf["prevResult"]["ips"][0]["gateway"] = json!("10.0.0.9");
    assert_eq!(
        check(&conf).expect_err("another gateway"),
        "static: the gateway of 10.0.0.5/24 is 10.0.0.9 in prevResult, configured is 10.0.0.1"
    );
    conf["prevResult"]["ips"][0]["address"] = json!("10.0.0.6/24");
    assert_eq!(
        check(&conf).expect_err("absent"),
        "static: configured address 10.0.0.5/24 is not in prevResult"
    );
}
