//! A Node as the API and manifests write it, and what the daemon makes of it.
//!
//! Both sources decode into [`NodeObject`], which has no place for what the daemon never reads (managed fields, images,
//! capacity): of a Node of 20 KiB some 500 bytes are ever kept, even while a list is being decoded.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::IpAddr;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use ipnetwork::IpNetwork;
use k8s_openapi::ClusterResourceScope;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use overlay::Family;
use serde::{Deserialize, Deserializer};

use super::fault::Fault;
use crate::objects::{Node, WIREGUARD_KEY};

/// Where a kubelet without a cloud says which address it was told to use (`--node-ip`).
const PROVIDED_IP: &str = "alpha.kubernetes.io/provided-node-ip";

/// A Node of `v1`, without what the daemon never reads.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct NodeObject {
    #[serde(default, deserialize_with = "slim_metadata")]
    metadata: ObjectMeta,
    spec: Option<Spec>,
    status: Option<Status>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    #[serde(rename = "podCIDR")]
    pod_cidr: Option<String>,
    #[serde(rename = "podCIDRs")]
    pod_cidrs: Option<Vec<String>>,
}

#[derive(Debug, Clone, Default, Deserialize)]
struct Status {
    addresses: Option<Vec<Address>>,
    conditions: Option<Vec<Condition>>,
}

#[derive(Debug, Clone, Deserialize)]
struct Address {
    #[serde(rename = "type")]
    kind: String,
    address: String,
}

#[derive(Debug, Clone, Deserialize)]
struct Condition {
    #[serde(rename = "type")]
    kind: String,
    status: String,
}

/// What the daemon keeps of `object`, and everything that is wrong with it. A faulty field counts as absent, so that a
/// node with one broken family still has the other.
pub fn decode(object: &NodeObject) -> (Node, Vec<Fault>) {
    let mut faults = Vec::new();
    let metadata = &object.metadata;
    let node = Node {
        name: name(metadata, &mut faults),
        uid: metadata.uid.clone().unwrap_or_default(),
        created: metadata.creation_timestamp.as_ref().map_or(0, |time| time.0.as_second()),
        ips: ips(object, &mut faults),
        pod_cidrs: pod_cidrs(object.spec.as_ref(), &mut faults),
        wireguard_key: annotation(metadata, WIREGUARD_KEY).and_then(|key| {
            wireguard_key(key)
                .map_err(|what| faults.push(Fault::new(annotation_field(WIREGUARD_KEY), what)))
                .ok()
        }),
        network_unavailable: network_unavailable(object.status.as_ref()),
    };
    (node, faults)
}

/// RFC 1123, as the API server checks it.
fn name(metadata: &ObjectMeta, faults: &mut Vec<Fault>) -> String {
    let name = metadata.name.clone().unwrap_or_default();
    let is_edge = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let is_label = |label: &str| {
        label.bytes().next().is_some_and(is_edge)
            && label.bytes().last().is_some_and(is_edge)
            && label.bytes().all(|byte| is_edge(byte) || byte == b'-')
    };
    if name.is_empty() {
        faults.push(Fault::new("metadata.name", "is missing"));
    } else if name.len() > 253 || !name.split('.').all(is_label) {
        let what = format!("`{name}` is no name of a node (a-z, 0-9, `-` and `.`, at most 253 characters)");
        faults.push(Fault::new("metadata.name", what));
    }
    name
}

fn annotation<'a>(metadata: &'a ObjectMeta, key: &str) -> Option<&'a str> {
    metadata.annotations.as_ref()?.get(key).map(String::as_str)
}

fn annotation_field(key: &str) -> String {
    format!("metadata.annotations[{key}]")
}

/// InternalIPs, else ExternalIPs, else what the kubelet was told.
fn ips(object: &NodeObject, faults: &mut Vec<Fault>) -> Vec<IpAddr> {
    let addresses = object.status.as_ref().and_then(|status| status.addresses.as_deref()).unwrap_or_default();
    for kind in ["InternalIP", "ExternalIP"] {
        let of_kind = addresses.iter().enumerate().filter(|(_, address)| address.kind == kind);
        let of_kind =
            of_kind.map(|(index, a)| (format!("status.addresses[{index}].address"), a.address.as_str()));
        let found = usable_ips(of_kind, faults);
        if !found.is_empty() {
            return found;
        }
    }
    let provided = annotation(&object.metadata, PROVIDED_IP).unwrap_or_default();
    let provided = provided.split(',').map(str::trim).filter(|ip| !ip.is_empty());
    usable_ips(provided.map(|ip| (annotation_field(PROVIDED_IP), ip)), faults)
}

