//! Every mistake is one sentence; what is right means what it says.

use clap::Parser;

use super::*;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    typed: Typed,
}

fn understood(flags: &[&str], yaml: &str) -> Result<Config, String> {
    let line = Line::try_parse_from(["bowlined"].iter().chain(flags)).map_err(|error| error.to_string())?;
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("bowline.yaml");
    std::fs::write(&path, yaml).expect("written");
    let (_, file) = Typed::read_or_default(Some(&path))
        .map_err(|error| error.replace(&dir.path().display().to_string(), ""))?;
    let variable = |name: &str| (name == "NODE_NAME").then(|| "from-env".to_owned());
    Config::understand(&line.typed, &file, Path::new("bowline.yaml"), &variable)
}

#[test]
fn nothing_typed_is_vxlan_by_the_api() {
    let config = understood(&[], "").expect("understood");
    assert_eq!(config.node_name, "from-env");
    assert_eq!(config.settings, Settings::default());
    assert_eq!(config.source, Source::Api { kubeconfig: None, servers: Vec::new() });
    assert_eq!(config.masquerade, DualStack { v4: true, v6: true });
    assert_eq!(config.paths, Paths::default());
}

#[test]
fn flags_win_over_the_file_and_both_have_every_key() {
    let yaml =
        "nodeName: a\nmode: routed\nmtu: 1400\nvni: 7\nclusterCidr: [10.0.0.0/8]\nhealthzAddress: 'off'\n";
    let config =
        understood(&["--mode", "ipip", "--cluster-cidr", "10.1.0.0/16,fd00::/48"], yaml).expect("understood");
    assert_eq!(config.node_name, "a");
    assert_eq!(config.settings.mode, Mode::Ipip);
    assert_eq!((config.settings.mtu, config.settings.vni), (Some(1400), 7));
    assert_eq!(config.ranges.cluster.len(), 2);
    assert_eq!(config.healthz, None);
}

#[test]
fn services_are_left_to_kube_proxy_until_somebody_says_otherwise() {
    assert_eq!(understood(&[], "").expect("understood").proxy, None);
    assert_eq!(understood(&["--proxy-mode=off"], "proxy: {mode: auto}").expect("understood").proxy, None);
    let yaml = "nodeName: A\nclusterCidr: [10.0.0.0/8, 'fd00::/48']\nproxy:\n  mode: nftables\n  masqueradeAll: true\n  minSyncPeriod: 1s\n  nodePortAddresses: [192.0.2.0/24]\n  conntrackMaxPerCore: 0\n  conntrackTcpTimeoutEstablished: 0\n";
    let proxy = understood(&["--proxy-min-sync-period", "0"], yaml).expect("understood").proxy.expect("on");
    assert_eq!((proxy.node_name.as_str(), proxy.mode), ("a", Some(proxy::Mode::Nftables)));
    assert!(proxy.settings.masquerade_all);
    assert_eq!(proxy.min_sync_period, std::time::Duration::ZERO);
    assert_eq!((proxy.conntrack.max_per_core, proxy.conntrack.tcp_established), (None, None));
    let proxy::plan::DetectLocal::ClusterCidr(networks) = proxy.settings.detect_local else {
        panic!("{proxy:?}")
    };
    assert!(networks.v4.is_some() && networks.v6.is_some(), "the network's clusterCidr counts");
    let proxy = understood(&["--proxy-mode=auto"], "").expect("understood").proxy.expect("on");
    assert_eq!((proxy.mode, proxy.settings.detect_local), (None, proxy::plan::DetectLocal::NodeCidr));
}

