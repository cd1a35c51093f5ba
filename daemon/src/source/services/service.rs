//! Services.

use std::time::Duration;

use proxy::state::{
    Ingress, IngressMode, Policy, Protocol, SCHEDULER_ANNOTATION, Service, ServiceKind, ServiceName,
    ServicePort,
};
use proxy::{Change, DualStack};
use serde::Deserialize;

use super::delta::Kind;
use super::metadata::{self, Metadata, ip, network, shown};
use super::slice::Shared;
use crate::source::api::mirror::{Asked, Identified, Identity};
use crate::source::fault::Fault;

/// By this label a Service belongs to another proxy.
const PROXY_NAME: &str = "service.kubernetes.io/service-proxy-name";
/// How long a client stays with its endpoint when nobody says so, in seconds.
const AFFINITY: i64 = 10_800;
/// The most that the API takes, in seconds.
const LONGEST_AFFINITY: i64 = 86_400;

/// A Service of `v1`, without what a proxy never reads.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct ServiceObject {
    metadata: Metadata,
    spec: Option<Spec>,
    status: Option<Status>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Spec {
    #[serde(rename = "type")]
    kind: Option<String>,
    #[serde(rename = "clusterIP")]
    cluster_ip: Option<String>,
    #[serde(rename = "clusterIPs")]
    cluster_ips: Option<Vec<String>>,
    ports: Option<Vec<Port>>,
    #[serde(rename = "externalIPs")]
    external_ips: Option<Vec<String>>,
    session_affinity: Option<String>,
    session_affinity_config: Option<AffinityConfig>,
    internal_traffic_policy: Option<String>,
    external_traffic_policy: Option<String>,
    health_check_node_port: Option<i64>,
    load_balancer_source_ranges: Option<Vec<String>>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Port {
    name: Option<String>,
    protocol: Option<String>,
    port: Option<i64>,
    node_port: Option<i64>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct AffinityConfig {
    #[serde(rename = "clientIP")]
    client_ip: Option<ClientIp>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ClientIp {
    timeout_seconds: Option<i64>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Status {
    load_balancer: Option<LoadBalancer>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct LoadBalancer {
    ingress: Option<Vec<IngressObject>>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct IngressObject {
    ip: Option<String>,
    ip_mode: Option<String>,
}

impl Identified for ServiceObject {
    fn identity(&self) -> Identity {
        self.metadata.identity()
    }
}

/// What a proxy keeps of `object`; none when it has no name. What is wrong with it goes to `faults`.
pub fn decode(object: &ServiceObject, shared: &mut Shared, faults: &mut Vec<Fault>) -> Option<Service> {
    let metadata = &object.metadata;
    if metadata.name().is_empty() {
        faults.push(Fault::new("metadata.name", "is missing"));
        return None;
    }
    let name = ServiceName { namespace: shared.one(metadata.namespace()), name: metadata.name().into() };
    let nothing = Spec::default();
    let spec = object.spec.as_ref().unwrap_or(&nothing);
    let local = |field: &str, value: &Option<String>, faults: &mut Vec<Fault>| match value.as_deref() {
        None | Some("" | "Cluster") => Policy::Cluster,
        Some("Local") => Policy::Local,
        Some(other) => {
            let what = format!("`{}` is neither Cluster nor Local", shown(other));
            faults.push(Fault::new(field, what));
            Policy::Cluster
        }
    };
    let health = spec.health_check_node_port.unwrap_or(0);
    Some(Service {
        kind: kind(spec, faults),
        cluster_ips: cluster_ips(spec, faults),
        ports: ports(spec, shared, faults),
        external_ips: each(&spec.external_ips, "spec.externalIPs", faults, ip),
        ingress: ingress(object.status.as_ref(), faults),
        source_ranges: source_ranges(spec, faults),
        affinity: affinity(spec, faults),
        internal_policy: local("spec.internalTrafficPolicy", &spec.internal_traffic_policy, faults),
        external_policy: local("spec.externalTrafficPolicy", &spec.external_traffic_policy, faults),
        health_check_node_port: metadata::port("spec.healthCheckNodePort", health, faults).unwrap_or(0),
        is_foreign: metadata.label(PROXY_NAME).is_some(),
        scheduler: shared.one(metadata.annotation(SCHEDULER_ANNOTATION).unwrap_or_default()),
        ..Service::new(name)
    })
}

fn kind(spec: &Spec, faults: &mut Vec<Fault>) -> ServiceKind {
    match spec.kind.as_deref() {
        None | Some("" | "ClusterIP") => ServiceKind::ClusterIp,
        Some("NodePort") => ServiceKind::NodePort,
        Some("LoadBalancer") => ServiceKind::LoadBalancer,
        Some("ExternalName") => ServiceKind::ExternalName,
        Some(other) => {
            faults.push(Fault::new("spec.type", format!("`{}` is no type of a Service", shown(other))));
            ServiceKind::ClusterIp
        }
    }
}

/// `clusterIPs`, or `clusterIP` of objects from before there were several; the first of each family.
fn cluster_ips(spec: &Spec, faults: &mut Vec<Fault>) -> DualStack<Option<std::net::IpAddr>> {
    let several = spec.cluster_ips.as_deref().unwrap_or_default();
    let single = spec.cluster_ip.as_deref().unwrap_or_default();
    let is_ip = |text: &str| !text.is_empty() && text != "None";
    if several.is_empty() {
        let ips = Some(single).filter(|text| is_ip(text)).and_then(|text| ip("spec.clusterIP", text, faults));
        return DualStack::first_of(ips);
    }
    let written = several.iter().enumerate().filter(|(_, text)| is_ip(text));
    let ips = written.filter_map(|(index, text)| ip(format!("spec.clusterIPs[{index}]"), text, faults));
    DualStack::first_of(ips.collect::<Vec<_>>())
}

fn ports(spec: &Spec, shared: &mut Shared, faults: &mut Vec<Fault>) -> Vec<ServicePort> {
    let mut ports = Vec::with_capacity(spec.ports.as_ref().map_or(0, Vec::len));
    for (index, port) in spec.ports.iter().flatten().enumerate() {
        let field = format!("spec.ports[{index}]");
        let Some(protocol) = protocol(&field, port.protocol.as_deref(), faults) else { continue };
        let node_port = port.node_port.unwrap_or(0);
        let number = port.port.unwrap_or(0);
        if number == 0 {
            faults.push(Fault::new(format!("{field}.port"), "is missing"));
        }
        let Some(number) = metadata::port(format!("{field}.port"), number, faults) else { continue };
        ports.push(ServicePort {
            name: shared.one(port.name.as_deref().unwrap_or_default()),
            protocol,
            port: number,
            node_port: metadata::port(format!("{field}.nodePort"), node_port, faults).unwrap_or(0),
        });
    }
    ports
}

/// TCP where nothing is said.
pub(super) fn protocol(field: &str, name: Option<&str>, faults: &mut Vec<Fault>) -> Option<Protocol> {
    let Some(name) = name.filter(|name| !name.is_empty()) else { return Some(Protocol::Tcp) };
    let protocol = Protocol::named(name);
    if protocol.is_none() {
        let what = format!("`{}` is none of TCP, UDP, SCTP", shown(name));
        faults.push(Fault::new(format!("{field}.protocol"), what));
    }
    protocol
}

fn each<T>(
    texts: &Option<Vec<String>>,
    field: &str,
    faults: &mut Vec<Fault>,
    read: impl Fn(String, &str, &mut Vec<Fault>) -> Option<T>,
) -> Vec<T> {
    let texts = texts.iter().flatten().enumerate();
    texts.filter_map(|(index, text)| read(format!("{field}[{index}]"), text, faults)).collect()
}

fn ingress(status: Option<&Status>, faults: &mut Vec<Fault>) -> Vec<Ingress> {
    let all = status.and_then(|status| status.load_balancer.as_ref()?.ingress.as_deref()).unwrap_or_default();
    let mut found = Vec::new();
    for (index, object) in all.iter().enumerate() {
        let field = format!("status.loadBalancer.ingress[{index}]");
        let Some(text) = object.ip.as_deref().filter(|text| !text.is_empty()) else { continue };
        let Some(ip) = ip(format!("{field}.ip"), text, faults) else { continue };
        let mode = match object.ip_mode.as_deref() {
            None | Some("" | "VIP") => IngressMode::Vip,
            Some("Proxy") => IngressMode::Proxy,
            Some(other) => {
                let what = format!("`{}` is neither VIP nor Proxy", shown(other));
                faults.push(Fault::new(format!("{field}.ipMode"), what));
                IngressMode::Proxy
            }
        };
        found.push(Ingress { ip, mode });
    }
    found
}

/// Ranges of which none can be read let nobody in: to let everybody in is the opposite of what was meant.
fn source_ranges(spec: &Spec, faults: &mut Vec<Fault>) -> Vec<ipnetwork::IpNetwork> {
    const NOBODY: [&str; 2] = ["255.255.255.255/32", "::/128"];
    let written = spec.load_balancer_source_ranges.as_ref().is_some_and(|ranges| !ranges.is_empty());
    let ranges = each(&spec.load_balancer_source_ranges, "spec.loadBalancerSourceRanges", faults, network);
    if written && ranges.is_empty() {
        return NOBODY.into_iter().filter_map(proxy::state::network).collect();
    }
    ranges
}

fn affinity(spec: &Spec, faults: &mut Vec<Fault>) -> Option<Duration> {
    match spec.session_affinity.as_deref() {
        None | Some("" | "None") => return None,
        Some("ClientIP") => {}
        Some(other) => {
            let what = format!("`{}` is neither None nor ClientIP", shown(other));
            faults.push(Fault::new("spec.sessionAffinity", what));
            return None;
        }
    }
    let config = spec.session_affinity_config.as_ref().and_then(|config| config.client_ip.as_ref());
    let seconds = config.and_then(|config| config.timeout_seconds).unwrap_or(AFFINITY);
    let seconds = if (1..=LONGEST_AFFINITY).contains(&seconds) {
        seconds
    } else {
        let what = format!("{seconds} is no number of seconds from 1 to {LONGEST_AFFINITY}");
        faults.push(Fault::new("spec.sessionAffinityConfig.clientIP.timeoutSeconds", what));
        AFFINITY
    };
    Some(Duration::from_secs(seconds.unsigned_abs()))
}

/// All Services that a proxy may have to do with.
#[derive(Debug, Default)]
pub(super) struct Services {
    shared: Shared,
}

impl Kind for Services {
    type Object = ServiceObject;
    type Kept = Service;
    const NOUN: &'static str = "Service";

    fn asked(&self) -> Asked {
        Asked {
            path: "/api/v1/services",
            list: "ServiceList",
            labels: Some(format!("!{PROXY_NAME}")),
            fields: Some("spec.clusterIP!=None".to_owned()),
            page: 500,
            may_be_absent: false,
            quiet: Duration::ZERO,
        }
    }

    fn decode(&mut self, object: &ServiceObject, faults: &mut Vec<Fault>) -> Option<Service> {
        decode(object, &mut self.shared, faults)
    }

    fn came(&mut self, service: Service) -> Change {
        Change::Service(service)
    }

    fn gone(&mut self, identity: &Identity) -> Change {
        let namespace = identity.namespace.as_deref().unwrap_or("default");
        Change::ServiceGone(ServiceName::new(namespace, identity.name.as_deref().unwrap_or_default()))
    }

    fn all(&mut self, services: Vec<Service>) -> Change {
        Change::Services(services)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_names_its_scheduler_by_annotation() {
        let decoded = |annotations: serde_json::Value| {
            let object = serde_json::json!({"metadata": {"name": "a", "annotations": annotations}});
            decode(&serde_json::from_value(object).unwrap(), &mut Shared::default(), &mut Vec::new())
                .unwrap()
                .scheduler
        };
        assert_eq!(&*decoded(serde_json::json!({SCHEDULER_ANNOTATION: "wrr"})), "wrr");
        assert_eq!(&*decoded(serde_json::json!({"other": "wrr"})), "");
        assert_eq!(&*decoded(serde_json::Value::Null), "");
    }
}
