//! The files of a directory, and what was last good of each.

use std::collections::{BTreeMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::document::{Fault, Mark};
use super::file::{self, Contents, Readers};
use super::services::{self, Teller};
use crate::objects::Objects;

/// No manifest is larger than this, in bytes: some thousand Nodes with all that a cluster writes into them.
const LARGEST: u64 = 64 << 20;
/// That many faults of a file are named.
const NAMED: usize = 10;

/// A directory of manifests as last seen.
pub struct Directory {
    path: PathBuf,
    /// By name: their order decides which of two objects counts.
    files: BTreeMap<OsString, File>,
    /// Why the directory itself can't be read.
    problem: Option<String>,
    /// Whether it was read once.
    is_read: bool,
    /// Whether every file has been good at one time. From then on a new file that is broken holds up nothing.
    was_full: bool,
    /// Files that became broken, or broken in another way, at the last scan.
    pub newly_broken: usize,
    readers: Readers,
    /// Whether the last scan has found anything new.
    is_new: bool,
    /// What is wrong with what the proxy was told.
    told_problems: Vec<String>,
}

/// One of its files.
#[derive(Default)]
struct File {
    stamp: Option<Stamp>,
    /// What was last good of it.
    good: Option<Contents>,
    /// What is wrong with it now.
    problems: Vec<String>,
}

/// Whether a file is still the one that was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    place: (u64, u64),
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    fn of(metadata: &std::fs::Metadata) -> Self {
        Stamp {
            place: (metadata.dev(), metadata.ino()),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

impl Directory {
    /// One of which nothing is known yet.
    pub fn new(path: PathBuf, readers: Readers) -> Self {
        Directory {
            path,
            files: BTreeMap::new(),
            problem: None,
            is_read: false,
            was_full: false,
            newly_broken: 0,
            readers,
            is_new: false,
            told_problems: Vec::new(),
        }
    }

    /// Reads what is new; whether the directory can be read. While it can't, all stays as it was.
    pub fn scan(&mut self, being_written: &HashSet<OsString>) -> bool {
        self.newly_broken = 0;
        let names = match manifests_in(&self.path) {
            Ok(names) => names,
            Err(error) => {
                let shown = self.path.display();
                let kept = if self.is_read { "; what was last read of it stays in force" } else { "" };
                self.problem = Some(match error.kind() {
                    io::ErrorKind::NotFound => format!("{shown}: there is no such directory{kept}"),
                    _ => format!("{shown}: {error}{kept}"),
                });
                return false;
            }
        };
        self.problem = None;
        let before = self.files.len();
        self.files.retain(|name, _| names.contains(name));
        self.is_new |= !std::mem::replace(&mut self.is_read, true) || self.files.len() != before;
        for name in names {
            let file = self.files.entry(name.clone()).or_default();
            if file.good.is_some() && being_written.contains(&name) {
                continue;
            }
            match file.read(&self.path.join(&name), self.readers) {
                Outcome::Gone => {
                    self.files.remove(&name);
                    self.is_new = true;
                }
                Outcome::Broken => self.newly_broken += 1,
                Outcome::Good => self.is_new = true,
                Outcome::Same => {}
            }
        }
        self.was_full |= self.files.values().all(|file| file.good.is_some());
        true
    }

    /// Of these files the next scan believes no stamp: the clock of file systems is too coarse for two quick changes.
    pub fn forget_stamps(&mut self, names: &HashSet<OsString>) {
        for name in names {
            if let Some(file) = self.files.get_mut(name) {
                file.stamp = None;
            }
        }
    }

    /// The objects of all files, and what is wrong. No objects before every file has been good.
    pub fn merge(&self) -> (Option<Objects>, Vec<String>) {
        let mut problems: Vec<String> = self.problem.iter().cloned().collect();
        let mut objects = Objects::default();
        let mut places: BTreeMap<&str, String> = BTreeMap::new();
        for (name, file) in &self.files {
            let path = self.path.join(name);
            problems.extend(file.problems.iter().cloned());
            for (mark, node) in file.good.iter().flat_map(|contents| &contents.nodes) {
                let place = place(&path, *mark);
                if let Some(first) = places.get(node.name.as_str()) {
                    let name = &node.name;
                    problems.push(format!(
                        "{place}: metadata.name: Node `{name}` is also in {first}, which counts"
                    ));
                } else {
                    places.insert(&node.name, place);
                    objects.nodes.insert(node.name.clone(), node.clone());
                }
            }
        }
        problems.extend(self.told_problems.iter().cloned());
        (self.was_full.then_some(objects), problems)
    }

    /// Tells the proxy what is new. Nothing before every file has been good.
    pub fn tell(&mut self, teller: &mut Teller) {
        if !self.was_full || !std::mem::take(&mut self.is_new) {
            return;
        }
        let of_proxy = |file| File::services(file);
        let all: Vec<(PathBuf, &services::Contents)> = self
            .files
            .iter()
            .filter_map(|(name, file)| Some((self.path.join(name), of_proxy(file)?)))
            .collect();
        let by_file = all.iter().map(|(path, contents)| (path.as_path(), *contents));
        let mut problems = teller.tell(by_file, place);
        problems.extend(all.iter().flat_map(|(path, contents)| sentences(path, &contents.faults)));
        self.told_problems = problems;
    }
}

/// What came of reading a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Same,
    Good,
    /// It is, and was not in this way before.
    Broken,
    Gone,
}

impl File {
    /// What is last good of it for the proxy.
    fn services(&self) -> Option<&services::Contents> {
        self.good.as_ref()?.services.as_ref()
    }

    fn read(&mut self, path: &Path, readers: Readers) -> Outcome {
        let (stamp, text) = match read_if_new(path, self.stamp) {
            Ok(None) => return Outcome::Same,
            Ok(Some(found)) => found,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Outcome::Gone,
            Err(error) => return self.refuse(vec![format!("{}: {error}", path.display())]),
        };
        self.stamp = Some(stamp);
        match text.and_then(|text| file::decode(&text, readers)) {
            Ok(contents) => {
                self.good = Some(contents);
                self.problems.clear();
                Outcome::Good
            }
            Err(faults) => self.refuse(sentences(path, &faults)),
        }
    }

    fn refuse(&mut self, problems: Vec<String>) -> Outcome {
        if self.problems == problems {
            return Outcome::Same;
        }
        self.problems = problems;
        Outcome::Broken
    }
}

/// A file's text, or why it is none.
type Text = Result<String, Vec<Fault>>;

/// The file at `path`, unless `stamp` is its own.
fn read_if_new(path: &Path, stamp: Option<Stamp>) -> io::Result<Option<(Stamp, Text)>> {
    let metadata = std::fs::metadata(path)?;
    if stamp == Some(Stamp::of(&metadata)) {
        return Ok(None);
    }
    let mut file = std::fs::File::open(path)?;
    // The stamp of what is read, not of what stood here a moment ago.
    let stamp = Stamp::of(&file.metadata()?);
    let mut bytes = Vec::new();
    (&mut file).take(LARGEST + 1).read_to_end(&mut bytes)?;
    let fault = |mark, what: &str| Err(vec![Fault { mark, field: String::new(), what: what.to_owned() }]);
    if bytes.len() as u64 > LARGEST {
        return Ok(Some((stamp, fault(Mark::default(), "is larger than 64 MiB"))));
    }
    let text = String::from_utf8(bytes).or_else(|error| {
        let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = valid.iter().filter(|byte| **byte == b'\n').count() as u64 + 1;
        let column = valid.iter().rev().take_while(|byte| **byte != b'\n').count() as u64 + 1;
        fault(Mark { line, column }, "is no UTF-8 text")
    });
    Ok(Some((stamp, text)))
}

/// The names of the manifests in a directory. Hidden files are those of editors, and of ConfigMap volumes.
fn manifests_in(dir: &Path) -> io::Result<HashSet<OsString>> {
    let mut names = HashSet::new();
    for entry in std::fs::read_dir(dir)? {
        let name = entry?.file_name();
        let is_hidden = name.as_encoded_bytes().starts_with(b".");
        let is_manifest = Path::new(&name).extension().is_some_and(|extension| {
            ["yaml", "yml", "json"].into_iter().any(|known| extension == OsStr::new(known))
        });
        if !is_hidden && is_manifest && !dir.join(&name).is_dir() {
            names.insert(name);
        }
    }
    Ok(names)
}

fn place(path: &Path, mark: Mark) -> String {
    let shown = path.display();
    if mark == Mark::default() { shown.to_string() } else { format!("{shown}:{}:{}", mark.line, mark.column) }
}

fn sentences(path: &Path, faults: &[Fault]) -> Vec<String> {
    let mut sentences: Vec<String> = faults
        .iter()
        .take(NAMED)
        .map(|Fault { mark, field, what }| {
            let colon = if field.is_empty() { "" } else { ": " };
            format!("{}: {field}{colon}{what}", place(path, *mark))
        })
        .collect();
    if faults.len() > NAMED {
        sentences.push(format!("{}: {} more fields are wrong", path.display(), faults.len() - NAMED));
    }
    sentences
}
