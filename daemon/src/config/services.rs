//! The section `proxy` of the configuration: whether and how this node serves Services.

use std::time::Duration;

use clap::Args;
use ipnetwork::IpNetwork;
use proxy::plan::{DetectLocal, NodePortAddresses};
use proxy::{DualStack, IptablesOptions, IpvsOptions, Mode, Options, Settings};

use super::{Layers, Paths, Ranges, Word, Words, network, number};
use crate::proxy::{Config, Conntrack, Leftovers};

/// Between two syncs, when nobody says otherwise.
const MIN_SYNC_PERIOD: Duration = Duration::from_millis(100);
/// How soon a failed sync is tried again at the latest.
const SYNC_PERIOD: Duration = Duration::from_secs(30);

/// Every setting of the proxy, as a flag `--proxy-mode` and as a key `mode` of the section `proxy`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args, serde::Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ServicesTyped {
    /// By what Services are served: off, auto, nftables, iptables, ipvs [off: kube-proxy does].
    #[arg(id = "proxy-mode", long = "proxy-mode", value_name = "VALUE")]
    pub mode: Option<Word>,
    /// How pods are told from others: ClusterCIDR, NodeCIDR, BridgeInterface, InterfaceNamePrefix, off [ClusterCIDR where
    /// one is known, else NodeCIDR].
    #[arg(id = "proxy-detect-local-mode", long = "proxy-detect-local-mode", value_name = "VALUE")]
    pub detect_local_mode: Option<Word>,
    /// All pods' addresses, for detectLocalMode ClusterCIDR [the network's clusterCidr].
    #[arg(id = "proxy-cluster-cidr", long = "proxy-cluster-cidr", value_name = "VALUE")]
    #[serde(alias = "clusterCIDR")]
    pub cluster_cidr: Option<Words>,
    /// The bridge of pods, for detectLocalMode BridgeInterface.
    #[arg(id = "proxy-pod-bridge-interface", long = "proxy-pod-bridge-interface", value_name = "VALUE")]
    pub pod_bridge_interface: Option<Word>,
    /// How the names of pods' links begin, for detectLocalMode InterfaceNamePrefix.
    #[arg(
        id = "proxy-pod-interface-name-prefix",
        long = "proxy-pod-interface-name-prefix",
        value_name = "VALUE"
    )]
    pub pod_interface_name_prefix: Option<Word>,
    /// Whether whatever goes to a ClusterIP carries the node's address: true, false [false].
    #[arg(id = "proxy-masquerade-all", long = "proxy-masquerade-all", value_name = "VALUE")]
    pub masquerade_all: Option<Word>,
    /// Bit of the packet mark that means "masquerade", 0 to 31 [14].
    #[arg(id = "proxy-masquerade-bit", long = "proxy-masquerade-bit", value_name = "VALUE")]
    pub masquerade_bit: Option<Word>,
    /// Where NodePorts answer: primary, all, or networks [primary].
    #[arg(id = "proxy-node-port-addresses", long = "proxy-node-port-addresses", value_name = "VALUE")]
    pub node_port_addresses: Option<Words>,
    /// Between two syncs at least, such as 100ms or 1s [100ms].
    #[arg(id = "proxy-min-sync-period", long = "proxy-min-sync-period", value_name = "VALUE")]
    pub min_sync_period: Option<Word>,
    /// How soon a failed sync is tried again at the latest, and how often the kernel is looked at [30s].
    #[arg(id = "proxy-sync-period", long = "proxy-sync-period", value_name = "VALUE")]
    pub sync_period: Option<Word>,
    /// Whether the rules of kube-proxy go once ours are in place: true, false [false].
    #[arg(id = "proxy-replace-kube-proxy", long = "proxy-replace-kube-proxy", value_name = "VALUE")]
    pub replace_kube_proxy: Option<Word>,
    /// Mode iptables: whether NodePorts of IPv4 answer on 127.0.0.1: true, false [true].
    #[arg(id = "proxy-localhost-node-ports", long = "proxy-localhost-node-ports", value_name = "VALUE")]
    pub localhost_node_ports: Option<Word>,
    /// Mode ipvs: the kernel's name of the scheduler [rr].
    #[arg(id = "proxy-ipvs-scheduler", long = "proxy-ipvs-scheduler", value_name = "VALUE")]
    pub ipvs_scheduler: Option<Word>,
    /// Mode ipvs: whether ARP is answered only by the link that has the address: true, false [false].
    #[arg(id = "proxy-ipvs-strict-arp", long = "proxy-ipvs-strict-arp", value_name = "VALUE")]
    pub ipvs_strict_arp: Option<Word>,
    /// Mode ipvs: networks whose virtual servers belong to others.
    #[arg(id = "proxy-ipvs-exclude-cidrs", long = "proxy-ipvs-exclude-cidrs", value_name = "VALUE")]
    #[serde(alias = "ipvsExcludeCIDRs")]
    pub ipvs_exclude_cidrs: Option<Words>,
    /// Mode ipvs: for how long an idle TCP connection is remembered [the kernel's].
    #[arg(id = "proxy-ipvs-tcp-timeout", long = "proxy-ipvs-tcp-timeout", value_name = "VALUE")]
    pub ipvs_tcp_timeout: Option<Word>,
    /// Mode ipvs: the same after a FIN [the kernel's].
    #[arg(id = "proxy-ipvs-tcp-fin-timeout", long = "proxy-ipvs-tcp-fin-timeout", value_name = "VALUE")]
    pub ipvs_tcp_fin_timeout: Option<Word>,
    /// Mode ipvs: the same for UDP [the kernel's].
    #[arg(id = "proxy-ipvs-udp-timeout", long = "proxy-ipvs-udp-timeout", value_name = "VALUE")]
    pub ipvs_udp_timeout: Option<Word>,
    /// Entries of conntrack per processor, 0 leaves them alone [32768].
    #[arg(id = "proxy-conntrack-max-per-core", long = "proxy-conntrack-max-per-core", value_name = "VALUE")]
    pub conntrack_max_per_core: Option<Word>,
    /// Entries of conntrack at least [131072].
    #[arg(id = "proxy-conntrack-min", long = "proxy-conntrack-min", value_name = "VALUE")]
    pub conntrack_min: Option<Word>,
    /// For how long conntrack remembers an idle TCP connection, 0 leaves that alone [24h].
    #[arg(
        id = "proxy-conntrack-tcp-timeout-established",
        long = "proxy-conntrack-tcp-timeout-established",
        value_name = "VALUE"
    )]
    pub conntrack_tcp_timeout_established: Option<Word>,
    /// The same for one whose other side has closed [1h].
    #[arg(
        id = "proxy-conntrack-tcp-timeout-close-wait",
        long = "proxy-conntrack-tcp-timeout-close-wait",
        value_name = "VALUE"
    )]
    pub conntrack_tcp_timeout_close_wait: Option<Word>,
    /// Whether conntrack takes packets outside the window: true, false [false].
    #[arg(
        id = "proxy-conntrack-tcp-be-liberal",
        long = "proxy-conntrack-tcp-be-liberal",
        value_name = "VALUE"
    )]
    pub conntrack_tcp_be_liberal: Option<Word>,
    /// For how long conntrack remembers a UDP packet without answer [the kernel's].
    #[arg(id = "proxy-conntrack-udp-timeout", long = "proxy-conntrack-udp-timeout", value_name = "VALUE")]
    pub conntrack_udp_timeout: Option<Word>,
    /// The same for one with answers [the kernel's].
    #[arg(
        id = "proxy-conntrack-udp-timeout-stream",
        long = "proxy-conntrack-udp-timeout-stream",
        value_name = "VALUE"
    )]
    pub conntrack_udp_timeout_stream: Option<Word>,
}

