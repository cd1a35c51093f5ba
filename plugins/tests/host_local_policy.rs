//! host-local's ranges and allocation policy, as tables.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::IpAddr;

use cni::Code;
use plugins::host_local::allocate::{Leases, Occupancy, Origin, Pick, plan};
use plugins::host_local::config::Config;
use plugins::host_local::range::{RangeSet, RangeSets, RawRange};
use proptest::prelude::*;
use serde_json::{Value, json};

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn raw(value: &Value) -> Vec<Vec<RawRange>> {
    cni::json::decode(value).expect("well-formed ranges")
}

/// Range sets from the JSON of `ipam.ranges`.
fn parse(ranges: &Value) -> cni::Result<RangeSets> {
    let raw = raw(ranges);
    RangeSets::parse(raw.iter().enumerate().map(|(at, set)| (format!("ranges[{at}]"), set.as_slice())))
}

fn one(set: Value) -> RangeSet {
    parse(&json!([set])).expect("a valid set").iter().next().expect("one set").clone()
}

fn subnets(list: &[&str]) -> Value {
    list.iter().map(|subnet| json!({ "subnet": subnet })).collect()
}

#[derive(Default)]
struct Fake {
    occupied: BTreeMap<IpAddr, Occupancy>,
    own: Vec<(IpAddr, Occupancy)>,
    last: Option<IpAddr>,
    asked: RefCell<usize>,
}

impl Leases for Fake {
    fn occupancy(&self, address: IpAddr) -> Occupancy {
        *self.asked.borrow_mut() += 1;
        self.occupied.get(&address).copied().unwrap_or(Occupancy::Free)
    }
    fn own(&self) -> &[(IpAddr, Occupancy)] {
        &self.own
    }
    fn last_reserved(&self, _: usize) -> Option<IpAddr> {
        self.last
    }
}

fn held(taken: &[&str]) -> BTreeMap<IpAddr, Occupancy> {
    taken.iter().map(|text| (ip(text), Occupancy::Held)).collect()
}

