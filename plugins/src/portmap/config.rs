//! What portmap's configuration means, parsed once into types that can't be wrong.

use std::fmt;
use std::net::IpAddr;

use cni::{AddResult, Error, IfName, NetConf, Result};
use ipnetwork::IpNetwork;
use serde::Deserialize;

use super::conditions::{self, Condition};
use crate::backend::Choice;
use crate::iptables::check_chain_name;

const PLUGIN: &str = "portmap";
/// The bit of the packet mark that asks for masquerading, unless configured.
const MARK_BIT: u32 = 13;

/// The protocols that have ports to map.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    /// SCTP.
    Sctp,
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Protocol {
    /// All, in the order of their names.
    pub const ALL: [Protocol; 3] = [Protocol::Sctp, Protocol::Tcp, Protocol::Udp];

    /// The name that iptables knows it by.
    pub fn name(self) -> &'static str {
        match self {
            Protocol::Sctp => "sctp",
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
        }
    }

    /// IPPROTO_*.
    pub fn number(self) -> u8 {
        match self {
            Protocol::Sctp => 132,
            Protocol::Tcp => 6,
            Protocol::Udp => 17,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The host's addresses that a mapping is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HostAddress {
    /// All of both families.
    Every,
    /// All of this address's family (`0.0.0.0`, `::`).
    EveryLike(IpAddr),
    /// This one.
    One(IpAddr),
}

/// A port of the host that leads to a port of the pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Mapping {
    /// Where clients connect.
    pub host_port: u16,
    /// Where the pod listens.
    pub container_port: u16,
    /// The protocol of both.
    pub protocol: Protocol,
    /// At which of the host's addresses.
    pub host: HostAddress,
}

impl Mapping {
    /// Whether it concerns pods' addresses of the family of `pod`.
    pub fn is_for(&self, pod: IpAddr) -> bool {
        match self.host {
            HostAddress::Every => true,
            HostAddress::EveryLike(host) | HostAddress::One(host) => host.is_ipv4() == pod.is_ipv4(),
        }
    }

    /// The only address of the host it is for, if there is just one.
    pub fn only_at(&self) -> Option<IpAddr> {
        match self.host {
            HostAddress::One(host) => Some(host),
            _ => None,
        }
    }
}

/// Who marks packets that must be masqueraded (iptables only).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SetMark {
    /// CNI-HOSTPORT-SETMARK, with this bit.
    Bit(u32),
    /// A chain of somebody else, who then also masquerades.
    Chain(String),
}

/// What a packet must be like for the mappings to apply.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Conditions {
    /// Anything.
    #[default]
    None,
    /// Words for iptables.
    Iptables(Vec<String>),
    /// A match that nftables carries out.
    Nftables(Condition),
}

/// The configuration of one call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// What to program.
    pub choice: Choice,
    /// The ports.
    pub mappings: Vec<Mapping>,
    /// Whether to masquerade what would otherwise not find back.
    pub snat: bool,
    /// Whether to masquerade everything.
    pub masq_all: bool,
    /// For iptables.
    pub set_mark: SetMark,
    /// For IPv4.
    pub conditions_v4: Conditions,
    /// For IPv6.
    pub conditions_v6: Conditions,
}

impl Config {
    /// The conditions for the family of `pod`.
    pub fn conditions(&self, pod: IpAddr) -> &Conditions {
        if pod.is_ipv4() { &self.conditions_v4 } else { &self.conditions_v6 }
    }
}

/// The addresses of the pod that ports lead to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PodAddresses {
    /// The first IPv4 address.
    pub v4: Option<IpNetwork>,
    /// The first IPv6 address.
    pub v6: Option<IpNetwork>,
}

impl PodAddresses {
    /// The first address of each family that isn't known to belong to another interface than `ifname` or to one of
    /// the host.
    pub fn of(prev: &AddResult, ifname: &IfName) -> Self {
        let mut found = PodAddresses::default();
        for ip in &prev.ips {
            if let Some(Some(interface)) = prev.interface_of(ip)
                && (interface.name != ifname.as_str() || interface.sandbox.is_empty())
            {
                continue;
            }
            let slot = if ip.address.is_ipv4() { &mut found.v4 } else { &mut found.v6 };
            slot.get_or_insert(ip.address);
        }
        found
    }

