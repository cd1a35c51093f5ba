//! File locks: exclusive, with and without a deadline.

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use kernel::Error;
use kernel::lock;

fn timed_out(error: &Error) -> bool {
    matches!(error, Error::Io { source, .. } if source.kind() == ErrorKind::TimedOut)
}

#[test]
fn a_lock_is_held_until_dropped_and_waited_for_until_a_deadline() {
    let dir = std::env::temp_dir().join(format!("bowline-lock-{}", std::process::id()));
    let path = dir.as_path();
    let held = lock::exclusive(path, 0o600).expect("free");
    let start = Instant::now();
    let patience = Duration::from_millis(50);
    let error = lock::exclusive_within(path, 0o600, patience).expect_err("held");
    assert!(timed_out(&error) && start.elapsed() >= patience, "{error}");
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| lock::exclusive_within(path, 0o600, Duration::from_secs(20)).map(drop));
        drop(held);
        waiter.join().expect("no panic").expect("released in time");
    });
    // The waiter that gave up above may hold it for a moment still.
    drop(lock::exclusive_within(path, 0o600, Duration::from_secs(20)).expect("free again"));
    drop(lock::exclusive_netns().expect("the namespace's own"));
    std::fs::remove_file(path).expect("clean up");
}
