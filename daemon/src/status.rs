//! What the daemon tells of itself: over the control socket as JSON, to `bowline status`, to probes.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};

use crate::proxy::Handle;

/// Name of the control socket in the run directory: `GET /status` answers with a [`Status`].
pub const SOCKET: &str = "bowlined.sock";

/// Where host-local keeps the leases of our network.
pub const LEASES: &str = "/var/lib/cni/networks/bowline";

/// The node at one moment. What an older daemon does not tell has its default.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Status {
    /// Version of the daemon.
    pub version: String,
    /// Its process.
    pub pid: u32,
    /// When it started, in seconds since 1970.
    pub started: u64,
    /// When this was told, by the same clock: ages are differences to it, whatever the asker's clock says.
    pub told: u64,
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
    /// The other nodes, by name; in a brief answer those alone that have problems.
    pub peers: Vec<PeerStatus>,
    /// How many other nodes are known.
    pub peers_known: usize,
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
    /// The Service proxy; `None` where this node has none.
    pub services: Option<ServicesStatus>,
}

/// The Service proxy at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServicesStatus {
    /// By what Services are served: `nftables`, `iptables`, `ipvs`.
    pub mode: String,
    /// How many Service ports are served.
    pub ports: usize,
    /// Whether the kernel has had all of them once.
    pub is_programmed: bool,
    /// When the kernel was last as it should be, in seconds since 1970: the elder of both families.
    pub last_sync: Option<u64>,
    /// For how many seconds a change has been waiting to get into the kernel; `None` when nothing does.
    pub waiting: Option<u64>,
    /// What is wrong: with Services, with sources, what the kernel refuses.
    pub problems: Vec<String>,
}

/// One condition of readiness.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
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
#[serde(rename_all = "camelCase", default)]
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
#[serde(rename_all = "camelCase", default)]
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
#[serde(rename_all = "camelCase", default)]
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
#[serde(rename_all = "camelCase", default)]
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

impl Status {
    /// As it is told now: with the pods and the Service proxy of this moment.
    pub fn now(self, proxy: Option<&Handle>) -> Self {
        let services = proxy.map(ServicesStatus::of);
        let mut drift_repaired = self.drift_repaired;
        if let Some(repaired) = proxy.map(|proxy| proxy.metrics.repaired()).filter(|repaired| *repaired > 0) {
            drift_repaired.insert("services".to_owned(), repaired);
        }
        let told = seconds(SystemTime::now());
        Status { told, peers_known: self.peers.len(), services, drift_repaired, ..self }
    }

    /// Without the peers that nothing is wrong with: in a cluster of thousands they are nearly all there is to tell.
    pub fn brief(mut self) -> Self {
        self.peers.retain(|peer| !peer.problems.is_empty());
        self
    }
}

impl ServicesStatus {
    fn of(proxy: &Handle) -> Self {
        let published = proxy.published.borrow();
        let families = || published.families.present().map(|(_, family)| family);
        ServicesStatus {
            mode: proxy.mode.to_string(),
            ports: families().map(|family| family.ports).max().unwrap_or(0),
            is_programmed: published.is_programmed,
            last_sync: families().filter_map(|family| family.last_success).min().map(seconds),
            waiting: families()
                .filter_map(|family| family.waiting_since)
                .map(|since| since.elapsed().as_secs())
                .max(),
            problems: published.problems.to_vec(),
        }
    }
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
    fn an_answer_of_another_version_is_understood_as_far_as_it_goes() {
        let text =
            r#"{"version": "9.9.9", "node": "a", "ready": true, "peers": [{"name": "b"}], "novelty": [1]}"#;
        let status: Status = serde_json::from_str(text).expect("read");
        assert_eq!((status.node.as_str(), status.ready, status.peers.len()), ("a", true, 1));
    }

    #[test]
    fn a_brief_answer_keeps_the_count_and_what_is_wrong() {
        let peer = |name: &str, problems: &[&str]| PeerStatus {
            name: name.into(),
            problems: problems.iter().map(|it| (*it).to_owned()).collect(),
            ..PeerStatus::default()
        };
        let status = Status { peers: vec![peer("b", &[]), peer("c", &["is away"])], ..Status::default() };
        let brief = status.now(None).brief();
        assert_eq!((brief.peers_known, brief.peers), (2, vec![peer("c", &["is away"])]));
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
