//! Bringing the kernel to what a plan says, by difference.
//!
//! ```text
//! Plan ── links ──► devices made, adopted or mended ── observe ──► Observed ── diff ──► Changes ── apply ──► kernel
//!         stale ones deleted                           a dump for each kind             two batches
//! ```
//! Nothing is remembered between syncs: what the kernel holds is looked at each time, so whatever somebody removed is
//! put back and whatever a previous run left is adopted or swept. Only what bears our mark is ever changed: links with
//! the alias `bowline`, entries of such links, routes and rules with our protocol number.

mod apply;
mod checksum;
mod diff;
mod divert;
mod links;
mod observe;
mod wireguard;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use kernel::link;
use kernel::netlink::{Protocol, Socket};

use crate::plan::{Plan, Problem};
use crate::topology::Abilities;
use crate::wireguard::PrivateKey;

pub use divert::TABLE as DIVERSION;

/// The kernel's side. It works in the network namespace of the thread that opened it, and is to be used there.
#[derive(Debug)]
pub struct Dataplane {
    route: Socket,
    generic: Socket,
    /// Opened when it is first needed: plug-ins never do.
    netfilter: Option<Socket>,
    wireguard_key: Option<PrivateKey>,
    checksums_are_broken: bool,
}

/// What a sync did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Report {
    /// Objects made, replaced or mended.
    pub added: usize,
    /// Objects of ours that were no longer wanted, removed.
    pub removed: usize,
    /// Netlink requests that change something: 0 when all was as planned.
    pub requests: usize,
    /// How often the kernel was written to, with one request or as many as were ready; looking counts too.
    pub writes: usize,
    /// What the kernel refused, with the peer it concerns; everything else was done.
    pub failures: Vec<Problem>,
    /// The public key of this node's WireGuard devices, once they have one.
    pub wireguard_key: Option<[u8; 32]>,
    /// How long it took.
    pub took: Duration,
}

/// What becomes of objects of ours that the plan does not name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sweep {
    /// They go.
    Ours,
    /// They stay.
    Nothing,
}

impl Dataplane {
    /// Opens the sockets it needs, in the calling thread's network namespace.
    ///
    /// # Errors
    /// The kernel gives no netlink socket.
    pub fn open() -> kernel::Result<Self> {
        let release = kernel::sysctl::read("kernel.osrelease").unwrap_or_default();
        Ok(Dataplane {
            route: Socket::open(Protocol::Route)?,
            generic: Socket::open(Protocol::Generic)?,
            netfilter: None,
            wireguard_key: None,
            checksums_are_broken: checksum::are_broken(&release),
        })
    }

    /// The key that WireGuard devices get. Without one they are made, but carry nothing.
    pub fn set_wireguard_key(&mut self, key: PrivateKey) {
        self.wireguard_key = Some(key);
    }

    /// Whether this kernel has the links that `plan` needs. Changes nothing.
    ///
    /// # Errors
    /// One sentence that names what the kernel lacks, or why it cannot be asked.
    pub fn probe(&mut self, plan: &Plan) -> Result<(), String> {
        let mut asked = BTreeSet::new();
        for tunnel in &plan.tunnels {
            let kind = links::kind_of(&tunnel.kind, None);
            if !asked.insert(kind.name()) {
                continue;
            }
            match link::is_kind_known(&mut self.route, &kind) {
                Ok(true) => {}
                Ok(false) => return Err(links::lacking(kind.name())),
                Err(error) => {
                    return Err(format!("cannot ask the kernel for links of kind {}: {error}", kind.name()));
                }
            }
        }
        Ok(())
    }

    /// What this kernel can do so that no routing rule is needed. Leaves nothing behind.
    ///
    /// # Errors
    /// The kernel can't be asked.
    pub fn abilities(&mut self) -> kernel::Result<Abilities> {
        Ok(Abilities {
            source_routes: kernel::route::is_source_known(&mut self.route)?,
            diversion: self.can_divert()?,
        })
    }

    /// Makes the kernel hold exactly what `plan` says, as far as it is ours: what is missing is made, what differs is
    /// replaced in place, what is stale goes. Doing it twice changes nothing the second time.
    ///
    /// # Errors
    /// The kernel could not be listened to, so what it holds is unknown. What it refused is in [`Report::failures`].
    pub fn sync(&mut self, plan: &Plan) -> kernel::Result<Report> {
        self.run(plan, Sweep::Ours)
    }

    /// Like [`Dataplane::sync`], but what the plan does not name stays: for several plans on one node.
    ///
    /// # Errors
    /// As [`Dataplane::sync`].
    pub fn extend(&mut self, plan: &Plan) -> kernel::Result<Report> {
        self.run(plan, Sweep::Nothing)
    }

    /// What is missing of `plan` or differs from it: the steps of [`Dataplane::extend`], in words. Changes nothing.
    ///
    /// # Errors
    /// As [`Dataplane::sync`].
    pub fn survey(&mut self, plan: &Plan) -> kernel::Result<Vec<String>> {
        let (mut found, links) = self.survey_links(plan)?;
        found.extend(self.survey_diversion(plan, &links)?);
        let observed = observe::observe(&mut self.route, &links)?;
        let changes = diff::diff(plan, &observed, &links, Sweep::Nothing);
        found.extend(changes.first.iter().chain(&changes.last).map(ToString::to_string));
        Ok(found)
    }

    /// Removes all that any sync ever made.
    ///
    /// # Errors
    /// As [`Dataplane::sync`].
    pub fn cleanup(&mut self) -> kernel::Result<Report> {
        self.run(&Plan::default(), Sweep::Ours)
    }

    fn run(&mut self, plan: &Plan, sweep: Sweep) -> kernel::Result<Report> {
        let started = Instant::now();
        let written = self.route.writes() + self.generic.writes();
        let mut report = Report::default();
        let links = self.bring_links(plan, sweep, &mut report)?;
        // In front of all: it stands in for a rule that goes.
        self.sync_diversion(plan, &links, sweep, &mut report);
        let observed = observe::observe(&mut self.route, &links)?;
        let changes = diff::diff(plan, &observed, &links, sweep);
        apply::apply(&mut self.route, changes.first, plan, &mut report)?;
        self.sync_wireguard(plan, &links, sweep, &mut report)?;
        apply::apply(&mut self.route, changes.last, plan, &mut report)?;
        report.writes = self.route.writes() + self.generic.writes() - written;
        report.took = started.elapsed();
        Ok(report)
    }
}

impl Report {
    fn fail(&mut self, peer: &str, what: impl Into<String>) {
        self.failures.push(Problem { peer: peer.to_owned(), what: what.into() });
    }
}