fn usable_ips<'a>(written: impl Iterator<Item = (String, &'a str)>, faults: &mut Vec<Fault>) -> Vec<IpAddr> {
    let mut found = Vec::new();
    for (field, text) in written {
        match usable_ip(text) {
            Ok(ip) if found.contains(&ip) => {}
            Ok(ip) => found.push(ip),
            Err(what) => faults.push(Fault { field, what }),
        }
    }
    found
}

fn usable_ip(text: &str) -> Result<IpAddr, String> {
    let ip: IpAddr = text.parse().map_err(|_| format!("`{text}` is no IP address"))?;
    let ip = ip.to_canonical();
    let is_link_local = matches!(ip, IpAddr::V6(v6) if v6.is_unicast_link_local());
    if ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() || is_link_local {
        return Err(format!("`{text}` can't be reached from other nodes"));
    }
    Ok(ip)
}

/// `podCIDRs`, else `podCIDR`; at most one of each family.
fn pod_cidrs(spec: Option<&Spec>, faults: &mut Vec<Fault>) -> Vec<IpNetwork> {
    let Some(spec) = spec else { return Vec::new() };
    let single = spec.pod_cidr.as_deref().filter(|cidr| !cidr.is_empty());
    let several = spec.pod_cidrs.as_deref().unwrap_or_default();
    if let (Some(single), Some(first)) = (single, several.first())
        && single != first
    {
        let what = format!("`{single}` is not the first of podCIDRs, `{first}`");
        faults.push(Fault::new("spec.podCIDR", what));
    }
    let written: Vec<(String, &str)> = if several.is_empty() {
        single.map(|cidr| ("spec.podCIDR".to_owned(), cidr)).into_iter().collect()
    } else {
        let fields = (0..several.len()).map(|index| format!("spec.podCIDRs[{index}]"));
        fields.zip(several.iter().map(String::as_str)).collect()
    };
    let mut found: Vec<IpNetwork> = Vec::new();
    for (field, text) in written {
        let family_twice = |cidr: &IpNetwork| {
            let twin = found.iter().find(|other| Family::of_network(**other) == Family::of_network(*cidr));
            twin.map(|twin| format!("`{cidr}` is a second {} one beside `{twin}`", Family::of_network(*cidr)))
        };
        match pod_cidr(text).and_then(|cidr| family_twice(&cidr).map_or(Ok(cidr), Err)) {
            Ok(cidr) => found.push(cidr),
            Err(what) => faults.push(Fault { field, what }),
        }
    }
    found
}

fn pod_cidr(text: &str) -> Result<IpNetwork, String> {
    let wrong = || format!("`{text}` is no CIDR such as 10.244.1.0/24 or fd00:10:1::/64");
    let cidr: IpNetwork =
        if text.contains('/') { text.parse().map_err(|_| wrong())? } else { return Err(wrong()) };
    if cidr.network() != cidr.ip() {
        let meant = format!("{}/{}", cidr.network(), cidr.prefix());
        return Err(format!("`{text}` has bits set beyond its prefix; {meant} would be right"));
    }
    Ok(cidr)
}

fn wireguard_key(text: &str) -> Result<[u8; 32], String> {
    let bytes = BASE64_STANDARD.decode(text).map_err(|_| format!("`{text}` is not base64"))?;
    <[u8; 32]>::try_from(bytes).map_err(|bytes| format!("`{text}` has {} bytes, not 32", bytes.len()))
}

fn network_unavailable(status: Option<&Status>) -> Option<bool> {
    let conditions = status?.conditions.as_deref()?;
    let condition = conditions.iter().find(|condition| condition.kind == "NetworkUnavailable")?;
    Some(condition.status == "True")
}

