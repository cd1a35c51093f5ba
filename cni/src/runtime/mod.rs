//! The runtime side: drives the plug-ins of a network, ours or foreign, and keeps their results.
//!
//! It does what libcni does, so that attachments made by either can be undone by the other.
//!
//! ```no_run
//! # fn main() -> cni::Result<()> {
//! use cni::runtime::{Runtime, RuntimeArgs};
//! let runtime = Runtime::new(["/opt/cni/bin".into()]);
//! let list = cni::list::NetworkList::find("/etc/cni/net.d".as_ref(), "pods")?;
//! let args = RuntimeArgs::new("web-1", "/run/netns/web-1", "eth0")?;
//! let (result, _json) = runtime.add(&list, &args)?;
//! println!("{}", result.ips[0].address);
//! runtime.del(&list, &args)
//! # }
//! ```

pub mod cache;
mod gc;
mod legacy;
mod request;
mod step;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Map, Value};
use sha2::{Digest, Sha512};

pub use step::{Observer, Step};

use crate::list::NetworkList;
use crate::{AddResult, Code, ContainerId, Error, IfName, Result, Version, json, result};
use cache::Cache;
use request::Request;

/// Where libcni keeps its state.
pub const DEFAULT_CACHE_DIR: &str = "/var/lib/cni";

/// Drives networks. Cheap to make; holds no state but what is on disk.
#[derive(Debug)]
pub struct Runtime {
    /// Where plug-ins are looked for, in order.
    pub path: Vec<PathBuf>,
    /// The result cache is its sub-directory `results`.
    pub cache_dir: PathBuf,
    /// How long one call of [`Runtime::add`] (and so on) may take; then the running plug-in is killed.
    pub timeout: Option<Duration>,
    observer: Option<Observer>,
}

/// One attachment as the runtime sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct RuntimeArgs {
    /// The container.
    pub container_id: ContainerId,
    /// The path of its network namespace; may be absent for DEL.
    pub netns: Option<PathBuf>,
    /// The interface inside.
    pub ifname: IfName,
    /// CNI_ARGS, in order.
    pub args: Vec<(String, String)>,
    /// Values for capabilities; each plug-in gets those it declares.
    pub capabilities: Map<String, Value>,
}

impl RuntimeArgs {
    /// An attachment without CNI_ARGS and capabilities.
    ///
    /// # Errors
    /// Code 3 or 4: the ID or the name is malformed.
    pub fn new(container_id: &str, netns: impl Into<PathBuf>, ifname: &str) -> Result<Self> {
        let (container_id, ifname) = (ContainerId::parse(container_id)?, IfName::parse(ifname)?);
        let (args, capabilities) = (Vec::new(), Map::new());
        Ok(RuntimeArgs { container_id, netns: Some(netns.into()), ifname, args, capabilities })
    }
}

/// The container ID that cnitool gives to a namespace, by its absolute path: attachments made by either tool are
/// found by the other.
pub fn container_id_of(netns: &Path) -> ContainerId {
    let digest = Sha512::digest(netns.as_os_str().as_encoded_bytes());
    let hex: String = digest[..10].iter().map(|byte| format!("{byte:02x}")).collect();
    ContainerId(format!("cnitool-{hex}"))
}

impl Runtime {
    /// A runtime with libcni's cache directory, no time limit and no observer.
    pub fn new(path: impl IntoIterator<Item = PathBuf>) -> Self {
        let path = path.into_iter().collect();
        Runtime { path, cache_dir: DEFAULT_CACHE_DIR.into(), timeout: None, observer: None }
    }