    /// Those there are.
    pub fn iter(self) -> impl Iterator<Item = IpNetwork> {
        [self.v4, self.v6].into_iter().flatten()
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Raw {
    backend: Option<String>,
    snat: Option<bool>,
    #[serde(rename = "conditionsV4")]
    conditions_v4: Option<Vec<String>>,
    #[serde(rename = "conditionsV6")]
    conditions_v6: Option<Vec<String>>,
    #[serde(rename = "masqAll")]
    masq_all: bool,
    #[serde(rename = "markMasqBit")]
    mark_masq_bit: Option<i64>,
    #[serde(rename = "externalSetMarkChain")]
    external_set_mark_chain: Option<String>,
    #[serde(rename = "runtimeConfig")]
    runtime_config: RawRuntimeConfig,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RawRuntimeConfig {
    #[serde(rename = "portMappings")]
    port_mappings: Option<Vec<RawMapping>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RawMapping {
    #[serde(rename = "hostPort")]
    host_port: i64,
    #[serde(rename = "containerPort")]
    container_port: i64,
    protocol: String,
    #[serde(rename = "hostIP")]
    host_ip: String,
}

fn refuse(key: impl fmt::Display, why: impl fmt::Display) -> Error {
    Error::config(format!("{PLUGIN}: {key}: {why}"))
}

impl Config {
    /// Parses the configuration of any verb.
    ///
    /// An option that only one backend has decides for that backend where `backend` is unset, so that a configuration
    /// made for the reference's iptables rules keeps its meaning.
    ///
    /// # Errors
    /// An invalid configuration, naming key and value.
    pub fn parse(conf: &NetConf) -> Result<Self> {
        let raw: Raw = conf.decode()?;
        let explicit = Choice::parse(PLUGIN, "backend", raw.backend.as_deref())?;
        let set_mark = parse_set_mark(&raw)?;
        let conditions_v4 = parse_conditions("conditionsV4", raw.conditions_v4.as_deref(), true)?;
        let conditions_v6 = parse_conditions("conditionsV6", raw.conditions_v6.as_deref(), false)?;
        let all = [("conditionsV4", &conditions_v4), ("conditionsV6", &conditions_v6)];

        let iptables_only = [
            ("markMasqBit", raw.mark_masq_bit.map(|bit| bit.to_string())),
            ("externalSetMarkChain", raw.external_set_mark_chain.clone()),
        ];
        let iptables_only = iptables_only.into_iter().filter_map(|(key, value)| Some((key, value?)));
        let iptables_only: Vec<(&str, String)> = iptables_only
            .chain(all.iter().filter_map(|(key, c)| match c {
                Conditions::Iptables(words) => Some((*key, words.join(" "))),
                _ => None,
            }))
            .collect();
        let nftables_only = all.iter().find_map(|(key, c)| match c {
            Conditions::Nftables(condition) => Some((*key, condition.text().to_owned())),
            _ => None,
        });
        let unset = raw.backend.as_deref().unwrap_or_default().is_empty();
        let choice = match (unset, explicit, iptables_only.first(), &nftables_only) {
            (_, _, Some((key, value)), Some((other, _))) => {
                return Err(refuse(key, format!("{value:?} is for iptables, {other} for nftables")));
            }
            (false, Choice::Nftables, Some((key, value)), None) => {
                return Err(refuse(key, format!("{value:?} cannot be used with backend \"nftables\"")));
            }
            (false, Choice::Iptables, None, Some((key, value))) => {
                return Err(refuse(key, format!("{value:?} cannot be used with backend \"iptables\"")));
            }
            (_, _, Some(_), None) => Choice::Iptables,
            (_, _, None, Some(_)) => Choice::Nftables,
            (_, choice, None, None) => choice,
        };
        Ok(Config {
            choice,
            mappings: parse_mappings(raw.runtime_config.port_mappings.as_deref().unwrap_or_default())?,
            snat: raw.snat.unwrap_or(true),
            masq_all: raw.masq_all,
            set_mark,
            conditions_v4,
            conditions_v6,
        })
    }
}

fn parse_set_mark(raw: &Raw) -> Result<SetMark> {
    match (raw.mark_masq_bit, raw.external_set_mark_chain.as_deref()) {
        (Some(_), Some(chain)) => {
            Err(refuse("externalSetMarkChain", format!("{chain:?} excludes markMasqBit")))
        }
        (None, Some(chain)) => check_chain_name(chain)
            .map(|()| SetMark::Chain(chain.to_owned()))
            .map_err(|why| refuse("externalSetMarkChain", why)),
        (None, None) => Ok(SetMark::Bit(MARK_BIT)),
        (Some(bit), None) => match u32::try_from(bit) {
            Ok(bit) if bit < 32 => Ok(SetMark::Bit(bit)),
            _ => Err(refuse("markMasqBit", format!("{bit} is outside 0..31"))),
        },
    }
}

/// The reference's rule: iptables' words begin with `-` or `!`, those of nft never do.
fn parse_conditions(key: &str, words: Option<&[String]>, v4: bool) -> Result<Conditions> {
    let Some(first) = words.and_then(<[String]>::first) else { return Ok(Conditions::None) };
    let words = words.unwrap_or_default();
    if let Some(word) = words.iter().find(|word| word.chars().any(char::is_control)) {
        return Err(refuse(key, format!("{word:?} holds a control character")));
    }
    if first.starts_with(['-', '!']) {
        return Ok(Conditions::Iptables(words.to_vec()));
    }
    let text = words.join(" ");
    let condition = conditions::parse(&text, v4).map_err(|why| refuse(key, why))?;
    Ok(Conditions::Nftables(condition))
}

fn parse_mappings(raw: &[RawMapping]) -> Result<Vec<Mapping>> {
    raw.iter().enumerate().map(|(index, raw)| parse_mapping(index, raw)).collect()
}

fn parse_mapping(index: usize, raw: &RawMapping) -> Result<Mapping> {
    let key = |name: &str| format!("runtimeConfig.portMappings[{index}].{name}");
    let port = |name: &str, port: i64| match u16::try_from(port) {
        Ok(port) if port > 0 => Ok(port),
        _ => Err(refuse(key(name), format!("{port} is outside 1..65535"))),
    };
    let protocol = match raw.protocol.to_ascii_lowercase().as_str() {
        "tcp" | "" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        "sctp" => Protocol::Sctp,
        _ => {
            let why = format!("{:?} is none of \"tcp\", \"udp\", \"sctp\"", raw.protocol);
            return Err(refuse(key("protocol"), why));
        }
    };
    let host = match raw.host_ip.as_str() {
        "" => HostAddress::Every,
        text => match text.parse::<IpAddr>().map(|ip| ip.to_canonical()) {
            Ok(ip) if ip.is_unspecified() => HostAddress::EveryLike(ip),
            Ok(ip) => HostAddress::One(ip),
            Err(_) => return Err(refuse(key("hostIP"), format!("{text:?} is no IP address"))),
        },
    };
    Ok(Mapping {
        host_port: port("hostPort", raw.host_port)?,
        container_port: port("containerPort", raw.container_port)?,
        protocol,
        host,
    })
}

#[cfg(test)]
#[path = "config_test.rs"]
mod tests;
