//! What a tuning configuration means.

use std::fmt;
use std::path::PathBuf;

use cni::{Error, NetConf, Result, args, json};
use kernel::Mac;
use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::backup::Attributes;

const DATA_DIR: &str = "/run/cni/tuning";

/// Everything that ADD and CHECK need.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Keys as written, and values, in the order of the document; new ones of `args` behind.
    pub sysctls: Vec<(String, String)>,
    /// What the interface shall be like.
    pub wanted: Attributes,
    /// Where the originals are kept.
    pub data_dir: PathBuf,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Raw {
    data_dir: String,
    args: RawArgs,
    runtime_config: RawRuntimeConfig,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawArgs {
    cni: RawTuning,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawRuntimeConfig {
    mac: String,
}

/// The keys that stand both at the top level and in `args.cni`.
#[derive(Default, Deserialize)]
#[serde(default)]
struct RawTuning {
    sysctl: Settings,
    mac: String,
    promisc: Option<bool>,
    mtu: Option<u32>,
    #[serde(rename = "txQLen")]
    txqlen: Option<u32>,
    allmulti: Option<bool>,
}

impl Config {
    /// Reads a configuration and CNI_ARGS. Hardware address: the configuration's gives way to CNI_ARGS' MAC, that to
    /// runtimeConfig's, that to args'.
    ///
    /// # Errors
    /// Names the key and the value that is wrong; a sysctl that is written twice.
    pub fn parse(conf: &NetConf, cni_args: &str) -> Result<Self> {
        refuse_duplicates(&conf.bytes)?;
        let raw: Raw = json::decode(&conf.object)?;
        let top: RawTuning = json::decode(&conf.object)?;
        let over = raw.args.cni;
        let from_env = args::parse(cni_args, &["MAC"])?;
        let mac = [
            ("args.cni.mac", over.mac.as_str()),
            ("runtimeConfig.mac", raw.runtime_config.mac.as_str()),
            ("CNI_ARGS: MAC", from_env.get("MAC").map_or("", String::as_str)),
            ("mac", top.mac.as_str()),
        ];
        let mac = mac.into_iter().find(|(_, text)| !text.is_empty());
        let mut sysctls = top.sysctl.0;
        for (key, value) in over.sysctl.0 {
            match sysctls.iter_mut().find(|(there, _)| *there == key) {
                Some(there) => there.1 = value,
                None => sysctls.push((key, value)),
            }
        }
        Ok(Config {
            sysctls,
            wanted: Attributes {
                mac: mac.map(|(key, text)| parse_mac(key, text)).transpose()?,
                promisc: over.promisc.or(top.promisc),
                mtu: over.mtu.or(top.mtu).filter(|mtu| *mtu != 0),
                allmulti: over.allmulti.or(top.allmulti),
                txqlen: over.txqlen.or(top.txqlen),
            },
            data_dir: or_default(raw.data_dir),
        })
    }

    /// Where the originals are: all that DEL and GC want to know.
    ///
    /// # Errors
    /// `dataDir` is not a string.
    pub fn parse_data_dir(conf: &NetConf) -> Result<PathBuf> {
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct OnlyDataDir {
            #[serde(rename = "dataDir")]
            data_dir: String,
        }
        Ok(or_default(json::decode::<OnlyDataDir>(&conf.object)?.data_dir))
    }
}

fn or_default(data_dir: String) -> PathBuf {
    PathBuf::from(if data_dir.is_empty() { DATA_DIR } else { &data_dir })
}

fn parse_mac(key: &str, text: &str) -> Result<Mac> {
    match text.parse::<Mac>() {
        Ok(mac) if mac.bytes().len() != 6 || mac.is_assignable() => Ok(mac),
        _ => Err(Error::config(format!("{key}: {text:?} is no hardware address that a link can have"))),
    }
}

/// A map of texts in the order of the document.
#[derive(Debug, Default)]
struct Settings(Vec<(String, String)>);

impl<'de> Deserialize<'de> for Settings {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = Settings;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Settings, A::Error> {
                let mut settings = Settings::default();
                while let Some(entry) = map.next_entry()? {
                    settings.0.push(entry);
                }
                Ok(settings)
            }
        }
        deserializer.deserialize_map(InOrder)
    }
}

/// A sysctl written twice is a mistake that JSON readers hide: the last one would win. So the text itself is read.
fn refuse_duplicates(bytes: &[u8]) -> Result<()> {
    let text = String::from_utf8_lossy(bytes);
    // Whatever else is wrong with the text has been reported before.
    let Ok(document) = serde_json::from_str::<Keys>(&text) else { return Ok(()) };
    let args = document.members("args").flat_map(|args| args.members("cni"));
    for sysctl in document.members("sysctl").chain(args.flat_map(|cni| cni.members("sysctl"))) {
        for (at, (key, _)) in sysctl.0.iter().enumerate() {
            if sysctl.0[..at].iter().any(|(before, _)| before == key) {
                return Err(Error::config(format!("sysctl: {key:?} is written twice")));
            }
        }
    }
    Ok(())
}

/// The keys of an object with those below them, as written; nothing for any other value.
#[derive(Debug, Default)]
struct Keys(Vec<(String, Keys)>);

impl Keys {
    fn members<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Keys> {
        self.0.iter().filter(move |(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, below)| below)
    }
}

impl<'de> Deserialize<'de> for Keys {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(KeysVisitor)
    }
}

struct KeysVisitor;

macro_rules! nothing_below {
    ($($visit:ident($kind:ty))*) => {$(
        fn $visit<E>(self, _: $kind) -> Result<Keys, E> {
            Ok(Keys::default())
        }
    )*};
}

impl<'de> Visitor<'de> for KeysVisitor {
    type Value = Keys;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }

    fn visit_unit<E>(self) -> Result<Keys, E> {
        Ok(Keys::default())
    }

    nothing_below!(visit_bool(bool) visit_i64(i64) visit_u64(u64) visit_f64(f64) visit_str(&str));

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Keys, A::Error> {
        while items.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Keys::default())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Keys, A::Error> {
        let mut keys = Keys::default();
        while let Some(entry) = map.next_entry()? {
            keys.0.push(entry);
        }
        Ok(keys)
    }
}
