//! What one plug-in reads on stdin.

use serde_json::{Map, Value, json};

use super::RuntimeArgs;
use crate::list::{NetworkList, PluginConf};
use crate::{Attachment, json as js};

/// The parts of a request; a key is injected for each part that is there.
pub(super) struct Request<'a> {
    pub(super) list: &'a NetworkList,
    pub(super) plugin: &'a PluginConf,
    pub(super) args: Option<&'a RuntimeArgs>,
    pub(super) prev: Option<&'a Value>,
    pub(super) valid: Option<&'a [Attachment]>,
}

impl Request<'_> {
    /// The plug-in's object with name, version, `prevResult`, `runtimeConfig` and valid attachments put in; keys
    /// that are unknown here pass untouched.
    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut object = self.plugin.object.clone();
        inject(&mut object, "name", self.list.name.as_str().into());
        inject(&mut object, "cniVersion", self.list.cni_version.as_str().into());
        if let Some(prev) = self.prev {
            inject(&mut object, "prevResult", prev.clone());
        }
        if let Some(config) = self.runtime_config() {
            inject(&mut object, "runtimeConfig", config.into());
        }
        if let Some(valid) = self.valid {
            let valid: Vec<_> = valid
                .iter()
                .map(|a| json!({ "containerID": a.container_id.as_str(), "ifname": a.ifname.as_str() }))
                .collect();
            inject(&mut object, "cni.dev/valid-attachments", valid.clone().into());
            // The name of the key in an early draft, which plug-ins of that time read.
            inject(&mut object, "cni.dev/attachments", valid.into());
        }
        js::compact(&Value::Object(object)).into_bytes()
    }

    /// The capabilities that are both declared and supplied; `None` when there are none.
    fn runtime_config(&self) -> Option<Map<String, Value>> {
        let declared = self.plugin.capabilities.iter().filter(|(_, wanted)| **wanted);
        let supplied = &self.args?.capabilities;
        let config: Map<_, _> =
            declared.filter_map(|(key, _)| Some((key.clone(), supplied.get(key)?.clone()))).collect();
        (!config.is_empty()).then_some(config)
    }
}

/// Puts a key last, where it outweighs every other spelling of the same key.
fn inject(object: &mut Map<String, Value>, key: &str, value: Value) {
    object.shift_remove(key);
    object.insert(key.to_owned(), value);
}