/// One layer's section.
type Section = ServicesTyped;

impl Layers<'_> {
    fn proxy<T>(
        &self,
        key: &str,
        field: impl Fn(&Section) -> &Option<Word>,
        read: impl Fn(&str) -> Result<T, String>,
    ) -> Result<Option<T>, String> {
        self.word(&format!("proxy.{key}"), |typed| field(&typed.proxy), read)
    }

    fn proxies<T>(
        &self,
        key: &str,
        field: impl Fn(&Section) -> &Option<Words>,
        read: impl Fn(&str) -> Result<T, String>,
    ) -> Result<Vec<T>, String> {
        self.words(&format!("proxy.{key}"), |typed| field(&typed.proxy), read)
    }
}

/// What was typed, decided; none where this node serves no Services.
///
/// Off is the default: a node whose administrator has not said otherwise is served by kube-proxy, and two proxies on one
/// node would each balance what the other has balanced.
pub(super) fn understand(
    typed: &Layers<'_>,
    node_name: &str,
    ranges: &Ranges,
    paths: &Paths,
) -> Result<Option<Config>, String> {
    let Some(mode) = typed.proxy("mode", |t| &t.mode, mode)?.flatten() else { return Ok(None) };
    let config = Config {
        node_name: node_name.to_lowercase(),
        node_ip: None,
        mode: mode.0,
        settings: settings(typed, ranges)?,
        options: options(typed)?,
        min_sync_period: typed
            .proxy("minSyncPeriod", |t| &t.min_sync_period, duration)?
            .unwrap_or(MIN_SYNC_PERIOD),
        sync_period: typed.proxy("syncPeriod", |t| &t.sync_period, duration)?.unwrap_or(SYNC_PERIOD),
        conntrack: conntrack(typed)?,
        leftovers: match typed.proxy("replaceKubeProxy", |t| &t.replace_kube_proxy, flag)? {
            Some(true) => Leftovers::KubeProxy,
            Some(false) | None => Leftovers::Ours,
        },
        state_dir: paths.state.clone(),
    };
    let (least, most) = (config.min_sync_period, config.sync_period);
    if most.is_zero() || least > most {
        return Err(format!("proxy: minSyncPeriod {least:?} is more than syncPeriod {most:?}"));
    }
    Ok(Some(config))
}

