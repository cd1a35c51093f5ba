//! The result of ADD in its newest form. Encoding for, and decoding from, older versions is conversion
//! at the edge ([`encode`], [`decode`], [`convert`]); plug-ins only ever see these types.

mod decode;
mod encode;

use std::net::IpAddr;

use ipnetwork::IpNetwork;

pub use decode::{convert, decode, decode_bytes};
pub use encode::encode;

/// What ADD made: spec 1.1.0, section 5, "Success".
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AddResult {
    /// Links that this attachment created or uses, host side and container side.
    pub interfaces: Vec<Interface>,
    /// Addresses assigned.
    pub ips: Vec<IpConfig>,
    /// Routes made in the container.
    pub routes: Vec<Route>,
    /// Name resolution for the container.
    pub dns: Dns,
}

/// One link of a result.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Interface {
    /// The link's name.
    pub name: String,
    /// Hardware address in colon form, empty when unknown.
    pub mac: String,
    /// MTU in bytes (1.1).
    pub mtu: Option<u32>,
    /// Path of the network namespace it lives in; empty on the host.
    pub sandbox: String,
    /// Socket path of a userspace interface (1.1); empty when none.
    pub socket_path: String,
    /// PCI address (1.1); empty when none.
    pub pci_id: String,
}

/// One address of a result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IpConfig {
    /// Index into `interfaces`; absent in IPAM results. May be out of range in a foreign result: look it up by
    /// [`AddResult::interface_of`].
    pub interface: Option<i64>,
    /// Address with prefix length, host bits kept.
    pub address: IpNetwork,
    /// Gateway within this subnet.
    pub gateway: Option<IpAddr>,
}

/// One route of a result or of a configuration.
#[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize)]
#[serde(from = "decode::RawRoute")]
pub struct Route {
    /// Destination, host bits zero.
    pub dst: IpNetwork,
    /// Next hop; absent means the gateway of that family.
    pub gw: Option<IpAddr>,
    /// Path MTU in bytes.
    pub mtu: Option<u32>,
    /// TCP maximal segment size to advertise, in bytes.
    pub advmss: Option<u32>,
    /// Metric.
    pub priority: Option<u32>,
    /// Routing table; absent means main.
    pub table: Option<u32>,
    /// Scope number as in `/etc/iproute2/rt_scopes`.
    pub scope: Option<u8>,
}

/// Name resolution, in a result or in a configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(from = "decode::RawDns")]
pub struct Dns {
    /// Addresses of name servers, in order.
    pub nameservers: Vec<String>,
    /// Local domain.
    pub domain: String,
    /// Search list.
    pub search: Vec<String>,
    /// Resolver options.
    pub options: Vec<String>,
}

impl AddResult {
    /// The interface that `ip` names: `None` without an index, `Some(None)` when the index points nowhere.
    pub fn interface_of(&self, ip: &IpConfig) -> Option<Option<&Interface>> {
        let index = ip.interface?;
        Some(usize::try_from(index).ok().and_then(|i| self.interfaces.get(i)))
    }
}

impl Route {
    /// A plain route to `dst` by `gw`.
    pub fn new(dst: IpNetwork, gw: Option<IpAddr>) -> Self {
        Route { dst, gw, mtu: None, advmss: None, priority: None, table: None, scope: None }
    }
}
