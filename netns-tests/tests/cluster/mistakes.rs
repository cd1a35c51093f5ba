//! Every mistake of a configuration is one sentence at start, and the daemon ends.

use lab::Cluster;
use lab::cluster::{Families, Shape};

/// Flags, and what the sentence must contain.
const ROWS: &[(&str, &[&str], &[&str])] = &[
    ("unknown mode", &["--mode", "vxlam"], &["--mode", "`vxlam`", "vxlan, routed, cross-subnet"]),
    (
        "cluster and Services overlap",
        &["--cluster-cidr", "10.244.0.0/16", "--service-cidr", "10.244.128.0/20"],
        &["10.244.0.0/16", "10.244.128.0/20"],
    ),
    (
        "pod CIDR outside the cluster's",
        &["--cluster-cidr", "10.99.0.0/16"],
        &["10.244.0.0/24", "10.99.0.0/16"],
    ),
    ("pod CIDR among Services", &["--service-cidr", "10.244.0.0/16"], &["10.244.0.0/24", "10.244.0.0/16"]),
    ("MTU larger than fits", &["--mtu", "1451"], &["1451", "1450"]),
    ("MTU too small", &["--mtu", "500"], &["--mtu", "500"]),
    ("uplink that is not there", &["--uplink", "eth7"], &["eth7"]),
    ("bad network identifier", &["--vni", "16777216"], &["--vni", "16777216"]),
    ("two sources", &["--kubeconfig", "/etc/kubeconfig"], &["manifests", "kubeconfig"]),
    ("kernel feature missing", &["--mode", "wireguard"], &["wireguard", "kernel"]),
    ("kernel feature missing", &["--mode", "ipip"], &["ipip", "kernel"]),
];

#[test]
fn each_is_one_sentence_and_the_end() {
    let cluster = Cluster::new(&Shape::flat(1, Families::V4)).unwrap();
    let node = cluster.node(0);
    let before = node.sh("ip -d link") + &node.sh("nft list ruleset");
    for (what, flags, words) in ROWS {
        let said = cluster.refusal(0, flags);
        for word in *words {
            let last = said.lines().last().unwrap_or_default();
            assert!(last.contains(word), "{what}: `{word}` is not in: {said}");
        }
        let last = said.lines().last().unwrap_or_default();
        let sentences: Vec<&str> = said.lines().filter(|line| line.starts_with("bowlined: ")).collect();
        assert_eq!(sentences, [last], "{what}: one sentence, and nothing after it: {said}");
        assert_eq!(
            node.sh("ip -d link") + &node.sh("nft list ruleset"),
            before,
            "{what}: something was made"
        );
    }
}

/// A node whose Node has pod CIDRs of a family that it has no address of.
#[test]
fn a_family_without_address_is_told() {
    let cluster = Cluster::new(&Shape::flat(1, Families::V4)).unwrap();
    let mut entry = cluster.node(0).entry().clone();
    entry.pod_cidrs.push("fd00:244::/64".into());
    cluster.manifests().write(&entry);
    let said = cluster.refusal(0, &["--mode", "vxlan"]);
    assert!(said.contains("IPv6") && said.contains("fd00:244::/64"), "{said}");
}

/// A node without pod CIDRs waits and says so; given one, it goes on by itself.
#[test]
fn a_node_without_pod_cidr_waits() {
    let cluster = Cluster::new(&Shape::flat(1, Families::V4)).unwrap();
    let node = cluster.node(0);
    let mut entry = node.entry().clone();
    let pod_cidrs = std::mem::take(&mut entry.pod_cidrs);
    cluster.manifests().write(&entry);
    let daemon = cluster.start(0, &["--mode", "vxlan"]);
    let (status, body) = lab::wait::until("the daemon to answer probes", || {
        lab::daemon::http(node, lab::cluster::HEALTHZ, "/readyz").filter(|(_, body)| body.contains("podCIDR"))
    });
    assert_ne!(status, 200, "{body}");
    assert_eq!(node.read(lab::cluster::CONFLIST), "");
    entry.pod_cidrs = pod_cidrs;
    cluster.manifests().write(&entry);
    node.until_ready(&daemon);
}
