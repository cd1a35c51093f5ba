//! The Service proxy inside the daemon: sources feed it, a thread of its own runs it, everything else looks on.
//!
//! ```text
//! API or manifests ─┐                        ┌─► kernel, one family after the other
//! links' addresses ─┼─► Inbox ─► Engine ─────┤
//! interval, drift  ─┘  (merges)  (a thread)  ├─► Published: health servers, readiness, metrics
//!                                 ▲          └─► answers to Questions
//!                                 └── Questions of `bowline services` and `bowline trace`
//! ```
//! A sync of thousands of Services may take a second; the thread keeps it away from whatever else the daemon does.

mod addresses;
pub mod answer;
pub mod ask;
mod census;
mod clock;
pub mod health;
mod inbox;
mod metrics;
mod published;
mod question;
mod runner;
mod start;
pub mod sysctls;
mod watcher;

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use proxy::{Mode, Options, Settings};
use tokio::sync::{mpsc, watch};

use crate::source::SourceState;

pub use inbox::Inbox;
pub use metrics::Metrics;
pub use published::{FamilyState, Published};
pub use question::{
    Asked, EndpointAnswer, FamilyAnswer, Filter, FrontendAnswer, Goal, HealthAnswer, Origin, PortAnswer,
    Question, ServiceAnswer, ServicesAnswer, TraceAnswer, TracesAnswer,
};
pub use start::{may_have_left, record, start, used_modes, withdraw};

/// What the proxy does, decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Name of this node's Node object.
    pub node_name: String,
    /// Its address for others in that family, whatever its Node says.
    pub node_ip: Option<IpAddr>,
    /// By what Services are served; none is what suits the kernel.
    pub mode: Option<Mode>,
    /// What decides about every packet.
    pub settings: Settings,
    /// Settings of single dataplanes.
    pub options: Options,
    /// Between the end of one sync and the beginning of the next, at least. The first after a quiet time comes at once.
    pub min_sync_period: Duration,
    /// How soon a failed sync is tried again at the latest, and how often the kernel is looked at without any cause.
    pub sync_period: Duration,
    /// What conntrack is told.
    pub conntrack: Conntrack,
    /// What others have left behind that goes once our own rules are in place.
    pub leftovers: Leftovers,
    /// Where it is written down which modes have been used.
    pub state_dir: PathBuf,
}

/// What conntrack is told. Whatever is none is left alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conntrack {
    /// Entries per processor.
    pub max_per_core: Option<u32>,
    /// Entries at least, however few processors there are.
    pub min: u32,
    /// For how long an idle TCP connection is remembered.
    pub tcp_established: Option<Duration>,
    /// The same for one whose other side has closed.
    pub tcp_close_wait: Option<Duration>,
    /// Whether packets outside the window are taken as they come.
    pub tcp_be_liberal: bool,
    /// For how long a UDP flow of one packet is remembered.
    pub udp: Option<Duration>,
    /// The same for one with answers.
    pub udp_stream: Option<Duration>,
}

impl Default for Conntrack {
    /// kube-proxy's.
    fn default() -> Self {
        Conntrack {
            max_per_core: Some(32_768),
            min: 131_072,
            tcp_established: Some(Duration::from_secs(24 * 3600)),
            tcp_close_wait: Some(Duration::from_secs(3600)),
            tcp_be_liberal: false,
            udp: None,
            udp_stream: None,
        }
    }
}

/// Rules of other modes and of other programs. They go once our own are in place, so that nothing is missing in between.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Leftovers {
    /// What this proxy has made in another mode, as it has written down.
    #[default]
    Ours,
    /// What kube-proxy has made too, in every mode.
    KubeProxy,
}

/// Where the proxy's objects come from.
#[derive(Debug)]
pub struct Feeds {
    /// Where sources put what they find.
    pub inbox: Arc<Inbox>,
    /// How each source is.
    pub states: Vec<watch::Receiver<SourceState>>,
}

/// A running proxy. It ends with the last copy of `ask`; what is in the kernel stays.
#[derive(Debug, Clone)]
pub struct Handle {
    /// By what Services are served.
    pub mode: Mode,
    /// What it counts.
    pub metrics: Arc<Metrics>,
    /// How it is.
    pub published: watch::Receiver<Arc<Published>>,
    /// Where questions go.
    pub ask: mpsc::Sender<Question>,
}
