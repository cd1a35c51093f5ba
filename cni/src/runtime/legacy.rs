//! Plug-ins of any age: what does one support?

use serde::Deserialize;
use serde_json::json;

use super::{Runtime, RuntimeArgs};
use crate::list::NetworkList;
use crate::{Code, Error, Result, Version, json as js};

/// What a VERSION answer says.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Answer {
    cni_version: String,
    supported_versions: Option<Vec<String>>,
}

impl Runtime {
    /// The versions that a plug-in supports, as it writes them. One from before VERSION supports 0.1.0.
    ///
    /// # Errors
    /// The plug-in is not found, fails otherwise, or answers nonsense (code 6).
    pub fn supported_versions(&self, plugin_type: &str) -> Result<Vec<String>> {
        // Plug-ins from before VERSION judge the environment first, so it must look complete.
        let dummy = RuntimeArgs::new("dummy", "dummy", "dummy")?;
        let env = self.env("VERSION", Some(&dummy))?;
        let stdin = json!({ "cniVersion": Version::NEWEST.as_str() }).to_string();
        let stdout = match self.run(plugin_type, &env, stdin.as_bytes(), self.deadline()) {
            Err(e) if e.msg == "unknown CNI_COMMAND: VERSION" => return Ok(vec!["0.1.0".to_owned()]),
            other => other?,
        };
        let nonsense = |e: String| Error::new(Code::DECODE, format!("VERSION of {plugin_type}: {e}"));
        let value = js::parse(&stdout).map_err(|e| nonsense(e.to_string()))?;
        let answer: Answer = js::decode(&value).map_err(|e| nonsense(e.to_string()))?;
        match (answer.cni_version.as_str(), answer.supported_versions) {
            ("", _) => Err(nonsense("cniVersion is missing".to_owned())),
            (_, Some(versions)) => Ok(versions),
            ("0.2.0", None) => Ok(vec!["0.1.0".to_owned(), "0.2.0".to_owned()]),
            (_, None) => Err(nonsense("supportedVersions is missing".to_owned())),
        }
    }

    /// Checks that every plug-in of the list exists and supports the list's version, without running the list.
    ///
    /// # Errors
    /// As [`Runtime::supported_versions`]; code 1 naming the first plug-in that is too old.
    pub fn validate(&self, list: &NetworkList) -> Result<()> {
        let version = if list.cni_version.is_empty() { "0.1.0" } else { &list.cni_version };
        for plugin in &list.plugins {
            let supported = self.supported_versions(&plugin.plugin_type)?;
            if !supported.iter().any(|v| v == version) {
                let msg =
                    format!("plugin {} does not support config version {version:?}", plugin.plugin_type);
                return Err(Error::new(Code::INCOMPATIBLE_VERSION, msg));
            }
        }
        Ok(())
    }
}
