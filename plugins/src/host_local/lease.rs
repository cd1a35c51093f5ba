//! One lease file: what it says, whose boot it is of, and how it comes into being whole.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use cni::Attachment;
use kernel::file;

/// Extended attribute of a lease file: the [`Boot`] that it was last seen alive in. The reference knows nothing of it.
const BOOT_ATTRIBUTE: &str = "user.bowline.boot";
/// The name a lease is written under where a file system has no unnamed files. Not an address, so never a lease.
pub const UNFINISHED: &str = "unfinished";
/// Longer than any container ID and interface name that could be meant.
const LONGEST: u64 = 4096;

/// Who holds a lease, as the file's content says it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Holder {
    /// An attachment.
    Attachment {
        /// The container.
        container_id: String,
        /// Its interface.
        ifname: String,
    },
    /// A container, in files of releases of the reference that knew one interface per container.
    Container(String),
    /// Nobody: what a crash between creating and writing a file leaves.
    Nobody,
    /// Something that no plug-in wrote.
    Unknown,
}

impl Holder {
    /// Reads a file's content, white space around it ignored.
    pub fn parse(content: &[u8]) -> Self {
        let Ok(text) = std::str::from_utf8(content) else { return Holder::Unknown };
        let mut lines = text.trim().lines().map(str::trim);
        match (lines.next(), lines.next(), lines.next()) {
            (None | Some(""), None, _) => Holder::Nobody,
            (Some(id), None, _) if is_id(id) => Holder::Container(id.to_owned()),
            (Some(id), Some(ifname), None) if is_id(id) && !ifname.is_empty() => {
                Holder::Attachment { container_id: id.to_owned(), ifname: ifname.to_owned() }
            }
            _ => Holder::Unknown,
        }
    }

    /// The content of a file of this holder.
    pub fn content(&self) -> Vec<u8> {
        match self {
            Holder::Attachment { container_id, ifname } => format!("{container_id}\r\n{ifname}").into_bytes(),
            Holder::Container(container_id) => container_id.clone().into_bytes(),
            Holder::Nobody | Holder::Unknown => Vec::new(),
        }
    }
}

impl From<&Attachment> for Holder {
    fn from(attachment: &Attachment) -> Self {
        Holder::Attachment {
            container_id: attachment.container_id.as_str().to_owned(),
            ifname: attachment.ifname.as_str().to_owned(),
        }
    }
}

fn is_id(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'))
}

/// One boot of one machine.
///
/// A lease that bears a former boot of this very machine, on a disk that no other machine can write to, belongs to a
/// netns that the kernel has forgotten: it is stale. Nothing else proves that: clocks step, and a lease without a
/// boot may have been made a second ago by the reference. So where any of these facts can't be had, nothing is stale.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Boot {
    machine: String,
    boot: String,
}

impl Boot {
    /// This boot of this machine.
    pub fn current() -> Option<Self> {
        Self::new(&file::machine_id()?, &file::boot_id()?)
    }

    /// A boot from the machine's and its own identity, 32 digits each. Half of them fit into an inode.
    pub fn new(machine: &str, boot: &str) -> Option<Self> {
        Some(Boot { machine: machine.get(..16)?.to_owned(), boot: boot.get(..16)?.to_owned() })
    }

    /// Both identities in 16 bytes.
    pub fn digest(&self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&super::index::hash(self.machine.as_bytes()).to_be_bytes());
        bytes[8..].copy_from_slice(&super::index::hash(self.boot.as_bytes()).to_be_bytes());
        bytes
    }

    /// Whether a lease file is of a former boot of this machine. One without a boot gets this one: it exists now.
    pub fn is_over(&self, lease: &File) -> bool {
        let Some(seen) = file::attribute::<64>(lease, BOOT_ATTRIBUTE) else {
            self.stamp(lease);
            return false;
        };
        let Some((machine, boot)) = std::str::from_utf8(&seen).ok().and_then(|seen| seen.split_once('.'))
        else {
            return false;
        };
        machine == self.machine && boot.len() == 16 && boot != self.boot
    }

    fn stamp(&self, lease: &File) {
        // A file system without attributes only means that the lease will never be called stale.
        let _ =
            file::set_attribute(lease, BOOT_ATTRIBUTE, format!("{}.{}", self.machine, self.boot).as_bytes());
    }
}

/// A lease's holder and file, `None` when there is no such file.
pub fn read(path: &Path) -> io::Result<Option<(Holder, File)>> {
    let lease = match file::open_regular(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut content = Vec::new();
    (&lease).take(LONGEST).read_to_end(&mut content)?;
    Ok(Some((Holder::parse(&content), lease)))
}

/// A lease's content before anybody knows its address.
///
/// It is not forced to the disk: that costs milliseconds per pod, and after the power cut that it would guard against
/// every pod is gone anyway. Should the name have reached the disk before the content did, the file is empty, and an
/// empty file is nobody's lease: the first operation after the boot removes it.
#[derive(Debug)]
pub enum Draft {
    /// In a file without a name.
    Unnamed(File),
    /// Still in memory: the file system has no unnamed files.
    Text(Vec<u8>, Option<Boot>),
}

impl Draft {
    /// Writes a holder's lease, before the directory is locked: a full disk is found while nothing has changed.
    pub fn write(dir: &Path, holder: &Holder, boot: Option<&Boot>) -> io::Result<Self> {
        match file::unnamed_in(dir, 0o600) {
            Ok(mut file) => {
                fill(&mut file, &holder.content(), boot)?;
                Ok(Draft::Unnamed(file))
            }
            Err(error) if error.kind() == io::ErrorKind::Unsupported => {
                Ok(Draft::Text(holder.content(), boot.cloned()))
            }
            Err(error) => Err(error),
        }
    }

    /// Makes it the lease of `address`. To be called with the directory locked.
    ///
    /// # Errors
    /// `AlreadyExists` when the address is leased.
    pub fn publish(&self, dir: &Path, address: IpAddr) -> io::Result<()> {
        let name = dir.join(address.to_string());
        let (content, boot) = match self {
            Draft::Unnamed(file) => return file::link(file, &name),
            Draft::Text(content, boot) => (content, boot.as_ref()),
        };
        let unfinished = dir.join(UNFINISHED);
        // Never written in place: after a kill between link and unlink it is also somebody's lease.
        match std::fs::remove_file(&unfinished) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&unfinished)?;
        let linked = fill(&mut file, content, boot).and_then(|()| std::fs::hard_link(&unfinished, &name));
        let cleared = std::fs::remove_file(&unfinished);
        linked.and(cleared)
    }
}

fn fill(file: &mut File, content: &[u8], boot: Option<&Boot>) -> io::Result<()> {
    if let Some(boot) = boot {
        boot.stamp(file);
    }
    file.write_all(content)
}
