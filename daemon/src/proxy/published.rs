//! How the proxy is, for health servers, metrics and people.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use proxy::plan::{HealthCheck, NodePorts};
use proxy::state::ServiceName;
use proxy::{DualStack, Mode};

/// The proxy at one moment.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Published {
    /// Name of the node.
    pub node: Arc<str>,
    /// Each family; none where Services of it are not served here, and `problems` says why.
    pub families: DualStack<Option<FamilyState>>,
    /// Whether the API has this Node and it is not about to go. None until a source has told.
    pub node_eligible: Option<bool>,
    /// Whether every family that is served has been programmed once.
    pub is_programmed: bool,
    /// Every sentence about what is wrong: of sources, Services and the kernel.
    pub problems: Arc<[String]>,
}

/// One family at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct FamilyState {
    /// By what it is served.
    pub mode: Mode,
    /// When the kernel was last as it should be.
    pub last_success: Option<SystemTime>,
    /// Since when a change is waiting to get into the kernel; none when nothing is.
    pub waiting_since: Option<Instant>,
    /// What the last sync failed of, if it did.
    pub failure: Option<Arc<str>>,
    /// What load balancers ask for, by Service.
    pub health: Arc<BTreeMap<ServiceName, HealthCheck>>,
    /// On which addresses NodePorts answer, and health checks with them.
    pub node_ports: NodePorts,
    /// How many Service ports are served.
    pub ports: usize,
    /// How many syncs have succeeded.
    pub syncs: u64,
}
