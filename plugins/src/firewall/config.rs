//! What firewall's configuration means, parsed once into types that can't be wrong.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

use cni::{AddResult, Error, NetConf, Result};
use ipnetwork::IpNetwork;
use serde::Deserialize;

use crate::backend;
use crate::iptables::check_chain_name;

const PLUGIN: &str = "firewall";
/// The chain for the administrator's own rules, unless configured (iptables only).
pub const ADMIN_CHAIN: &str = "CNI-ADMIN";
const ZONE: &str = "trusted";

/// What `backend` asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    /// Unset: firewalld where it runs, else nftables.
    Unset,
    /// firewalld, whether or not it runs now.
    Firewalld,
    /// nftables, iptables, or whichever of the two the host uses.
    Netfilter(backend::Choice),
}

/// From where a pod may be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IngressPolicy {
    /// From everywhere.
    Open,
    /// Not from other bridges that have a policy.
    SameBridge,
    /// Not from any bridge that has a policy, its own included.
    Isolated,
}

impl IngressPolicy {
    /// As configured.
    pub fn name(self) -> &'static str {
        match self {
            IngressPolicy::Open => "open",
            IngressPolicy::SameBridge => "same-bridge",
            IngressPolicy::Isolated => "isolated",
        }
    }
}

/// The configuration of one call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// What to program.
    pub choice: Choice,
    /// The chain that iptables asks first.
    pub admin_chain: String,
    /// The zone that firewalld puts pods in.
    pub zone: String,
    /// From where pods may be reached.
    pub policy: IngressPolicy,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Raw {
    backend: Option<String>,
    #[serde(rename = "iptablesAdminChainName")]
    admin_chain: Option<String>,
    #[serde(rename = "firewalldZone")]
    zone: Option<String>,
    #[serde(rename = "ingressPolicy")]
    policy: Option<String>,
}

fn refuse(key: &str, why: impl fmt::Display) -> Error {
    Error::config(format!("{PLUGIN}: {key}: {why}"))
}

impl Config {
    /// Parses the configuration of any verb.
    ///
    /// A configuration that names a chain of iptables is one for iptables, where `backend` is unset.
    ///
    /// # Errors
    /// An invalid configuration, naming key and value.
    pub fn parse(conf: &NetConf) -> Result<Self> {
        let raw: Raw = conf.decode()?;
        let admin_chain = raw.admin_chain.filter(|chain| !chain.is_empty());
        if let Some(chain) = &admin_chain {
            check_chain_name(chain).map_err(|why| refuse("iptablesAdminChainName", why))?;
        }
        let choice = match raw.backend.as_deref().unwrap_or_default() {
            "" if admin_chain.is_some() => Choice::Netfilter(backend::Choice::Iptables),
            "" => Choice::Unset,
            "firewalld" => Choice::Firewalld,
            "nftables" => Choice::Netfilter(backend::Choice::Nftables),
            "iptables" => Choice::Netfilter(backend::Choice::Iptables),
            "auto" => Choice::Netfilter(backend::Choice::Auto),
            other => {
                let known = "\"nftables\", \"iptables\", \"firewalld\", \"auto\"";
                return Err(refuse("backend", format!("{other:?} is none of {known}")));
            }
        };
        let policy = match raw.policy.as_deref().unwrap_or_default() {
            "" | "open" => IngressPolicy::Open,
            "same-bridge" => IngressPolicy::SameBridge,
            "isolated" => IngressPolicy::Isolated,
            other => {
                let known = "\"open\", \"same-bridge\", \"isolated\"";
                return Err(refuse("ingressPolicy", format!("{other:?} is none of {known}")));
            }
        };
        Ok(Config {
            choice,
            admin_chain: admin_chain.unwrap_or_else(|| ADMIN_CHAIN.to_owned()),
            zone: raw.zone.filter(|zone| !zone.is_empty()).unwrap_or_else(|| ZONE.to_owned()),
            policy,
        })
    }
}