#[test]
fn allocate_12_rows() {
    /// Name, subnets, taken, last reserved, expected.
    type Row =
        (&'static str, &'static [&'static str], &'static [&'static str], Option<&'static str>, &'static str);
    let rows: [Row; 12] = [
        ("fresh v4", &["10.0.0.0/29"], &[], None, "10.0.0.2"),
        ("fresh v6", &["2001:db8:1::/64"], &[], None, "2001:db8:1::2"),
        ("/30", &["10.0.0.0/30"], &[], None, "10.0.0.2"),
        ("first taken", &["10.0.0.0/29"], &["10.0.0.2"], None, "10.0.0.3"),
        ("after last", &["10.0.0.0/29"], &[], Some("10.0.0.5"), "10.0.0.6"),
        ("after last with taken", &["10.0.0.0/29"], &["10.0.0.4", "10.0.0.5"], Some("10.0.0.3"), "10.0.0.6"),
        ("wrap", &["10.0.0.0/29"], &["10.0.0.6"], Some("10.0.0.5"), "10.0.0.2"),
        ("last outside range", &["10.0.0.0/29"], &["10.0.0.2"], Some("10.0.0.128"), "10.0.0.3"),
        (
            "only last free",
            &["10.0.0.0/29"],
            &["10.0.0.2", "10.0.0.4", "10.0.0.5", "10.0.0.6"],
            Some("10.0.0.3"),
            "10.0.0.3",
        ),
        ("two ranges", &["10.0.0.0/30", "10.0.1.0/30"], &[], None, "10.0.0.2"),
        ("next range", &["10.0.0.0/30", "10.0.1.0/30"], &["10.0.0.2"], Some("10.0.0.2"), "10.0.1.2"),
        (
            "roll to first range",
            &["10.0.0.0/30", "10.0.1.0/30", "10.0.2.0/30"],
            &["10.0.1.2", "10.0.2.2"],
            Some("10.0.1.2"),
            "10.0.0.2",
        ),
    ];
    for (name, ranges, taken, last, expected) in rows {
        let sets = parse(&json!([subnets(ranges)])).expect(name);
        let leases = Fake { occupied: held(taken), last: last.map(ip), ..Fake::default() };
        let picks = plan(&sets, &[], &leases).expect(name);
        assert_eq!(picks, [Pick { set: 0, address: ip(expected), origin: Origin::Free }], "{name}");
    }
}

#[test]
fn iterator_gives_every_address_once_and_the_last_reserved_at_the_end() {
    let two = one(json!([
        { "subnet": "10.0.0.0/29", "rangeStart": "10.0.0.2", "rangeEnd": "10.0.0.4" },
        { "subnet": "10.0.1.0/30" },
    ]));
    for (name, after, expected) in [
        ("from first", None, [".0.2", ".0.3", ".0.4", ".1.2"]),
        ("from last", Some("10.0.1.2"), [".0.2", ".0.3", ".0.4", ".1.2"]),
        ("from middle", Some("10.0.0.3"), [".0.4", ".1.2", ".0.2", ".0.3"]),
        ("from a gateway", Some("10.0.1.1"), [".1.2", ".0.2", ".0.3", ".0.4"]),
        ("from outside", Some("10.0.0.5"), [".0.2", ".0.3", ".0.4", ".1.2"]),
    ] {
        let walked: Vec<String> = two.walk(after.map(ip)).map(|(_, address)| address.to_string()).collect();
        assert_eq!(walked, expected.map(|end| format!("10.0{end}")), "{name}");
    }
    let one_address =
        one(json!([{ "subnet": "10.0.0.0/24", "rangeStart": "10.0.0.9", "rangeEnd": "10.0.0.9" }]));
    assert_eq!(one_address.walk(Some(ip("10.0.0.9"))).count(), 1);
    let none = one(json!([{ "subnet": "10.0.0.0/24", "rangeStart": "10.0.0.1", "rangeEnd": "10.0.0.1" }]));
    assert_eq!(none.walk(None).count(), 0, "only a gateway");
    assert_eq!(none.walk(Some(ip("10.0.0.1"))).count(), 0, "only a gateway, and started from it");
}

#[test]
fn broadcast_is_never_handed_out_nor_is_the_network_address() {
    let wide = one(json!([{ "subnet": "10.0.0.0/30", "rangeStart": "10.0.0.0", "rangeEnd": "10.0.0.3" }]));
    let walked: Vec<IpAddr> = wide.walk(None).map(|(_, address)| address).collect();
    assert_eq!(walked, [ip("10.0.0.2")]);
    let sets = parse(&json!([[{ "subnet": "10.0.0.0/30", "rangeEnd": "10.0.0.3" }]])).expect("valid");
    let error = plan(&sets, &[ip("10.0.0.3")], &Fake::default()).expect_err("the broadcast address");
    assert!(error.msg.contains("10.0.0.3 is the network or broadcast address"), "{error}");
    let v6 = one(json!([{ "subnet": "fd00::/126" }]));
    let walked: Vec<IpAddr> = v6.walk(None).map(|(_, address)| address).collect();
    assert_eq!(walked, [ip("fd00::2"), ip("fd00::3")], "IPv6 has no broadcast");
}

#[test]
fn custom_ip_requests_one_per_set_and_the_refused_ones() {
    let sets =
        parse(&json!([subnets(&["10.0.0.0/29", "10.0.1.0/29"]), subnets(&["fd00::/64"])])).expect("valid");
    let ask = |requested: &[&str], taken: &[&str]| {
        let requested: Vec<IpAddr> = requested.iter().map(|text| ip(text)).collect();
        let leases = Fake { occupied: held(taken), ..Fake::default() };
        plan(&sets, &requested, &leases)
            .map(|picks| picks.iter().map(|pick| pick.address.to_string()).collect::<Vec<_>>())
            .map_err(|error| error.msg)
    };
    assert_eq!(ask(&["10.0.1.4"], &[]), Ok(vec!["10.0.1.4".into(), "fd00::2".into()]));
    assert_eq!(ask(&["fd00::99", "10.0.0.4"], &[]), Ok(vec!["10.0.0.4".into(), "fd00::99".into()]));
    for (requested, taken, message) in [
        (
            vec!["10.0.0.1"],
            vec![],
            "requested address 10.0.0.1 is the gateway of range set 10.0.0.1-10.0.0.6,",
        ),
        (vec!["10.0.0.4"], vec!["10.0.0.4"], "requested address 10.0.0.4 is taken"),
        (vec!["10.0.0.4", "10.0.1.4"], vec![], "requested addresses left over: 10.0.1.4"),
        (vec!["10.0.0.0"], vec![], "requested addresses left over: 10.0.0.0"),
        (vec!["192.0.2.1"], vec![], "requested addresses left over: 192.0.2.1"),
    ] {
        let refused = ask(&requested, &taken).expect_err("refused");
        assert!(refused.starts_with(message), "{requested:?}: {refused}");
    }
}

#[test]
fn exhausted_pool_message_names_ranges() {
    let sets = parse(&json!([subnets(&["10.0.0.0/30", "10.0.1.0/30"])])).expect("valid");
    let leases = Fake { occupied: held(&["10.0.0.2", "10.0.1.2"]), ..Fake::default() };
    let error = plan(&sets, &[], &leases).expect_err("full");
    assert_eq!(error.msg, "no IP addresses available in range set: 10.0.0.1-10.0.0.2,10.0.1.1-10.0.1.2");
    assert_eq!(error.code, Code::TRY_AGAIN);
}

#[test]
fn reboot_own_stale_lease_comes_back_and_others_give_way_only_when_nothing_is_free() {
    let sets = parse(&json!([subnets(&["10.0.0.0/29"])])).expect("valid");
    let stale = |list: &[&str]| list.iter().map(|text| (ip(text), Occupancy::Stale)).collect::<Vec<_>>();
    let pick = |leases: &Fake, requested: &[&str]| {
        let requested: Vec<IpAddr> = requested.iter().map(|text| ip(text)).collect();
        plan(&sets, &requested, leases).map(|picks| (picks[0].address, picks[0].origin)).map_err(|e| e.msg)
    };
    let own = Fake {
        occupied: stale(&["10.0.0.3"]).into_iter().collect(),
        own: stale(&["10.0.0.3"]),
        ..Fake::default()
    };
    assert_eq!(pick(&own, &[]), Ok((ip("10.0.0.3"), Origin::Own)));
    assert_eq!(pick(&own, &["10.0.0.3"]), Ok((ip("10.0.0.3"), Origin::Own)));
    let mut occupied: BTreeMap<_, _> = stale(&["10.0.0.2", "10.0.0.4"]).into_iter().collect();
    let others = Fake { occupied: occupied.clone(), ..Fake::default() };
    assert_eq!(pick(&others, &[]), Ok((ip("10.0.0.3"), Origin::Free)));
    assert_eq!(pick(&others, &["10.0.0.4"]), Ok((ip("10.0.0.4"), Origin::Reclaimed)));
    occupied.extend(held(&["10.0.0.3", "10.0.0.5", "10.0.0.6"]));
    let full = Fake { occupied, last: Some(ip("10.0.0.3")), ..Fake::default() };
    assert_eq!(pick(&full, &[]), Ok((ip("10.0.0.4"), Origin::Reclaimed)));
    let alive = Fake { own: vec![(ip("10.0.0.3"), Occupancy::Held)], ..Fake::default() };
    assert!(pick(&alive, &[]).expect_err("alive").starts_with("duplicate allocation"));
}

#[test]
fn range_defaults_and_refusals() {
    for (range, expected) in [
        (json!({ "subnet": "192.0.2.0/24" }), "192.0.2.1-192.0.2.254"),
        (json!({ "subnet": "192.0.2.0/25" }), "192.0.2.1-192.0.2.126"),
        (json!({ "subnet": "2001:db8:1::/64" }), "2001:db8:1::1-2001:db8:1:0:ffff:ffff:ffff:ffff"),
        (json!({ "subnet": "0.0.0.0/0" }), "0.0.0.1-255.255.255.254"),
        (json!({ "subnet": "::/0" }), "::1-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
        (
            json!({ "subnet": "192.0.2.0/24", "rangeStart": "192.0.2.40", "rangeEnd": "192.0.2.50" }),
            "192.0.2.40-192.0.2.50",
        ),
    ] {
        let set = one(json!([range]));
        assert_eq!(set.to_string(), expected);
    }
    for (range, message) in [
        (json!({}), "ranges[0][0].subnet: missing"),
        (
            json!({ "subnet": "192.0.2.1/24" }),
            "ranges[0][0].subnet: 192.0.2.1/24 has host bits set; the network address is 192.0.2.0",
        ),
        (json!({ "subnet": "192.0.2.0/31" }), "ranges[0][0].subnet: network 192.0.2.0/31 is too small"),
        (
            json!({ "subnet": "224.0.0.0/24" }),
            "ranges[0][0].subnet: 224.0.0.0/24 holds no addresses that a pod",
        ),
        (
            json!({ "subnet": "127.0.0.0/8" }),
            "ranges[0][0].subnet: 127.0.0.0/8 holds no addresses that a pod",
        ),
        (json!({ "subnet": "192.0.2.0/32" }), "ranges[0][0].subnet: network 192.0.2.0/32 is too small"),
        (json!({ "subnet": "fd00::/127" }), "ranges[0][0].subnet: network fd00::/127 is too small"),
        (
            json!({ "subnet": "192.0.2.0/24", "rangeStart": "192.0.3.0" }),
            "ranges[0][0]: RangeStart 192.0.3.0 not in network 192.0.2.0/24",
        ),
        (
            json!({ "subnet": "192.0.2.0/24", "rangeEnd": "192.0.4.0" }),
            "ranges[0][0]: RangeEnd 192.0.4.0 not in network 192.0.2.0/24",
        ),
        (
            json!({ "subnet": "192.0.2.0/24", "rangeStart": "192.0.2.50", "rangeEnd": "192.0.2.40" }),
            "ranges[0][0]: RangeStart 192.0.2.50 not in network 192.0.2.0/24 before rangeEnd 192.0.2.40",
        ),
    ] {
        let error = parse(&json!([[range]])).expect_err("refused");
        assert!(error.msg.starts_with(message), "{error}");
        assert_eq!(error.code, Code::INVALID_CONFIG);
    }
    let gateway_elsewhere = one(json!([{ "subnet": "192.0.2.0/24", "gateway": "198.51.100.1" }]));
    assert!(gateway_elsewhere.is_usable(ip("192.0.2.1")), "a gateway may lie outside the subnet");
}

#[test]
fn config_overlaps_and_families() {
    for (ranges, message) in [
        (json!([[]]), "ranges[0]: the range set is empty"),
        (
            json!([subnets(&["10.0.0.0/24", "fd00::/64"])]),
            "ranges[0]: 10.0.0.0/24 and fd00::/64 are of different families",
        ),
        (
            json!([subnets(&["10.0.0.0/20", "10.0.1.0/24"])]),
            "ranges[0]: ranges 10.0.0.1-10.0.15.254 and 10.0.1.1-10.0.1.254 overlap",
        ),
        (
            json!([subnets(&["10.0.1.0/24"]), subnets(&["10.0.0.0/20"])]),
            "ranges[1]: 10.0.0.1-10.0.15.254 overlaps 10.0.1.1-10.0.1.254 of ranges[0]",
        ),
    ] {
        let error = parse(&ranges).expect_err("refused");
        assert!(error.msg.starts_with(message), "{error}");
    }
    let apart = json!([[
        { "subnet": "10.0.0.0/20", "rangeEnd": "10.0.0.9" },
        { "subnet": "10.0.0.0/20", "rangeStart": "10.0.0.10" },
    ]]);
    assert!(parse(&apart).is_ok(), "two parts of one subnet");
}

fn config(version: &str, conf: Value, args: &str) -> Result<Config, cni::Error> {
    let mut object = json!({ "cniVersion": version, "name": "net", "type": "bridge" });
    object.as_object_mut().expect("an object").extend(conf.as_object().expect("an object").clone());
    let version = cni::Version::ALL.into_iter().find(|v| v.as_str() == version).expect("a version");
    let conf = cni::NetConf {
        cni_version: version,
        name: "net".into(),
        plugin_type: "bridge".into(),
        ipam_type: "host-local".into(),
        prev_result: None,
        bytes: object.to_string().into_bytes(),
        object,
    };
    Config::parse(&conf, args)
}

#[test]
fn config_old_style_new_style_and_runtime_ranges_in_order() {
    let conf = json!({
        "ipam": {
            "subnet": "10.1.0.0/24", "rangeStart": "10.1.0.9", "rangeEnd": "10.1.0.20", "gateway": "10.1.0.30",
            "ranges": [[{ "subnet": "10.2.0.0/24" }], [{ "subnet": "fd00::/64" }]],
            "dataDir": "/d", "routes": [{ "dst": "0.0.0.0/0", "gw": "10.1.0.30" }],
        },
        "RuntimeConfig": { "ipRanges": [[{ "subnet": "10.0.0.0/24" }]], "ips": ["10.2.0.7/24", "fd00::7"] },
        "args": { "cni": { "ips": ["10.1.0.10", "10.2.0.7"] } },
    });
    let config = config("1.0.0", conf, "IgnoreUnknown=1;IP=10.0.0.7/8;K8S_POD_NAME=x").expect("valid");
    let sets: Vec<String> = config.sets.iter().map(ToString::to_string).collect();
    assert_eq!(sets[..3], ["10.0.0.1-10.0.0.254", "10.1.0.9-10.1.0.20", "10.2.0.1-10.2.0.254"]);
    assert_eq!(sets.len(), 4);
    assert_eq!(config.requested, [ip("10.0.0.7"), ip("10.1.0.10"), ip("10.2.0.7"), ip("fd00::7")]);
    assert_eq!(config.routes.len(), 1);
    assert_eq!(config.data_dir.to_str(), Some("/d"));
}

#[test]
fn config_wrong_input_names_key_and_value() {
    let two_v4 =
        json!({ "ipam": { "ranges": [[{ "subnet": "10.1.0.0/24" }], [{ "subnet": "10.2.0.0/24" }]] } });
    assert!(config("0.3.0", two_v4.clone(), "").is_ok());
    for (version, conf, args, message) in [
        (
            "0.2.0",
            two_v4,
            "",
            "cniVersion: 0.2.0 has room for one address per family, but there is more than one IPv4",
        ),
        ("1.1.0", json!({}), "", "ipam: missing"),
        ("1.1.0", json!({ "ipam": {} }), "", "ipam: no range to allocate from"),
        ("1.1.0", json!({ "ipam": { "subnet": "10.1.0.0" } }), "", "ipam.subnet: \"10.1.0.0\" is not"),
        (
            "1.1.0",
            json!({ "ipam": { "subnet": "10.1.0.0/24", "rangeStart": 7 } }),
            "",
            "ipam.rangeStart: 7 is not",
        ),
        (
            "1.1.0",
            json!({ "ipam": { "ranges": [[{ "subnet": "x" }]] } }),
            "",
            "ipam.ranges[0][0].subnet: \"x\" is not",
        ),
        (
            "1.1.0",
            json!({ "ipam": { "subnet": "10.1.0.0/24" } }),
            "IP=10.1.0",
            "CNI_ARGS: IP: \"10.1.0\" is not",
        ),
        (
            "1.1.0",
            json!({ "ipam": { "subnet": "10.1.0.0/24" }, "runtimeConfig": { "ips": ["x"] } }),
            "",
            "runtimeConfig.ips[0]: \"x\" is not",
        ),
        (
            "1.1.0",
            json!({ "ipam": {}, "runtimeConfig": { "ipRanges": [[{ "subnet": "10.1.0.1/24" }]] } }),
            "",
            "runtimeConfig.ipRanges[0][0].subnet: 10.1.0.1/24 has host bits set",
        ),
    ] {
        let error = config(version, conf, args).expect_err("refused");
        assert!(error.msg.starts_with(message), "{error}");
    }
}

proptest! {
    #[test]
    fn walk_visits_every_usable_address_exactly_once(
        bits in 24_u8..=30,
        (start, end, after) in (0_u32..64, 0_u32..64, 0_u32..70),
    ) {
        let at = |offset: u32| std::net::Ipv4Addr::from_bits(0x0a00_0000 + offset).to_string();
        let range = json!([[
            { "subnet": format!("10.0.0.0/{bits}"), "rangeStart": at(start), "rangeEnd": at(end) },
            { "subnet": "10.0.1.0/29" },
        ]]);
        let Ok(sets) = parse(&range) else { return Ok(()) };
        let set = sets.iter().next().expect("one");
        let mut walked: Vec<IpAddr> = set.walk(Some(ip(&at(after)))).map(|(_, address)| address).collect();
        if let Some(last) = walked.last() {
            let inside = set.range_of(ip(&at(after))).is_some() && set.is_usable(ip(&at(after)));
            prop_assert!(!inside || *last == ip(&at(after)), "the last reserved one comes last");
        }
        walked.sort();
        let mut usable: Vec<IpAddr> = (0..0x110).map(|n| ip(&at(n))).filter(|a| set.is_usable(*a)).collect();
        usable.sort();
        prop_assert_eq!(walked, usable);
    }

    #[test]
    fn plan_never_gives_a_held_address(
        taken in proptest::collection::btree_set(0_u32..16, 0..16),
        last in proptest::option::of(0_u32..20),
    ) {
        let at = |offset: &u32| IpAddr::from(std::net::Ipv4Addr::from_bits(0x0a00_0000 + offset));
        let sets = parse(&json!([subnets(&["10.0.0.0/28"])])).expect("valid");
        let occupied: BTreeMap<_, _> = taken.iter().map(|n| (at(n), Occupancy::Held)).collect();
        let leases = Fake { occupied, last: last.as_ref().map(at), ..Fake::default() };
        let free = (2..=14).filter(|n| !taken.contains(n)).count();
        match plan(&sets, &[], &leases) {
            Ok(picks) => prop_assert_eq!(leases.occupancy(picks[0].address), Occupancy::Free),
            Err(_) => prop_assert_eq!(free, 0),
        }
        prop_assert!(*leases.asked.borrow() <= 16, "one question per address");
    }
}
