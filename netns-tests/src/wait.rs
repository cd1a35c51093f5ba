//! Waiting for a condition by deadline, never for a time.

use std::time::{Duration, Instant};

/// How long the lab waits for anything that should happen at once: long enough for a busy machine, and longer in the
/// lab's virtual machine.
pub fn patience() -> Duration {
    Duration::from_secs(if std::env::var_os("LAB_LAYERED").is_some() { 60 } else { 15 })
}

/// Looks until `condition` yields something or [`patience`] has passed.
///
/// # Panics
/// When the deadline passes, naming `what`.
#[track_caller]
pub fn until<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + patience();
    loop {
        if let Some(found) = condition() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited {:?} for {what}", patience());
        // The pause between two looks, not the wait itself.
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Looks until nothing is `missing` any more or [`patience`] has passed.
///
/// # Panics
/// When the deadline passes, with what is still missing.
#[track_caller]
pub fn until_nothing(what: &str, mut missing: impl FnMut() -> String) {
    let deadline = Instant::now() + patience();
    loop {
        let left = missing();
        if left.is_empty() {
            return;
        }
        assert!(Instant::now() < deadline, "waited {:?} for {what}; still:\n{left}", patience());
        // The pause between two looks, not the wait itself.
        std::thread::sleep(Duration::from_millis(2));
    }
}
