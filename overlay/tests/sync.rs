//! Plans and the kernel: what is made, kept, swept, and never touched.

mod cluster;
mod ground;

use cluster::{beyond, settings};
use ground::{assert_alike, local, node, picture, sh, sync, sync_wholly};
use lab::Space;
use overlay::plan::plan;
use overlay::{Abilities, Dataplane, Local, Mode, Peer, Plan, Settings};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

/// The modes whose links every kernel that we know has.
const MODES: [Mode; 3] = [Mode::Vxlan, Mode::Routed, Mode::CrossSubnet];

fn planned(space: &Space, mode: Mode, peers: &[Peer]) -> Plan {
    plan(&settings(mode), &local(space, 1), peers)
}

fn peers() -> Vec<Peer> {
    (2..6).map(cluster::node).chain((6..9).map(beyond)).collect()
}

#[test]
fn a_second_sync_finds_nothing_to_do() {
    for mode in MODES {
        let space = node(1);
        let plan = planned(&space, mode, &peers());
        let first = sync_wholly(&space, &plan);
        assert!(first.added > 0 && first.removed == 0, "{mode}: {first:?}");
        let picture_before = picture(&space);
        let second = sync_wholly(&space, &plan);
        assert_eq!((second.requests, second.added, second.removed), (0, 0, 0), "{mode}: {second:?}");
        assert_alike(&picture_before, &picture(&space), mode.as_str());
    }
}

#[test]
fn a_survey_names_what_a_sync_would_do_and_does_nothing() {
    let survey = |space: &Space, plan: &Plan| {
        space.run(|| Dataplane::open().expect("sockets").survey(plan)).expect("asked")
    };
    for mode in MODES {
        let space = node(1);
        let plan = planned(&space, mode, &peers());
        let before = picture(&space);
        assert!(!survey(&space, &plan).is_empty(), "{mode}");
        assert_alike(&before, &picture(&space), mode.as_str());
        sync_wholly(&space, &plan);
        assert_eq!(survey(&space, &plan), Vec::<String>::new(), "{mode}");
        sh(&space, "ip route del 10.2.0.0/24");
        let found = survey(&space, &plan);
        assert!(found.len() == 1 && found[0].contains("10.2.0.0/24"), "{mode}: {found:?}");
    }
}

#[test]
fn cleanup_leaves_the_namespace_as_it_was_found() {
    for mode in MODES {
        let space = node(1);
        let before = picture(&space);
        sync_wholly(&space, &planned(&space, mode, &peers()));
        assert_ne!(picture(&space), before, "{mode}");
        let report = space.run(|| Dataplane::open().expect("sockets").cleanup()).expect("cleaned");
        assert_eq!(report.failures, []);
        assert_alike(&before, &picture(&space), mode.as_str());
    }
}

#[test]
fn devices_are_as_planned() {
    let space = node(1);
    sync_wholly(&space, &planned(&space, Mode::Vxlan, &peers()));
    let link = sh(&space, "ip -d link show bowline.1");
    for words in [
        "mtu 1450",
        "vxlan id 1 local 192.0.2.1 dev eth0",
        "dstport 8472",
        "nolearning",
        "noudpcsum",
        "addrgenmode none",
        "alias bowline",
        "62:6c:c0:00:02:01",
    ] {
        assert!(link.contains(words), "{words}: {link}");
    }
    let link = sh(&space, "ip -d link show bowline6.1");
    for words in ["mtu 1430", "local 2001:db8::1 dev eth0", "nolearning", " udpcsum"] {
        assert!(link.contains(words), "{words}: {link}");
    }
    assert_eq!(sh(&space, "cat /proc/sys/net/ipv6/conf/bowline6.1/accept_ra").trim(), "0");
    assert!(sh(&space, "ip route show 10.2.0.0/24").contains("via 10.2.0.0 dev bowline.1 proto 98 onlink"));
    assert!(sh(&space, "ip rule").contains("9800:\tfrom 10.1.0.0/24 lookup 9800 proto 98"));
    assert!(sh(&space, "ip route get 10.1.0.77 || true").is_empty(), "unreachable");
    assert!(sh(&space, "ip route get 192.0.2.2 from 10.1.0.0").contains("dev bowline.1"));
    assert!(sh(&space, "ip route get 192.0.2.2").contains("dev eth0"));
}