/// The pod as the plug-ins before made it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Pod {
    /// All its addresses.
    pub addresses: Vec<IpNetwork>,
    /// The first interface of the result; with the bridge plug-in, the bridge.
    pub bridge: String,
}

impl Pod {
    /// Reads `prevResult`.
    pub fn of(prev: &AddResult) -> Self {
        let mut seen = BTreeSet::new();
        let addresses = prev.ips.iter().map(|ip| ip.address).filter(|address| seen.insert(address.ip()));
        Pod {
            addresses: addresses.collect(),
            bridge: prev.interfaces.first().map(|interface| interface.name.clone()).unwrap_or_default(),
        }
    }

    /// Its addresses without prefix lengths.
    pub fn ips(&self) -> Vec<IpAddr> {
        self.addresses.iter().map(|address| address.ip()).collect()
    }

    /// Refuses a pod for which `policy` can't be carried out.
    ///
    /// # Errors
    /// When the result has no interface to tell bridges apart by.
    pub fn check_for(&self, policy: IngressPolicy) -> Result<()> {
        let fit = !self.bridge.is_empty() && self.bridge.len() <= 15;
        if policy == IngressPolicy::Open || fit {
            return Ok(());
        }
        let why = format!(
            "{:?} needs a bridge as first interface of prevResult, not {:?}",
            policy.name(),
            self.bridge
        );
        Err(refuse("ingressPolicy", why))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn parse(extra: Value) -> Result<Config> {
        let mut conf = json!({ "cniVersion": "1.1.0", "name": "net", "type": "firewall" });
        for (key, value) in extra.as_object().expect("an object") {
            conf[key] = value.clone();
        }
        Config::parse(&NetConf::parse(conf.to_string()).expect("a configuration"))
    }

    #[test]
    fn backend_and_policy_defaults_and_choices() {
        let netfilter = Choice::Netfilter;
        let rows = [
            (json!({}), Choice::Unset, ADMIN_CHAIN, "trusted", IngressPolicy::Open),
            (
                json!({ "backend": "iptables" }),
                netfilter(backend::Choice::Iptables),
                ADMIN_CHAIN,
                "trusted",
                IngressPolicy::Open,
            ),
            (
                json!({ "backend": "auto", "ingressPolicy": "isolated" }),
                netfilter(backend::Choice::Auto),
                ADMIN_CHAIN,
                "trusted",
                IngressPolicy::Isolated,
            ),
            (
                json!({ "backend": "firewalld", "firewalldZone": "pods" }),
                Choice::Firewalld,
                ADMIN_CHAIN,
                "pods",
                IngressPolicy::Open,
            ),
            (
                json!({ "iptablesAdminChainName": "DOCKER-USER", "ingressPolicy": "same-bridge" }),
                netfilter(backend::Choice::Iptables),
                "DOCKER-USER",
                "trusted",
                IngressPolicy::SameBridge,
            ),
            (
                json!({ "backend": "", "iptablesAdminChainName": "", "ingressPolicy": "" }),
                Choice::Unset,
                ADMIN_CHAIN,
                "trusted",
                IngressPolicy::Open,
            ),
        ];
        for (extra, choice, admin_chain, zone, policy) in rows {
            let expected = Config { choice, admin_chain: admin_chain.into(), zone: zone.into(), policy };
            assert_eq!(parse(extra.clone()), Ok(expected), "{extra}");
        }
    }

    #[test]
    fn backend_and_policy_bad_values_are_named() {
        let rows = [
            (json!({ "backend": "ipfw" }), "firewall: backend: \"ipfw\" is none of"),
            (json!({ "ingressPolicy": "closed" }), "firewall: ingressPolicy: \"closed\" is none of"),
            (
                json!({ "iptablesAdminChainName": "A B" }),
                "firewall: iptablesAdminChainName: \"A B\" is no name",
            ),
            (json!({ "iptablesAdminChainName": "x".repeat(29) }), "is not 1 to 28 bytes long"),
        ];
        for (extra, expected) in rows {
            let error = parse(extra).expect_err(expected);
            assert!(error.msg.contains(expected), "{error}");
        }
    }
}
