//! The loop that keeps this node as it should be.
//!
//! ```text
//!  snapshot ─┐                        ┌─ sysctls, masquerade, forwarding
//!  events  ──┼─► due ─► look, check, ─┤  links, routes, FDB, neighbours
//!  interval ─┘          plan, sync    └─ plug-ins, node.json, conflist (last)
//! ```
//! It is level-triggered: whatever woke it, it looks at everything and writes differences. An event only says that it
//! is worth looking now. One that concerns us is acted upon at once; a storm of them once in [`PAUSE`].

mod carry;
mod interest;
mod report;
mod turn;
mod view;
mod wake;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use kernel::netlink::{Protocol, Socket};
use overlay::sync::Dataplane;
use overlay::uplink::Choice;
use overlay::{Abilities, Mode, NodeFacts};
use tokio::sync::watch;

use crate::config::Config;
use crate::log::chain_of;
use crate::metrics::Metrics;
use crate::node::merging;
use crate::proxy::Handle;
use crate::source::Feed;
use crate::source::publish::Wanted;
use crate::status::{Status, seconds};
use crate::{conflist, install};

use interest::Interest;
use turn::Memory;
use wake::Wake;

/// Between two looks that events have caused.
const PAUSE: Duration = Duration::from_millis(100);
/// How often everything is looked at without any event.
const AUDIT: Duration = Duration::from_secs(60);
/// How soon something that failed is tried again; doubled each time, up to [`AUDIT`].
const RETRY: Duration = Duration::from_secs(1);
/// How often what is waited for is said again.
const REMIND: Duration = Duration::from_secs(60);

/// This node's keeper.
pub struct Agent {
    config: Config,
    choice: Choice,
    program: PathBuf,
    feed: Feed,
    dataplane: Dataplane,
    route: Socket,
    netfilter: Socket,
    interest: Interest,
    memory: Memory,
    abilities: Abilities,
    outlets: Outlets,
}

/// Where an agent tells how it is.
pub struct Outlets {
    /// The node's state, for people and probes.
    pub status: watch::Sender<Arc<Status>>,
    /// The counters.
    pub metrics: Arc<Metrics>,
    /// What the Node of this node shall say in the API.
    pub wanted: watch::Sender<Wanted>,
    /// What keeps it from saying so; `None` where there is no API.
    pub publication: Option<watch::Receiver<Option<String>>>,
    /// The Service proxy, where this node has one: it is ready only with it.
    pub proxy: Option<Handle>,
}

impl Agent {
    /// Readies everything that can fail at once, without leaving anything changed.
    ///
    /// # Errors
    /// A sentence: the kernel gives no sockets, has no nf_tables, or this process may not use them.
    pub fn new(config: Config, feed: Feed, outlets: Outlets) -> Result<Self, String> {
        let failed = |error: kernel::Error| chain_of(&error);
        let mut netfilter = Socket::open(Protocol::Netfilter).map_err(failed)?;
        kernel::nft::probe(&mut netfilter).map_err(failed)?;
        let mut dataplane = Dataplane::open().map_err(failed)?;
        if config.settings.mode == Mode::Wireguard {
            dataplane.set_wireguard_key(overlay::wireguard::key(&config.paths.state.join("wireguard.key"))?);
        }
        let abilities = dataplane.abilities().map_err(failed)?;
        let program = install::program(config.paths.plugins.as_deref());
        Ok(Agent {
            choice: config.uplink.clone(),
            program,
            feed,
            dataplane,
            route: Socket::open(Protocol::Route).map_err(failed)?,
            netfilter,
            interest: Interest::default(),
            memory: Memory::default(),
            abilities,
            outlets,
            config,
        })
    }

    /// Keeps the node until `stop` completes. Then everything is left as it is: pods go on talking.
    ///
    /// # Errors
    /// A sentence: the configuration is wrong for this node. Only before the node was first ready; afterwards the same
    /// is told and waited for.
    pub async fn run(mut self, stop: impl Future<Output = ()>) -> Result<(), String> {
        self.remove_stale_conflist()?;
        let mut wake = Wake::open().map_err(|error| chain_of(&error))?;
        tokio::spawn(merging::watch(self.config.settings.clone()));
        let mut stop = std::pin::pin!(stop);
        loop {
            self.turn()?;
            wake.slept_enough(self.memory.retry());
            let proxy = (&mut self.outlets.proxy, &*self.memory.proxy);
            tokio::select! {
                () = &mut stop => return Ok(()),
                due = wake.next(&mut self.feed, proxy, &self.interest) => due?,
            }
        }
    }

    /// A list of before this boot promises what nobody has readied: `node.json` is on a tmpfs. After a mere restart of
    /// the daemon both are there, and stay.
    fn remove_stale_conflist(&self) -> Result<(), String> {
        if NodeFacts::read(&self.facts_path()).is_ok() {
            return Ok(());
        }
        if conflist::remove(&self.config.paths.cni_conf)? {
            tracing::info!(
                "removed the network configuration list of an earlier boot until the node is ready"
            );
        }
        Ok(())
    }
}

/// The first status, before anything is known.
pub fn blank(config: &Config) -> Status {
    Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        started: seconds(SystemTime::now()),
        node: config.node_name.clone(),
        mode: config.settings.mode.to_string(),
        ..Status::default()
    }
}
