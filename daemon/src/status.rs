//! What the daemon tells of itself: over the control socket as JSON, to `bowline status`, to probes.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};

/// Name of the control socket in the run directory: `GET /status` answers with a [`Status`].
pub const SOCKET: &str = "bowlined.sock";

/// Where host-local keeps the leases of our network.
pub const LEASES: &str = "/var/lib/cni/networks/bowline";

/// The node at one moment.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// Version of the daemon.
    pub version: String,
    /// Its process.
    pub pid: u32,
    /// When it started, in seconds since 1970.
    pub started: u64,
    /// Name of the node.
    pub node: String,
    /// How packets travel between nodes.
    pub mode: String,
    /// Whether new pods can be carried: every one of `checks` is fine.
    pub ready: bool,
    /// What readiness consists of, in the order in which it comes about.
    pub checks: Vec<Check>,
    /// What does no harm to readiness, but should be known.
    pub notes: Vec<String>,
    /// Addresses of this node's pods.
    pub pod_cidrs: Vec<IpNetwork>,
    /// MTU of pods in bytes, once known.
    pub mtu: Option<u32>,
    /// VXLAN network identifier, in the modes that have one.
    pub vni: Option<u32>,
    /// Where this node meets the others.
    pub uplinks: Vec<UplinkStatus>,
    /// The other nodes, by name.
    pub peers: Vec<PeerStatus>,
    /// What the kernel holds for them.
    pub programmed: Programmed,
    /// Where Nodes come from.
    pub source: SourceStatus,
    /// The last time that the kernel was brought to what it should be.
    pub last_sync: Option<SyncStatus>,
    /// How often that was done.
    pub syncs: u64,
    /// Objects that somebody else had removed or changed, put back, by kind.
    pub drift_repaired: BTreeMap<String, u64>,
    /// Pods that hold an address here; `None` when that can't be found out.
    pub pods: Option<usize>,
}

/// One condition of readiness.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Check {
    /// Its name, one word.
    pub name: String,
    /// Whether it is met.
    pub ok: bool,
    /// What is missing and what to do about it; how it is met otherwise. May be empty.
    pub detail: String,
}

/// Where this node meets the others in one family.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UplinkStatus {
    /// Name of the link.
    pub link: String,
    /// The node's address.
    pub ip: IpAddr,
    /// MTU of the link in bytes.
    pub mtu: u32,
}

/// Another node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PeerStatus {
    /// Its name.
    pub name: String,
    /// Its addresses for other nodes.
    pub ips: Vec<IpAddr>,
    /// Its pods' addresses.
    pub pod_cidrs: Vec<IpNetwork>,
    /// How packets get there: `direct`, or the name of a tunnel device; one for each pod CIDR that is reached.
    pub via: Vec<String>,
    /// What is wrong with it.
    pub problems: Vec<String>,
}

/// Numbers of objects that are in the kernel for other nodes' pods.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Programmed {
    /// Tunnel devices.
    pub tunnels: usize,
    /// Routes.
    pub routes: usize,
    /// Routing rules.
    pub rules: usize,
    /// FDB entries.
    pub fdb: usize,
    /// Neighbour entries.
    pub neighbours: usize,
    /// WireGuard peers.
    pub wireguard: usize,
}

/// Where Nodes come from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SourceStatus {
    /// `api URL` or `manifests DIRECTORY`.
    pub what: String,
    /// Whether it is in touch.
    pub connected: bool,
    /// Since when it is as `connected` says, in seconds since 1970.
    pub since: Option<u64>,
    /// Snapshots so far.
    pub snapshots: u64,
    /// Restarts after an error so far, by cause.
    pub restarts: BTreeMap<String, u64>,
    /// What is wrong at present.
    pub problems: Vec<String>,
}

/// One time that the kernel was brought to what it should be.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SyncStatus {
    /// When, in seconds since 1970.
    pub at: u64,
    /// How long it took, in milliseconds.
    pub took_ms: f64,
    /// Objects made or replaced.
    pub added: usize,
    /// Objects removed.
    pub removed: usize,
    /// What the kernel refused, each a sentence.
    pub failures: Vec<String>,
}

impl Check {
    /// One that is met.
    pub fn met(name: &str, detail: impl Into<String>) -> Self {
        Check { name: name.to_owned(), ok: true, detail: detail.into() }
    }

    /// One that is not, with what to do.
    pub fn unmet(name: &str, detail: impl Into<String>) -> Self {
        Check { name: name.to_owned(), ok: false, detail: detail.into() }
    }
}

impl From<&crate::source::SourceState> for SourceStatus {
    fn from(state: &crate::source::SourceState) -> Self {
        SourceStatus {
            what: state.what.clone(),
            connected: state.is_connected,
            since: state.since.map(seconds),
            snapshots: state.snapshots,
            restarts: state.restarts.clone(),
            problems: state.problems.clone(),
        }
    }
}

/// Seconds since 1970.
pub fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// How many pods hold an address of the network bowline, by host-local's leases in `dir`: files named by address, of
/// which a pod has one in each family.
pub fn count_pods(dir: &Path) -> Option<usize> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Some(0),
        Err(_) => return None,
    };
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    // host-local writes IPv6 addresses as they are, or with dashes where a file system takes no colons.
    let leases = names.filter_map(|name| name.replace('-', ":").parse::<IpAddr>().ok());
    let (v4, v6): (Vec<IpAddr>, Vec<IpAddr>) = leases.partition(IpAddr::is_ipv4);
    Some(v4.len().max(v6.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_with_two_addresses_is_one() {
        let dir = tempfile::tempdir().expect("a directory");
        assert_eq!(count_pods(&dir.path().join("absent")), Some(0));
        for name in ["10.1.0.2", "10.1.0.3", "fd00::2", "lock", "last_reserved_ip.0"] {
            std::fs::write(dir.path().join(name), "").expect("written");
        }
        assert_eq!(count_pods(dir.path()), Some(2));
    }

    #[test]
    fn json_has_the_words_of_kubernetes() {
        let status =
            Status { pod_cidrs: vec!["10.1.0.0/24".parse().expect("a network")], ..Status::default() };
        let text = serde_json::to_string(&status).expect("serialised");
        assert!(text.contains("\"podCidrs\":[\"10.1.0.0/24\"]"), "{text}");
        assert_eq!(serde_json::from_str::<Status>(&text).expect("read"), status);
    }
}