/// Flags, a file, and the sentence.
const MISTAKES: &[(&[&str], &str, &str)] = &[
    (
        &[],
        "mode: vxlam",
        "bowline.yaml: mode: `vxlam` is none of vxlan, routed, cross-subnet, ipip, wireguard",
    ),
    (&["--mode", "x"], "", "--mode: `x` is none of vxlan, routed, cross-subnet, ipip, wireguard"),
    (&[], "mode: vxlan\nmode1: x", "/bowline.yaml:2: unknown key `mode1`"),
    (&["--vni", "0"], "", "--vni: `0` is not a VXLAN network identifier from 1 to 16777215"),
    (&["--vni", "16777216"], "", "--vni: `16777216` is not a VXLAN network identifier from 1 to 16777215"),
    (&["--vxlan-port", "0"], "", "--vxlan-port: `0` is not a UDP port from 1 to 65535"),
    (&[], "routingRules: never", "bowline.yaml: routingRules: `never` is none of auto, always"),
    (&[], "vxlanPort: 65536", "bowline.yaml: vxlanPort: `65536` is not a UDP port from 1 to 65535"),
    (&["--proxy-mode", "x"], "", "--proxy-mode: `x` is none of off, auto, nftables..."),
    (&[], "proxy: {mode: [a]}", "/bowline.yaml:1: ..."),
    (&[], "proxy: {modes: auto}", "/bowline.yaml:1: unknown key `modes`"),
    (
        &[],
        "proxy: {mode: auto, syncPeriod: 30}",
        "bowline.yaml: proxy.syncPeriod: `30` is no time such as 100ms, 30s, 15m or 24h",
    ),
    (
        &["--proxy-mode=auto", "--proxy-min-sync-period=1m"],
        "",
        "proxy: minSyncPeriod 60s is more than syncPeriod 30s",
    ),
    (
        &["--proxy-mode=auto", "--proxy-node-port-addresses=primary,192.0.2.0/24"],
        "",
        "proxy: nodePortAddresses: `primary` and `all` stand alone",
    ),
    (
        &["--proxy-mode=auto", "--proxy-detect-local-mode=BridgeInterface"],
        "",
        "proxy: detectLocalMode BridgeInterface needs podBridgeInterface",
    ),
    (
        &["--proxy-mode=auto", "--proxy-masquerade-bit=32"],
        "",
        "--proxy-masquerade-bit: `32` is not a bit of the packet mark from 0 to 31",
    ),
    (&["--wireguard-port", "65535"], "", "--wireguard-port: `65535` is not a UDP port from 1 to 65534"),
    (&[], "mtu: 500", "bowline.yaml: mtu: `500` is not a number of bytes from 576 to 65535"),
    (&["--mtu", "big"], "", "--mtu: `big` is not a number of bytes from 576 to 65535"),
    (&["--cluster-cidr", "10.0.0.0"], "", "--cluster-cidr: `10.0.0.0` is not a network (ADDRESS/LENGTH)"),
    (
        &[],
        "clusterCidr: 10.0.0.1/8",
        "bowline.yaml: clusterCidr: `10.0.0.1/8` has bits set beyond its length; 10.0.0.0/8 is the network",
    ),
    (
        &["--cluster-cidr", "10.0.0.0/8", "--service-cidr", "10.96.0.0/12"],
        "",
        "clusterCidr 10.0.0.0/8 and serviceCidr 10.96.0.0/12 overlap",
    ),
    (
        &["--cluster-cidr", "10.0.0.0/8,10.1.0.0/16"],
        "",
        "clusterCidr 10.0.0.0/8 and clusterCidr 10.1.0.0/16 overlap",
    ),
    (&["--masquerade", "maybe"], "", "--masquerade: `maybe` is none of true, false, ipv4, ipv6"),
    (&["--healthz-address", "9810"], "", "--healthz-address: `9810` is neither ADDRESS:PORT nor off"),
    (&["--run-dir", "run"], "", "--run-dir: `run` does not begin with /"),
    (&["--uplink", ""], "", "--uplink: the value is empty"),
    (&["--api-server", "10.0.0.1"], "", "--api-server: `10.0.0.1` does not begin with https://"),
    (
        &["--manifests", "/m", "--kubeconfig", "/k"],
        "",
        "--manifests and --kubeconfig exclude each other: Nodes come from one place",
    ),
    (
        &["--manifests", "/m"],
        "apiServer: https://a",
        "--manifests and bowline.yaml: apiServer exclude each other: Nodes come from one place",
    ),
    (&["--log-format", "xml"], "", "--log-format: `xml` is none of text, json"),
    (
        &["--log-level", "loud"],
        "",
        "--log-level: `loud` is none of error, warn, info, debug, trace, nor MODULE=LEVEL,...",
    ),
];

#[test]
fn every_mistake_is_one_sentence_that_names_place_and_value() {
    for (flags, yaml, message) in MISTAKES {
        let error = understood(flags, yaml).expect_err(message);
        match message.strip_suffix("...") {
            Some(beginning) => assert!(error.starts_with(beginning), "{error}"),
            None => assert_eq!(&error, message),
        }
    }
}

#[test]
fn a_missing_name_says_how_to_give_one() {
    let none = Typed::default();
    let error = Config::understand(&none, &none, Path::new("x"), &|_| None).expect_err("no name");
    assert_eq!(
        error,
        "the name of this node's Node object is missing: set --node-name, or the variable NODE_NAME"
    );
}

#[test]
fn a_pod_cidr_must_lie_within_the_cluster_and_apart_from_services() {
    let config = understood(&["--cluster-cidr", "10.0.0.0/16", "--service-cidr", "10.96.0.0/12"], "")
        .expect("understood");
    for (pods, message) in [
        ("10.0.3.0/24", None),
        ("10.1.0.0/24", Some("pod CIDR 10.1.0.0/24 lies outside clusterCidr 10.0.0.0/16")),
        ("10.0.0.0/15", Some("pod CIDR 10.0.0.0/15 lies outside clusterCidr 10.0.0.0/16")),
        ("10.97.0.0/24", Some("pod CIDR 10.97.0.0/24 overlaps serviceCidr 10.96.0.0/12")),
        ("fd00::/64", Some("pod CIDR fd00::/64 is IPv6, but clusterCidr names no IPv6 network")),
    ] {
        let checked = config.ranges.check_pod_cidr(pods.parse().expect("a network"));
        assert_eq!(checked.err().as_deref(), message, "{pods}");
    }
}

/// `run-dir` as `runDir`.
fn key_of(flag: &str) -> String {
    let mut words = flag.split('-');
    let first = words.next().unwrap_or_default().to_owned();
    words.fold(first, |key, word| key + &word[..1].to_ascii_uppercase() + &word[1..])
}

#[test]
fn every_flag_is_a_key_of_the_file() {
    let command = <Line as clap::CommandFactory>::command();
    let all: Vec<(bool, String)> = command
        .get_arguments()
        .filter_map(|argument| argument.get_long())
        .map(|flag| {
            let (of_proxy, key) = match flag.strip_prefix("proxy-") {
                Some(rest) => (true, key_of(rest)),
                None => (false, key_of(flag)),
            };
            assert_eq!(kebab(&if of_proxy { format!("proxy.{key}") } else { key.clone() }), flag);
            (of_proxy, format!("{key}: x\n"))
        })
        .collect();
    let section: String =
        all.iter().filter(|(of_proxy, _)| *of_proxy).map(|(_, key)| format!("  {key}")).collect();
    let rest = all.iter().filter(|(of_proxy, _)| !of_proxy).map(|(_, key)| key.as_str());
    let yaml: String = rest.chain(["proxy:\n", section.as_str()]).collect();
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("all.yaml");
    std::fs::write(&path, &yaml).expect("written");
    let typed = Typed::read(&path).expect("every key is known");
    assert!(typed.mode.is_some() && typed.run_dir.is_some() && typed.proxy.sync_period.is_some());
}
