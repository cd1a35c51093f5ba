//! The newest result written in the format of any version.
//!
//! Key order is the reference's: 1.x sorts every object, older formats have a fixed order.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use serde_json::{Map, Value, json};

use super::{AddResult, Dns, Interface, IpConfig, Route};
use crate::version::Family;
use crate::{Error, Result, Version};

/// Writes `result` as version `version` does.
///
/// Older formats lose what they cannot say: 0.1 and 0.2 keep the first address of each family and plain routes;
/// 0.3 and 0.4 lose an interface's MTU, socket path and PCI address.
///
/// # Errors
/// 0.1 and 0.2 cannot express a result without addresses.
pub fn encode(result: &AddResult, version: Version) -> Result<Value> {
    Ok(match version.family() {
        Family::V0_2 => encode_v0_2(result, version)?,
        Family::V0_4 => encode_v0_4(result, version),
        Family::V1 => encode_v1(result, version),
    })
}

fn encode_v0_2(result: &AddResult, version: Version) -> Result<Value> {
    let mut out = Fields::new();
    out.put("cniVersion", version.as_str());
    let mut any = false;
    for (key, v6) in [("ip4", false), ("ip6", true)] {
        let Some(ip) = result.ips.iter().find(|ip| ip.address.is_ipv6() == v6) else { continue };
        any = true;
        let mut family = Fields::new();
        family.put("ip", ip.address.to_string());
        family.put_some("gateway", ip.gateway.map(text));
        family.put_list("routes", &result.routes, |r| (r.dst.is_ipv6() == v6).then(|| route_v0_2(r)));
        out.put(key, family.0);
    }
    if !any {
        return Err(Error::config("cannot convert: no valid IP addresses"));
    }
    out.put("dns", dns(&result.dns));
    Ok(Value::Object(out.0))
}

fn encode_v0_4(result: &AddResult, version: Version) -> Value {
    let mut out = Fields::new();
    out.put("cniVersion", version.as_str());
    out.put_list("interfaces", &result.interfaces, |i| Some(interface_v0_4(i)));
    out.put_list("ips", &result.ips, |ip| Some(ip_v0_4(ip)));
    out.put_list("routes", &result.routes, |r| Some(route(r)));
    out.put("dns", dns(&result.dns));
    Value::Object(out.0)
}

fn encode_v1(result: &AddResult, version: Version) -> Value {
    let mut out = Fields::new();
    out.put("cniVersion", version.as_str());
    out.put_list("interfaces", &result.interfaces, |i| Some(interface_v1(i)));
    out.put_list("ips", &result.ips, |ip| Some(ip_v1(ip)));
    out.put_list("routes", &result.routes, |r| Some(route(r)));
    if result.dns != Dns::default() {
        out.put("dns", dns(&result.dns));
    }
    crate::json::sorted(&Value::Object(out.0))
}

fn interface_v0_4(link: &Interface) -> Value {
    let mut out = Fields::new();
    out.put("name", link.name.as_str());
    out.put_text("mac", &link.mac);
    out.put_text("sandbox", &link.sandbox);
    Value::Object(out.0)
}

fn interface_v1(link: &Interface) -> Value {
    let mut out = Fields::new();
    out.put("name", link.name.as_str());
    out.put_text("mac", &link.mac);
    out.put_nonzero("mtu", link.mtu);
    out.put_text("sandbox", &link.sandbox);
    out.put_text("socketPath", &link.socket_path);
    out.put_text("pciID", &link.pci_id);
    Value::Object(out.0)
}

fn ip_v0_4(ip: &IpConfig) -> Value {
    let mut out = Fields::new();
    out.put("version", if ip.address.is_ipv4() { "4" } else { "6" });
    out.put_some("interface", ip.interface);
    out.put("address", ip.address.to_string());
    out.put_some("gateway", ip.gateway.map(text));
    Value::Object(out.0)
}

fn ip_v1(ip: &IpConfig) -> Value {
    let mut out = Fields::new();
    out.put_some("interface", ip.interface);
    out.put("address", ip.address.to_string());
    out.put_some("gateway", ip.gateway.map(text));
    Value::Object(out.0)
}

fn route_v0_2(route: &Route) -> Value {
    let mut out = Fields::new();
    out.put("dst", masked(route.dst));
    out.put_some("gw", route.gw.map(text));
    Value::Object(out.0)
}

fn route(route: &Route) -> Value {
    let mut out = Fields::new();
    out.put("dst", masked(route.dst));
    out.put_some("gw", route.gw.map(text));
    out.put_nonzero("mtu", route.mtu);
    out.put_nonzero("advmss", route.advmss);
    out.put_nonzero("priority", route.priority);
    out.put_some("table", route.table);
    out.put_some("scope", route.scope);
    Value::Object(out.0)
}

fn dns(dns: &Dns) -> Value {
    let mut out = Fields::new();
    out.put_list("nameservers", &dns.nameservers, |s| Some(json!(s)));
    out.put_text("domain", &dns.domain);
    out.put_list("search", &dns.search, |s| Some(json!(s)));
    out.put_list("options", &dns.options, |s| Some(json!(s)));
    Value::Object(out.0)
}

/// IPv4-mapped addresses print as IPv4.
fn text(ip: IpAddr) -> String {
    ip.to_canonical().to_string()
}

fn masked(dst: IpNetwork) -> String {
    format!("{}/{}", dst.network(), dst.prefix())
}

/// An object under construction; what is empty is left out.
struct Fields(Map<String, Value>);

impl Fields {
    fn new() -> Self {
        Fields(Map::new())
    }
    fn put(&mut self, key: &str, value: impl Into<Value>) {
        self.0.insert(key.to_owned(), value.into());
    }
    fn put_some(&mut self, key: &str, value: Option<impl Into<Value>>) {
        if let Some(value) = value {
            self.put(key, value);
        }
    }
    fn put_nonzero(&mut self, key: &str, value: Option<u32>) {
        self.put_some(key, value.filter(|v| *v != 0));
    }
    fn put_text(&mut self, key: &str, value: &str) {
        self.put_some(key, (!value.is_empty()).then_some(value));
    }
    fn put_list<T>(&mut self, key: &str, items: &[T], render: impl Fn(&T) -> Option<Value>) {
        let items: Vec<Value> = items.iter().filter_map(render).collect();
        self.put_some(key, (!items.is_empty()).then_some(items));
    }
}
