//! What an interface was like before: remembered in the reference's file until DEL puts it back.

use std::fs::{DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use cni::{Attachment, Code, Error, Result};
use kernel::Mac;
use kernel::file;
use kernel::link::{self, Link, LinkId, Switch};
use kernel::netlink::Op;
use serde_json::{Map, Value};

use crate::owner::{Keep, Owner};

/// Longer than any backup that was written.
const LONGEST: u64 = 64 * 1024;

/// Attributes of an interface; what is absent is not touched.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Attributes {
    /// Hardware address.
    pub mac: Option<Mac>,
    /// Promiscuous mode.
    pub promisc: Option<bool>,
    /// MTU in bytes.
    pub mtu: Option<u32>,
    /// Reception of all multicast.
    pub allmulti: Option<bool>,
    /// Transmit queue length, in packets.
    pub txqlen: Option<u32>,
}

impl Attributes {
    /// What `link` is like, for those attributes that `self` has.
    pub fn of(&self, link: &Link) -> Attributes {
        Attributes {
            mac: self.mac.as_ref().and(link.mac.clone()),
            promisc: self.promisc.map(|_| link.is_promisc()),
            mtu: self.mtu.map(|_| link.mtu),
            allmulti: self.allmulti.map(|_| link.is_allmulti()),
            txqlen: self.txqlen.map(|_| link.txqlen),
        }
    }

    /// Whether nothing is touched.
    pub fn is_empty(&self) -> bool {
        *self == Attributes::default()
    }

    /// The requests that give `link` these attributes, each with its configuration key.
    pub fn ops(&self, link: &LinkId) -> Vec<(&'static str, Op)> {
        let mut ops = Vec::new();
        ops.extend(self.mac.as_ref().map(|mac| ("mac", link::set_mac(link, mac))));
        ops.extend(self.promisc.map(|on| ("promisc", link::set_promisc(link, Switch::from(on)))));
        ops.extend(self.mtu.map(|mtu| ("mtu", link::set_mtu(link, mtu))));
        ops.extend(self.allmulti.map(|on| ("allmulti", link::set_allmulti(link, Switch::from(on)))));
        ops.extend(self.txqlen.map(|length| ("txQLen", link::set_txqlen(link, length))));
        ops
    }

    /// These, and from `others` what is absent.
    #[must_use]
    pub fn or(self, others: &Attributes) -> Attributes {
        Attributes {
            mac: self.mac.or_else(|| others.mac.clone()),
            promisc: self.promisc.or(others.promisc),
            mtu: self.mtu.or(others.mtu),
            allmulti: self.allmulti.or(others.allmulti),
            txqlen: self.txqlen.or(others.txqlen),
        }
    }

    fn to_json(&self, owner: &str) -> Value {
        let mut object = Map::new();
        let mut put = |key: &str, value: Option<Value>| {
            if let Some(value) = value {
                object.insert(key.to_owned(), value);
            }
        };
        put("mac", self.mac.as_ref().map(|mac| mac.to_string().into()));
        put("promisc", self.promisc.map(Value::from));
        put("mtu", self.mtu.map(Value::from));
        put("allmulti", self.allmulti.map(Value::from));
        put("txQLen", self.txqlen.map(Value::from));
        // The reference passes over keys that it doesn't know.
        put("owner", Some(owner.into()));
        Value::Object(object)
    }

    /// What can be understood of a backup; a crooked value is as good as none.
    pub fn from_json(value: &Value) -> Attributes {
        let number = |key: &str| value[key].as_u64().and_then(|n| u32::try_from(n).ok());
        Attributes {
            mac: value["mac"].as_str().and_then(|text| text.parse().ok()),
            promisc: value["promisc"].as_bool(),
            mtu: number("mtu").filter(|mtu| *mtu != 0),
            allmulti: value["allmulti"].as_bool(),
            txqlen: number("txQLen"),
        }
    }
}

/// The file of one attachment.
#[derive(Debug, Clone)]
pub struct Backup {
    path: PathBuf,
}