/// Some mode, or the one that suits.
#[derive(Debug, Clone, Copy)]
struct Wanted(Option<Mode>);

/// The outer error is a mistake, the inner none is off.
fn mode(text: &str) -> Result<Option<Wanted>, String> {
    match text {
        "off" | "false" => Ok(None),
        "auto" => Ok(Some(Wanted(None))),
        name => match Mode::named(name) {
            Some(mode) => Ok(Some(Wanted(Some(mode)))),
            None => {
                let modes: Vec<&str> = Mode::ALL.iter().map(|mode| mode.as_str()).collect();
                Err(format!("`{name}` is none of off, auto, {}", modes.join(", ")))
            }
        },
    }
}

fn settings(typed: &Layers<'_>, ranges: &Ranges) -> Result<Settings, String> {
    let default = Settings::default();
    let bit = |text: &str| {
        let bit = number(text, "a bit of the packet mark", 0, 31)?;
        u8::try_from(bit).map_err(|_| format!("`{text}` is no bit"))
    };
    Ok(Settings {
        detect_local: detect_local(typed, ranges)?,
        masquerade_all: typed.proxy("masqueradeAll", |t| &t.masquerade_all, flag)?.unwrap_or(false),
        node_port_addresses: node_port_addresses(typed)?,
        masquerade_bit: typed
            .proxy("masqueradeBit", |t| &t.masquerade_bit, bit)?
            .unwrap_or(default.masquerade_bit),
        ..default
    })
}

