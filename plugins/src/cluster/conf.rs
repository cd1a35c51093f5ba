//! The keys that `vxlan` and `routed` share, from text to types that cannot be wrong.

use std::net::IpAddr;
use std::path::PathBuf;

use cni::json::{Cidr, OptIp};
use cni::{Error, NetConf, Result};
use ipnetwork::IpNetwork;
use kernel::route::masked;
use overlay::uplink::Choice;
use overlay::{DualStack, Mode, Peer, Settings, facts};
use serde::Deserialize;
use serde_json::Value;

use super::Kind;
use crate::bridge::parse_mtu;

/// VXLAN's identifiers have 24 bits.
const LARGEST_VNI: i64 = 0xff_ffff;

/// What the configuration says about the cluster.
#[derive(Debug, Clone)]
pub struct Conf {
    /// Pod CIDRs of this node; empty when the configuration leaves them to the node's facts.
    pub pod_cidrs: Vec<IpNetwork>,
    /// Ranges to allocate from, in host-local's words, where they are not the pod CIDRs themselves.
    pub ranges: Option<Value>,
    /// Whether addresses come without anything that the node would have to say.
    pub has_addresses: bool,
    /// MTU of pods in bytes.
    pub mtu: Option<u32>,
    /// Where the node's facts are.
    pub facts: PathBuf,
    /// The other nodes, where this configuration replaces the daemon.
    pub peers: Option<Static>,
}

