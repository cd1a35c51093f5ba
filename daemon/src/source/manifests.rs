//! A directory of ordinary Kubernetes manifests as a source.
//!
//! ```text
//! inotify ─► quiet for a moment ─► scan: which file is another one than before? ─► decode it
//!                                                     │ good: its objects count from now on
//!                                                     │ broken: named; its last good objects stay
//!                                                     ▼
//!                                                 one snapshot
//! ```
//! A file counts as a whole or not at all. Before all files have been good at one time there is no snapshot, because one
//! without the nodes of a broken file would have their routes removed. A broken file that comes later holds up no other.

mod directory;
pub(crate) mod document;
mod file;
pub(crate) mod notice;
mod services;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ipnetwork::IpNetwork;

use self::directory::Directory;
use self::file::Readers;
use self::notice::Notices;
use self::services::Teller;
use super::Feed;
use super::outlet::{Outlet, Reporter};
use crate::proxy::{Feeds, Inbox};

/// How often the directory is looked at without a notice: for changes behind symbolic links and on file systems
/// without notices.
const AUDIT: Duration = Duration::from_secs(10);
/// The same where the kernel grants no inotify instance.
const POLL: Duration = Duration::from_secs(1);

/// Follows the manifests in `dir`: `*.yaml`, `*.yml` and `*.json`, none of its subdirectories.
///
/// Must be called within a tokio runtime.
pub fn run(dir: PathBuf) -> Feed {
    start(dir, None)
}

/// As [`run`], also for the Service proxy of the node called `node`. `service_cidrs` are where ClusterIPs come from if no
/// manifest says so.
///
/// Must be called within a tokio runtime.
pub fn run_with_services(dir: PathBuf, node: &str, service_cidrs: &[IpNetwork]) -> (Feed, Feeds) {
    let inbox = Arc::new(Inbox::default());
    let feed = start(dir, Some(Teller::new(Arc::clone(&inbox), node, service_cidrs)));
    let states = vec![feed.state.clone()];
    (feed, Feeds { inbox, states })
}

fn start(dir: PathBuf, teller: Option<Teller>) -> Feed {
    let (outlet, reporter, feed) = Outlet::new(format!("manifests {}", dir.display()));
    tokio::spawn(async move {
        tokio::select! {
            () = follow(&outlet, &reporter, dir, teller) => {}
            () = async { tokio::join!(outlet.closed(), reporter.closed()); } => {}
        }
    });
    feed
}

async fn follow(outlet: &Outlet, reporter: &Reporter, dir: PathBuf, mut teller: Option<Teller>) {
    let mut notices = Notices::open(&dir);
    let readers = if teller.is_some() { Readers::NetworkAndProxy } else { Readers::Network };
    let shown = dir.display().to_string();
    let mut directory = Directory::new(dir, readers);
    let mut said: Vec<String> = Vec::new();
    let mut is_waiting = false;
    loop {
        // Watched first, read afterwards: what changes in between is noticed.
        notices.watch();
        let is_connected = directory.scan(&notices.being_written);
        for _ in 0..directory.newly_broken {
            reporter.count("decode");
        }
        if let Some(teller) = &mut teller {
            directory.tell(teller);
        }
        let (objects, mut problems) = directory.merge();
        problems.extend(notices.problem.clone());
        for problem in problems.iter().filter(|problem| !said.contains(problem)) {
            tracing::warn!("{problem}");
        }
        if objects.is_none() && !std::mem::replace(&mut is_waiting, true) {
            tracing::warn!("{shown}: nothing is done before every file in it has been good once");
        }
        said.clone_from(&problems);
        reporter.report(is_connected, problems);
        if objects.is_some_and(|objects| outlet.publish(objects)) {
            reporter.showed();
        }
        let pause = if notices.problem.is_some() { POLL } else { AUDIT };
        match tokio::time::timeout(pause, notices.changed()).await {
            Ok(names) => directory.forget_stamps(&names),
            // A writer that is still at it after this long is not waited for.
            Err(_) => notices.being_written.clear(),
        }
    }
}
