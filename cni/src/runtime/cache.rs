//! libcni's result cache: `results/<network>-<container ID>-<interface>`, one JSON file for each attachment.

use std::fs;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use base64::prelude::{BASE64_STANDARD, Engine};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::RuntimeArgs;
use crate::list::{NetworkList, read_regular};
use crate::{Code, ContainerId, Error, IfName, Result, json as js, result};

const KIND: &str = "cniCacheV1";

/// The cache below one directory.
#[derive(Debug, Clone, Copy)]
pub struct Cache<'a> {
    dir: &'a Path,
}

/// One kept attachment.
#[derive(Debug, Clone, PartialEq)]
pub struct Cached {
    /// The network's name.
    pub network: String,
    /// How it was added.
    pub args: RuntimeArgs,
    /// The list's bytes at that time.
    pub config: Vec<u8>,
    /// The final result, as printed.
    pub result: Option<Value>,
}

/// The file's keys.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Raw {
    kind: String,
    container_id: String,
    config: String,
    if_name: String,
    network_name: String,
    netns: String,
    cni_args: Vec<(String, String)>,
    capability_args: Map<String, Value>,
    result: Option<Value>,
}

impl<'a> Cache<'a> {
    /// The cache whose files lie in `dir`/results.
    pub fn new(dir: &'a Path) -> Self {
        Cache { dir }
    }

    /// The file of one attachment.
    pub fn file(&self, network: &str, args: &RuntimeArgs) -> PathBuf {
        self.results().join(format!("{network}-{}-{}", args.container_id, args.ifname))
    }

    fn results(&self) -> PathBuf {
        self.dir.join("results")
    }

    /// Keeps a result, whole or not at all.
    ///
    /// # Errors
    /// Code 5: the directory or the file cannot be written.
    pub fn store(&self, list: &NetworkList, args: &RuntimeArgs, result: &Value) -> Result<()> {
        let file = self.file(&list.name, args);
        let dir = self.results();
        let unwritable = |e: std::io::Error| {
            let msg = format!("failed to set network {:?} cached result: {}: {e}", list.name, file.display());
            Error::new(Code::IO, msg)
        };
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir).map_err(unwritable)?;
        let temporary = dir.join(format!(".{}.{}", std::process::id(), file_name(&file)));
        let text = js::compact(&cache_object(list, args, result));
        let written = write_new(&temporary, text.as_bytes()).and_then(|()| fs::rename(&temporary, &file));
        written.map_err(|e| {
            // The first error is the one to tell.
            let _ = fs::remove_file(&temporary);
            unwritable(e)
        })
    }

    /// The kept result in the list's version; `None` when nothing is kept.
    ///
    /// # Errors
    /// Code 5 or 6: the file cannot be read, understood, or converted.
    pub fn result(&self, list: &NetworkList, args: &RuntimeArgs) -> Result<Option<Value>> {
        let file = self.file(&list.name, args);
        let bytes = match read_regular(&file) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(Error::new(Code::IO, format!("{}: {e}", file.display()))),
        };
        let version = list.result_version()?;
        let broken = |e: Error| e.context(file.display());
        let kept = parse(&bytes).map_err(broken)?;
        let Some(result) = kept.result else { return Ok(None) };
        result::convert(&result, version, version).map(Some).map_err(broken)
    }

    /// Forgets a result; one that is gone already is no matter.
    pub fn forget(&self, network: &str, args: &RuntimeArgs) {
        // As libcni: the attachment is gone, a file left behind only costs a needless DEL at the next GC.
        let _ = fs::remove_file(self.file(network, args));
    }

    /// Everything that is kept, in order of file names; files that are no cache entries are passed over.
    ///
    /// # Errors
    /// Code 5: the directory cannot be read.
    pub fn attachments(&self) -> Result<Vec<Cached>> {
        let dir = self.results();
        let unreadable = |e: std::io::Error| Error::new(Code::IO, format!("{}: {e}", dir.display()));
        let mut files = Vec::new();
        for entry in fs::read_dir(&dir).map_err(unreadable)? {
            files.push(entry.map_err(unreadable)?.path());
        }
        files.sort();
        files.retain(|file| !file_name(file).starts_with('.'));
        let read = |file: &PathBuf| parse(&read_regular(file).ok()?).ok()?.into_cached();
        Ok(files.iter().filter_map(read).collect())
    }
}

fn file_name(file: &Path) -> String {
    file.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn write_new(file: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(file)?;
    file.write_all(bytes)
}

/// In the order of libcni's struct, whose maps are sorted and whose empty members are left out.
fn cache_object(list: &NetworkList, args: &RuntimeArgs, result: &Value) -> Value {
    let mut out = json!({
        "kind": KIND,
        "containerId": args.container_id.as_str(),
        "config": BASE64_STANDARD.encode(&list.bytes),
        "ifName": args.ifname.as_str(),
        "networkName": list.name,
    });
    if let Some(netns) = &args.netns {
        out["netns"] = netns.to_string_lossy().into();
    }
    if !args.args.is_empty() {
        out["cniArgs"] = args.args.iter().map(|(k, v)| json!([k, v])).collect();
    }
    if !args.capabilities.is_empty() {
        out["capabilityArgs"] = js::sorted(&Value::Object(args.capabilities.clone()));
    }
    out["result"] = js::sorted(result);
    out
}

/// Reads a file of either format: the older one is a bare result.
fn parse(bytes: &[u8]) -> Result<Raw> {
    let value = js::parse(bytes).map_err(|e| Error::new(Code::DECODE, e.to_string()))?;
    let raw: Raw = js::decode(&value)?;
    match raw.kind.as_str() {
        KIND => Ok(raw),
        "" => Ok(Raw { result: Some(value), ..Raw::default() }),
        kind => Err(Error::new(Code::DECODE, format!("kind: {kind:?} is not {KIND}"))),
    }
}

/// Reads a cache file, and passes over what is none.
pub fn parse_file(bytes: &[u8]) -> Option<Cached> {
    parse(bytes).ok()?.into_cached()
}

impl Raw {
    fn into_cached(self) -> Option<Cached> {
        if self.kind != KIND {
            return None;
        }
        let args = RuntimeArgs {
            container_id: ContainerId::parse(&self.container_id).ok()?,
            netns: (!self.netns.is_empty()).then(|| PathBuf::from(&self.netns)),
            ifname: IfName::parse(&self.if_name).ok()?,
            args: self.cni_args,
            capabilities: self.capability_args,
        };
        let config = BASE64_STANDARD.decode(self.config).ok()?;
        Some(Cached { network: self.network_name, args, config, result: self.result })
    }
}
