//! The network configuration list by which container runtimes find bowline.
//!
//! A runtime calls a node's network ready as soon as any list is there, so ours is written last and removed as soon as
//! the node can't carry new pods; pods that run stay as they are.

use std::path::{Path, PathBuf};

use overlay::facts;
use serde_json::{Value, json};

use crate::file;

/// Name of the file. Runtimes take the first by name.
pub const FILE: &str = "10-bowline.conflist";
/// Name of the network.
pub const NETWORK: &str = "bowline";

/// The plug-in that attaches pods, in every mode. Without a bridge a packet takes fewer steps (a tenth of the throughput
/// between nodes), and packets between pods of one node meet the ruleset, Services included, without br_netfilter.
pub const KIND: &str = "routed";

/// The list. Addresses and MTU are not in it: the plug-ins read them from the node's facts at `facts`, so
/// that a change of the MTU touches no file that runtimes watch.
pub fn list(facts: &Path) -> Value {
    let mut first = json!({ "type": KIND });
    if facts != Path::new(facts::PATH) {
        first["nodeFacts"] = json!(facts);
    }
    json!({
        "cniVersion": "1.0.0",
        "cniVersions": ["1.0.0", "1.1.0"],
        "name": NETWORK,
        "plugins": [
            first,
            { "type": "portmap", "capabilities": { "portMappings": true } },
            { "type": "bandwidth", "capabilities": { "bandwidth": true } },
        ],
    })
}

/// Writes the list into `dir` unless it is there; says whether it wrote.
///
/// # Errors
/// A sentence that names the file.
pub fn ensure(dir: &Path, list: &Value) -> Result<bool, String> {
    let text = serde_json::to_string_pretty(list).map_err(|error| error.to_string())? + "\n";
    file::ensure(&dir.join(FILE), text.as_bytes(), 0o600)
}

/// Removes the list from `dir`; says whether it was there.
///
/// # Errors
/// A sentence that names the file.
pub fn remove(dir: &Path) -> Result<bool, String> {
    file::remove(&dir.join(FILE))
}

/// The list that runtimes take instead of ours, if there is one: another file of `dir` that comes first by name.
pub fn other_in_front(dir: &Path) -> Option<PathBuf> {
    let entries = std::fs::read_dir(dir).ok()?;
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let is_list = |name: &String| [".conflist", ".conf", ".json"].iter().any(|end| name.ends_with(end));
    let first = names.filter(is_list).min()?;
    (first.as_str() < FILE).then(|| dir.join(first))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_can_be_read_and_names_the_facts_where_they_are_elsewhere() {
        let usual = list(Path::new(facts::PATH));
        assert_eq!(usual["plugins"][0], json!({ "type": "routed" }));
        cni::list::NetworkList::parse(usual.to_string().as_bytes(), None)
            .expect("the protocol crate reads it");
        let elsewhere = list(Path::new("/run/other/node.json"));
        assert_eq!(elsewhere["plugins"][0]["nodeFacts"], "/run/other/node.json");
    }

    #[test]
    fn what_sorts_before_ours_is_named() {
        let dir = tempfile::tempdir().expect("a directory");
        let put = |name: &str| std::fs::write(dir.path().join(name), "{}").expect("written");
        assert_eq!(other_in_front(dir.path()), None);
        assert_eq!(ensure(dir.path(), &list(Path::new(facts::PATH))), Ok(true));
        for harmless in ["20-other.conflist", "05-notes.txt", "99.conf"] {
            put(harmless);
        }
        assert_eq!(other_in_front(dir.path()), None);
        put("05-other.conf");
        assert_eq!(other_in_front(dir.path()), Some(dir.path().join("05-other.conf")));
        assert_eq!((remove(dir.path()), remove(dir.path())), (Ok(true), Ok(false)));
    }
}
