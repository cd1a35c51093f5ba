//! Configuration files in a directory.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::{NetworkList, PluginConf};
use crate::{Code, Error, Result};

pub(super) fn find(dir: &Path, name: &str) -> Result<NetworkList> {
    let lists = files(dir, &["conflist"])?;
    let singles = files(dir, &["conf", "json"])?;
    for file in lists.iter().chain(&singles) {
        let list = NetworkList::load(file)?;
        if list.name == name {
            return Ok(list);
        }
    }
    Err(Error::config(match lists.is_empty() && singles.is_empty() {
        true => format!("no net configurations found in {}", dir.display()),
        false => format!("no net configuration with name {name:?} in {}", dir.display()),
    }))
}

/// The plug-ins that lie in a network's folder.
pub(super) fn folder(dir: &Path) -> Result<Vec<PluginConf>> {
    let load = |file: &PathBuf| PluginConf::parse(&read(file)?).map_err(|e| e.context(file.display()));
    files(dir, &["conf"])?.iter().map(load).collect()
}

pub(super) fn read(file: &Path) -> Result<Vec<u8>> {
    read_regular(file).map_err(|e| unreadable(file, &e))
}

/// A pipe at that place would never end.
pub(crate) fn read_regular(file: &Path) -> std::io::Result<Vec<u8>> {
    let kind = std::fs::metadata(file)?.file_type();
    if kind.is_file() || kind.is_dir() {
        return std::fs::read(file);
    }
    Err(std::io::Error::new(ErrorKind::InvalidInput, "not a regular file"))
}

/// The files of a directory with one of these extensions, by name; a missing directory has none.
fn files(dir: &Path, extensions: &[&str]) -> Result<Vec<PathBuf>> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(Vec::new()),
        Err(e) => return Err(unreadable(dir, &e)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.map_err(|e| unreadable(dir, &e))?.path();
        let wanted = path.extension().is_some_and(|e| extensions.iter().any(|x| e == *x));
        if wanted && !path.is_dir() {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

fn unreadable(path: &Path, e: &std::io::Error) -> Error {
    Error::new(Code::IO, format!("error reading {}: {e}", path.display()))
}