/// Node 1 with all that this kernel can do.
fn able(space: &Space, mode: Mode) -> Plan {
    let abilities = space.run(|| Dataplane::open().expect("sockets").abilities()).expect("asked");
    assert_eq!(abilities, Abilities { source_routes: true, diversion: true }, "of this kernel");
    plan(&settings(mode), &Local { abilities, ..local(space, 1) }, &peers())
}

/// The ruleset as a person sees it, without the numbers of links.
fn ruleset(space: &Space) -> String {
    sh(space, "nft -s list ruleset | sed 's/ comment .*//'")
}

#[test]
fn a_node_without_rules_leads_pods_to_nodes_all_the_same() {
    let space = node(1);
    let before = (picture(&space), ruleset(&space));
    sh(&space, "sysctl -qw net.ipv4.conf.default.rp_filter=1");
    // As an earlier version, or an older kernel, has left it.
    sync_wholly(&space, &planned(&space, Mode::Vxlan, &peers()));
    assert!(sh(&space, "ip rule; ip -6 rule").contains("9800:"));
    let plan = able(&space, Mode::Vxlan);
    sync_wholly(&space, &plan);
    assert!(!sh(&space, "ip rule; ip -6 rule; ip route show table all").contains("9800"));
    let table = sh(&space, "nft list table netdev bowline_divert");
    for words in [
        "type filter hook egress device \"eth0\" priority filter",
        "ip saddr 10.1.0.0/24 fwd ip to ip daddr map @nodes device \"bowline.1\"",
        "192.0.2.2 : 10.2.0.0",
    ] {
        assert!(table.contains(words), "{words}: {table}");
    }
    let from_pod = sh(&space, "ip -6 route get 2001:db8::2 from fd00:10:1::5 iif lo");
    assert!(from_pod.contains("dev bowline6.1"), "{from_pod}");
    assert!(sh(&space, "ip -6 route get 2001:db8::2").contains("dev eth0"));
    assert_eq!(sh(&space, "cat /proc/sys/net/ipv4/conf/bowline.1/rp_filter").trim(), "2");
    assert_eq!(sync_wholly(&space, &plan).requests, 0);
    space.run(|| Dataplane::open().expect("sockets").cleanup()).expect("cleaned");
    assert_alike(&before.0, &picture(&space), "afterwards");
    assert_eq!(before.1, ruleset(&space));
}

#[test]
fn a_diversion_is_put_back() {
    let space = node(1);
    let plan = able(&space, Mode::CrossSubnet);
    sync_wholly(&space, &plan);
    let before = (picture(&space), ruleset(&space));
    for damage in [
        "nft delete table netdev bowline_divert",
        "nft flush chain netdev bowline_divert out",
        "nft flush map netdev bowline_divert nodes",
        "nft add element netdev bowline_divert nodes { 192.0.2.99 : 10.99.0.0 }",
        "nft add rule netdev bowline_divert out drop",
        "ip link del bowline.1",
        "ip -6 route flush proto 98",
        "nft flush ruleset",
    ] {
        sh(&space, damage);
        let report = sync_wholly(&space, &plan);
        assert!(report.requests > 0, "{damage}");
        assert_alike(&before.0, &picture(&space), damage);
        assert_eq!(before.1, ruleset(&space), "{damage}");
        assert_eq!(sync_wholly(&space, &plan).requests, 0, "{damage}");
    }
}

/// What others made is neither swept nor replaced nor adopted, however alike it looks.
#[test]
fn what_others_made_is_left_alone() {
    let space = node(1);
    sh(&space, "ip link add flannel.1 type vxlan id 5 dstport 8472 local 192.0.2.1 dev eth0 nolearning");
    sh(&space, "ip link set flannel.1 up; ip route add 10.77.0.0/24 via 192.0.2.9 proto static");
    sh(
        &space,
        "ip rule add from 10.88.0.0/24 lookup 9800; ip route add 10.99.0.0/24 via 192.0.2.9 table 9800 proto static",
    );
    sh(&space, "ip neigh add 10.66.0.0 lladdr 62:6c:c0:00:02:63 dev flannel.1 nud permanent");
    sh(&space, "bridge fdb add 62:6c:c0:00:02:63 dev flannel.1 dst 192.0.2.99 self permanent");
    // A pod's link and route: ours, but a plug-in's.
    sh(&space, "ip link add pod0 type veth peer name pod1; ip link set pod1 up; ip link set pod0 up");
    sh(&space, "ip route add 10.1.0.5/32 dev pod0 proto 98");
    // Carriers and neighbours are settled now.
    let before = picture(&space);
    for mode in MODES {
        sync_wholly(&space, &planned(&space, mode, &peers()));
    }
    space.run(|| Dataplane::open().expect("sockets").cleanup()).expect("cleaned");
    assert_alike(&before, &picture(&space), "afterwards");
}