fn detect_local(typed: &Layers<'_>, ranges: &Ranges) -> Result<DetectLocal, String> {
    let mut cluster = typed.proxies("clusterCidr", |t| &t.cluster_cidr, network)?;
    if cluster.is_empty() {
        cluster.clone_from(&ranges.cluster);
    }
    let of_cluster = DetectLocal::ClusterCidr(DualStack::first_network_of(cluster.iter().copied()));
    let link = |text: &str| match text.len() {
        1..=15 => Ok(text.to_owned()),
        _ => Err(format!("`{text}` is no name of a link")),
    };
    let bridge = typed.proxy("podBridgeInterface", |t| &t.pod_bridge_interface, link)?;
    let prefix = typed.proxy("podInterfaceNamePrefix", |t| &t.pod_interface_name_prefix, link)?;
    let lacking = |key: &str, mode: &str| format!("proxy: detectLocalMode {mode} needs {key}");
    let mode = typed.proxy("detectLocalMode", |t| &t.detect_local_mode, |text| Ok(text.to_owned()))?;
    match mode.as_deref() {
        None if cluster.is_empty() => Ok(DetectLocal::NodeCidr),
        None => Ok(of_cluster),
        Some("ClusterCIDR") if cluster.is_empty() => Err(lacking("clusterCidr", "ClusterCIDR")),
        Some("ClusterCIDR") => Ok(of_cluster),
        Some("NodeCIDR") => Ok(DetectLocal::NodeCidr),
        Some(name @ "BridgeInterface") => {
            let bridge = bridge.ok_or_else(|| lacking("podBridgeInterface", name))?;
            Ok(DetectLocal::Interface(bridge.into()))
        }
        Some(name @ "InterfaceNamePrefix") => {
            let prefix = prefix.ok_or_else(|| lacking("podInterfaceNamePrefix", name))?;
            Ok(DetectLocal::InterfacePrefix(prefix.into()))
        }
        Some("off") => Ok(DetectLocal::Off),
        Some(other) => Err(format!(
            "proxy: detectLocalMode `{other}` is none of ClusterCIDR, NodeCIDR, BridgeInterface, InterfaceNamePrefix, off"
        )),
    }
}

/// One word of a list.
enum Place {
    Primary,
    All,
    Within(IpNetwork),
}

fn node_port_addresses(typed: &Layers<'_>) -> Result<NodePortAddresses, String> {
    let place = |text: &str| match text {
        "primary" => Ok(Place::Primary),
        "all" => Ok(Place::All),
        other => network(other).map(Place::Within),
    };
    let places = typed.proxies("nodePortAddresses", |t| &t.node_port_addresses, place)?;
    if let [Place::All] = places[..] {
        return Ok(NodePortAddresses::Within(Vec::new()));
    }
    let networks = places.iter().filter_map(|place| match place {
        Place::Within(network) => Some(*network),
        _ => None,
    });
    let networks: Vec<IpNetwork> = networks.collect();
    match (networks.is_empty(), networks.len() == places.len()) {
        (true, _) if places.len() <= 1 => Ok(NodePortAddresses::Primary),
        (false, true) => Ok(NodePortAddresses::Within(networks)),
        _ => Err("proxy: nodePortAddresses: `primary` and `all` stand alone".to_owned()),
    }
}

