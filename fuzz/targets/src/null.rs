//! A plug-in that reads every kind of key and touches nothing.

use std::collections::BTreeMap;
use std::path::PathBuf;

use cni::json::{Cidr, IpMaybeCidr, OptIp};
use cni::{AddResult, Call, Dns, GcCall, IpConfig, Plugin, Result, Route, StatusCall};
use serde::Deserialize;

/// One key of each kind that real plug-ins have.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Keys {
    mtu: Option<u32>,
    vlan: i64,
    is_gateway: bool,
    bridge: String,
    sysctl: BTreeMap<String, String>,
    gateway: OptIp,
    addresses: Vec<Address>,
    routes: Vec<Route>,
    dns: Option<Dns>,
    ips: Vec<IpMaybeCidr>,
}

#[derive(Debug, Deserialize)]
struct Address {
    address: Cidr,
    #[serde(default)]
    gateway: OptIp,
}

/// Answers ADD with the addresses of its configuration.
pub struct Null;

impl Plugin for Null {
    fn name(&self) -> &'static str {
        "null"
    }

    fn add(&self, call: &Call<PathBuf>) -> Result<AddResult> {
        let keys: Keys = call.conf.decode()?;
        let ip = |a: Address| IpConfig {
            interface: keys.mtu.map(i64::from),
            address: a.address.0,
            gateway: a.gateway.0,
        };
        let mut result = call.conf.prev_result.clone().unwrap_or_default();
        result.ips.extend(keys.addresses.into_iter().map(ip));
        result.routes.extend(keys.routes);
        result.dns = keys.dns.unwrap_or_default();
        Ok(result)
    }

    fn del(&self, call: &Call<Option<PathBuf>>) -> Result<()> {
        call.conf.decode::<Keys>().map(drop)
    }

    fn check(&self, call: &Call<PathBuf>) -> Result<()> {
        call.conf.decode::<Keys>().map(drop)
    }

    fn gc(&self, call: &GcCall) -> Result<()> {
        call.conf.decode::<Keys>().map(drop)
    }

    fn status(&self, call: &StatusCall) -> Result<()> {
        call.conf.decode::<Keys>().map(drop)
    }
}
