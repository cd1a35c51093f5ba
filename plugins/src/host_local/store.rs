//! The lease directory of one network, in the reference's format, under the reference's lock.
//!
//! ```text
//! <dataDir>/<network>/lock                 flocked around every operation
//! <dataDir>/<network>/10.1.2.3             "<container ID>\r\n<interface>"
//! <dataDir>/<network>/last_reserved_ip.0   the last address handed out from range set 0
//! ```

use std::collections::BTreeSet;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use cni::{Attachment, Code, Error, Result};

use super::allocate::{self, Leases, Occupancy, Origin, Pick};
use super::index::{Index, Stamp, Table, hash};
use super::lease::{self, Boot, Draft, Holder, UNFINISHED};
use super::range::RangeSets;

/// Where a network's leases are.
#[derive(Debug, Clone)]
pub struct Store {
    /// `<dataDir>/<network>`.
    pub dir: PathBuf,
    /// Where indexes are kept.
    pub index_root: PathBuf,
    /// This boot, unless it can't be told.
    pub boot: Option<Boot>,
}

/// The directory, locked; nobody else changes it until this is dropped.
#[derive(Debug)]
pub struct Locked<'a> {
    store: &'a Store,
    dir: File,
    /// Absent only where the disk is read-only and so nobody can change anything.
    _lock: Option<File>,
    index: Index,
    boot: Option<&'a Boot>,
    table: Table,
    changed: bool,
}

impl Store {
    /// The store of `network` in `data_dir` on this machine.
    pub fn new(data_dir: &Path, network: &str) -> Self {
        Store {
            dir: data_dir.join(network),
            index_root: PathBuf::from("/run/bowline/host-local"),
            boot: Boot::current(),
        }
    }

    /// Leases one address of every set to `attachment`, all or none.
    pub fn reserve(
        &self,
        attachment: &Attachment,
        sets: &RangeSets,
        requested: &[IpAddr],
    ) -> Result<Vec<Pick>> {
        let mut builder = DirBuilder::new();
        builder.recursive(true).mode(0o755).create(&self.dir).map_err(|e| self.io("create", e))?;
        let holder = Holder::from(attachment);
        let boot = File::open(&self.dir).ok().and_then(|dir| self.boot_on(&dir));
        let draft = Draft::write(&self.dir, &holder, boot).map_err(|e| self.io("write a lease in", e))?;
        let mut locked = self.lock().map_err(|e| self.io("lock", e))?;
        let outcome = locked.reserve(attachment, sets, requested, &draft);
        locked.close();
        outcome
    }

    /// Frees every address of `attachment`; having none is success.
    pub fn release(&self, attachment: &Attachment) -> Result<()> {
        let Some(mut locked) = self.lock_existing()? else { return Ok(()) };
        let outcome = locked.release(attachment);
        locked.close();
        outcome
    }

    /// Frees every address whose attachment is not among `valid`.
    pub fn retain(&self, valid: &[Attachment]) -> Result<()> {
        let Some(mut locked) = self.lock_existing()? else { return Ok(()) };
        let outcome = locked.retain(valid);
        locked.close();
        outcome
    }

    /// The addresses that `attachment` holds.
    pub fn held_by(&self, attachment: &Attachment) -> Result<Vec<IpAddr>> {
        let Some(mut locked) = self.lock_existing()? else { return Ok(Vec::new()) };
        let own = locked.own(attachment).map_err(|e| self.io("read", e));
        locked.close();
        Ok(own?.into_iter().map(|(address, _)| address).collect())
    }

    /// Whether an attachment could get an address of every set.
    pub fn ensure_available(&self, sets: &RangeSets) -> Result<()> {
        self.ensure_writable()?;
        let Some(locked) = self.lock_existing()? else { return Ok(()) };
        let outcome = allocate::ensure_available(sets, &View { locked: &locked, own: &[] });
        locked.close();
        outcome
    }

    fn ensure_writable(&self) -> Result<()> {
        let dir = self.dir.ancestors().find(|dir| dir.exists()).unwrap_or(&self.dir);
        let draft = Draft::write(dir, &Holder::Container("status".into()), None);
        draft.map(drop).map_err(|e| self.io("write in", e))
    }

    fn boot_on(&self, dir: &File) -> Option<&Boot> {
        self.boot.as_ref().filter(|_| kernel::file::is_on_local_disk(dir))
    }

