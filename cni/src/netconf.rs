//! The configuration a plug-in receives on stdin: first the protocol's own keys, then the plug-in's.

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::name::check_network_name;
use crate::{
    AddResult, Attachment, Code, ContainerId, Error, IfName, NetConf, Result, Version, json, result,
};

/// A parsed document whose version has not been judged yet.
#[derive(Debug)]
pub(crate) struct Envelope {
    pub(crate) core: Core,
    object: Value,
    bytes: Vec<u8>,
}

/// The protocol's keys.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Core {
    #[serde(rename = "cniVersion")]
    pub(crate) cni_version: String,
    name: String,
    #[serde(rename = "type")]
    plugin_type: String,
    ipam: Ipam,
    #[serde(rename = "cni.dev/valid-attachments")]
    valid_attachments: Option<Vec<RawAttachment>>,
    #[serde(rename = "cni.dev/attachments")]
    attachments: Option<Vec<RawAttachment>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Ipam {
    #[serde(rename = "type")]
    plugin_type: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RawAttachment {
    #[serde(rename = "containerID")]
    container_id: String,
    ifname: String,
}

impl Envelope {
    /// Parses stdin and checks the network's name: code 6, then code 7.
    pub(crate) fn parse(bytes: Vec<u8>) -> Result<Self> {
        let undecodable = |e: String| Error::new(Code::DECODE, format!("network configuration: {e}"));
        let object = match json::parse(&bytes).map_err(|e| undecodable(e.to_string()))? {
            Value::Null => Value::Object(Map::new()),
            object => object,
        };
        let core: Core = json::decode(&object).map_err(|e| undecodable(e.to_string()))?;
        check_network_name(&core.name)?;
        Ok(Envelope { core, object, bytes })
    }

    /// The attachments that are still valid; `None` when the key is absent.
    pub(crate) fn valid_attachments(&self) -> Result<Option<Vec<Attachment>>> {
        let Some(listed) = self.core.valid_attachments.as_ref().or(self.core.attachments.as_ref()) else {
            return Ok(None);
        };
        let parse = |raw: &RawAttachment| {
            Ok(Attachment {
                container_id: ContainerId::parse(&raw.container_id)?,
                ifname: IfName::parse(&raw.ifname)?,
            })
        };
        let parsed: Result<Vec<_>> = listed.iter().map(parse).collect();
        let refused =
            |e: Error| Error { code: Code::INVALID_CONFIG, ..e }.context("cni.dev/valid-attachments");
        parsed.map(Some).map_err(refused)
    }

    /// `prevResult` in its newest form; `version` is the configuration's.
    pub(crate) fn prev_result(&self, version: Version) -> Result<Option<AddResult>> {
        let Some(prev) = self.object.as_object().and_then(|o| json::member(o, "prevResult")) else {
            return Ok(None);
        };
        let (own, decoded) = result::decode(prev, version).map_err(|e| e.context("prevResult"))?;
        if own.family() != version.family() {
            return Err(Error::config(format!(
                "prevResult: cniVersion: {own} cannot follow in a configuration of version {version}"
            )));
        }
        Ok(Some(decoded))
    }

    pub(crate) fn into_conf(self, cni_version: Version, prev_result: Option<AddResult>) -> NetConf {
        NetConf {
            cni_version,
            name: self.core.name,
            plugin_type: self.core.plugin_type,
            ipam_type: self.core.ipam.plugin_type,
            prev_result,
            object: self.object,
            bytes: self.bytes,
        }
    }
}

impl NetConf {
    /// Parses a configuration of a released version, as ADD would.
    ///
    /// # Errors
    /// Code 6 (not JSON, wrong types), 7 (name, prevResult), 1 (version).
    pub fn parse(bytes: impl Into<Vec<u8>>) -> Result<NetConf> {
        let envelope = Envelope::parse(bytes.into())?;
        let text = &envelope.core.cni_version;
        let version = Version::exact(text).ok_or_else(|| {
            Error::new(Code::INCOMPATIBLE_VERSION, format!("cniVersion: {text:?} is not a released version"))
        })?;
        let prev_result = envelope.prev_result(version)?;
        Ok(envelope.into_conf(version, prev_result))
    }

    /// Decodes the plug-in's own keys into `T`, a `#[serde(default)]` struct, with the leniency of [`json`].
    ///
    /// # Errors
    /// Code 6 for a value of the wrong JSON type, 7 for any other bad value, naming key and value.
    pub fn decode<T: DeserializeOwned>(&self) -> Result<T> {
        Ok(json::decode(&self.object)?)
    }

    /// The value of a top-level key, matched without case; `None` when absent or `null`.
    pub fn member(&self, key: &str) -> Option<&Value> {
        self.object.as_object().and_then(|object| json::member(object, key))
    }
}
