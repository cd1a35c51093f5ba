//! Go's decoder, row by row.

use std::collections::BTreeMap;
use std::net::IpAddr;

use proptest::prelude::*;
use serde::Deserialize;
use serde_json::json;

use super::*;

#[derive(Debug, Default, Deserialize, PartialEq)]
#[serde(default, rename_all = "camelCase")]
struct Conf {
    mtu: u16,
    is_gateway: bool,
    name: String,
    count: Option<i32>,
    inner: Inner,
    list: Vec<Inner>,
    map: BTreeMap<String, String>,
    gateway: OptIp,
    mode: Mode,
}

#[derive(Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
struct Inner {
    subnet: Option<Cidr>,
}

#[derive(Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "lowercase")]
enum Mode {
    #[default]
    L2,
    L3,
}

fn conf(text: &str) -> Conf {
    decode(&parse(text.as_bytes()).unwrap()).unwrap()
}

fn refused(text: &str) -> String {
    decode::<Conf>(&parse(text.as_bytes()).unwrap()).unwrap_err().to_string()
}

#[test]
fn keys_match_without_case_and_last_wins() {
    assert_eq!(conf(r#"{"MTU": 9, "ISgateway": true, "gAtEwAy": "10.0.0.1"}"#).mtu, 9);
    for (text, mtu) in [
        (r#"{"mtu":1,"MTU":2}"#, 2),
        (r#"{"MTU":2,"mtu":1}"#, 1),
        (r#"{"mtu":1,"mtu":2}"#, 2),
        (r#"{"mtu":1,"MTU":2,"mtu":3}"#, 3),
        (r#"{"mtu":1,"MTU":null}"#, 1),
        (r#"{"mtu":1,"mtu":null}"#, 1),
    ] {
        assert_eq!(conf(text).mtu, mtu, "{text}");
    }
}

#[test]
fn null_is_the_default_everywhere() {
    let text = r#"{"mtu":null,"isGateway":null,"name":null,"count":null,"inner":null,"list":null,"map":null,
        "gateway":null,"mode":null}"#;
    assert_eq!(conf(text), Conf::default());
    assert_eq!(conf(r#"{"list":[null]}"#).list, [Inner::default()]);
    assert_eq!(decode::<Vec<u32>>(&json!([null, 1])).unwrap(), [0, 1]);
    assert_eq!(decode::<Conf>(&Value::Null).unwrap(), Conf::default());
}

#[test]
fn errors_name_key_and_value() {
    for (text, message) in [
        (r#"{"mtu":70000}"#, "mtu: 70000 is not an integer from 0 to 65535"),
        (r#"{"mtu":1.5}"#, "mtu: 1.5 is not an integer from 0 to 65535"),
        (r#"{"MTU":"x"}"#, "MTU: \"x\" is not an integer from 0 to 65535"),
        (r#"{"name":5}"#, "name: 5 is not a string"),
        (r#"{"isGateway":"true"}"#, "isGateway: \"true\" is not a boolean"),
        (r#"{"inner":[1]}"#, "inner: [1] is not an object"),
        (r#"{"list":{}}"#, "list: {} is not a list"),
        (
            r#"{"list":[{},{"subnet":"10.1.0.0/33"}]}"#,
            "list[1].subnet: \"10.1.0.0/33\": has a prefix longer than 32",
        ),
        (r#"{"gateway":"10.0.0.01"}"#, "gateway: \"10.0.0.01\" is not an IP address"),
        (r#"{"gateway":5}"#, "gateway: 5 is not a string"),
        (r#"{"mode":"l4"}"#, "mode: \"l4\" is not one of l2, l3"),
        (r#"{"mode":4}"#, "mode: 4 is not a string"),
        (r#"{"map":{"a":1}}"#, "map.a: 1 is not a string"),
    ] {
        assert_eq!(refused(text), message);
    }
}

#[test]
fn missing_required_key_is_named() {
    #[derive(Debug, Deserialize)]
    struct Strict {
        #[allow(dead_code, reason = "only decoded")]
        must: String,
    }
    let e = decode_at::<Strict>("outer", &json!({"must": null})).unwrap_err();
    assert_eq!(e.to_string(), "outer.must is missing");
    assert_eq!(crate::Error::from(e).code, crate::Code::INVALID_CONFIG);
}

#[test]
fn ip_parse() {
    let ip = |t: &str| t.parse::<IpAddr>().unwrap();
    assert_eq!(conf(r#"{"gateway":""}"#).gateway, OptIp(None));
    assert_eq!(conf(r#"{"gateway":"::ffff:10.0.0.1"}"#).gateway, OptIp(Some(ip("10.0.0.1"))));
    assert_eq!(parse_cidr("10.1.2.5/24").unwrap().to_string(), "10.1.2.5/24");
    assert_eq!(parse_cidr("::ffff:10.0.0.1/120").unwrap().to_string(), "10.0.0.1/24");
    assert_eq!(IpMaybeCidr::parse("fd00::1").unwrap(), IpMaybeCidr { ip: ip("fd00::1"), prefix: None });
    assert_eq!(IpMaybeCidr::parse("10.0.0.1/8").unwrap().prefix, Some(8));
    for bad in
        ["", "10.0.0.1", "10.0.0.1/", "10.0.0.1/+8", "10.0.0.1/33", "010.0.0.1/8", "fe80::1%eth0/64", "x/8"]
    {
        assert!(parse_cidr(bad).is_err(), "{bad}");
    }
}

#[test]
fn printing_is_gos() {
    let value = json!({"b": "<&>", "a": [], "c": {"z": 1, "y": 0}});
    assert_eq!(compact(&value), r#"{"b":"\u003c\u0026\u003e","a":[],"c":{"z":1,"y":0}}"#);
    assert_eq!(
        indented(&sorted(&json!({"b": 1, "a": [2]}))),
        "{\n    \"a\": [\n        2\n    ],\n    \"b\": 1\n}"
    );
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        let _ = parse(&bytes).map(|v| decode::<Conf>(&v));
    }

    #[test]
    fn any_document_survives_parse(text in "[ -~]{0,40}", n in any::<i64>(), f in any::<bool>()) {
        let value = json!({"mtu": n, "name": text, "isGateway": f, "list": [text, n, {"subnet": text}]});
        prop_assert_eq!(&parse(value.to_string().as_bytes()).unwrap(), &value);
        let _ = decode::<Conf>(&value);
    }
}
