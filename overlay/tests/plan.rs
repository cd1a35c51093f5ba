//! Plans: golden ones for every mode, sentences for every mistake, laws.

mod cluster;

use std::path::PathBuf;

use cluster::{local, network, node, settings};
use ipnetwork::IpNetwork;
use overlay::plan::{self, Hop, Plan};
use overlay::{Abilities, Family, Local, Mode, Peer, Settings};
use proptest::prelude::*;

/// Compares with `golden/NAME.plan`; `UPDATE_GOLDEN=1` writes it.
fn matches_golden(name: &str, plan: &Plan) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(format!("{name}.plan"));
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, plan.to_string()).expect("the golden plan is written");
    }
    let golden = std::fs::read_to_string(&path).expect("the golden plan is there; UPDATE_GOLDEN=1 writes it");
    pretty_eq(name, &plan.to_string(), &golden);
}

fn pretty_eq(name: &str, made: &str, golden: &str) {
    assert!(made == golden, "{name}: made\n{made}\ngolden\n{golden}");
}

/// Node 1 is this one, 2 is in its subnet, 3 is beyond a router.
fn three_nodes() -> (Local, Vec<Peer>) {
    (local(1), vec![node(2), cluster::beyond(3)])
}

#[test]
fn every_mode_gives_its_golden_plan() {
    let (local, peers) = three_nodes();
    for mode in Mode::ALL {
        matches_golden(mode.as_str(), &plan::plan(&settings(mode), &local, &peers));
    }
}

#[test]
fn a_kernel_that_can_tell_pods_packets_apart_needs_no_rule() {
    let (mut local, peers) = three_nodes();
    local.abilities = Abilities { source_routes: true, diversion: true };
    for mode in [Mode::Vxlan, Mode::CrossSubnet] {
        let plan = plan::plan(&settings(mode), &local, &peers);
        assert_eq!(plan.rules, [], "{mode}");
        matches_golden(&format!("{mode}-without-rules"), &plan);
    }
    let by_rule = Settings { always_by_rule: true, ..settings(Mode::Vxlan) };
    let (able, unable) =
        (plan::plan(&by_rule, &local, &peers), plan::plan(&by_rule, &three_nodes().0, &peers));
    assert_eq!(able, unable);
    // These take the rule.
    for mode in [Mode::Ipip, Mode::Wireguard] {
        let bare = Local { abilities: Abilities::default(), ..local.clone() };
        let (able, unable) = [&local, &bare].map(|local| plan::plan(&settings(mode), local, &peers)).into();
        assert_eq!((able.rules.len(), &able), (2, &unable), "{mode}");
    }
}

#[test]
fn peers_that_cannot_be_reached_are_named_and_the_others_planned() {
    let mut peers: Vec<Peer> = (2..=10).map(node).collect();
    peers[0].ips.v6 = None;
    peers[1].ips.v4 = Some("192.0.2.1".parse().expect("an address"));
    peers[2].pod_cidrs.v4 = Some(network("10.1.0.128/25"));
    peers[3].pod_cidrs.v4 = Some(network("10.6.0.0/25"));
    peers[5].pod_cidrs.v4 = Some(network("192.0.2.0/25"));
    peers[6].ips.v4 = Some("10.8.0.9".parse().expect("an address"));
    peers[6].pod_cidrs.v4 = Some(network("10.8.0.0/24"));
    peers[7].pod_cidrs = overlay::DualStack::default();
    matches_golden("problems", &plan::plan(&settings(Mode::Vxlan), &local(1), &peers));
    peers[8].wireguard_key = None;
    peers[7] = node(9);
    peers[7].wireguard_key = peers[0].wireguard_key;
    matches_golden("problems-wireguard", &plan::plan(&settings(Mode::Wireguard), &local(1), &peers));
}

#[test]
fn where_no_node_is_beyond_a_tunnel_there_is_no_rule() {
    let alone = plan::plan(&settings(Mode::Vxlan), &local(1), &[]);
    let flat = plan::plan(&settings(Mode::CrossSubnet), &local(1), &[node(2), node(3)]);
    assert_eq!((alone.rules, flat.rules), (Vec::new(), Vec::new()));
    let mut half = cluster::beyond(3);
    half.ips.v6 = None;
    let half = plan::plan(&settings(Mode::Vxlan), &local(1), &[half]);
    assert_eq!(half.rules.iter().map(|rule| rule.from).collect::<Vec<_>>(), [network("10.1.0.0/24")]);
}

