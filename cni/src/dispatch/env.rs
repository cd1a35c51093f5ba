//! The environment of one invocation: which variables each verb needs, and in which order they are judged.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::{Code, ContainerId, Error, IfName, Result};

/// The variables of one invocation. An empty variable counts as absent.
#[derive(Debug, Clone, Default)]
pub struct Env(BTreeMap<String, String>);

impl<K: Into<String>, V: Into<String>> FromIterator<(K, V)> for Env {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(pairs: I) -> Self {
        Env(pairs.into_iter().map(|(k, v)| (k.into(), v.into())).collect())
    }
}

impl Env {
    /// The variables of this process that start with `CNI_`.
    pub(super) fn of_process() -> Self {
        let text = |s: std::ffi::OsString| s.to_string_lossy().into_owned();
        std::env::vars_os().map(|(k, v)| (text(k), text(v))).filter(|(k, _)| k.starts_with("CNI_")).collect()
    }

    /// The variable's text, empty when absent.
    pub fn text(&self, name: &str) -> &str {
        self.0.get(name).map_or("", String::as_str)
    }

    /// CNI_PATH, split at colons; empty entries are dropped.
    pub(super) fn path(&self) -> Vec<PathBuf> {
        self.text("CNI_PATH").split(':').filter(|dir| !dir.is_empty()).map(PathBuf::from).collect()
    }

    /// CNI_NETNS_OVERRIDE permits work on the plug-in's own namespace.
    pub(super) fn may_share_netns(&self) -> bool {
        matches!(self.text("CNI_NETNS_OVERRIDE").to_ascii_lowercase().as_str(), "1" | "true")
    }

    /// Judges the variables in the spec's order: a malformed one fails at once, missing ones are gathered.
    pub(super) fn validate(&self) -> Result<()> {
        let command = self.text("CNI_COMMAND");
        let mut missing = Vec::new();
        for variable in &VARIABLES {
            let required = variable.name == "CNI_COMMAND" || variable.required_for.contains(&command);
            match self.text(variable.name) {
                "" if required => missing.push(variable.name),
                "" => {}
                text if required => (variable.check)(text)?,
                _ => {}
            }
        }
        if missing.is_empty() {
            return Ok(());
        }
        let msg = format!("required env variables [{}] missing", missing.join(","));
        Err(Error::new(Code::INVALID_ENVIRONMENT, msg))
    }
}

struct Variable {
    name: &'static str,
    required_for: &'static [&'static str],
    check: fn(&str) -> Result<()>,
}

const VARIABLES: [Variable; 5] = [
    Variable { name: "CNI_COMMAND", required_for: &[], check: any },
    Variable {
        name: "CNI_CONTAINERID",
        required_for: &["ADD", "CHECK", "DEL"],
        check: |text| ContainerId::parse(text).map(drop),
    },
    Variable { name: "CNI_NETNS", required_for: &["ADD", "CHECK"], check: any },
    Variable {
        name: "CNI_IFNAME",
        required_for: &["ADD", "CHECK", "DEL"],
        check: |text| IfName::parse(text).map(drop),
    },
    Variable { name: "CNI_PATH", required_for: &["ADD", "CHECK", "DEL", "GC", "STATUS"], check: any },
];

fn any(_: &str) -> Result<()> {
    Ok(())
}
