//! A node of a cluster and a pod on it, as stories see them.

use std::net::IpAddr;
use std::ops::Deref;
use std::path::{Path, PathBuf};

use super::{CONFLIST, HEALTHZ, METRICS, PLUGINS};
use crate::manifests::Entry;
use crate::{Attachment, Daemon, Network, Node, Pod, Subject, daemon, wait};

/// A node of a cluster. Dereferences to its [`Node`].
#[derive(Debug)]
pub struct Member {
    pub(super) node: Node,
    pub(super) entry: Entry,
    /// Where its daemons write.
    pub(super) log: PathBuf,
}

/// A pod of a cluster, attached by the configuration list that its node's daemon wrote. Dereferences to its [`Pod`].
#[derive(Debug)]
pub struct Joined {
    /// The sandbox.
    pub pod: Pod,
    /// What ADD made of it.
    pub attachment: Attachment,
}

impl Member {
    /// Its Node as the manifests have it.
    pub fn entry(&self) -> &Entry {
        &self.entry
    }

    /// Its address of the family of `peer`.
    ///
    /// # Panics
    /// When it has none.
    pub fn ip_like(&self, peer: IpAddr) -> IpAddr {
        like(&self.entry.ips, peer)
    }

    /// Waits until its daemon says that it is ready, and the network is there.
    ///
    /// # Panics
    /// When it is not in time, or the daemon has ended.
    pub fn until_ready(&self, daemon: &Daemon) {
        wait::until(&format!("the daemon of {} to be ready", self.entry.name), || {
            assert!(daemon.is_running(), "the daemon of {} has ended:\n{}", self.entry.name, daemon.log());
            self.is_ready().then_some(())
        });
    }

    /// Whether its daemon says that it is ready, and the network is there.
    pub fn is_ready(&self) -> bool {
        let status = daemon::http(&self.node, HEALTHZ, "/readyz").map(|(status, _)| status);
        status == Some(200) && !self.node.read(CONFLIST).is_empty()
    }

    /// Its network, as the daemon wrote it, run by the plug-ins that the daemon installed.
    ///
    /// # Panics
    /// When the daemon wrote none.
    pub fn network(&self) -> Network {
        let text = self.node.read(CONFLIST);
        let list = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{CONFLIST}: {e} in {text:?}"));
        Network::new(&Subject::mixed(Path::new(PLUGINS)), list)
    }

    /// The sum of all samples of a metric whose labels contain `labels`; `None` when there is none.
    pub fn metric(&self, name: &str, labels: &str) -> Option<f64> {
        let (_, body) = daemon::http(&self.node, METRICS, "/metrics")?;
        let of_metric = |line: &&str| {
            let rest = line.strip_prefix(name)?;
            (rest.starts_with(['{', ' ']) && rest.contains(labels)).then_some(())
        };
        let samples = body.lines().filter(|line| of_metric(line).is_some());
        samples.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).reduce(|a, b| a + b)
    }
}

impl Deref for Member {
    type Target = Node;
    fn deref(&self) -> &Node {
        &self.node
    }
}

impl Joined {
    /// Its addresses.
    pub fn ips(&self) -> Vec<IpAddr> {
        self.attachment.ips()
    }

    /// Its address of the family of `peer`.
    ///
    /// # Panics
    /// When it has none.
    pub fn ip_like(&self, peer: IpAddr) -> IpAddr {
        like(&self.ips(), peer)
    }
}

impl Deref for Joined {
    type Target = Pod;
    fn deref(&self) -> &Pod {
        &self.pod
    }
}

fn like(ips: &[IpAddr], peer: IpAddr) -> IpAddr {
    let found = ips.iter().find(|ip| ip.is_ipv4() == peer.is_ipv4());
    *found.unwrap_or_else(|| panic!("no address of the family of {peer} among {ips:?}"))
}