/// Node 1 after `change`.
fn changed(change: impl FnOnce(&mut Local)) -> Local {
    let mut local = local(1);
    change(&mut local);
    local
}

fn vxlan(change: impl FnOnce(&mut Settings)) -> Settings {
    let mut settings = settings(Mode::Vxlan);
    change(&mut settings);
    settings
}

fn assert_mistakes(rows: &[(Settings, Local, &str)]) {
    for (settings, local, expected) in rows {
        let sentence = plan::check(settings, local).expect_err(expected);
        assert!(sentence.contains(expected), "{expected}: {sentence}");
        assert!(!sentence.contains('\n'), "{sentence}");
    }
}

#[test]
fn every_mistake_in_the_settings_is_one_sentence_with_key_and_value() {
    let wireguard = Settings { wireguard_port: 65535, ..settings(Mode::Wireguard) };
    assert_mistakes(&[
        (vxlan(|s| s.vni = 0), local(1), "vni: 0 is not between 1 and 16777215"),
        (vxlan(|s| s.vni = 1 << 24), local(1), "vni: 16777216 is not between"),
        (vxlan(|s| s.vni = 1_000_000), local(1), "`bowline6.1000000`, which is longer"),
        (vxlan(|s| s.vxlan_port = 0), local(1), "vxlanPort: 0 is no port"),
        (wireguard, local(1), "wireguardPort: 65535 is not between 1 and 65534"),
        (vxlan(|s| s.mtu = Some(1451)), local(1), "mtu: 1451 is more than the 1430"),
        (vxlan(|s| s.mtu = Some(1279)), local(1), "mtu: 1279 is less than the 1280"),
    ]);
}

#[test]
fn every_mistake_of_the_node_is_one_sentence_with_its_values() {
    let settings = settings(Mode::Vxlan);
    assert_mistakes(&[
        (
            settings.clone(),
            changed(|l| l.uplinks.v6 = None),
            "IPv6 pod CIDR fd00:10:1::/64, but no IPv6 address",
        ),
        (
            settings.clone(),
            changed(|l| l.pod_cidrs.v4 = Some(network("192.0.0.0/16"))),
            "pod CIDR 192.0.0.0/16 overlaps 192.0.2.0/24, the subnet of 192.0.2.1 on eth0",
        ),
        (
            settings.clone(),
            changed(|l| l.pod_cidrs.v4 = Some(network("10.1.0.0/31"))),
            "pod CIDR 10.1.0.0/31 has no room for pods",
        ),
        (
            settings,
            changed(|l| l.uplinks.v6.iter_mut().for_each(|uplink| uplink.mtu = 1300)),
            "mode vxlan leaves pods an MTU of 1230 bytes on this node's links, less than the 1280 that IPv6 needs",
        ),
    ]);
    for mode in Mode::ALL {
        let settings = self::settings(mode);
        assert_eq!(plan::check(&settings, &local(1)), Ok(()), "{mode}");
        assert_eq!(plan::check(&settings, &Local::default()), Ok(()), "{mode}, no pod CIDR yet");
    }
}

#[test]
fn the_mtu_is_what_the_tightest_family_leaves() {
    for (mode, dual, only_v4) in [
        (Mode::Vxlan, 1430, 1450),
        (Mode::CrossSubnet, 1430, 1450),
        (Mode::Routed, 1500, 1500),
        (Mode::Ipip, 1460, 1480),
        (Mode::Wireguard, 1420, 1440),
    ] {
        let mut local = local(1);
        assert_eq!(plan::plan(&settings(mode), &local, &[]).mtu, dual, "{mode}");
        local.pod_cidrs.v6 = None;
        assert_eq!(plan::plan(&settings(mode), &local, &[]).mtu, only_v4, "{mode}");
    }
}

/// Node 1 with a kernel of either kind.
fn any_local() -> impl Strategy<Value = Local> {
    let abilities = |able| Abilities { source_routes: able, diversion: able };
    any::<bool>().prop_map(move |able| Local { abilities: abilities(able), ..local(1) })
}

fn any_mode() -> impl Strategy<Value = Mode> {
    proptest::sample::select(Mode::ALL.to_vec())
}

