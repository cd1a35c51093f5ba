//! A directory of ordinary Kubernetes manifests as a source.
//!
//! ```text
//! inotify ─► quiet for a moment ─► scan: which file is another one than before? ─► decode it
//!                                                     │ good: its objects count from now on
//!                                                     │ broken: named; its last good objects stay
//!                                                     ▼
//!                                                 one snapshot
//! ```
//! A file counts as a whole or not at all. Before every file has been good once there is no snapshot, because one
//! without the nodes of a broken file would have their routes removed.

mod directory;
pub(crate) mod document;
mod file;
mod notice;

use std::path::PathBuf;
use std::time::Duration;

use self::directory::Directory;
use self::notice::Notices;
use super::Feed;
use super::outlet::Outlet;

/// How often the directory is looked at without a notice: for changes behind symbolic links and on file systems
/// without notices.
const AUDIT: Duration = Duration::from_secs(10);
/// The same where the kernel grants no inotify instance.
const POLL: Duration = Duration::from_secs(1);

/// Follows the manifests in `dir`: `*.yaml`, `*.yml` and `*.json`, none of its subdirectories.
///
/// Must be called within a tokio runtime.
pub fn run(dir: PathBuf) -> Feed {
    let (outlet, feed) = Outlet::new(format!("manifests {}", dir.display()));
    tokio::spawn(async move {
        tokio::select! {
            () = follow(&outlet, dir) => {}
            () = outlet.closed() => {}
        }
    });
    feed
}

async fn follow(outlet: &Outlet, dir: PathBuf) {
    let mut notices = Notices::open(&dir);
    let mut directory = Directory::new(dir);
    loop {
        // Watched first, read afterwards: what changes in between is noticed.
        notices.watch();
        let is_connected = directory.scan(&notices.being_written);
        for _ in 0..directory.newly_broken {
            outlet.count("decode");
        }
        let (objects, mut problems) = directory.merge();
        problems.extend(notices.problem.clone());
        outlet.report(is_connected, problems);
        if let Some(objects) = objects {
            outlet.publish(objects);
        }
        let pause = if notices.problem.is_some() { POLL } else { AUDIT };
        match tokio::time::timeout(pause, notices.changed()).await {
            Ok(names) => directory.forget_stamps(&names),
            // A writer that is still at it after this long is not waited for.
            Err(_) => notices.being_written.clear(),
        }
    }
}
