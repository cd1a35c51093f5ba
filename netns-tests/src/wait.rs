//! Waiting for a condition by deadline, never for a time.

use std::time::{Duration, Instant};

/// How long the lab waits for anything that should happen at once.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// Looks until `condition` yields something or [`PATIENCE`] has passed.
///
/// # Panics
/// When the deadline passes, naming `what`.
pub fn until<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = condition() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited {PATIENCE:?} for {what}");
        // The pause between two looks, not the wait itself.
        std::thread::sleep(Duration::from_millis(2));
    }
}