    /// The same with another cache directory.
    #[must_use]
    pub fn with_cache_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.cache_dir = dir.into();
        self
    }

    /// The same with a time limit for each call.
    #[must_use]
    pub fn with_timeout(mut self, limit: Duration) -> Self {
        self.timeout = Some(limit);
        self
    }

    /// The same, calling `see` after every plug-in.
    #[must_use]
    pub fn with_observer(mut self, see: impl Fn(&Step<'_>) + Send + Sync + 'static) -> Self {
        self.observer = Some(Observer::new(see));
        self
    }

    /// Runs ADD through the list, then keeps the result. Returns it decoded, and as the last plug-in printed it.
    ///
    /// # Errors
    /// The first failing plug-in's error. What earlier plug-ins made remains until [`Runtime::del`].
    pub fn add(&self, list: &NetworkList, args: &RuntimeArgs) -> Result<(AddResult, Value)> {
        let deadline = self.deadline();
        let version = list.result_version()?;
        let mut prev: Option<(AddResult, Value)> = None;
        for plugin in &list.plugins {
            let json = prev.as_ref().map(|(_, json)| json);
            let request = Request { list, plugin, args: Some(args), prev: json, valid: None };
            let stdout = self.call("ADD", &request, deadline)?;
            prev = Some(read_result(&stdout, version).map_err(|e| e.context(&plugin.plugin_type))?);
        }
        let (decoded, json) = prev.ok_or_else(|| Error::config("plugins: [] is empty"))?;
        self.cache().store(list, args, &json)?;
        Ok((decoded, json))
    }

    /// Runs CHECK through the list with the kept result; does nothing under `disableCheck`.
    ///
    /// # Errors
    /// The first failing plug-in's error; a list older than 0.4.0 (code 1); a kept result that is missing or
    /// unreadable.
    pub fn check(&self, list: &NetworkList, args: &RuntimeArgs) -> Result<()> {
        if !list.is_at_least(Version::V0_4_0)? {
            let msg = format!("configuration version {:?} does not support CHECK command", list.cni_version);
            return Err(Error::new(Code::INCOMPATIBLE_VERSION, msg));
        }
        if list.disable_check {
            return Ok(());
        }
        let failed = |e: Error| e.context(format!("failed to get network {:?} cached result", list.name));
        let cached = self.cache().result(list, args).map_err(failed)?;
        let deadline = self.deadline();
        for plugin in &list.plugins {
            let request = Request { list, plugin, args: Some(args), prev: cached.as_ref(), valid: None };
            self.call("CHECK", &request, deadline)?;
        }
        Ok(())
    }

    /// Runs DEL through the list backwards, each plug-in with the kept result, which is then forgotten. A kept
    /// result that is missing or unreadable does not hinder.
    ///
    /// # Errors
    /// The first failing plug-in's error; the kept result stays for the next try.
    pub fn del(&self, list: &NetworkList, args: &RuntimeArgs) -> Result<()> {
        let deadline = self.deadline();
        let mut prev = None;
        if list.is_at_least(Version::V0_4_0)? {
            prev = self.cache().result(list, args).unwrap_or_else(|_| {
                self.cache().forget(&list.name, args);
                None
            });
        }
        for plugin in list.plugins.iter().rev() {
            let request = Request { list, plugin, args: Some(args), prev: prev.as_ref(), valid: None };
            self.call("DEL", &request, deadline)?;
        }
        self.cache().forget(&list.name, args);
        Ok(())
    }

    /// Asks every plug-in whether ADD could be served. A list older than 1.1.0 cannot be asked, and passes.
    ///
    /// # Errors
    /// The first failing plug-in's error, with its code.
    pub fn status(&self, list: &NetworkList) -> Result<()> {
        if !list.is_at_least(Version::V1_1_0)? {
            return Ok(());
        }
        let deadline = self.deadline();
        for plugin in &list.plugins {
            self.call("STATUS", &Request { list, plugin, args: None, prev: None, valid: None }, deadline)?;
        }
        Ok(())
    }

    /// The kept results.
    pub fn cache(&self) -> Cache<'_> {
        Cache::new(&self.cache_dir)
    }

    fn deadline(&self) -> Option<Instant> {
        self.timeout.and_then(|limit| Instant::now().checked_add(limit))
    }
}

/// Reads what ADD printed; a result without a version has the list's, and says so from here on.
fn read_result(stdout: &[u8], version: Version) -> Result<(AddResult, Value)> {
    let mut raw = json::parse(stdout).map_err(|e| Error::new(Code::DECODE, format!("result: {e}")))?;
    let (own, decoded) = result::decode(&raw, version).map_err(|e| e.context("result"))?;
    if raw.is_null() {
        raw = Value::Object(Map::new());
    }
    raw["cniVersion"] = own.as_str().into();
    Ok((decoded, raw))
}
