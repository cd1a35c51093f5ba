//! What wakes the proxy's thread.

use std::time::Instant;

use kernel::Result;
use kernel::netlink::monitor::GROUP_NFTABLES;
use kernel::netlink::{Protocol, Reply, attr};
use tokio::sync::mpsc;

use super::{Feeds, Question, addresses};
use crate::ear::Ear;

/// NFNL_SUBSYS_NFTABLES, NFT_MSG_NEWGEN, and the attribute that names the table in the other messages.
const NFT_SUBSYSTEM: u16 = 10;
const NFT_GENERATION: u16 = 15;
const NFT_TABLE: u16 = 1;

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
#[derive(Default)]
pub struct Watcher {
    /// None until the event loop runs.
    links: Option<Ear>,
    /// None until there are rules of ours, and in modes without a table of our own.
    rules: Option<Ear>,
}

impl Watcher {
    /// Begins to listen to addresses. Needs an event loop.
    ///
    /// # Errors
    /// What the kernel refuses.
    pub fn listen(&mut self) -> Result<()> {
        self.links = Some(Ear::open(Protocol::Route, &addresses::GROUPS)?);
        Ok(())
    }

    /// Begins to listen to our table, and forgets what we have done to it ourselves.
    ///
    /// # Errors
    /// What the kernel refuses.
    pub fn watch_rules(&mut self) -> Result<()> {
        match &mut self.rules {
            Some(rules) => rules.forget(),
            None => self.rules = Some(Ear::open(Protocol::Netfilter, &[GROUP_NFTABLES])?),
        }
        Ok(())
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
        let Watcher { links, rules } = self;
        tokio::select! {
            biased;
            question = ask.recv() => Ok(question.map_or(Woken::Ended, Woken::Question)),
            () = inbox.arrived() => Ok(Woken::Changes),
            () = tokio::time::sleep_until(due.into()) => Ok(Woken::Time),
            heard = hear(links, |_| true) => heard.map(|()| Woken::Addresses),
            heard = hear(rules, is_ours) => heard.map(|()| Woken::Rules),
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

fn is_ours(event: &Reply) -> bool {
    let (subsystem, kind) = (event.kind >> 8, event.kind & 0xff);
    if subsystem != NFT_SUBSYSTEM || kind == NFT_GENERATION {
        return false;
    }
    let table = event.payload.get(4..).and_then(|of| attr::attrs(of).find_attr(NFT_TABLE)).map(attr::text);
    table.as_deref() == Some(proxy::nftables::TABLE)
}