/// Metadata as far as the daemon, and `kube`'s watcher on its behalf, reads it.
fn slim_metadata<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ObjectMeta, D::Error> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Slim {
        name: Option<String>,
        uid: Option<String>,
        resource_version: Option<String>,
        creation_timestamp: Option<Time>,
        annotations: Option<BTreeMap<String, Option<String>>>,
    }
    let Some(slim) = Option::<Slim>::deserialize(deserializer)? else { return Ok(ObjectMeta::default()) };
    let mut annotations = slim.annotations.unwrap_or_default();
    let kept = [WIREGUARD_KEY, PROVIDED_IP]
        .into_iter()
        .filter_map(|key| annotations.remove(key).flatten().map(|value| (key.to_owned(), value)));
    let kept: BTreeMap<String, String> = kept.collect();
    Ok(ObjectMeta {
        name: slim.name,
        uid: slim.uid,
        resource_version: slim.resource_version,
        creation_timestamp: slim.creation_timestamp,
        annotations: (!kept.is_empty()).then_some(kept),
        ..ObjectMeta::default()
    })
}

impl kube::Resource for NodeObject {
    type DynamicType = ();
    type Scope = ClusterResourceScope;

    fn kind((): &()) -> Cow<'_, str> {
        "Node".into()
    }

    fn group((): &()) -> Cow<'_, str> {
        "".into()
    }

    fn version((): &()) -> Cow<'_, str> {
        "v1".into()
    }

    fn plural((): &()) -> Cow<'_, str> {
        "nodes".into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn decoded(object: serde_json::Value) -> (Node, Vec<String>) {
        let object: NodeObject = serde_json::from_value(object).unwrap();
        let (node, faults) = decode(&object);
        (node, faults.iter().map(Fault::to_string).collect())
    }

    fn with_addresses(addresses: &[(&str, &str)]) -> serde_json::Value {
        let addresses: Vec<_> =
            addresses.iter().map(|(kind, ip)| json!({"type": kind, "address": ip})).collect();
        json!({"metadata": {"name": "a"}, "status": {"addresses": addresses}})
    }

    #[test]
    fn a_whole_node_is_kept_as_far_as_it_matters() {
        let key = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";
        let (node, faults) = decoded(json!({
            "apiVersion": "v1", "kind": "Node",
            "metadata": {
                "name": "worker-1.example", "uid": "u-1", "resourceVersion": "7",
                "creationTimestamp": "2026-01-02T03:04:05Z",
                "annotations": {WIREGUARD_KEY: key, "other": "gone"},
                "managedFields": [{"manager": "kubelet", "fieldsV1": {"f:status": {}}}],
            },
            "spec": {"podCIDR": "10.244.1.0/24", "podCIDRs": ["10.244.1.0/24", "fd00:10:1::/64"]},
            "status": {
                "addresses": [
                    {"type": "Hostname", "address": "worker-1"},
                    {"type": "InternalIP", "address": "192.0.2.1"},
                    {"type": "InternalIP", "address": "2001:db8::1"},
                    {"type": "ExternalIP", "address": "203.0.113.9"},
                ],
                "conditions": [{"type": "Ready", "status": "True"}, {"type": "NetworkUnavailable", "status": "True"}],
                "capacity": {"cpu": 4},
            },
        }));
        assert_eq!(faults, Vec::<String>::new());
        assert_eq!(
            node,
            Node {
                name: "worker-1.example".into(),
                uid: "u-1".into(),
                created: 1_767_323_045,
                ips: vec!["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()],
                pod_cidrs: vec!["10.244.1.0/24".parse().unwrap(), "fd00:10:1::/64".parse().unwrap()],
                wireguard_key: Some([1; 32]),
                network_unavailable: Some(true),
            }
        );
    }

    #[test]
    fn nothing_but_a_name_is_a_node() {
        for object in [
            json!({"metadata": {"name": "a"}}),
            json!({"metadata": {"name": "a", "annotations": null, "creationTimestamp": null}, "spec": null, "status": null}),
            json!({"metadata": {"name": "a"}, "spec": {"podCIDR": "", "podCIDRs": null}, "status": {"addresses": null}}),
        ] {
            assert_eq!(decoded(object), (Node { name: "a".into(), ..Node::default() }, vec![]));
        }
    }

    #[test]
    fn addresses_are_internal_else_external_else_what_the_kubelet_was_told() {
        type Row = (&'static [(&'static str, &'static str)], &'static [&'static str]);
        let rows: [Row; 4] = [
            (&[("ExternalIP", "203.0.113.9"), ("InternalIP", "192.0.2.1")], &["192.0.2.1"]),
            (&[("ExternalIP", "203.0.113.9"), ("InternalDNS", "a.internal")], &["203.0.113.9"]),
            (&[("InternalIP", "::ffff:192.0.2.1"), ("InternalIP", "192.0.2.1")], &["192.0.2.1"]),
            (&[("Hostname", "a")], &[]),
        ];
        for (addresses, ips) in rows {
            let (node, faults) = decoded(with_addresses(addresses));
            assert_eq!(
                node.ips,
                ips.iter().map(|ip| ip.parse().unwrap()).collect::<Vec<IpAddr>>(),
                "{addresses:?}"
            );
            assert!(faults.is_empty(), "{faults:?}");
        }
        let annotations = json!({"name": "a", "annotations": {PROVIDED_IP: "192.0.2.7, 2001:db8::7"}});
        let (node, _) = decoded(json!({"metadata": annotations}));
        assert_eq!(node.ips, ["192.0.2.7".parse::<IpAddr>().unwrap(), "2001:db8::7".parse().unwrap()]);
    }

    #[test]
    fn every_wrong_field_is_named_and_the_rest_kept() {
        let cidrs =
            |cidrs: serde_json::Value| json!({"metadata": {"name": "a"}, "spec": {"podCIDRs": cidrs}});
        let rows = [
            (json!({}), "metadata.name: is missing"),
            (
                json!({"metadata": {"name": "Node_1"}}),
                "metadata.name: `Node_1` is no name of a node (a-z, 0-9, `-` and `.`, at most 253 characters)",
            ),
            (
                with_addresses(&[("InternalIP", "192.0.2")]),
                "status.addresses[0].address: `192.0.2` is no IP address",
            ),
            (
                with_addresses(&[("Hostname", "a"), ("InternalIP", "fe80::1")]),
                "status.addresses[1].address: `fe80::1` can't be reached from other nodes",
            ),
            (
                with_addresses(&[("InternalIP", "0.0.0.0")]),
                "status.addresses[0].address: `0.0.0.0` can't be reached from other nodes",
            ),
            (
                cidrs(json!(["10.244.1.0"])),
                "spec.podCIDRs[0]: `10.244.1.0` is no CIDR such as 10.244.1.0/24 or fd00:10:1::/64",
            ),
            (
                cidrs(json!(["10.244.1.0/33"])),
                "spec.podCIDRs[0]: `10.244.1.0/33` is no CIDR such as 10.244.1.0/24 or fd00:10:1::/64",
            ),
            (
                cidrs(json!(["fd00::/64", "10.244.1.9/24"])),
                "spec.podCIDRs[1]: `10.244.1.9/24` has bits set beyond its prefix; 10.244.1.0/24 would be right",
            ),
            (
                cidrs(json!(["10.1.0.0/24", "10.2.0.0/24"])),
                "spec.podCIDRs[1]: `10.2.0.0/24` is a second IPv4 one beside `10.1.0.0/24`",
            ),
            (
                json!({"metadata": {"name": "a"}, "spec": {"podCIDR": "10.1.0.0/24", "podCIDRs": ["10.2.0.0/24"]}}),
                "spec.podCIDR: `10.1.0.0/24` is not the first of podCIDRs, `10.2.0.0/24`",
            ),
            (
                json!({"metadata": {"name": "a"}, "spec": {"podCIDR": "x"}}),
                "spec.podCIDR: `x` is no CIDR such as 10.244.1.0/24 or fd00:10:1::/64",
            ),
            (
                json!({"metadata": {"name": "a", "annotations": {WIREGUARD_KEY: "aGk="}}}),
                "metadata.annotations[bowline.dev/wireguard-public-key]: `aGk=` has 2 bytes, not 32",
            ),
            (
                json!({"metadata": {"name": "a", "annotations": {WIREGUARD_KEY: "?"}}}),
                "metadata.annotations[bowline.dev/wireguard-public-key]: `?` is not base64",
            ),
        ];
        for (object, fault) in rows {
            assert_eq!(decoded(object.clone()).1, [fault], "{object}");
        }
        let (node, _) = decoded(cidrs(json!(["fd00::/64", "10.244.1.9/24"])));
        assert_eq!(node.pod_cidrs, ["fd00::/64".parse::<IpNetwork>().unwrap()]);
    }
}
