//! What wakes the agent: snapshots, events of the kernel, time.

use std::time::{Duration, Instant};

use kernel::Result;
use kernel::netlink::monitor::GROUP_NFTABLES;
use kernel::netlink::{Protocol, Reply, attr};
use overlay::sync::DIVERSION;

use super::interest::{self, Interest};
use super::{AUDIT, PAUSE};
use crate::ear::Ear;
use crate::log::chain_of;
use crate::node::masquerade;
use crate::proxy::{Handle, Published};
use crate::source::Feed;

/// NFNL_SUBSYS_NFTABLES, and the kinds of message that announce single elements of sets, which pods cause.
const NFT_SUBSYSTEM: u16 = 10;
const NFT_ELEMENTS: [u16; 2] = [12, 14];
/// NFT_MSG_NEWGEN: the end of each transaction.
const NFT_GENERATION: u16 = 15;
/// The attribute that names the table, in the messages of every kind.
const NFT_TABLE: u16 = 1;
/// Tables in which the plug-ins write for each pod.
const PLUGINS: [&str; 3] = ["bowline_hostport", "bowline_firewall", "bowline_masquerade"];

/// Everything that wakes.
pub struct Wake {
    links: Ear,
    ruleset: Ear,
    /// When the last look ended.
    looked: Instant,
    /// When to look again whatever happens.
    due: Instant,
    source_lives: bool,
}

impl Wake {
    /// Begins to listen. What happens from now on is not missed.
    ///
    /// # Errors
    /// What the kernel refuses.
    pub fn open() -> Result<Self> {
        Ok(Wake {
            links: Ear::open(Protocol::Route, &interest::GROUPS)?,
            ruleset: Ear::open(Protocol::Netfilter, &[GROUP_NFTABLES])?,
            looked: Instant::now(),
            due: Instant::now() + AUDIT,
            source_lives: true,
        })
    }

    /// Says that a look has ended, and when the next one is due at the latest.
    pub fn slept_enough(&mut self, retry: Option<Duration>) {
        self.looked = Instant::now();
        self.due = self.looked + retry.unwrap_or(AUDIT);
    }

    /// Returns when it is worth looking: at once after a quiet time, else once in [`PAUSE`].
    ///
    /// # Errors
    /// A sentence when the kernel's events can't be read any more.
    pub async fn next(
        &mut self,
        feed: &mut Feed,
        proxy: (&mut Option<Handle>, &Published),
        interest: &Interest,
    ) -> std::result::Result<(), String> {
        let due = tokio::time::Instant::from_std(self.due);
        let failed = |error: kernel::Error| chain_of(&error);
        tokio::select! {
            () = tokio::time::sleep_until(due) => return Ok(()),
            heard = self.links.hear(|event| interest.concerns(event)) => heard.map_err(failed)?,
            heard = self.ruleset.hear(concerns_rules) => heard.map_err(failed)?,
            () = programmed(proxy) => {}
            alive = changed(feed), if self.source_lives => {
                self.source_lives = alive;
                if !alive {
                    tracing::error!("the source of Nodes has ended; what is known stays in force");
                }
            }
        }
        tokio::time::sleep_until(tokio::time::Instant::from_std(self.looked + PAUSE)).await;
        Ok(())
    }
}

/// False when there will be no change any more.
async fn changed(feed: &mut Feed) -> bool {
    tokio::select! {
        changed = feed.objects.changed() => changed.is_ok(),
        changed = feed.state.changed() => changed.is_ok(),
    }
}

/// Returns once the proxy is otherwise than it was `seen`, as far as readiness and people care.
async fn programmed((proxy, seen): (&mut Option<Handle>, &Published)) {
    let Some(proxy) = proxy else { return std::future::pending().await };
    let differs = |now: &std::sync::Arc<Published>| {
        now.is_programmed != seen.is_programmed || now.problems != seen.problems
    };
    if proxy.published.wait_for(differs).await.is_err() {
        // It has ended, and said why.
        std::future::pending().await
    }
}

/// Our own table, whatever happens to it; chains and rules of others, in which forwarded packets may be dropped.
fn concerns_rules(event: &Reply) -> bool {
    let (subsystem, kind) = (event.kind >> 8, event.kind & 0xff);
    if subsystem != NFT_SUBSYSTEM || kind == NFT_GENERATION {
        return false;
    }
    let table = event.payload.get(4..).and_then(|of| attr::attrs(of).find_attr(NFT_TABLE)).map(attr::text);
    match table.as_deref() {
        Some(table) if [masquerade::TABLE.name, DIVERSION.name].contains(&table) => true,
        Some(table) if PLUGINS.contains(&table) => false,
        _ => !NFT_ELEMENTS.contains(&kind),
    }
}
