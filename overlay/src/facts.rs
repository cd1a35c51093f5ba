//! What the daemon tells the plug-ins of its node: `/run/bowline/node.json`.
//!
//! The file is on a tmpfs, so that after a reboot no plug-in works with yesterday's facts.

use std::path::Path;

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};

/// Where the daemon writes and plug-ins read.
pub const PATH: &str = "/run/bowline/node.json";

/// The facts of a node that can carry pods.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeFacts {
    /// Name of the node.
    pub node: String,
    /// How packets travel between nodes: a [`crate::Mode`]'s name.
    pub mode: String,
    /// The pod CIDRs of this node, at most one of each family.
    pub pod_cidrs: Vec<IpNetwork>,
    /// MTU of pods, in bytes.
    pub mtu: u32,
}

impl NodeFacts {
    /// Reads them.
    ///
    /// # Errors
    /// A sentence that names the file: it is absent, or not what the daemon writes.
    pub fn read(path: &Path) -> Result<Self, String> {
        let shown = path.display();
        let text = kernel::file::read_whole(path, 1 << 20).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => {
                format!("{shown} is absent: bowlined has not (yet) readied this node for pods")
            }
            _ => format!("{shown}: {error}"),
        })?;
        serde_json::from_slice(&text).map_err(|error| format!("{shown}: {error}"))
    }
}