    fn lock_existing(&self) -> Result<Option<Locked<'_>>> {
        match self.lock() {
            Ok(locked) => Ok(Some(locked)),
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(None),
            Err(error) => Err(self.io("lock", error)),
        }
    }

    fn lock(&self) -> io::Result<Locked<'_>> {
        let lock = match flock(&self.dir.join("lock")) {
            Err(error) if error.kind() == ErrorKind::ReadOnlyFilesystem => None,
            lock => Some(lock?),
        };
        let dir = File::open(&self.dir)?;
        let stamp = Stamp::of(&dir)?;
        let boot = self.boot_on(&dir);
        let index =
            Index::new(&self.index_root, &self.dir, &stamp, boot.map(Boot::digest).unwrap_or_default());
        let cached = index.load(&stamp);
        let known = cached.is_some();
        let table = cached.unwrap_or_default();
        let mut locked = Locked { store: self, dir, _lock: lock, index, boot, table, changed: false };
        if !known {
            locked.observe()?;
        }
        Ok(locked)
    }

    fn io(&self, doing: &str, error: io::Error) -> Error {
        Error::new(Code::IO, format!("ipam.dataDir: {doing} lease directory {}: {error}", self.dir.display()))
    }
}

impl Locked<'_> {
    /// Reads the directory: the truth behind the index. Files that a crash left empty are removed, and of files
    /// that can't be read only the name is believed.
    fn observe(&mut self) -> io::Result<()> {
        self.table = Table::collect(|enter| {
            for entry in std::fs::read_dir(&self.store.dir)? {
                let name = entry?.file_name();
                let Some(name) = name.to_str() else { continue };
                if name == UNFINISHED {
                    let _ = std::fs::remove_file(self.store.dir.join(name));
                }
                let Some(address) = lease_name(name) else { continue };
                if let Some((holder, occupancy)) = self.observe_one(&self.store.dir.join(name)) {
                    enter(address, holder, occupancy);
                }
            }
            Ok::<_, io::Error>(())
        })?;
        self.changed = true;
        Ok(())
    }

    /// The hash of a lease's holder, and whether it is alive; `None` when it is nobody's.
    fn observe_one(&self, path: &Path) -> Option<(u64, Occupancy)> {
        let (holder, file) = match lease::read(path) {
            Ok(read) => read?,
            Err(_) => return Some((0, Occupancy::Held)),
        };
        if holder == Holder::Nobody && std::fs::remove_file(path).is_ok() {
            return None;
        }
        let stale = self.boot.is_some_and(|boot| boot.is_over(&file));
        Some((hash(&holder.content()), if stale { Occupancy::Stale } else { Occupancy::Held }))
    }

    fn reserve(
        &mut self,
        attachment: &Attachment,
        sets: &RangeSets,
        requested: &[IpAddr],
        draft: &Draft,
    ) -> Result<Vec<Pick>> {
        let io = |error| self.store.io("reserve an address in", error);
        let mut retried = false;
        loop {
            let own = self.own(attachment).map_err(io)?;
            let picks = allocate::plan(sets, requested, &View { locked: self, own: &own })?;
            match self.apply(attachment, draft, &picks) {
                Ok(()) => return Ok(picks),
                // Somebody who takes no lock was faster: look again, once.
                Err(error) if error.kind() == ErrorKind::AlreadyExists && !retried => {
                    retried = true;
                    self.observe().map_err(io)?;
                }
                Err(error) => return Err(io(error)),
            }
        }
    }

    fn apply(&mut self, attachment: &Attachment, draft: &Draft, picks: &[Pick]) -> io::Result<()> {
        self.changed = true;
        for (done, pick) in picks.iter().enumerate() {
            if let Err(error) = self.apply_one(attachment, draft, pick) {
                for pick in &picks[..done] {
                    let _ = self.unlink(pick.address);
                }
                return Err(error);
            }
        }
        Ok(())
    }

    fn apply_one(&mut self, attachment: &Attachment, draft: &Draft, pick: &Pick) -> io::Result<()> {
        if pick.origin != Origin::Free {
            self.unlink(pick.address)?;
        }
        draft.publish(&self.store.dir, pick.address)?;
        self.table.insert(pick.address, hash(&Holder::from(attachment).content()));
        if pick.origin == Origin::Own {
            return Ok(());
        }
        let pointer = self.store.dir.join(format!("last_reserved_ip.{}", pick.set));
        std::fs::write(pointer, pick.address.to_string()).inspect_err(|_| {
            let _ = self.unlink(pick.address);
        })
    }

    fn release(&mut self, attachment: &Attachment) -> Result<()> {
        let own = self.own(attachment).map_err(|e| self.store.io("read", e))?;
        self.unlink_all(own.into_iter().map(|(address, _)| address))
    }

    fn retain(&mut self, valid: &[Attachment]) -> Result<()> {
        let valid: (BTreeSet<_>, BTreeSet<_>) = valid
            .iter()
            .map(|a| ((a.container_id.as_str(), a.ifname.as_str()), a.container_id.as_str()))
            .unzip();
        self.observe().map_err(|e| self.store.io("read", e))?;
        let mut dead = Vec::new();
        for address in self.table.addresses() {
            let is_valid = match lease::read(&self.path(address)) {
                Ok(Some((Holder::Attachment { container_id, ifname }, _))) => {
                    valid.0.contains(&(container_id.as_str(), ifname.as_str()))
                }
                Ok(Some((Holder::Container(container_id), _))) => valid.1.contains(container_id.as_str()),
                Ok(Some((Holder::Nobody, _))) => false,
                // What nobody can read, nobody can call dead.
                Ok(Some((Holder::Unknown, _)) | None) | Err(_) => true,
            };
            if !is_valid {
                dead.push(address);
            }
        }
        self.unlink_all(dead)
    }

    /// The attachment's leases, verified. A lease of the whole container counts when there is no other.
    fn own(&mut self, attachment: &Attachment) -> io::Result<Vec<(IpAddr, Occupancy)>> {
        let exact = Holder::from(attachment);
        let old = Holder::Container(attachment.container_id.as_str().to_owned());
        for holder in [exact, old] {
            let found = self.table.held_by(hash(&holder.content()));
            if self.are_of(&found, &holder)? {
                if !found.is_empty() {
                    return Ok(found);
                }
                continue;
            }
            self.observe()?;
            let found = self.table.held_by(hash(&holder.content()));
            let same = |(address, _): &(IpAddr, Occupancy)| matches!(lease::read(&self.path(*address)), Ok(Some((read, _))) if read == holder);
            let found: Vec<_> = found.into_iter().filter(same).collect();
            if !found.is_empty() {
                return Ok(found);
            }
        }
        Ok(Vec::new())
    }

    fn are_of(&self, leases: &[(IpAddr, Occupancy)], holder: &Holder) -> io::Result<bool> {
        for (address, _) in leases {
            if !lease::read(&self.path(*address))?.is_some_and(|(read, _)| read == *holder) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn unlink_all(&mut self, addresses: impl IntoIterator<Item = IpAddr>) -> Result<()> {
        let mut failed = Vec::new();
        for address in addresses {
            if let Err(error) = self.unlink(address) {
                failed.push(format!("free {address}: {error}"));
            }
        }
        if failed.is_empty() {
            return Ok(());
        }
        let dir = self.store.dir.display();
        Err(Error::new(Code::IO, format!("ipam.dataDir: in lease directory {dir}: {}", failed.join("; "))))
    }

    fn unlink(&mut self, address: IpAddr) -> io::Result<()> {
        match std::fs::remove_file(self.path(address)) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        self.table.remove(address);
        self.changed = true;
        Ok(())
    }

    fn path(&self, address: IpAddr) -> PathBuf {
        self.store.dir.join(address.to_string())
    }

    /// Writes the index and gives the lock back.
    fn close(mut self) {
        if self.changed {
            self.index.save(&mut self.table, &self.dir);
        }
    }
}

struct View<'a, 'b> {
    locked: &'a Locked<'b>,
    own: &'a [(IpAddr, Occupancy)],
}

impl Leases for View<'_, '_> {
    fn occupancy(&self, address: IpAddr) -> Occupancy {
        self.locked.table.occupancy(address)
    }

    fn own(&self) -> &[(IpAddr, Occupancy)] {
        self.own
    }

    fn last_reserved(&self, set: usize) -> Option<IpAddr> {
        let pointer = self.locked.store.dir.join(format!("last_reserved_ip.{set}"));
        // No address is longer.
        let text = kernel::file::read_whole(&pointer, 64).ok()?;
        String::from_utf8(text).ok()?.trim().parse().ok()
    }
}

/// The address that a lease file's name is; other files are none of ours.
fn lease_name(name: &str) -> Option<IpAddr> {
    let address: IpAddr = name.parse().ok()?;
    (address.to_canonical().to_string() == name).then_some(address)
}

/// Takes the lock of a directory, or that on a file, waiting for it as long as somebody else has it.
pub fn flock(path: &Path) -> io::Result<File> {
    let path = if path.is_dir() { path.join("lock") } else { path.to_owned() };
    loop {
        let lock = match kernel::file::open_lock(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                OpenOptions::new().write(true).create(true).truncate(false).mode(0o750).open(&path)?
            }
            opened => opened?,
        };
        lock.lock()?;
        // Whoever wiped the directory meanwhile took the name away; then the lock is on nothing.
        let (here, named) = (lock.metadata()?, std::fs::metadata(&path));
        if named.is_ok_and(|named| (named.dev(), named.ino()) == (here.dev(), here.ino())) {
            return Ok(lock);
        }
    }
}
