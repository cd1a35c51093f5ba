//! A result of any version read into the newest form.

use ipnetwork::IpNetwork;
use serde::Deserialize;
use serde_json::Value;

use super::{AddResult, Dns, Interface, IpConfig, Route};
use crate::json::{self, Cidr, OptIp};
use crate::version::Family;
use crate::{Code, Error, Result, Version};

/// Reads a result, and says which version it was written in: its own `cniVersion`, or `default` without one
/// (`null` counts as an empty result).
///
/// # Errors
/// Code 1 for a version that does not exist, 6 or 7 for what cannot be decoded, naming key and value.
pub fn decode(value: &Value, default: Version) -> Result<(Version, AddResult)> {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Versioned {
        #[serde(rename = "cniVersion")]
        cni_version: String,
    }
    let text = json::decode::<Versioned>(value)?.cni_version;
    let version = match text.as_str() {
        "" => default,
        text => Version::exact(text).ok_or_else(|| {
            Error::new(Code::INCOMPATIBLE_VERSION, format!("cniVersion: {text:?} is not a released version"))
        })?,
    };
    let result = match version.family() {
        Family::V0_2 => json::decode::<V0_2>(value)?.into(),
        Family::V0_4 | Family::V1 => json::decode::<V1>(value)?.into(),
    };
    Ok((version, result))
}

/// Reads a result from the bytes a plug-in printed.
///
/// # Errors
/// As [`decode`]; code 6 when the bytes are not JSON.
pub fn decode_bytes(bytes: &[u8], default: Version) -> Result<(Version, AddResult)> {
    let value = json::parse(bytes).map_err(|e| Error::new(Code::DECODE, format!("result: {e}")))?;
    decode(&value, default).map_err(|e| e.context("result"))
}

/// The result's JSON in another version.
///
/// # Errors
/// As [`decode`] and [`encode`](super::encode).
pub fn convert(value: &Value, default: Version, to: Version) -> Result<Value> {
    let (from, result) = decode(value, default)?;
    if from == to && value.is_object() {
        let mut same = value.clone();
        same["cniVersion"] = to.as_str().into();
        return Ok(same);
    }
    super::encode(&result, to)
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct V0_2 {
    ip4: Option<Family0_2>,
    ip6: Option<Family0_2>,
    dns: Dns,
}

#[derive(Deserialize)]
struct Family0_2 {
    ip: Cidr,
    #[serde(default)]
    gateway: OptIp,
    #[serde(default)]
    routes: Vec<Route>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct V1 {
    interfaces: Vec<RawInterface>,
    ips: Vec<RawIp>,
    routes: Vec<Route>,
    dns: Dns,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct RawInterface {
    name: String,
    mac: String,
    mtu: Option<u32>,
    sandbox: String,
    socket_path: String,
    #[serde(rename = "pciID")]
    pci_id: String,
}

#[derive(Deserialize)]
struct RawIp {
    interface: Option<i64>,
    address: Cidr,
    #[serde(default)]
    gateway: OptIp,
}

#[derive(Deserialize)]
pub(super) struct RawRoute {
    dst: Cidr,
    #[serde(default)]
    gw: OptIp,
    mtu: Option<u32>,
    advmss: Option<u32>,
    priority: Option<u32>,
    table: Option<u32>,
    scope: Option<u8>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct RawDns {
    nameservers: Vec<String>,
    domain: String,
    search: Vec<String>,
    options: Vec<String>,
}

impl From<V0_2> for AddResult {
    fn from(raw: V0_2) -> Self {
        let mut result = AddResult { dns: raw.dns, ..AddResult::default() };
        for family in [raw.ip4, raw.ip6].into_iter().flatten() {
            result.ips.push(IpConfig { interface: None, address: family.ip.0, gateway: family.gateway.0 });
            let plain = family.routes.into_iter().map(|r| Route::new(r.dst, r.gw));
            result.routes.extend(plain);
        }
        result
    }
}

impl From<V1> for AddResult {
    fn from(raw: V1) -> Self {
        AddResult {
            interfaces: raw.interfaces.into_iter().map(Interface::from).collect(),
            ips: raw.ips.into_iter().map(IpConfig::from).collect(),
            routes: raw.routes,
            dns: raw.dns,
        }
    }
}

impl From<RawInterface> for Interface {
    fn from(raw: RawInterface) -> Self {
        let RawInterface { name, mac, mtu, sandbox, socket_path, pci_id } = raw;
        Interface { name, mac, mtu: mtu.filter(|m| *m != 0), sandbox, socket_path, pci_id }
    }
}

impl From<RawIp> for IpConfig {
    fn from(raw: RawIp) -> Self {
        IpConfig { interface: raw.interface, address: raw.address.0, gateway: raw.gateway.0 }
    }
}

impl From<RawRoute> for Route {
    fn from(raw: RawRoute) -> Self {
        let nonzero = |v: Option<u32>| v.filter(|v| *v != 0);
        Route {
            dst: masked(raw.dst.0),
            gw: raw.gw.0,
            mtu: nonzero(raw.mtu),
            advmss: nonzero(raw.advmss),
            priority: nonzero(raw.priority),
            table: raw.table,
            scope: raw.scope,
        }
    }
}

impl From<RawDns> for Dns {
    fn from(raw: RawDns) -> Self {
        let RawDns { nameservers, domain, search, options } = raw;
        Dns { nameservers, domain, search, options }
    }
}

fn masked(net: IpNetwork) -> IpNetwork {
    IpNetwork::new(net.network(), net.prefix()).unwrap_or(net)
}
