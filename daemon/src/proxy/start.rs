//! Bringing the proxy up: which dataplanes, what of other modes goes, and the thread.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kernel::netlink::{Protocol, Socket};
use proxy::engine::{Engine, available, open};
use proxy::ipvs::Ipvs;
use proxy::nftables::Nftables;
use proxy::{Dataplane, DualStack, Family, Mode, Options};
use tokio::sync::{mpsc, oneshot, watch};

use super::metrics::Metrics;
use super::runner::Runner;
use super::watcher::Watcher;
use super::{Config, Feeds, Handle, Leftovers, Published, sysctls};
use crate::log::chain_of;
use crate::{file, lock};

/// Questions that wait at most; who asks more waits for a place.
const QUESTIONS: usize = 16;

/// Starts the proxy in a thread of its own. Nothing in the kernel is changed before `feeds` have told all Services and
/// EndpointSlices.
///
/// # Errors
/// A sentence: the kernel can't do what is configured.
pub async fn start(config: Config, feeds: Feeds) -> Result<Handle, String> {
    let (published, seen) = watch::channel(Arc::new(Published::default()));
    let (ask, asked) = mpsc::channel(QUESTIONS);
    let (tell, told) = oneshot::channel();
    let work = move || {
        let begun = begin(config, feeds, published, asked);
        let (outcome, running) = match begun {
            Ok((runner, watcher, mode)) => (Ok((mode, Arc::clone(&runner.metrics))), Some((runner, watcher))),
            Err(sentence) => (Err(sentence), None),
        };
        // Who does not wait for the start has no use for the rest either.
        if tell.send(outcome).is_err() {
            return;
        }
        if let Some((runner, watcher)) = running {
            run(runner, watcher);
        }
    };
    let thread = std::thread::Builder::new().name("services".to_owned());
    thread.spawn(work).map_err(|error| format!("start the thread of the Service proxy: {error}"))?;
    let (mode, metrics) = told.await.map_err(|_| "the Service proxy has ended at its start".to_owned())??;
    Ok(Handle { mode, metrics, published: seen, ask })
}

fn begin(
    config: Config,
    feeds: Feeds,
    published: watch::Sender<Arc<Published>>,
    asked: mpsc::Receiver<super::Question>,
) -> Result<(Runner, Watcher, Mode), String> {
    let failed = |error: kernel::Error| format!("proxy: {}", chain_of(&error));
    let mode = match config.mode {
        Some(mode) => mode,
        None => available(&config.options).map_err(failed)?,
    };
    let mut standing = Vec::new();
    let mut dataplanes = DualStack::default();
    for family in Family::BOTH {
        match open(mode, family, &config.options) {
            Ok(dataplane) => *dataplanes.of_mut(family) = Some(dataplane),
            Err(error) => standing.push(format!("{family} Services are not served: {}", chain_of(&error))),
        }
    }
    if dataplanes.is_empty() {
        return Err(format!("proxy: mode {mode} can't be used here: {}", standing.join("; ")));
    }
    let mut engine = Engine::new(&config.node_name, config.settings.clone(), dataplanes).map_err(failed)?;
    if let Some(ip) = config.node_ip {
        engine.insist_on_ip(ip);
    }
    if mode != Mode::Iptables
        && let Err(sentence) = sysctls::give_back_localnet(&config.state_dir)
    {
        standing.push(sentence);
    }
    for family in Family::BOTH {
        engine.remove_afterwards(family, leftovers(&config, mode, family));
    }
    if let Err(sentence) = write_down(&config.state_dir, mode) {
        standing.push(sentence);
    }
    tracing::info!(%mode, "Services are served by {mode}");
    let route = Socket::open(Protocol::Route).map_err(failed)?;
    let metrics = Arc::new(Metrics::new(mode));
    let mut runner = Runner::new((config, feeds, engine), metrics, published, asked, route);
    runner.standing = standing;
    Ok((runner, Watcher::new(mode), mode))
}

