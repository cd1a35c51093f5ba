//! The sending side of a [`Feed`].

use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::watch;

use super::{Feed, SourceState};
use crate::objects::Objects;

/// Where a source puts what it finds. Readers are woken only by what differs.
pub struct Outlet {
    objects: watch::Sender<Option<Arc<Objects>>>,
    state: watch::Sender<SourceState>,
}

impl Outlet {
    /// One with nothing in it yet, of a source called `what`.
    pub fn new(what: String) -> (Self, Feed) {
        let (objects, objects_feed) = watch::channel(None);
        let state = SourceState { what, since: Some(SystemTime::now()), ..SourceState::default() };
        let (state, state_feed) = watch::channel(state);
        (Outlet { objects, state }, Feed { objects: objects_feed, state: state_feed })
    }

    /// Replaces the snapshot, unless it is the same.
    pub fn publish(&self, objects: Objects) {
        if self.objects.borrow().as_deref() == Some(&objects) {
            return;
        }
        self.state.send_modify(|state| state.snapshots += 1);
        self.objects.send_replace(Some(Arc::new(objects)));
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

    /// Returns once nobody reads any more.
    pub async fn closed(&self) {
        self.objects.closed().await;
        self.state.closed().await;
    }
}
