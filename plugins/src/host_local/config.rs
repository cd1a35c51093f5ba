//! What a host-local configuration means.

use std::net::IpAddr;
use std::path::PathBuf;

use cni::json::{self, IpMaybeCidr};
use cni::{Dns, Error, NetConf, Result, Route, Version, args};
use serde::Deserialize;

use super::range::{RangeSets, RawRange};
use super::resolv;

const DATA_DIR: &str = "/var/lib/cni/networks";

/// Everything that ADD, CHECK and STATUS need.
#[derive(Debug)]
pub struct Config {
    /// The pools, in the order of the result.
    pub sets: RangeSets,
    /// Addresses that the caller insists on.
    pub requested: Vec<IpAddr>,
    /// Handed on as they are.
    pub routes: Vec<Route>,
    /// A file in the form of resolv.conf(5) that the result's DNS is read from.
    pub resolv_conf: Option<PathBuf>,
    /// Where leases are kept, one directory per network.
    pub data_dir: PathBuf,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    ipam: Option<RawIpam>,
    #[serde(default)]
    runtime_config: RawRuntimeConfig,
    #[serde(default)]
    args: RawArgs,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawIpam {
    subnet: Option<json::Cidr>,
    range_start: json::OptIp,
    range_end: json::OptIp,
    gateway: json::OptIp,
    ranges: Vec<Vec<RawRange>>,
    routes: Vec<Route>,
    data_dir: String,
    resolv_conf: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawRuntimeConfig {
    ips: Vec<IpMaybeCidr>,
    ip_ranges: Vec<Vec<RawRange>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawArgs {
    cni: RawCniArgs,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawCniArgs {
    ips: Vec<IpMaybeCidr>,
}

impl Config {
    /// Reads a configuration and CNI_ARGS.
    ///
    /// # Errors
    /// Names the key and the value that is wrong.
    pub fn parse(conf: &NetConf, cni_args: &str) -> Result<Self> {
        let raw: Raw = json::decode(&conf.object)?;
        let Some(ipam) = raw.ipam else {
            return Err(Error::config("ipam: missing; host-local is configured by this key"));
        };
        let old_style = [RawRange {
            subnet: ipam.subnet,
            range_start: ipam.range_start,
            range_end: ipam.range_end,
            gateway: ipam.gateway,
        }];
        let sets = RangeSets::parse(
            numbered("runtimeConfig.ipRanges", &raw.runtime_config.ip_ranges)
                .chain(ipam.subnet.is_some().then_some(("ipam".to_owned(), &old_style[..])))
                .chain(numbered("ipam.ranges", &ipam.ranges)),
        )?;
        ensure_ranges(&sets, conf.cni_version)?;
        let mut requested = Vec::new();
        let from_env = args::parse(cni_args, &["IP"])?;
        if let Some(text) = from_env.get("IP").filter(|text| !text.is_empty()) {
            let parsed = IpMaybeCidr::parse(text.trim());
            requested.push(parsed.map_err(|why| Error::config(format!("CNI_ARGS: IP: {text:?} {why}")))?.ip);
        }
        for ip in raw.args.cni.ips.iter().chain(&raw.runtime_config.ips).map(|listed| listed.ip) {
            if !requested.contains(&ip) {
                requested.push(ip);
            }
        }
        Ok(Config {
            sets,
            requested,
            routes: ipam.routes,
            resolv_conf: Some(PathBuf::from(ipam.resolv_conf)).filter(|path| !path.as_os_str().is_empty()),
            data_dir: or_default(ipam.data_dir),
        })
    }

    /// Where the leases are: all that DEL and GC want to know, so that no other mistake in a configuration keeps an
    /// address from being freed.
    ///
    /// # Errors
    /// `dataDir` is not a string.
    pub fn parse_data_dir(conf: &NetConf) -> Result<PathBuf> {
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct Ipam {
            #[serde(rename = "dataDir")]
            data_dir: String,
        }
        let ipam = conf.object.as_object().and_then(|object| json::member(object, "ipam"));
        let ipam: Ipam = ipam.map(|ipam| json::decode_at("ipam", ipam)).transpose()?.unwrap_or_default();
        Ok(or_default(ipam.data_dir))
    }

    /// The DNS part of the result.
    ///
    /// # Errors
    /// The file named by `resolvConf` can't be read.
    pub fn dns(&self) -> Result<Dns> {
        self.resolv_conf.as_deref().map_or_else(|| Ok(Dns::default()), resolv::read)
    }
}

fn numbered<'a>(key: &str, sets: &'a [Vec<RawRange>]) -> impl Iterator<Item = (String, &'a [RawRange])> {
    sets.iter().enumerate().map(move |(at, set)| (format!("{key}[{at}]"), set.as_slice()))
}

fn ensure_ranges(sets: &RangeSets, version: Version) -> Result<()> {
    let mut families: Vec<_> = sets.iter().map(|set| set.family()).collect();
    if families.is_empty() {
        return Err(Error::config("ipam: no range to allocate from; set ipam.ranges or ipam.subnet"));
    }
    families.sort();
    match families.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(twice) if version < Version::V0_3_0 => Err(Error::config(format!(
            "cniVersion: {version} has room for one address per family, but there is more than one {} range set",
            twice[0]
        ))),
        _ => Ok(()),
    }
}

fn or_default(data_dir: String) -> PathBuf {
    if data_dir.is_empty() { PathBuf::from(DATA_DIR) } else { PathBuf::from(data_dir) }
}
