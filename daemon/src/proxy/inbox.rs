//! What sources have told and the engine has not taken yet.

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use proxy::{Change, Changes};
use tokio::sync::Notify;

/// Where sources put changes and the engine takes them, all at once. Never holds more than one change of an object, however
/// long the engine is busy.
#[derive(Debug, Default)]
pub struct Inbox {
    held: Mutex<Held>,
    arrived: Notify,
}

#[derive(Debug, Default)]
struct Held {
    changes: Changes,
    since: Option<Instant>,
}

impl Inbox {
    /// Adds changes and wakes the engine.
    pub fn put(&self, changes: impl IntoIterator<Item = Change>) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        changes.into_iter().for_each(|change| held.changes.put(change));
        if held.changes.is_empty() {
            return;
        }
        held.since.get_or_insert_with(Instant::now);
        drop(held);
        self.arrived.notify_one();
    }

    /// Takes everything, with the moment at which the oldest came.
    pub fn take(&self) -> (Changes, Option<Instant>) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        (std::mem::take(&mut held.changes), held.since.take())
    }

    /// Returns once there is something to take.
    pub async fn arrived(&self) {
        self.arrived.notified().await;
    }
}
