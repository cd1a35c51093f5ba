//! What wakes the proxy's thread.

use std::time::Instant;

use kernel::Result;
use kernel::netlink::monitor::GROUP_NFTABLES;
use kernel::netlink::{Protocol, Reply, attr};
use proxy::Mode;
use tokio::sync::mpsc;

use super::{Feeds, Question, addresses};
use crate::ear::Ear;

/// NFNL_SUBSYS_NFTABLES, some of its messages, and the attribute that names the table in them.
const NFT_SUBSYSTEM: u16 = 10;
const NFT_DEL_TABLE: u16 = 2;
const NFT_DEL_CHAIN: u16 = 5;
const NFT_DEL_RULE: u16 = 8;
const NFT_GENERATION: u16 = 15;
const NFT_TABLE: u16 = 1;
/// The attribute that names the chain in messages about rules.
const NFT_CHAIN: u16 = 2;
/// How the chains begin that iptables rules of Services are in or lead to.
const CHAINS: &[u8] = b"KUBE-";
/// A chain that is there to be missed.
const CANARY: &[u8] = b"KUBE-PROXY-CANARY";

/// Why the thread has woken.
#[derive(Debug)]
pub enum Woken {
    /// Sources have something.
    Changes,
    /// A link has got an address or lost one.
    Addresses,
    /// Somebody else has changed our table.
    Rules,
    /// Somebody asks.
    Question(Question),
    /// A source is otherwise than it was.
    Source,
    /// Something is due.
    Time,
    /// Nobody can ask any more: the daemon ends.
    Ended,
}

/// Everything that is listened to.
pub struct Watcher {
    mode: Mode,
    /// None until the event loop runs.
    links: Option<Ear>,
    /// None until there are rules of ours.
    rules: Option<Ear>,
}

impl Watcher {
    /// Listens to nothing yet.
    pub fn new(mode: Mode) -> Self {
        Watcher { mode, links: None, rules: None }
    }

    /// Begins to listen to addresses. Needs an event loop.
    ///
    /// # Errors
    /// What the kernel refuses.
    pub fn listen(&mut self) -> Result<()> {
        self.links = Some(Ear::open(Protocol::Route, &addresses::GROUPS)?);
        Ok(())
    }

    /// Begins to listen to our rules, and forgets what we have done to them ourselves. Of legacy iptables the kernel tells
    /// nothing. Whether somebody else has removed rules meanwhile.
    ///
    /// # Errors
    /// What the kernel refuses.
    pub fn watch_rules(&mut self) -> Result<bool> {
        let mode = self.mode;
        match &mut self.rules {
            Some(rules) => return Ok(rules.forget(|event| mode == Mode::Iptables && is_never_ours(event))),
            None => self.rules = Some(Ear::open(Protocol::Netfilter, &[GROUP_NFTABLES])?),
        }
        Ok(false)
    }

    /// Waits until there is something to do.
    ///
    /// # Errors
    /// When the kernel's events can't be read any more.
    pub async fn next(
        &mut self,
        feeds: &mut Feeds,
        ask: &mut mpsc::Receiver<Question>,
        due: Instant,
    ) -> Result<Woken> {
        let inbox = std::sync::Arc::clone(&feeds.inbox);
        let Watcher { mode, links, rules } = self;
        tokio::select! {
            biased;
            question = ask.recv() => Ok(question.map_or(Woken::Ended, Woken::Question)),
            () = inbox.arrived() => Ok(Woken::Changes),
            () = tokio::time::sleep_until(due.into()) => Ok(Woken::Time),
            heard = hear(links, |_| true) => heard.map(|()| Woken::Addresses),
            heard = hear(rules, |event| is_ours(*mode, event)) => heard.map(|()| Woken::Rules),
            () = any_source(feeds) => Ok(Woken::Source),
        }
    }
}

async fn hear(ear: &mut Option<Ear>, concerns: impl Fn(&Reply) -> bool) -> Result<()> {
    match ear {
        Some(ear) => ear.hear(concerns).await,
        None => std::future::pending().await,
    }
}

/// Returns once any source is otherwise.
async fn any_source(feeds: &mut Feeds) {
    let changes = feeds.states.iter_mut().map(|state| {
        Box::pin(async move {
            if state.changed().await.is_err() {
                // One that has ended says nothing any more.
                std::future::pending::<()>().await;
            }
        })
    });
    let changes: Vec<_> = changes.collect();
    if changes.is_empty() {
        return std::future::pending().await;
    }
    futures::future::select_all(changes).await;
}

/// Whether rules go that no sync ever removes: what leads to the chains of Services, and the chains that are there to be
/// missed. A sync by iptables takes long enough for somebody else to come in between.
fn is_never_ours(event: &Reply) -> bool {
    if !is_ours(Mode::Iptables, event) {
        return false;
    }
    let chain = event.payload.get(4..).and_then(|of| attr::attrs(of).find_attr(NFT_CHAIN)).map(attr::text);
    let is_built_in = chain.is_some_and(|chain| !chain.as_bytes().starts_with(CHAINS));
    match event.kind & 0xff {
        NFT_DEL_TABLE => true,
        NFT_DEL_RULE if is_built_in => true,
        _ => names(event, CANARY),
    }
}

/// Whether `what` stands anywhere in the message: as a chain's name, or in a rule as the target's.
fn names(event: &Reply, what: &[u8]) -> bool {
    event.payload.windows(what.len()).any(|bytes| bytes == what)
}

/// Whether somebody has changed our table; with iptables, removed a rule or a chain that has to do with Services.
fn is_ours(mode: Mode, event: &Reply) -> bool {
    let (subsystem, kind) = (event.kind >> 8, event.kind & 0xff);
    if subsystem != NFT_SUBSYSTEM || kind == NFT_GENERATION {
        return false;
    }
    let table = event.payload.get(4..).and_then(|of| attr::attrs(of).find_attr(NFT_TABLE)).map(attr::text);
    let table = table.as_deref().unwrap_or_default();
    let of_iptables = || match kind {
        NFT_DEL_TABLE => matches!(table, "filter" | "nat" | "mangle"),
        NFT_DEL_CHAIN | NFT_DEL_RULE => names(event, CHAINS),
        _ => false,
    };
    match mode {
        Mode::Nftables => table == proxy::nftables::TABLE,
        Mode::Ipvs => table == proxy::ipvs::TABLE,
        Mode::Iptables => of_iptables(),
    }
}
