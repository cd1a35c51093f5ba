//! static: the addresses that the configuration or the caller names. Nothing is stored.
//!
//! ```text
//! ipam.addresses + CNI_ARGS IP, GATEWAY    <  args.cni.ips  <  runtimeConfig.ips
//!                                             (each replaces what is left of it)
//! ```

use std::net::IpAddr;
use std::path::PathBuf;

use cni::json::{self, Cidr, OptIp};
use cni::{
    AddResult, Call, Dns, Error, GcCall, IpConfig, NetConf, Plugin, Result, Route, StatusCall, Version, args,
};
use ipnetwork::IpNetwork;
use serde::Deserialize;

use crate::address::Family;

/// The plug-in.
pub struct Static;

impl Plugin for Static {
    fn name(&self) -> &'static str {
        "static"
    }

    fn add(&self, call: &Call<PathBuf>) -> Result<AddResult> {
        parse(&call.conf, &call.args)
    }

    /// Nothing was stored, so nothing is freed, whatever the configuration has become.
    fn del(&self, _: &Call<Option<PathBuf>>) -> Result<()> {
        Ok(())
    }

    /// Every configured address must be in `prevResult`, with its gateway.
    fn check(&self, call: &Call<PathBuf>) -> Result<()> {
        let expected = parse(&call.conf, &call.args)?.ips;
        let Some(prev) = &call.conf.prev_result else {
            return Err(Error::config(
                "prevResult: missing; CHECK compares it with the configured addresses",
            ));
        };
        for ip in expected {
            let Some(found) = prev.ips.iter().find(|found| found.address == ip.address) else {
                return Err(Error::internal(format!(
                    "static: configured address {} is not in prevResult",
                    ip.address
                )));
            };
            if ip.gateway.is_some() && found.gateway != ip.gateway {
                let text = |gateway: Option<IpAddr>| gateway.map_or("none".to_owned(), |g| g.to_string());
                return Err(Error::internal(format!(
                    "static: the gateway of {} is {} in prevResult, configured is {}",
                    ip.address,
                    text(found.gateway),
                    text(ip.gateway)
                )));
            }
        }
        Ok(())
    }

    fn gc(&self, _: &GcCall) -> Result<()> {
        Ok(())
    }

    /// The addresses may come with ADD only, so that none is configured is no reason to be unavailable.
    fn status(&self, call: &StatusCall) -> Result<()> {
        json::decode::<Raw>(&call.conf.object)?;
        Ok(())
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    ipam: Option<RawIpam>,
    #[serde(default)]
    runtime_config: RawIps,
    #[serde(default)]
    args: RawArgs,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawIpam {
    addresses: Vec<RawAddress>,
    routes: Vec<Route>,
    dns: Dns,
}

#[derive(Deserialize)]
struct RawAddress {
    address: Cidr,
    #[serde(default)]
    gateway: OptIp,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawArgs {
    cni: RawIps,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawIps {
    ips: Vec<Cidr>,
}

fn parse(conf: &NetConf, cni_args: &str) -> Result<AddResult> {
    let raw: Raw = json::decode(&conf.object)?;
    let Some(ipam) = raw.ipam else {
        return Err(Error::config("ipam: missing; static is configured by this key"));
    };
    let mut ips: Vec<IpConfig> = ipam
        .addresses
        .iter()
        .map(|a| IpConfig { interface: None, address: a.address.0, gateway: a.gateway.0 })
        .collect();
    add_from_env(&mut ips, cni_args)?;
    for replacing in [&raw.args.cni.ips, &raw.runtime_config.ips] {
        if !replacing.is_empty() {
            ips = replacing.iter().map(|cidr| bare(cidr.0)).collect();
        }
    }
    ensure_fits(&ips, conf.cni_version)?;
    Ok(AddResult { ips, routes: ipam.routes, dns: ipam.dns, ..AddResult::default() })
}

/// CNI_ARGS: IP adds addresses, GATEWAY goes to every address whose subnet it is in.
fn add_from_env(ips: &mut Vec<IpConfig>, cni_args: &str) -> Result<()> {
    let from_env = args::parse(cni_args, &["IP", "GATEWAY"])?;
    let list = |key: &'static str| {
        let texts = from_env.get(key).map(String::as_str).unwrap_or_default().split(',');
        texts.map(str::trim).filter(|text| !text.is_empty()).map(move |text| (key, text))
    };
    let wrong =
        |(key, text): (&str, &str), why: String| Error::config(format!("CNI_ARGS: {key}: {text:?} {why}"));
    for item in list("IP") {
        ips.push(bare(json::parse_cidr(item.1).map_err(|why| wrong(item, why))?));
    }
    for item in list("GATEWAY") {
        let gateway = json::parse_ip(item.1).map_err(|why| wrong(item, why))?;
        for ip in ips.iter_mut().filter(|ip| ip.address.contains(gateway)) {
            ip.gateway = Some(gateway);
        }
    }
    Ok(())
}

fn bare(address: IpNetwork) -> IpConfig {
    IpConfig { interface: None, address, gateway: None }
}

/// One attachment can't have an address twice, and old results have room for one of each family.
fn ensure_fits(ips: &[IpConfig], version: Version) -> Result<()> {
    for (at, ip) in ips.iter().enumerate() {
        let before = &ips[..at];
        if before.iter().any(|other| other.address == ip.address) {
            return Err(Error::config(format!("ipam: address {} is given twice", ip.address)));
        }
        let family = Family::of(ip.address.ip());
        if version < Version::V0_3_0 && before.iter().any(|other| Family::of(other.address.ip()) == family) {
            return Err(Error::config(format!(
                "cniVersion: {version} has room for one address per family, but there is more than one {family} address"
            )));
        }
    }
    Ok(())
}
