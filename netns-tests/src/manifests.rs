//! The directory of manifests that all daemons of a cluster read, written as an administrator's tool would: whole files,
//! put in place by renaming.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

/// A directory of Node manifests, one file for each, gone when dropped.
#[derive(Debug)]
pub struct Manifests {
    directory: tempfile::TempDir,
}

/// A Node as its manifest says it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// `metadata.name`.
    pub name: String,
    /// `metadata.uid`.
    pub uid: String,
    /// `metadata.creationTimestamp`, in RFC 3339.
    pub created: String,
    /// `status.addresses` of type InternalIP.
    pub ips: Vec<IpAddr>,
    /// `spec.podCIDRs`, each as `address/length`.
    pub pod_cidrs: Vec<String>,
}

impl Entry {
    /// The object of the API.
    pub fn object(&self) -> Value {
        let addresses: Vec<Value> =
            self.ips.iter().map(|ip| json!({"type": "InternalIP", "address": ip.to_string()})).collect();
        json!({
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": self.name, "uid": self.uid, "creationTimestamp": self.created},
            "spec": {"podCIDR": self.pod_cidrs.first(), "podCIDRs": self.pod_cidrs},
            "status": {"addresses": addresses},
        })
    }

    /// Another machine under the same name.
    #[must_use]
    pub fn reborn(&self, nth: u32) -> Entry {
        Entry { uid: format!("{}-{nth}", self.uid), ..self.clone() }
    }
}

impl Manifests {
    /// An empty directory.
    ///
    /// # Errors
    /// When no temporary directory can be made.
    pub fn new() -> std::io::Result<Manifests> {
        let directory = tempfile::tempdir()?;
        for inside in ["manifests", "new"] {
            std::fs::create_dir(directory.path().join(inside))?;
        }
        Ok(Manifests { directory })
    }

    /// Where daemons look.
    pub fn path(&self) -> PathBuf {
        self.directory.path().join("manifests")
    }

    /// Puts a Node in place or replaces it.
    ///
    /// # Panics
    /// When the file cannot be written.
    pub fn write(&self, entry: &Entry) {
        self.write_text(&format!("{}.json", entry.name), &entry.object().to_string());
    }

    /// Puts a file of any text in place or replaces it, atomically.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn write_text(&self, file: &str, text: &str) {
        let fresh = self.directory.path().join("new").join(file);
        let placed = self.path().join(file);
        std::fs::write(&fresh, text)
            .and_then(|()| std::fs::rename(&fresh, &placed))
            .unwrap_or_else(|e| panic!("write {}: {e}", placed.display()));
    }

    /// Removes a Node.
    ///
    /// # Panics
    /// When it is not there.
    pub fn remove(&self, name: &str) {
        let placed = self.path().join(format!("{name}.json"));
        std::fs::remove_file(&placed).unwrap_or_else(|e| panic!("remove {}: {e}", placed.display()));
    }

    /// A directory beside the manifests for what else must end with them.
    pub fn aside(&self) -> &Path {
        self.directory.path()
    }
}
