//! EndpointSlices.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use k8s_openapi::jiff::Timestamp;
use proxy::engine::SliceName;
use proxy::state::{Endpoint, EndpointSlice, Hints, ServiceName, SlicePort};
use proxy::{Change, Family};
use serde::Deserialize;

use super::delta::Kind;
use super::metadata::{self, Metadata, ip, shown};
use super::service::protocol;
use crate::source::api::mirror::{Asked, Identified, Identity};
use crate::source::fault::Fault;

/// Slices with this label are not for proxies.
const HEADLESS: &str = "service.kubernetes.io/headless";
const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// When that changed which made the slice change.
const TRIGGER: &str = "endpoints.kubernetes.io/last-change-trigger-time";
/// More different names than this are not shared between slices.
const SHARED: usize = 10_000;

/// An EndpointSlice of `discovery.k8s.io/v1`, without what a proxy never reads.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EndpointSliceObject {
    metadata: Metadata,
    address_type: Option<String>,
    ports: Option<Vec<Port>>,
    endpoints: Option<Vec<EndpointObject>>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Port {
    name: Option<String>,
    protocol: Option<String>,
    port: Option<i64>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct EndpointObject {
    addresses: Option<Vec<String>>,
    conditions: Option<Conditions>,
    node_name: Option<String>,
    hints: Option<HintsObject>,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(default)]
struct Conditions {
    ready: Option<bool>,
    serving: Option<bool>,
    terminating: Option<bool>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct HintsObject {
    for_zones: Option<Vec<Hint>>,
    for_nodes: Option<Vec<Hint>>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Hint {
    name: Option<String>,
}

impl Identified for EndpointSliceObject {
    fn identity(&self) -> Identity {
        self.metadata.identity()
    }
}

/// What many objects say is kept once.
#[derive(Debug, Default)]
pub struct Shared {
    names: BTreeSet<Arc<str>>,
    hints: BTreeSet<Arc<Hints>>,
}

impl Shared {
    /// The name, as it was kept before if it was.
    pub(super) fn one(&mut self, name: &str) -> Arc<str> {
        if let Some(known) = self.names.get(name) {
            return Arc::clone(known);
        }
        if self.names.len() >= SHARED {
            self.names.clear();
        }
        let name: Arc<str> = name.into();
        self.names.insert(Arc::clone(&name));
        name
    }

    fn hints(&mut self, object: &HintsObject) -> Option<Arc<Hints>> {
        let mut names = |hints: &Option<Vec<Hint>>| {
            let names = hints.iter().flatten().filter_map(|hint| hint.name.as_deref());
            names.map(|name| self.one(name)).collect()
        };
        let hints = Hints { zones: names(&object.for_zones), nodes: names(&object.for_nodes) };
        if let Some(known) = self.hints.get(&hints) {
            return Some(Arc::clone(known));
        }
        if self.hints.len() >= SHARED {
            self.hints.clear();
        }
        let hints = Some(hints).filter(|hints| !hints.is_empty()).map(Arc::new);
        self.hints.extend(hints.clone());
        hints
    }
}

/// What a proxy keeps of `object`; none when it is about no Service or about names instead of addresses. What is wrong
/// with it goes to `faults`.
pub fn decode(
    object: &EndpointSliceObject,
    shared: &mut Shared,
    faults: &mut Vec<Fault>,
) -> Option<(SliceName, EndpointSlice)> {
    let metadata = &object.metadata;
    if metadata.name().is_empty() {
        faults.push(Fault::new("metadata.name", "is missing"));
        return None;
    }
    let service = metadata.label(SERVICE_NAME).filter(|name| !name.is_empty())?;
    let family = match object.address_type.as_deref() {
        Some("IPv4") => Family::V4,
        Some("IPv6") => Family::V6,
        Some("FQDN") => return None,
        other => {
            let other = shown(other.unwrap_or_default());
            faults.push(Fault::new("addressType", format!("`{other}` is none of IPv4, IPv6, FQDN")));
            return None;
        }
    };
    let namespace = shared.one(metadata.namespace());
    let service = ServiceName { namespace: Arc::clone(&namespace), name: service.into() };
    let name = SliceName { namespace, name: metadata.name().into() };
    let slice = EndpointSlice {
        ports: ports(object, shared, faults),
        endpoints: endpoints(object, shared, faults),
        is_headless: metadata.label(HEADLESS).is_some(),
        ..EndpointSlice::new(service, family)
    };
    Some((name, slice))
}

fn ports(object: &EndpointSliceObject, shared: &mut Shared, faults: &mut Vec<Fault>) -> Vec<SlicePort> {
    let mut ports = Vec::with_capacity(object.ports.as_ref().map_or(0, Vec::len));
    for (index, port) in object.ports.iter().flatten().enumerate() {
        let field = format!("ports[{index}]");
        // Neither a port without a name nor "all ports" is one to a proxy.
        let (Some(name), Some(number)) = (&port.name, port.port) else { continue };
        let Some(protocol) = protocol(&field, port.protocol.as_deref(), faults) else { continue };
        let Some(number) = metadata::port(format!("{field}.port"), number, faults) else { continue };
        ports.push(SlicePort { name: shared.one(name), protocol, port: number });
    }
    ports
}

fn endpoints(object: &EndpointSliceObject, shared: &mut Shared, faults: &mut Vec<Fault>) -> Vec<Endpoint> {
    let mut endpoints = Vec::with_capacity(object.endpoints.as_ref().map_or(0, Vec::len));
    for (index, endpoint) in object.endpoints.iter().flatten().enumerate() {
        let Some(first) = endpoint.addresses.as_ref().and_then(|addresses| addresses.first()) else {
            faults.push(Fault::new(format!("endpoints[{index}].addresses"), "is empty"));
            continue;
        };
        let Some(ip) = ip(format!("endpoints[{index}].addresses[0]"), first, faults) else { continue };
        let conditions = endpoint.conditions.unwrap_or_default();
        endpoints.push(Endpoint {
            ready: conditions.ready.unwrap_or(true),
            serving: conditions.serving.unwrap_or(true),
            terminating: conditions.terminating.unwrap_or(false),
            node: endpoint.node_name.as_deref().map(|name| shared.one(name)),
            hints: endpoint.hints.as_ref().and_then(|hints| shared.hints(hints)),
            ..Endpoint::new(ip)
        });
    }
    endpoints
}

/// When that happened which made the slice change, if it says so.
pub fn trigger(object: &EndpointSliceObject) -> Option<SystemTime> {
    let at: Timestamp = object.metadata.annotation(TRIGGER)?.parse().ok()?;
    Some(at.into())
}

/// All EndpointSlices that are for proxies. Those of the Service `default/kubernetes` tell where the API's servers are.
#[derive(Debug, Default)]
pub(super) struct Slices {
    shared: Shared,
    servers: Option<Vec<String>>,
}

impl Slices {
    fn look_for_servers(&mut self, slice: &EndpointSlice) {
        if &*slice.service.namespace != "default" || &*slice.service.name != "kubernetes" {
            return;
        }
        let ready = || slice.endpoints.iter().filter(|endpoint| endpoint.ready);
        let of_port = |port: u16| {
            ready().map(move |endpoint| format!("https://{}", SocketAddr::new(endpoint.ip, port)))
        };
        let servers =
            slice.ports.iter().filter(|port| &*port.name == "https").flat_map(|port| of_port(port.port));
        let servers: Vec<String> = servers.collect();
        if !servers.is_empty() {
            self.servers = Some(servers);
        }
    }
}

impl Kind for Slices {
    type Object = EndpointSliceObject;
    type Kept = (SliceName, EndpointSlice, Option<SystemTime>);
    const NOUN: &'static str = "EndpointSlice";

    fn asked(&self) -> Asked {
        Asked {
            path: "/apis/discovery.k8s.io/v1/endpointslices",
            list: "EndpointSliceList",
            labels: Some(format!("!{HEADLESS}")),
            fields: None,
            page: 500,
            may_be_absent: false,
            quiet: Duration::ZERO,
        }
    }

    fn decode(&mut self, object: &EndpointSliceObject, faults: &mut Vec<Fault>) -> Option<Self::Kept> {
        let (name, slice) = decode(object, &mut self.shared, faults)?;
        self.look_for_servers(&slice);
        Some((name, slice, trigger(object)))
    }

    fn came(&mut self, (name, slice, trigger): Self::Kept) -> Change {
        Change::Slice(name, slice, trigger)
    }

    fn gone(&mut self, identity: &Identity) -> Change {
        let namespace = identity.namespace.as_deref().unwrap_or("default");
        Change::SliceGone(SliceName::new(namespace, identity.name.as_deref().unwrap_or_default()))
    }

    fn all(&mut self, slices: Vec<Self::Kept>) -> Change {
        Change::Slices(slices.into_iter().map(|(name, slice, _)| (name, slice)).collect())
    }

    fn servers(&mut self) -> Option<Vec<String>> {
        self.servers.take()
    }
}
