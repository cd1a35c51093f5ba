//! A cache of a network's lease directory: who holds what, without opening a file per lease.
//!
//! It lives on a tmpfs away from the directory, so state on disk stays exactly the reference's. It is never trusted
//! further than a stamp goes: each operation ends by setting the directory's mtime to the nanosecond written here.
//! Whoever else adds or removes a lease, or a kill half-way, leaves another mtime, and the next operation reads the
//! directory again. Contents are hashed: a hit is verified against its file, a miss needs none.
//!
//! ```text
//! magic 16 | machine and boot 16 | stamp 32 | the directory's path 448 | record 24 | record 24 | ...   by address
//! record = address 16, IPv4 mapped into IPv6 | holder's hash 8, its top bit set when of a former boot
//! ```

use std::cell::Cell;
use std::ffi::OsStr;
use std::fs::{File, FileTimes, OpenOptions};
use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::allocate::Occupancy;

const MAGIC: &[u8; 16] = b"bowline leases 2";
const HEADER: usize = 512;
const STAMP: Range<usize> = 32..64;
const PATH: Range<usize> = 64..HEADER;
const RECORD: usize = 24;
const STALE: u64 = 1 << 63;

/// A directory's identity and its last change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    device: u64,
    inode: u64,
    seconds: i64,
    nanoseconds: i64,
}

impl Stamp {
    /// The stamp that `dir` bears now.
    pub fn of(dir: &File) -> io::Result<Self> {
        let meta = dir.metadata()?;
        Ok(Stamp {
            device: meta.dev(),
            inode: meta.ino(),
            seconds: meta.mtime(),
            nanoseconds: meta.mtime_nsec(),
        })
    }

    /// The name of the directory's index, whatever its state.
    fn name(&self) -> String {
        format!("{:x}-{:x}", self.device, self.inode)
    }

    fn to_bytes(self) -> [u8; 32] {
        let mut bytes = [0; 32];
        let fields = [
            self.device.to_be_bytes(),
            self.inode.to_be_bytes(),
            self.seconds.to_be_bytes(),
            self.nanoseconds.to_be_bytes(),
        ];
        for (place, field) in bytes.chunks_exact_mut(8).zip(fields) {
            place.copy_from_slice(&field);
        }
        bytes
    }
}

/// Every lease of a directory, sorted by address.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// Header and records, as in the file.
    bytes: Vec<u8>,
    /// Bytes from here on differ from the file.
    changed_from: usize,
    /// Where the next look-up most likely hits: the policy asks with rising addresses.
    hint: Cell<usize>,
}

impl Table {
    /// Collects the leases that `each` is called with, in any order.
    ///
    /// # Errors
    /// With those of `each`.
    pub fn collect<E>(
        each: impl FnOnce(&mut dyn FnMut(IpAddr, u64, Occupancy)) -> Result<(), E>,
    ) -> Result<Self, E> {
        let mut bytes = vec![0; HEADER];
        each(&mut |address, holder, occupancy| bytes.extend(record(address, holder, occupancy)))?;
        let (records, _) = bytes[HEADER..].as_chunks_mut::<RECORD>();
        records.sort_unstable();
        Ok(Table { bytes, changed_from: HEADER, hint: Cell::new(0) })
    }