#[test]
fn a_route_of_another_to_a_peers_pods_is_kept_and_reported() {
    let space = node(1);
    sh(&space, "ip route add 10.2.0.0/24 via 192.0.2.9 proto static");
    let report = sync(&space, &planned(&space, Mode::Vxlan, &peers()));
    assert_eq!(report.failures.len(), 1, "{:?}", report.failures);
    assert_eq!(
        report.failures[0].to_string(),
        "node-2: add route 10.2.0.0/24 via 10.2.0.0: another route to 10.2.0.0/24 is there (via 192.0.2.9, protocol 4), and it is not bowline's: remove it with `ip route del 10.2.0.0/24 via 192.0.2.9`"
    );
    assert!(sh(&space, "ip route show 10.2.0.0/24").contains("via 192.0.2.9"));
    assert!(sh(&space, "ip route show 10.3.0.0/24").contains("dev bowline.1"), "others are not held up");
}

#[test]
fn a_foreign_link_of_our_name_is_refused_and_kept() {
    let space = node(1);
    sh(&space, "ip link add bowline.1 type veth peer name other0");
    let report = sync(&space, &planned(&space, Mode::Vxlan, &peers()));
    let sentences: Vec<_> = report.failures.iter().map(|failure| failure.what.as_str()).collect();
    assert_eq!(
        sentences,
        [
            "bowline.1: there is a veth link of that name already, and it is not bowline's (its alias is ``): rename or delete it"
        ]
    );
    assert!(sh(&space, "ip -d link show bowline.1").contains("veth"));
    assert!(sh(&space, "ip -6 route show fd00:10:2::/64").contains("dev bowline6.1"), "IPv6 is not held up");
}

#[test]
fn who_has_our_vni_and_port_is_named() {
    let space = node(1);
    sh(&space, "ip link add flannel.1 type vxlan id 1 dstport 8472 local 192.0.2.1 dev eth0 nolearning");
    let report = sync(&space, &planned(&space, Mode::Vxlan, &peers()));
    let sentences: Vec<_> = report.failures.iter().map(|failure| failure.what.as_str()).collect();
    assert_eq!(
        sentences,
        [
            "bowline.1: VNI 1 on UDP port 8472 is taken by the link flannel.1: delete that link, or set `vni` or `vxlanPort`"
        ]
    );
}

#[test]
fn a_port_that_is_anothers_is_one_failure_and_cured_when_it_is_free() {
    let space = node(1);
    let squatter = space.run(|| std::net::UdpSocket::bind("0.0.0.0:8472")).expect("a socket");
    let plan = planned(&space, Mode::Vxlan, &peers());
    let report = sync(&space, &plan);
    let sentences: Vec<_> = report.failures.iter().map(|failure| failure.what.as_str()).collect();
    assert_eq!(
        sentences,
        [
            "set bowline.1 up: Address already in use (os error 98) (is UDP port 8472 another's? `ss -uanp` tells, `vxlanPort` sets ours)"
        ]
    );
    assert!(sh(&space, "ip -6 route show fd00:10:2::/64").contains("dev bowline6.1"), "IPv6 is not held up");
    drop(squatter);
    sync_wholly(&space, &plan);
    assert!(sh(&space, "ip route show 10.2.0.0/24").contains("dev bowline.1"));
    assert_eq!(sync_wholly(&space, &plan).requests, 0);
}

