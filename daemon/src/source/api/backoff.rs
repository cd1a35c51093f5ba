//! How long to wait after a failure.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

/// Pauses that double, each a random part shorter, so that the nodes of a cluster do not come back all at once.
pub struct Backoff {
    first: Duration,
    longest: Duration,
    next: Duration,
}

impl Backoff {
    /// From `first` on, never longer than `longest`.
    pub fn new(first: Duration, longest: Duration) -> Self {
        Backoff { first, longest, next: first }
    }

    /// The next pause: at least what the server asked for, as far as `longest` allows.
    pub fn pause(&mut self, retry_after: Option<Duration>) -> Duration {
        let pause = self.next.mul_f64(0.5 + fraction() / 2.0);
        self.next = (self.next * 2).min(self.longest);
        pause.max(retry_after.unwrap_or_default()).min(self.longest)
    }

    /// All is well again.
    pub fn reset(&mut self) {
        self.next = self.first;
    }
}

/// A random number from 0 to 1, from the hash keys that the standard library draws.
pub fn fraction() -> f64 {
    let random = RandomState::new().hash_one(0u8);
    (random >> 11) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: Duration = Duration::from_secs(1);
    const LONGEST: Duration = Duration::from_secs(30);

    #[test]
    fn pauses_double_up_to_the_longest_and_are_never_the_same() {
        let mut backoff = Backoff::new(FIRST, LONGEST);
        let pauses: Vec<Duration> = (0..10).map(|_| backoff.pause(None)).collect();
        for (index, pause) in pauses.iter().enumerate() {
            let whole = (FIRST * (1 << index)).min(LONGEST);
            assert!(*pause >= whole / 2 && *pause <= whole, "{index}: {pause:?}");
        }
        assert_ne!(pauses[8], pauses[9]);
        backoff.reset();
        assert!(backoff.pause(None) <= FIRST);
    }

    #[test]
    fn the_server_may_ask_for_more_up_to_the_longest() {
        let mut backoff = Backoff::new(FIRST, LONGEST);
        assert_eq!(backoff.pause(Some(Duration::from_secs(7))), Duration::from_secs(7));
        assert_eq!(backoff.pause(Some(Duration::from_secs(700))), LONGEST);
    }
}