    /// How many leases there are.
    pub fn len(&self) -> usize {
        self.records().len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Every leased address.
    pub fn addresses(&self) -> Vec<IpAddr> {
        self.records().map(address).collect()
    }

    /// Who holds `address`.
    pub fn occupancy(&self, address: IpAddr) -> Occupancy {
        match self.position(address) {
            Ok(at) => occupancy(self.holder(at)),
            Err(_) => Occupancy::Free,
        }
    }

    /// The addresses whose holder has this hash.
    pub fn held_by(&self, holder: u64) -> Vec<(IpAddr, Occupancy)> {
        let wanted = (holder & !STALE).to_be_bytes();
        let same = |bytes: &[u8]| bytes[1..] == wanted[1..] && bytes[0] & 0x7f == wanted[0];
        let hits = self.records().enumerate().filter(|(_, record)| same(&record[16..]));
        hits.map(|(at, record)| (address(record), occupancy(self.holder(at)))).collect()
    }

    /// Enters a live lease.
    pub fn insert(&mut self, address: IpAddr, holder: u64) {
        let new = record(address, holder, Occupancy::Held);
        let (at, replaced) = match self.position(address) {
            Ok(at) => (at, RECORD),
            Err(at) => (at, 0),
        };
        let at = HEADER + at * RECORD;
        self.bytes.splice(at..at + replaced, new);
        self.changed_from = self.changed_from.min(at);
    }

    /// Takes a lease out.
    pub fn remove(&mut self, address: IpAddr) {
        if let Ok(at) = self.position(address) {
            let at = HEADER + at * RECORD;
            self.bytes.drain(at..at + RECORD);
            self.changed_from = self.changed_from.min(at);
        }
    }

    fn records(&self) -> std::slice::ChunksExact<'_, u8> {
        self.bytes.get(HEADER..).unwrap_or_default().chunks_exact(RECORD)
    }

    fn record(&self, at: usize) -> &[u8] {
        &self.bytes[HEADER + at * RECORD..][..RECORD]
    }

    fn holder(&self, at: usize) -> u64 {
        self.record(at)[16..].iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte))
    }

    fn position(&self, address: IpAddr) -> Result<usize, usize> {
        let (wanted, hint) = (key(address), self.hint.get());
        if hint < self.len() && self.record(hint)[..16] == wanted {
            self.hint.set(hint + 1);
            return Ok(hint);
        }
        let (mut low, mut high) = (0, self.len());
        while low < high {
            let middle = low + (high - low) / 2;
            match self.record(middle)[..16].cmp(&wanted[..]) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
                std::cmp::Ordering::Equal => {
                    self.hint.set(middle + 1);
                    return Ok(middle);
                }
            }
        }
        Err(low)
    }

    /// Reads a file's content, whose header [`Index::load`] judges: whole records in order, or nothing.
    pub fn from_bytes(bytes: Vec<u8>) -> Option<Self> {
        let whole = bytes.len() >= HEADER && (bytes.len() - HEADER).is_multiple_of(RECORD);
        let table = Table { changed_from: bytes.len(), bytes, hint: Cell::new(0) };
        let sorted = || {
            let mut records = table.records();
            let mut before = records.next();
            records.all(|now| before.replace(now).is_some_and(|before| before[..16] < now[..16]))
        };
        (whole && sorted()).then_some(table)
    }
}

/// The file of one directory's table.
#[derive(Debug)]
pub struct Index {
    path: PathBuf,
    /// The directory, where that fits into the header, and zeros.
    of: [u8; PATH.end - PATH.start],
    boot: [u8; 16],
}

impl Index {
    /// The index of the directory `dir`, which bears this stamp, among those in `root`, during the boot that `boot`
    /// names.
    pub fn new(root: &Path, dir: &Path, stamp: &Stamp, boot: [u8; 16]) -> Self {
        let mut of = [0; PATH.end - PATH.start];
        let path = dir.as_os_str().as_bytes();
        if let Some(place) = of.get_mut(..path.len()) {
            place.copy_from_slice(path);
        }
        Index { path: root.join(stamp.name()), of, boot }
    }

    /// The table, if it is of this very state of the directory.
    pub fn load(&self, stamp: &Stamp) -> Option<Table> {
        let bytes = std::fs::read(&self.path).ok()?;
        let valid = bytes.starts_with(MAGIC)
            && bytes.get(16..32)? == self.boot
            && bytes.get(STAMP)? == stamp.to_bytes();
        if valid { Table::from_bytes(bytes) } else { None }
    }

    /// Writes the table and stamps the directory. Nothing is lost when that fails: the next operation reads the
    /// directory again. The last lease takes the index with it.
    pub fn save(&self, table: &mut Table, dir: &File) {
        if table.is_empty() || self.write(table, dir).is_err() {
            self.forget();
        }
    }