/// Everything that somebody may do to what is ours is undone, and the picture is the old one.
#[test]
fn whatever_somebody_changes_is_put_back() {
    let space = node(1);
    let plan = planned(&space, Mode::Vxlan, &peers());
    sync_wholly(&space, &plan);
    let before = picture(&space);
    for (damage, keeps_device) in [
        ("ip link del bowline.1", false),
        ("ip link del bowline6.1", false),
        ("ip link set bowline.1 down", true),
        ("ip link set bowline6.1 down", true),
        ("ip link set bowline.1 mtu 1000", true),
        ("ip link set bowline.1 address 02:00:00:00:00:01", true),
        ("ip addr flush dev bowline.1", true),
        ("ip addr add 10.55.0.1/24 dev bowline.1", true),
        ("ip route del 10.2.0.0/24", true),
        ("ip -6 route flush proto 98", true),
        ("ip route replace 10.2.0.0/24 via 10.3.0.0 dev bowline.1 onlink proto 98", true),
        ("ip -6 route replace fd00:10:2::/64 via fe80::1 dev bowline6.1 proto 98", true),
        ("ip route add 10.222.0.0/24 via 10.3.0.0 dev bowline.1 onlink proto 98", true),
        ("ip route flush table 9800", true),
        ("ip rule del pref 9800", true),
        ("ip rule add from 10.44.0.0/24 pref 9800 lookup 9800 proto 98", true),
        ("bridge fdb del 62:6c:c0:00:02:02 dev bowline.1 dst 192.0.2.2 self", true),
        ("bridge fdb replace 62:6c:c0:00:02:02 dev bowline.1 dst 192.0.2.77 self permanent", true),
        (
            "bridge fdb add 02:00:00:00:00:02 dev bowline.1 dst 192.0.2.66 self permanent; for n in 66 67; do bridge fdb append 00:00:00:00:00:00 dev bowline.1 dst 192.0.2.$n self permanent; done",
            true,
        ),
        ("ip neigh del 10.2.0.0 dev bowline.1", true),
        ("ip neigh replace 10.2.0.0 lladdr 02:00:00:00:00:03 dev bowline.1 nud permanent", true),
        ("ip neigh add 10.33.0.0 lladdr 02:00:00:00:00:03 dev bowline.1 nud permanent", true),
        (
            "ip link del bowline.1; ip link add bowline.1 type vxlan id 9 dstport 8472 local 192.0.2.1 dev eth0; ip link set bowline.1 alias bowline",
            false,
        ),
        (
            "ip link add bowline.7 type vxlan id 7 dstport 8472 local 192.0.2.1 dev eth0; ip link set bowline.7 alias bowline",
            true,
        ),
    ] {
        let index = || sh(&space, "cat /sys/class/net/bowline.1/ifindex /sys/class/net/bowline6.1/ifindex");
        let old = index();
        sh(&space, damage);
        assert_ne!(picture(&space), before, "{damage} does something");
        let report = sync_wholly(&space, &plan);
        assert!(report.requests > 0, "{damage}: {report:?}");
        assert_alike(&before, &picture(&space), damage);
        assert_eq!(index() == old, keeps_device, "{damage}");
        assert_eq!(sync_wholly(&space, &plan).requests, 0, "{damage}");
    }
}

#[test]
fn a_peer_that_changes_costs_its_own_entries_only() {
    let space = node(1);
    let mut all = peers();
    sync_wholly(&space, &planned(&space, Mode::Vxlan, &all));
    all.push(beyond(9));
    let joined = sync_wholly(&space, &planned(&space, Mode::Vxlan, &all));
    assert_eq!((joined.requests, joined.added), (8, 8), "neighbour, entry, two routes; both families");
    let last = all.last_mut().expect("it");
    last.ips.v4 = "198.51.100.200".parse().ok();
    let moved = sync_wholly(&space, &planned(&space, Mode::Vxlan, &all));
    assert_eq!((moved.added, moved.removed), (3, 2), "its neighbour, entry and node route anew: {moved:?}");
    all.pop();
    let left = sync_wholly(&space, &planned(&space, Mode::Vxlan, &all));
    assert_eq!((left.requests, left.removed), (8, 8));
}

