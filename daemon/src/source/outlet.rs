//! The sending side of a [`Feed`].

use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::watch;

use super::{Feed, SourceState};
use crate::objects::Objects;

/// Where a source says how it is.
pub struct Reporter {
    state: watch::Sender<SourceState>,
}

impl Reporter {
    /// One of a source called `what`, and what its readers see.
    pub fn new(what: String) -> (Self, watch::Receiver<SourceState>) {
        let state = SourceState { what, since: Some(SystemTime::now()), ..SourceState::default() };
        let (state, feed) = watch::channel(state);
        (Reporter { state }, feed)
    }

    /// How the source is now.
    pub fn report(&self, is_connected: bool, problems: Vec<String>) {
        self.state.send_if_modified(|state| {
            let turned = state.is_connected != is_connected;
            if turned {
                state.is_connected = is_connected;
                state.since = Some(SystemTime::now());
            }
            let differs = state.problems != problems;
            state.problems = problems;
            turned || differs
        });
    }

    /// Counts a restart, or a refusal of what was read.
    pub fn count(&self, cause: &str) {
        self.state.send_modify(|state| *state.restarts.entry(cause.to_owned()).or_default() += 1);
    }

    /// Counts a snapshot.
    pub fn showed(&self) {
        self.state.send_modify(|state| state.snapshots += 1);
    }

    /// Returns once nobody reads any more.
    pub async fn closed(&self) {
        self.state.closed().await;
    }
}

/// Where a source puts what it finds. Readers are woken only by what differs.
#[derive(Clone)]
pub struct Outlet {
    objects: watch::Sender<Option<Arc<Objects>>>,
}

impl Outlet {
    /// One with nothing in it yet, of a source called `what`.
    pub fn new(what: String) -> (Self, Reporter, Feed) {
        let (objects, objects_feed) = watch::channel(None);
        let (reporter, state) = Reporter::new(what);
        (Outlet { objects }, reporter, Feed { objects: objects_feed, state })
    }

    /// Replaces the snapshot, unless it is the same; whether it did.
    pub fn publish(&self, objects: Objects) -> bool {
        if self.objects.borrow().as_deref() == Some(&objects) {
            return false;
        }
        self.objects.send_replace(Some(Arc::new(objects)));
        true
    }

    /// Returns once nobody reads the snapshots any more.
    pub async fn closed(&self) {
        self.objects.closed().await;
    }
}
