//! `metadata`, as far as the proxy reads it, and pieces that several kinds share.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use serde::Deserialize;

use crate::source::api::mirror::Identity;
use crate::source::fault::Fault;

/// `metadata` of an object.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Metadata {
    name: Option<String>,
    namespace: Option<String>,
    resource_version: Option<String>,
    deletion_timestamp: Option<String>,
    labels: Option<BTreeMap<String, Option<String>>>,
    annotations: Option<BTreeMap<String, Option<String>>>,
}

impl Metadata {
    /// Its name and version.
    pub fn identity(&self) -> Identity {
        Identity {
            namespace: self.namespace.clone(),
            name: self.name.clone(),
            resource_version: self.resource_version.clone(),
        }
    }

    /// `metadata.name`, empty when there is none.
    pub fn name(&self) -> &str {
        self.name.as_deref().unwrap_or_default()
    }

    /// `metadata.namespace`; a manifest that names none means `default`.
    pub fn namespace(&self) -> &str {
        self.namespace.as_deref().filter(|namespace| !namespace.is_empty()).unwrap_or("default")
    }

    /// Whether somebody has deleted it already.
    pub fn is_deleted(&self) -> bool {
        self.deletion_timestamp.is_some()
    }

    /// A label's value; a label without one is empty.
    pub fn label(&self, key: &str) -> Option<&str> {
        self.labels.as_ref()?.get(key).map(|value| value.as_deref().unwrap_or_default())
    }

    /// An annotation's value.
    pub fn annotation(&self, key: &str) -> Option<&str> {
        self.annotations.as_ref()?.get(key)?.as_deref()
    }
}

/// An address as lenient as old objects need it.
pub fn ip(field: impl Into<String>, text: &str, faults: &mut Vec<Fault>) -> Option<IpAddr> {
    let ip = proxy::state::ip(text);
    if ip.is_none() {
        faults.push(Fault::new(field, format!("`{}` is no IP address", shown(text))));
    }
    ip
}

/// The same of a network.
pub fn network(field: impl Into<String>, text: &str, faults: &mut Vec<Fault>) -> Option<IpNetwork> {
    let network = proxy::state::network(text);
    if network.is_none() {
        faults.push(Fault::new(field, format!("`{}` is no network (ADDRESS/LENGTH)", shown(text))));
    }
    network
}

/// A port number, none for 0.
pub fn port(field: impl Into<String>, number: i64, faults: &mut Vec<Fault>) -> Option<u16> {
    match u16::try_from(number) {
        Ok(0) => None,
        Ok(port) => Some(port),
        Err(_) => {
            faults.push(Fault::new(field, format!("{number} is no port")));
            None
        }
    }
}

/// The beginning of a value that may be of any length.
pub fn shown(text: &str) -> String {
    const LONGEST: usize = 80;
    let mut shown: String = text.chars().take(LONGEST).flat_map(char::escape_debug).collect();
    if text.chars().nth(LONGEST).is_some() {
        shown.push_str("...");
    }
    shown
}