proptest! {
    #[test]
    fn the_order_of_peers_changes_nothing(
        mode in any_mode(),
        local in any_local(),
        peers in cluster::peers().prop_shuffle(),
    ) {
        let mut sorted = peers.clone();
        sorted.sort_by(|a, b| a.name.cmp(&b.name));
        let settings = settings(mode);
        prop_assert_eq!(plan::plan(&settings, &local, &peers), plan::plan(&settings, &local, &sorted));
    }

    #[test]
    fn no_two_entries_of_a_plan_contradict_each_other(
        mode in any_mode(),
        local in any_local(),
        peers in cluster::peers(),
    ) {
        let plan = plan::plan(&settings(mode), &local, &peers);
        let distinct = |mut keys: Vec<String>| {
            let all = keys.len();
            keys.sort();
            keys.dedup();
            keys.len() == all
        };
        let routes = plan.routes.iter().map(|r| format!("{} {} {:?}", r.table, r.dst, r.from)).collect();
        prop_assert!(distinct(routes));
        let fdb = plan.fdb.iter().map(|f| format!("{} {}", f.device, f.mac)).collect();
        prop_assert!(distinct(fdb));
        let neighbours = plan.neighbours.iter().map(|n| format!("{} {}", n.device, n.ip)).collect();
        prop_assert!(distinct(neighbours));
        let wireguard = plan.wireguard.iter().map(|w| format!("{} {:?}", w.device, w.key)).collect();
        prop_assert!(distinct(wireguard));
        for route in &plan.routes {
            if let Hop::Encapsulated { device, .. } = &route.hop {
                let exists = plan.tunnels.iter().any(|tunnel| tunnel.name == *device);
                prop_assert!(exists, "{}", route);
            }
            if let Hop::Tunnel { device, gateway } = &route.hop {
                let exists = plan.tunnels.iter().any(|tunnel| tunnel.name == *device);
                prop_assert!(exists, "{}", route);
                let known = matches!(mode, Mode::Ipip | Mode::Wireguard)
                    || plan.neighbours.iter().any(|n| Some(n.ip) == *gateway);
                prop_assert!(known, "{}", route);
            }
        }
        for neighbour in &plan.neighbours {
            let forwarded = plan.fdb.iter().any(|f| f.mac == neighbour.mac && f.device == neighbour.device);
            prop_assert!(forwarded);
        }
        for next in plan.diversion.iter().flat_map(|diversion| diversion.nodes.values()) {
            prop_assert!(plan.neighbours.iter().any(|n| n.ip == *next), "{}", next);
        }
    }

    /// What IPv6 gets is what IPv4 gets: the mirror image of every node has the mirror image of the plan.
    #[test]
    fn each_family_is_planned_as_if_there_were_no_other(mode in any_mode(), peers in cluster::peers()) {
        let (settings, both) = (settings(mode), local(1));
        let whole = plan::plan(&settings, &both, &peers);
        let alone = |family: Family| {
            let mut local = both.clone();
            *local.pod_cidrs.of_mut(if family == Family::V4 { Family::V6 } else { Family::V4 }) = None;
            plan::plan(&settings, &local, &peers)
        };
        let (v4, v6) = (alone(Family::V4), alone(Family::V6));
        let mut together: Vec<_> = v4.routes.iter().chain(&v6.routes).cloned().collect();
        together.sort();
        prop_assert_eq!(&whole.routes, &together);
        prop_assert_eq!(whole.tunnels.len(), v4.tunnels.len() + v6.tunnels.len());
        prop_assert_eq!(v4.tunnels.len(), v6.tunnels.len());
        let mirrored: Vec<_> = cluster::mirrors(&peers);
        if mirrored.len() == peers.len() {
            prop_assert_eq!(v4.routes.len(), v6.routes.len());
            prop_assert_eq!(v4.fdb.len(), v6.fdb.len());
            // Of two names of one node IPv4 has a neighbour each, IPv6 one for both.
            let macs = |plan: &Plan| {
                let macs: std::collections::BTreeSet<_> = plan.neighbours.iter().map(|n| n.mac.clone()).collect();
                macs.len()
            };
            prop_assert_eq!(macs(&v4), macs(&v6));
            prop_assert_eq!(v4.problems.len(), v6.problems.len());
        }
    }
}

#[test]
fn the_tunnel_address_is_the_first_of_the_pod_cidr() {
    for (cidr, ip) in
        [("10.1.0.0/24", "10.1.0.0"), ("10.1.0.7/24", "10.1.0.0"), ("fd00:10:1::/64", "fd00:10:1::")]
    {
        let cidr: IpNetwork = network(cidr);
        assert_eq!(plan::tunnel_ip(cidr).to_string(), ip);
    }
}
