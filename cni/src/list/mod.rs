//! Network configuration lists as they lie on disk: parsing, and finding one by name.

mod lookup;
mod pick;

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value, json};

pub(crate) use lookup::read_regular;

use crate::name::check_network_name;
use crate::version::Number;
use crate::{Code, Error, Result, Version, json as js};

/// One network: an ordered list of plug-ins.
#[derive(Debug, Clone, PartialEq)]
pub struct NetworkList {
    /// The network's name; checked.
    pub name: String,
    /// The version to speak, as written: the newest of `cniVersion` and `cniVersions` that bowline knows.
    pub cni_version: String,
    /// CHECK does nothing.
    pub disable_check: bool,
    /// GC does nothing.
    pub disable_gc: bool,
    /// The plug-ins in the order of ADD; at least one.
    pub plugins: Vec<PluginConf>,
    /// The list's exact bytes, which the result cache keeps.
    pub bytes: Vec<u8>,
}

/// One plug-in of a list.
#[derive(Debug, Clone, PartialEq)]
pub struct PluginConf {
    /// `type`: the plug-in's program; not empty.
    pub plugin_type: String,
    /// What it takes from the runtime, when true.
    pub capabilities: BTreeMap<String, bool>,
    /// The whole object.
    pub object: Map<String, Value>,
}

impl NetworkList {
    /// Parses a `.conflist`. `dir` is where it lies: its sub-folder of the network's name may hold more plug-ins;
    /// without a `dir` none are looked for.
    ///
    /// # Errors
    /// Code 6 when it is not JSON or has wrong types, 7 for every other fault, naming key and value.
    pub fn parse(bytes: &[u8], dir: Option<&Path>) -> Result<Self> {
        let object = parse_object(bytes)?;
        let name = text(&object, "name")?;
        check_network_name(&name)?;
        let cni_version = pick::version(&object)?;
        let only_inlined = switch(&object, "loadOnlyInlinedPlugins")?;
        let mut plugins = inlined(&object)?;
        if plugins.is_none() && only_inlined {
            return Err(Error::config("plugins is missing, and loadOnlyInlinedPlugins is true"));
        }
        if let (false, Some(dir)) = (only_inlined, dir) {
            plugins.get_or_insert_default().extend(lookup::folder(&dir.join(&name))?);
        }
        let plugins = plugins.filter(|p| !p.is_empty()).ok_or_else(|| {
            Error::config(format!("network {name:?} has no plugins: neither inlined nor in its folder"))
        })?;
        Ok(NetworkList {
            name,
            cni_version,
            disable_check: switch(&object, "disableCheck")?,
            disable_gc: switch(&object, "disableGC")?,
            plugins,
            bytes: bytes.to_vec(),
        })
    }

    /// Reads one file: a `.conflist`, or a single configuration (`.conf`, `.json`) made a list of one.
    ///
    /// # Errors
    /// Code 5 when it cannot be read, else as [`NetworkList::parse`]; the message starts with the path.
    pub fn load(file: &Path) -> Result<Self> {
        let bytes = lookup::read(file)?;
        let parsed = match file.extension().is_some_and(|e| e == "conflist") {
            true => Self::parse(&bytes, file.parent()),
            false => Self::from_single(&bytes),
        };
        parsed.map_err(|e| e.context(file.display()))
    }

    /// Finds the list called `name` in a directory: all `*.conflist` in order of file names, then `*.conf` and
    /// `*.json`. Sub-folders are not searched; a broken file before the match ends the search.
    ///
    /// # Errors
    /// Code 7 when there is none; else as [`NetworkList::load`].
    pub fn find(dir: &Path, name: &str) -> Result<Self> {
        lookup::find(dir, name)
    }

    /// A single configuration as a list of one plug-in.
    ///
    /// # Errors
    /// As [`NetworkList::parse`].
    pub fn from_single(bytes: &[u8]) -> Result<Self> {
        let object = parse_object(bytes)?;
        let name = text(&object, "name")?;
        check_network_name(&name)?;
        let cni_version = text(&object, "cniVersion")?;
        let list = json!({ "cniVersion": cni_version, "name": name, "plugins": [js::sorted(&Value::Object(object.clone()))] });
        Ok(NetworkList {
            name,
            cni_version,
            disable_check: false,
            disable_gc: false,
            plugins: vec![PluginConf::from_object(object)?],
            bytes: js::compact(&list).into_bytes(),
        })
    }

    /// Whether the list's version is at least `version`.
    ///
    /// # Errors
    /// Code 6: the list's version is not a version.
    pub fn is_at_least(&self, version: Version) -> Result<bool> {
        Ok(Number::parse(&self.cni_version)? >= version.number())
    }

    /// The released version in whose format results are read.
    ///
    /// # Errors
    /// Code 6: the list's version is not a version.
    pub fn result_version(&self) -> Result<Version> {
        Ok(Version::at_most(Number::parse(&self.cni_version)?))
    }
}

impl PluginConf {
    /// Parses one plug-in's object.
    ///
    /// # Errors
    /// As [`NetworkList::parse`].
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        Self::from_object(parse_object(bytes)?)
    }

    fn from_object(object: Map<String, Value>) -> Result<Self> {
        let plugin_type = text(&object, "type")?;
        if plugin_type.is_empty() {
            return Err(Error::config("type is missing"));
        }
        let capabilities = js::member(&object, "capabilities").map(|v| js::decode_at("capabilities", v));
        Ok(PluginConf { plugin_type, capabilities: capabilities.transpose()?.unwrap_or_default(), object })
    }
}

fn parse_object(bytes: &[u8]) -> Result<Map<String, Value>> {
    match js::parse(bytes)
        .map_err(|e| Error::new(Code::DECODE, format!("error parsing configuration: {e}")))?
    {
        Value::Object(object) => Ok(object),
        _ => Err(Error::new(Code::DECODE, "error parsing configuration: it is not an object")),
    }
}

/// The text at `key`; empty when absent.
fn text(object: &Map<String, Value>, key: &str) -> Result<String> {
    Ok(js::member(object, key).map(|v| js::decode_at(key, v)).transpose()?.unwrap_or_default())
}

/// A boolean that may also be written as text.
fn switch(object: &Map<String, Value>, key: &str) -> Result<bool> {
    match js::member(object, key) {
        None => Ok(false),
        Some(Value::Bool(v)) => Ok(*v),
        Some(Value::String(text)) if text.eq_ignore_ascii_case("true") => Ok(true),
        Some(Value::String(text)) if text.eq_ignore_ascii_case("false") => Ok(false),
        Some(other) => Err(Error::config(format!("{key}: {other} is not true or false"))),
    }
}

/// The plug-ins written in the list itself; an empty array is an error, an absent one is not.
fn inlined(object: &Map<String, Value>) -> Result<Option<Vec<PluginConf>>> {
    let items = match js::member(object, "plugins") {
        None => return Ok(None),
        Some(Value::Array(items)) if items.is_empty() => return Err(Error::config("plugins: [] is empty")),
        Some(Value::Array(items)) => items,
        Some(_) => return Err(Error::new(Code::DECODE, "plugins is not a list")),
    };
    let parse = |(index, item): (usize, &Value)| {
        let object = item.as_object().cloned();
        let object = object
            .ok_or_else(|| Error::new(Code::DECODE, format!("plugins[{index}]: {item} is not an object")))?;
        PluginConf::from_object(object).map_err(|e| e.context(format!("plugins[{index}]")))
    };
    items.iter().enumerate().map(parse).collect::<Result<_>>().map(Some)
}
