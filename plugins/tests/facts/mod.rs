//! A node's facts for one test.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

/// Facts in a file of their own.
pub struct Facts {
    dir: tempfile::TempDir,
}

impl Facts {
    /// Those of a node with these pod CIDRs, whose pods have an MTU of 1450 bytes.
    pub fn of(mode: &str, pod_cidrs: &[&str]) -> Facts {
        let facts = Facts { dir: tempfile::tempdir().expect("a temporary directory") };
        facts.write(&json!({ "node": "one", "mode": mode, "podCidrs": pod_cidrs, "mtu": 1450 }).to_string());
        facts
    }

    /// Where they are.
    pub fn path(&self) -> PathBuf {
        self.dir.path().join("node.json")
    }

    /// Puts `text` in their place.
    pub fn write(&self, text: &str) {
        std::fs::write(self.path(), text).expect("write the facts");
    }

    /// As on a node that the daemon has not readied.
    pub fn remove(&self) {
        std::fs::remove_file(self.path()).expect("remove the facts");
    }
}

/// The daemon's configuration for `kind`, with leases in `state`: everything else is left to the facts.
pub fn conf(kind: &str, facts: &Facts, state: &Path) -> Value {
    json!({
        "cniVersion": "1.1.0", "name": "net1", "type": kind,
        "nodeFacts": facts.path(), "ipam": { "dataDir": state },
    })
}