    /// Removes the index.
    pub fn forget(&self) {
        // A missing or immovable index is an invalid one: the stamp says so.
        let _ = std::fs::remove_file(&self.path);
    }

    fn write(&self, table: &mut Table, dir: &File) -> io::Result<()> {
        let now = SystemTime::now();
        let since = now.duration_since(SystemTime::UNIX_EPOCH).map_err(io::Error::other)?;
        let stamp = Stamp {
            seconds: since.as_secs().try_into().map_err(io::Error::other)?,
            nanoseconds: since.subsec_nanos().into(),
            ..Stamp::of(dir)?
        };
        table.bytes[..16].copy_from_slice(MAGIC);
        table.bytes[16..32].copy_from_slice(&self.boot);
        table.bytes[STAMP].copy_from_slice(&stamp.to_bytes());
        table.bytes[PATH].copy_from_slice(&self.of);
        let file = self.open()?;
        let from =
            if file.metadata()?.len() < table.changed_from as u64 { HEADER } else { table.changed_from };
        file.write_all_at(&table.bytes[from..], from as u64)?;
        file.set_len(table.bytes.len() as u64)?;
        file.write_all_at(&table.bytes[..HEADER], 0)?;
        dir.set_times(FileTimes::new().set_modified(now))?;
        // A file system that keeps coarser times than nanoseconds could hide a change behind an equal stamp.
        if Stamp::of(dir)? == stamp { Ok(()) } else { Err(io::ErrorKind::Unsupported.into()) }
    }

    fn open(&self) -> io::Result<File> {
        match (OpenOptions::new().write(true).open(&self.path), self.path.parent()) {
            (Err(error), Some(root)) if error.kind() == io::ErrorKind::NotFound => {
                prune(root);
                std::fs::DirBuilder::new().recursive(true).mode(0o700).create(root)?;
                let mut new = OpenOptions::new();
                new.write(true).create(true).truncate(false).mode(0o600).open(&self.path)
            }
            (opened, _) => opened,
        }
    }
}

/// Removes the indexes of directories that were taken away whole, their leases with them. A directory that only this
/// mount namespace can't see loses no more than a cache.
fn prune(root: &Path) {
    for entry in std::fs::read_dir(root).into_iter().flatten().flatten() {
        let mut header = [0; HEADER];
        let read = File::open(entry.path()).and_then(|file| file.read_exact_at(&mut header, 0));
        let path = header[PATH].split(|byte| *byte == 0).next().unwrap_or_default();
        let is_of_its_directory = || {
            let stamp = Stamp::of(&File::open(OsStr::from_bytes(path)).ok()?).ok()?;
            Some(entry.file_name() == stamp.name().as_str())
        };
        let whole = read.is_ok() && header.starts_with(MAGIC);
        // A path too long for the header can't be asked.
        if !whole || !path.is_empty() && is_of_its_directory() != Some(true) {
            // Who can't remove it can do without.
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

/// The hash of a lease file's content: FNV-1a without its top bit.
pub fn hash(content: &[u8]) -> u64 {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    content.iter().fold(0xcbf2_9ce4_8422_2325, step) & !STALE
}

fn key(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

fn address(record: &[u8]) -> IpAddr {
    let mut octets = [0; 16];
    octets.copy_from_slice(&record[..16]);
    IpAddr::from(Ipv6Addr::from(octets)).to_canonical()
}

fn record(address: IpAddr, holder: u64, occupancy: Occupancy) -> [u8; RECORD] {
    let stale = if occupancy == Occupancy::Stale { STALE } else { 0 };
    let mut bytes = [0; RECORD];
    bytes[..16].copy_from_slice(&key(address));
    bytes[16..].copy_from_slice(&(holder & !STALE | stale).to_be_bytes());
    bytes
}

fn occupancy(holder: u64) -> Occupancy {
    if holder & STALE == 0 { Occupancy::Held } else { Occupancy::Stale }
}