impl Backup {
    /// The backup of `attachment`, of whatever network: that is how the reference names it.
    pub fn new(data_dir: &Path, attachment: &Attachment) -> Self {
        let (id, ifname) = (attachment.container_id.as_str(), attachment.ifname.as_str());
        Backup { path: data_dir.join(format!("{id}_{ifname}.json")) }
    }

    /// Writes the originals, whole or not at all.
    ///
    /// # Errors
    /// Code 5, naming the file.
    pub fn write(&self, originals: &Attributes, owner: &Owner) -> Result<()> {
        let dir = self.path.parent().unwrap_or(Path::new("/"));
        let text = originals.to_json(&owner.comment()).to_string();
        let made = DirBuilder::new().recursive(true).mode(0o700).create(dir);
        made.and_then(|()| self.publish(dir, text.as_bytes())).map_err(|e| {
            Error::new(Code::IO, format!("dataDir: remember the interface in {}: {e}", self.path.display()))
        })
    }

    /// Without a name until it is whole, so that whoever finds a file after a crash can read whose it is.
    fn publish(&self, dir: &Path, text: &[u8]) -> io::Result<()> {
        let unfinished = self.unfinished();
        let _ = std::fs::remove_file(&unfinished);
        match file::unnamed_in(dir, 0o600) {
            Ok(mut unnamed) => {
                unnamed.write_all(text)?;
                match file::link(&unnamed, &self.path) {
                    Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                    done => return done,
                }
                file::link(&unnamed, &unfinished)?;
            }
            Err(error) if error.kind() == io::ErrorKind::Unsupported => {
                let mut options = OpenOptions::new();
                let mut file = options.write(true).create_new(true).mode(0o600).open(&unfinished)?;
                file.write_all(text)?;
            }
            Err(error) => return Err(error),
        }
        std::fs::rename(&unfinished, &self.path)
    }

    fn unfinished(&self) -> PathBuf {
        self.path.with_extension("unfinished")
    }

    /// The originals, as far as they can be read.
    pub fn read(&self) -> Attributes {
        Attributes::from_json(&read_json(&self.path).unwrap_or_default())
    }

    /// The originals that an earlier step of the same attachment wrote: another tuning of its chain, or an ADD that is
    /// tried again. They are older than what the interface is like now.
    pub fn earlier(&self, owner: &Owner) -> Attributes {
        let json = read_json(&self.path).filter(|json| json["owner"].as_str().is_some_and(|o| owner.owns(o)));
        Attributes::from_json(&json.unwrap_or_default())
    }

    /// Removes the file; none is success.
    ///
    /// # Errors
    /// Code 5, naming the file.
    pub fn remove(&self) -> Result<()> {
        remove(&self.unfinished())?;
        remove(&self.path)
    }
}

/// The backups in `data_dir` whose attachment is dead, those half-written among them. Files that don't say whose they
/// are stay: the reference's, which may be of any network.
///
/// # Errors
/// Code 5, naming the directory.
pub fn stale(data_dir: &Path, keep: &Keep) -> Result<Vec<PathBuf>> {
    let entries = match std::fs::read_dir(data_dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(Error::new(Code::IO, format!("dataDir: list {}: {e}", data_dir.display()))),
    };
    let is_stale = |path: &PathBuf| {
        let owner = read_json(path).and_then(|json| Some(json["owner"].as_str()?.to_owned()));
        owner.is_some_and(|owner| keep.is_stale(&owner))
    };
    Ok(entries.filter_map(|entry| Some(entry.ok()?.path())).filter(is_stale).collect())
}

/// Removes a file; none is success.
///
/// # Errors
/// Code 5, naming the file.
pub fn remove(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        // A read-only file system says so before it looks whether there is such a file.
        Err(_) if std::fs::symlink_metadata(path).is_err_and(|e| e.kind() == io::ErrorKind::NotFound) => {
            Ok(())
        }
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            Err(Error::new(Code::IO, format!("dataDir: remove {}: {e}", path.display())))
        }
        _ => Ok(()),
    }
}

fn read_json(path: &Path) -> Option<Value> {
    let file = file::open_regular(path).ok()?;
    let mut bytes = Vec::new();
    io::Read::read_to_end(&mut io::Read::take(file, LONGEST), &mut bytes).ok()?;
    serde_json::from_slice(&bytes).ok()
}