#[test]
fn a_changed_setting_recreates_the_device_only_where_it_must() {
    let space = node(1);
    let index = || sh(&space, "cat /sys/class/net/bowline.1/ifindex");
    let sync_with = |settings: &Settings| sync_wholly(&space, &plan(settings, &local(&space, 1), &peers()));
    let mut settings = settings(Mode::Vxlan);
    sync_with(&settings);
    let first = index();
    settings.vxlan_checksum_offload = Some(false);
    sync_with(&settings);
    assert!(sh(&space, "ethtool -k bowline.1").contains("tx-checksum-ip-generic: off"));
    assert_eq!(sync_with(&settings).requests, 0);
    settings.vxlan_checksum_offload = Some(true);
    sync_with(&settings);
    assert!(sh(&space, "ethtool -k bowline.1").contains("tx-checksum-ip-generic: on"));
    sh(&space, "ip link set eth0 mtu 1400");
    let mut smaller = local(&space, 1);
    smaller.uplinks.v4.iter_mut().for_each(|uplink| uplink.mtu = 1400);
    sync_wholly(&space, &plan(&settings, &smaller, &peers()));
    assert!(sh(&space, "ip link show bowline.1").contains("mtu 1350"));
    assert_eq!(index(), first);
    sh(&space, "ip link set eth0 mtu 1500");
    settings.vxlan_port = 4789;
    sync_with(&settings);
    assert_ne!(index(), first);
    settings.vni = 4096;
    sync_with(&settings);
    assert!(!sh(&space, "ip -o link").contains("bowline.1:"), "the old device is swept");
}

#[test]
fn extending_removes_nothing() {
    let space = node(1);
    sync_wholly(&space, &planned(&space, Mode::Vxlan, &peers()));
    let before = picture(&space);
    let other = plan(&Settings { vni: 2, ..settings(Mode::Vxlan) }, &local(&space, 1), &[beyond(40)]);
    let report = space.run(|| Dataplane::open().expect("sockets").extend(&other)).expect("extended");
    assert_eq!((report.failures.len(), report.removed), (0, 0), "{report:?}");
    let after = picture(&space);
    assert!(before.lines().all(|line| after.contains(line)));
    assert!(sh(&space, "ip route show 10.40.0.0/24").contains("bowline.2"));
    assert_eq!(space.run(|| Dataplane::open().expect("sockets").extend(&other)).expect("again").requests, 0);
}

/// A kernel that lacks a kind of link is told in one sentence; one that has it takes the plan twice like any other.
#[test]
fn a_missing_kernel_feature_is_one_sentence() {
    for (mode, modules) in [
        (Mode::Ipip, ["ipip", "ip6_tunnel"]),
        (Mode::Wireguard, ["wireguard"; 2]),
        (Mode::Vxlan, ["vxlan"; 2]),
    ] {
        let space = node(1);
        let plan = planned(&space, mode, &peers());
        let before = picture(&space);
        let probed = space.run(|| Dataplane::open().expect("sockets").probe(&plan));
        if let Err(sentence) = &probed {
            let named = modules
                .iter()
                .any(|module| sentence.ends_with(&format!("load or build the module `{module}`")));
            assert!(sentence.starts_with("this kernel has no ") && named, "{sentence}");
            assert_alike(&before, &picture(&space), "afterwards");
            let report = sync(&space, &plan);
            assert!(
                report.failures.iter().all(|failure| failure.what.contains("this kernel has no ")),
                "{report:?}"
            );
            assert!((1..=2).contains(&report.failures.len()), "{report:?}");
        } else {
            let key = tempfile::tempdir().expect("a directory");
            let key = overlay::wireguard::key(&key.path().join("key")).expect("a key");
            let sync = || {
                space.run(|| {
                    let mut dataplane = Dataplane::open().expect("sockets");
                    dataplane.set_wireguard_key(key.clone());
                    dataplane.sync(&plan)
                })
            };
            assert_eq!(sync().expect("synced").failures, []);
            assert_eq!(sync().expect("synced").requests, 0, "{mode}");
        }
    }
}

/// However peers came and went, the kernel ends as if only the last plan had ever been.
#[test]
fn any_history_ends_like_a_fresh_start() {
    let history =
        proptest::collection::vec((proptest::sample::select(MODES.to_vec()), cluster::peers()), 1..5);
    let mut runner =
        TestRunner::new(ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() });
    let outcome = runner.run(&history, |history| {
        let lived = node(1);
        for (mode, peers) in &history {
            sync_wholly(&lived, &planned(&lived, *mode, peers));
        }
        let fresh = node(1);
        let (mode, peers) = history.last().expect("one at least");
        sync_wholly(&fresh, &planned(&fresh, *mode, peers));
        prop_assert_eq!(ground::difference(&picture(&fresh), &picture(&lived)), Vec::<String>::new());
        Ok(())
    });
    outcome.expect("the law holds");
}