/// A cluster that is written down.
#[derive(Debug, Clone)]
pub struct Static {
    /// How packets travel.
    pub settings: Settings,
    /// By which link this node talks to the others.
    pub uplink: Choice,
    /// This node's addresses for the others.
    pub node_ips: DualStack<Option<IpAddr>>,
    /// This node's pod CIDRs.
    pub pod_cidrs: DualStack<Option<IpNetwork>>,
    /// The others.
    pub peers: Vec<Peer>,
    /// Whether what leaves pods and peers is masqueraded.
    pub ip_masq: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Raw {
    node_facts: String,
    subnet: Option<Cidr>,
    subnets: Vec<Cidr>,
    ranges: Vec<Vec<RawRange>>,
    mtu: i64,
    ip_masq: Option<bool>,
    ip_masq_backend: String,
    vni: Option<i64>,
    port: Option<i64>,
    uplink: String,
    #[serde(rename = "nodeIP")]
    node_ip: OptIp,
    #[serde(rename = "nodeIPs")]
    node_ips: Vec<OptIp>,
    peers: Option<Vec<RawPeer>>,
    ipam: RawIpam,
    runtime_config: RawRuntimeConfig,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RawRange {
    subnet: Option<Cidr>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RawIpam {
    #[serde(rename = "type")]
    kind: String,
    subnet: Option<Cidr>,
    ranges: Vec<Vec<RawRange>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct RawRuntimeConfig {
    ip_ranges: Vec<Value>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RawPeer {
    name: String,
    ip: OptIp,
    ips: Vec<OptIp>,
    #[serde(rename = "podCIDR")]
    pod_cidr: Option<Cidr>,
    #[serde(rename = "podCIDRs")]
    pod_cidrs: Vec<Cidr>,
}

impl Conf {
    /// Reads the configuration of `kind`.
    ///
    /// # Errors
    /// Names the plug-in, the key and the value.
    pub fn parse(conf: &NetConf, kind: Kind) -> Result<Conf> {
        let raw: Raw = conf.decode().map_err(|error| error.context(kind.name()))?;
        Self::judge(&raw, conf).map_err(|error| error.context(kind.name())).and_then(|mut parsed| {
            parsed.peers = parse_static(&raw, &parsed, kind).map_err(|error| error.context(kind.name()))?;
            Ok(parsed)
        })
    }

    fn judge(raw: &Raw, conf: &NetConf) -> Result<Conf> {
        let foreign = !matches!(raw.ipam.kind.as_str(), "" | super::DEFAULT_IPAM);
        let own_ranges = conf.member("ranges").filter(|_| !raw.ranges.is_empty()).cloned();
        if foreign && own_ranges.is_some() {
            let kind = &raw.ipam.kind;
            return Err(Error::config(format!("ranges: they are for host-local, but ipam.type is {kind}")));
        }
        let written = listed("subnet", raw.subnet, "subnets", &raw.subnets);
        let ipam = listed("ipam.subnet", raw.ipam.subnet, "", &[]);
        let in_ranges = [("ranges", &raw.ranges), ("ipam.ranges", &raw.ipam.ranges)].map(|(key, sets)| {
            let numbered = sets.iter().flatten().enumerate();
            numbered.filter_map(move |(at, range)| Some((format!("{key}[{at}].subnet"), range.subnet?.0)))
        });
        let given = if written.is_empty() {
            ipam.into_iter().chain(in_ranges.into_iter().flatten()).collect()
        } else {
            written
        };
        let mut pod_cidrs = Vec::new();
        for (key, network) in given {
            let network = without_host_bits(&key, network)?;
            if !pod_cidrs.contains(&network) {
                pod_cidrs.push(network);
            }
        }
        let by_runtime = !raw.runtime_config.ip_ranges.is_empty();
        Ok(Conf {
            has_addresses: foreign || by_runtime || !pod_cidrs.is_empty(),
            pod_cidrs,
            ranges: own_ranges,
            mtu: parse_mtu("", raw.mtu).map_err(without_prefix)?,
            facts: PathBuf::from(if raw.node_facts.is_empty() { facts::PATH } else { &raw.node_facts }),
            peers: None,
        })
    }
}

/// [`parse_mtu`] puts the plug-in's name in front, which is done here for all.
fn without_prefix(error: Error) -> Error {
    let msg = error.msg.strip_prefix(": ").map(str::to_owned);
    Error { msg: msg.unwrap_or(error.msg), ..error }
}

/// Values of a key and of its plural, each with the words that name it.
fn listed(one: &str, value: Option<Cidr>, many: &str, values: &[Cidr]) -> Vec<(String, IpNetwork)> {
    let first = value.map(|cidr| (one.to_owned(), cidr.0));
    let rest = values.iter().enumerate().map(|(at, cidr)| (format!("{many}[{at}]"), cidr.0));
    first.into_iter().chain(rest).collect()
}

fn without_host_bits(key: &str, network: IpNetwork) -> Result<IpNetwork> {
    let whole = masked(network);
    if whole != network {
        let what = format!("{key}: {network} has host bits set; the network address is {}", whole.ip());
        return Err(Error::config(what));
    }
    Ok(whole)
}

fn parse_static(raw: &Raw, conf: &Conf, kind: Kind) -> Result<Option<Static>> {
    let settings = parse_settings(raw, kind, conf.mtu)?;
    let node_ips = parse_ips("nodeIP", raw.node_ip, "nodeIPs", &raw.node_ips)?;
    if !matches!(raw.ip_masq_backend.as_str(), "" | "nftables") {
        let what = format!("ipMasqBackend: {:?}: only \"nftables\" masquerades here", raw.ip_masq_backend);
        return Err(Error::config(what));
    }
    let Some(peers) = &raw.peers else {
        if raw.ip_masq == Some(true) {
            let what = "ipMasq: true needs peers; without them bowlined masquerades what leaves the cluster";
            return Err(Error::config(what));
        }
        return Ok(None);
    };
    if conf.pod_cidrs.is_empty() {
        return Err(Error::config("subnet: it is required with peers: the pod CIDR of this node"));
    }
    let own = conf.pod_cidrs.iter().map(|network| ("subnet".to_owned(), *network)).collect();
    let pod_cidrs = one_of_each(own)?;
    let peers: Vec<Peer> =
        peers.iter().enumerate().map(|(at, raw)| parse_peer(at, raw)).collect::<Result<_>>()?;
    ensure_disjoint(&conf.pod_cidrs, &peers)?;
    Ok(Some(Static {
        settings,
        uplink: raw.uplink.parse().map_err(|why| Error::config(format!("uplink: {why}")))?,
        node_ips,
        pod_cidrs,
        peers,
        ip_masq: raw.ip_masq.unwrap_or(true),
    }))
}

fn parse_settings(raw: &Raw, kind: Kind, mtu: Option<u32>) -> Result<Settings> {
    let defaults = Settings::default();
    let vni = within("vni", raw.vni, 1..=LARGEST_VNI)?;
    let port = within("port", raw.port, 1..=i64::from(u16::MAX))?;
    Ok(Settings {
        mode: if kind == Kind::Vxlan { Mode::Vxlan } else { Mode::Routed },
        vni: vni.unwrap_or(defaults.vni),
        vxlan_port: port.and_then(|port| u16::try_from(port).ok()).unwrap_or(defaults.vxlan_port),
        mtu,
        ..defaults
    })
}

fn within(key: &str, value: Option<i64>, range: std::ops::RangeInclusive<i64>) -> Result<Option<u32>> {
    match value {
        Some(value) if !range.contains(&value) => {
            let (least, most) = range.into_inner();
            Err(Error::config(format!("{key}: {value} is outside {least}..{most}")))
        }
        value => Ok(value.and_then(|value| u32::try_from(value).ok())),
    }
}

fn parse_ips(one: &str, ip: OptIp, many: &str, ips: &[OptIp]) -> Result<DualStack<Option<IpAddr>>> {
    let mut of_families: DualStack<Option<_>> = DualStack::default();
    let first = ip.0.map(|ip| (one.to_owned(), ip));
    let rest = ips.iter().enumerate().filter_map(|(at, ip)| Some((format!("{many}[{at}]"), ip.0?)));
    for (key, ip) in first.into_iter().chain(rest) {
        if ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() {
            return Err(Error::config(format!("{key}: {ip} is no address of a node")));
        }
        let family = overlay::Family::of(ip);
        if let Some(other) = of_families.of_mut(family).replace(ip).filter(|other| *other != ip) {
            let what = format!("{key}: {ip} is a second {family} address beside {other}");
            return Err(Error::config(what));
        }
    }
    Ok(of_families)
}

fn one_of_each(networks: Vec<(String, IpNetwork)>) -> Result<DualStack<Option<IpNetwork>>> {
    let mut of_families: DualStack<Option<_>> = DualStack::default();
    for (key, network) in networks {
        let network = without_host_bits(&key, network)?;
        let family = overlay::Family::of_network(network);
        if let Some(other) = of_families.of_mut(family).replace(network) {
            let what = format!("{key}: {network} is a second {family} pod CIDR beside {other}");
            return Err(Error::config(what));
        }
    }
    Ok(of_families)
}

fn parse_peer(at: usize, raw: &RawPeer) -> Result<Peer> {
    let key = |name: &str| format!("peers[{at}].{name}");
    let ips = parse_ips(&key("ip"), raw.ip, &key("ips"), &raw.ips)?;
    let pod_cidrs = one_of_each(listed(&key("podCIDR"), raw.pod_cidr, &key("podCIDRs"), &raw.pod_cidrs))?;
    if pod_cidrs.is_empty() {
        return Err(Error::config(format!("{}: it is required", key("podCIDR"))));
    }
    for (family, network) in pod_cidrs.present() {
        if ips.of(family).is_none() {
            let what = format!("{}: there is no {family} address by which to reach {network}", key("ip"));
            return Err(Error::config(what));
        }
    }
    let name = if raw.name.is_empty() { key("").trim_end_matches('.').to_owned() } else { raw.name.clone() };
    Ok(Peer { name, ips, pod_cidrs, wireguard_key: None })
}

/// No address may belong to two nodes.
fn ensure_disjoint(own: &[IpNetwork], peers: &[Peer]) -> Result<()> {
    let mut taken: Vec<(IpNetwork, &str)> =
        own.iter().map(|network| (*network, "this node's subnet")).collect();
    for (at, peer) in peers.iter().enumerate() {
        for (_, network) in peer.pod_cidrs.present() {
            if let Some((other, whose)) = taken.iter().find(|(other, _)| overlap(*other, *network)) {
                let what = format!("peers[{at}].podCIDR: {network} overlaps {other}, {whose}");
                return Err(Error::config(what));
            }
        }
        taken.extend(peer.pod_cidrs.present().map(|(_, network)| (*network, peer.name.as_str())));
    }
    Ok(())
}

fn overlap(a: IpNetwork, b: IpNetwork) -> bool {
    a.is_ipv4() == b.is_ipv4() && (a.contains(b.network()) || b.contains(a.network()))
}

#[cfg(test)]
#[path = "conf_test.rs"]
mod tests;