/// What other modes have made, to be removed once ours is in place. What can't be opened has left nothing.
fn leftovers(config: &Config, mode: Mode, family: Family) -> Vec<Box<dyn Dataplane>> {
    let used = used_modes(&config.state_dir);
    // A table of our own name is ours whether it was written down or not.
    let goes = |other: &Mode| {
        *other != mode
            && (config.leftovers == Leftovers::KubeProxy || *other == Mode::Nftables || used.contains(other))
    };
    let is_there = |other: &Mode| may_have_left(*other, family);
    let others = Mode::ALL.into_iter().filter(goes).filter(is_there);
    others.filter_map(|other| open(other, family, &config.options).ok()).collect()
}

/// Whether a mode may have rules in a family. To open IPVS loads its module, so it is opened only where it has left
/// something.
pub fn may_have_left(mode: Mode, family: Family) -> bool {
    // What can't be asked is tried.
    mode != Mode::Ipvs || Ipvs::has_traces(family).unwrap_or(true)
}

/// Removes our nftables tables where this node serves Services no more: nobody would keep them true. Says whether there
/// were any. Chains and virtual servers of the other modes bear kube-proxy's names, and whoever serves now has taken them
/// over. Where another process of ours is the Service proxy, the tables are its own.
///
/// # Errors
/// A sentence: they can't be removed.
pub fn withdraw(state_dir: &Path) -> Result<bool, String> {
    let Ok(_only) = lock::acquire_proxy() else { return Ok(false) };
    let mut were_there = false;
    for family in Family::BOTH {
        // What this kernel can't do has left nothing.
        let Ok(mut dataplane) = open(Mode::Nftables, family, &Options::default()) else { continue };
        if Nftables::has_traces(family).map_err(|error| chain_of(&error))? {
            dataplane.cleanup().map_err(|error| chain_of(&error))?;
            were_there = true;
        }
    }
    let mut used = used_modes(state_dir);
    if used.remove(&Mode::Nftables) {
        remember(state_dir, &used)?;
    }
    Ok(were_there)
}

/// Where it is written down which modes have been used: their names, one to a line. `bowline cleanup` removes it.
pub fn record(state_dir: &Path) -> PathBuf {
    state_dir.join("proxy-modes")
}

/// Modes whose rules may be in the kernel, as written down.
pub fn used_modes(state_dir: &Path) -> BTreeSet<Mode> {
    let text = std::fs::read_to_string(record(state_dir)).unwrap_or_default();
    text.lines().filter_map(Mode::named).collect()
}

/// Adds a mode before its first rule, so that a later start knows.
fn write_down(state_dir: &Path, mode: Mode) -> Result<(), String> {
    let mut used = used_modes(state_dir);
    used.insert(mode);
    remember(state_dir, &used)
}

fn remember(state_dir: &Path, used: &BTreeSet<Mode>) -> Result<(), String> {
    if used.is_empty() {
        return file::remove(&record(state_dir)).map(drop);
    }
    let text: String = used.iter().map(|mode| format!("{mode}\n")).collect();
    file::ensure(&record(state_dir), text.as_bytes(), 0o644).map(drop)
}

fn run(mut runner: Runner, mut watcher: Watcher) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let ended = match runtime {
        Ok(runtime) => runtime.block_on(keep(&mut runner, &mut watcher)),
        Err(error) => Err(kernel::Error::io("start an event loop", error)),
    };
    if let Err(error) = ended {
        tracing::error!("the Service proxy has ended; what is in the kernel stays: {}", chain_of(&error));
    }
}

async fn keep(runner: &mut Runner, watcher: &mut Watcher) -> kernel::Result<()> {
    watcher.listen()?;
    runner.look_at_addresses();
    loop {
        let has_written = runner.turn();
        if has_written {
            runner.heed(watcher.watch_rules()?);
        }
        let due = runner.next_due();
        let woken = watcher.next(&mut runner.feeds, &mut runner.ask, due).await?;
        if !runner.respond(woken) {
            return Ok(());
        }
    }
}
