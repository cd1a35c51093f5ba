//! What every dataplane does: brings one family's plan into the kernel, and takes it out again.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use kernel::Result;

use crate::plan::ServicePlan;
use crate::state::{Protocol, ServicePortName};

/// By what Services are served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Mode {
    /// A table of nf_tables, by netlink.
    Nftables,
    /// kube-proxy's chains, by iptables.
    Iptables,
    /// Virtual servers of IPVS, with a table of nf_tables before them.
    Ipvs,
}

impl Mode {
    /// Every one, the preferred first.
    pub const ALL: [Mode; 3] = [Mode::Nftables, Mode::Iptables, Mode::Ipvs];

    /// As configurations call it.
    pub fn as_str(self) -> &'static str {
        match self {
            Mode::Nftables => "nftables",
            Mode::Iptables => "iptables",
            Mode::Ipvs => "ipvs",
        }
    }

    /// By its name in configurations; none for any other.
    pub fn named(name: &str) -> Option<Self> {
        Mode::ALL.into_iter().find(|mode| mode.as_str() == name)
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One family's Services in the kernel of one network namespace: that of the thread which opened it.
///
/// A dataplane translates and decides nothing. After a failure it knows nothing any more, and its next sync is full.
pub trait Dataplane: fmt::Debug + Send {
    /// By what it serves.
    fn mode(&self) -> Mode;

    /// Makes the kernel do what `plan` says. With `changed`, those Service ports whose plans are not what they were at the
    /// last sync, only these are compared, unless a full sync is due: at first, after a failure, and when the site has
    /// changed. Without, everything is read from the kernel and compared. A second sync changes nothing.
    ///
    /// # Errors
    /// The kernel's refusal. What established flows need is as it was then.
    fn sync(&mut self, plan: &ServicePlan, changed: Option<&BTreeSet<ServicePortName>>) -> Result<Report>;

    /// What a full sync would do, one sentence each; nothing is changed. Empty when the kernel is as it should be.
    ///
    /// # Errors
    /// When the kernel can't be read.
    fn drift(&mut self, plan: &ServicePlan) -> Result<Vec<String>>;

    /// What the kernel really does for each frontend, sorted.
    ///
    /// # Errors
    /// When the kernel can't be read.
    fn list(&mut self) -> Result<Vec<Served>>;

    /// Whether somebody has removed what is ours wholesale. Asked often, so it is cheap, and where events tell of every
    /// change the answer is no.
    ///
    /// # Errors
    /// When the kernel can't be asked.
    fn is_flushed(&mut self) -> Result<bool> {
        Ok(false)
    }

    /// How many rules there are in which table, and how many the last sync has written, where the dataplane's work is
    /// counted in rules.
    fn rule_counts(&self) -> Vec<RuleCount> {
        Vec::new()
    }

    /// Removes everything that this kind of dataplane has ever made for this family here, by whatever process.
    ///
    /// # Errors
    /// The kernel's refusal; what could be removed is gone.
    fn cleanup(&mut self) -> Result<()>;
}

/// What a sync did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Report {
    /// Elements, rules or servers added, deleted or replaced. Of chains whose rules never differ only those are counted that
    /// somebody else has changed.
    pub elements: usize,
    /// Netlink requests or lines sent; 0 when nothing was.
    pub requests: usize,
    /// Whether everything was compared, not only changes.
    pub is_full: bool,
    /// How long the kernel took for it.
    pub committing: Duration,
    /// How long the sync took in all.
    pub took: Duration,
}

/// Rules of one table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RuleCount {
    /// The table.
    pub table: &'static str,
    /// Rules of Services in it.
    pub total: usize,
    /// Rules that the last sync has written.
    pub last: usize,
}

/// A frontend as the kernel has it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Served {
    /// None for a rule about an address that is not about single ports.
    pub protocol: Option<Protocol>,
    /// None for a NodePort.
    pub ip: Option<IpAddr>,
    /// None for a rule about an address that is not about single ports.
    pub port: Option<u16>,
    /// What is done, in the dataplane's own words, with the endpoints.
    pub does: String,
}

impl fmt::Display for Served {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ip = self.ip.map_or_else(|| "node port".to_owned(), |ip| ip.to_string());
        write!(f, "{ip}")?;
        if let Some(protocol) = self.protocol {
            write!(f, " {protocol}")?;
        }
        if let Some(port) = self.port {
            write!(f, " {port}")?;
        }
        write!(f, ": {}", self.does)
    }
}