fn options(typed: &Layers<'_>) -> Result<Options, String> {
    let ipvs = IpvsOptions::default();
    let scheduler = |text: &str| match text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
        true if text.len() < 16 => Ok(text.to_owned()),
        _ => Err(format!("`{text}` is no name of a scheduler")),
    };
    Ok(Options {
        iptables: IptablesOptions {
            localhost_node_ports: typed
                .proxy("localhostNodePorts", |t| &t.localhost_node_ports, flag)?
                .unwrap_or(IptablesOptions::default().localhost_node_ports),
        },
        ipvs: IpvsOptions {
            scheduler: typed
                .proxy("ipvsScheduler", |t| &t.ipvs_scheduler, scheduler)?
                .unwrap_or(ipvs.scheduler),
            strict_arp: typed
                .proxy("ipvsStrictArp", |t| &t.ipvs_strict_arp, flag)?
                .unwrap_or(ipvs.strict_arp),
            exclude_cidrs: typed.proxies("ipvsExcludeCidrs", |t| &t.ipvs_exclude_cidrs, network)?,
            tcp_timeout: some(typed.proxy("ipvsTcpTimeout", |t| &t.ipvs_tcp_timeout, duration)?),
            tcp_fin_timeout: some(typed.proxy("ipvsTcpFinTimeout", |t| &t.ipvs_tcp_fin_timeout, duration)?),
            udp_timeout: some(typed.proxy("ipvsUdpTimeout", |t| &t.ipvs_udp_timeout, duration)?),
        },
    })
}

fn conntrack(typed: &Layers<'_>) -> Result<Conntrack, String> {
    let default = Conntrack::default();
    let entries = |text: &str| number(text, "a number of entries", 0, u32::MAX);
    let or = |given: Option<Duration>, default| given.map_or(default, |time| some(Some(time)));
    Ok(Conntrack {
        max_per_core: typed
            .proxy("conntrackMaxPerCore", |t| &t.conntrack_max_per_core, entries)?
            .or(default.max_per_core)
            .filter(|entries| *entries > 0),
        min: typed.proxy("conntrackMin", |t| &t.conntrack_min, entries)?.unwrap_or(default.min),
        tcp_established: or(
            typed.proxy(
                "conntrackTcpTimeoutEstablished",
                |t| &t.conntrack_tcp_timeout_established,
                duration,
            )?,
            default.tcp_established,
        ),
        tcp_close_wait: or(
            typed.proxy("conntrackTcpTimeoutCloseWait", |t| &t.conntrack_tcp_timeout_close_wait, duration)?,
            default.tcp_close_wait,
        ),
        tcp_be_liberal: typed
            .proxy("conntrackTcpBeLiberal", |t| &t.conntrack_tcp_be_liberal, flag)?
            .unwrap_or(default.tcp_be_liberal),
        udp: some(typed.proxy("conntrackUdpTimeout", |t| &t.conntrack_udp_timeout, duration)?),
        udp_stream: some(typed.proxy(
            "conntrackUdpTimeoutStream",
            |t| &t.conntrack_udp_timeout_stream,
            duration,
        )?),
    })
}

/// No time at all means: leave it alone.
fn some(time: Option<Duration>) -> Option<Duration> {
    time.filter(|time| !time.is_zero())
}

fn flag(text: &str) -> Result<bool, String> {
    match text {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err(format!("`{text}` is neither true nor false")),
    }
}

/// `100ms`, `30s`, `15m`, `24h`, and `0`.
fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is no time such as 100ms, 30s, 15m or 24h");
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (count, unit) = text.split_at(digits);
    let count: u64 = count.parse().map_err(|_| wrong())?;
    let seconds = |per: u64| count.checked_mul(per).map(Duration::from_secs).ok_or_else(wrong);
    match unit {
        "ms" => Ok(Duration::from_millis(count)),
        "s" => seconds(1),
        "m" => seconds(60),
        "h" => seconds(3600),
        "" if count == 0 => Ok(Duration::ZERO),
        _ => Err(wrong()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_units() {
        for (text, expected) in [
            ("100ms", Some(Duration::from_millis(100))),
            ("30s", Some(Duration::from_secs(30))),
            ("15m", Some(Duration::from_secs(900))),
            ("24h", Some(Duration::from_secs(86_400))),
            ("0", Some(Duration::ZERO)),
            ("30", None),
            ("s", None),
            ("-1s", None),
            ("99999999999999999999s", None),
            ("18446744073709551615h", None),
        ] {
            assert_eq!(duration(text).ok(), expected, "{text}");
        }
    }
}
