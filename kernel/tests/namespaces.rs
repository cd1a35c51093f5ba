//! Entering network namespaces: inside while the work runs, never afterwards.

mod support;

use std::sync::atomic::{AtomicUsize, Ordering};

use kernel::Netns;
use support::{in_new_netns, new_netns};

fn here() -> kernel::netns::NetnsId {
    Netns::current().and_then(|netns| netns.id()).expect("the thread's namespace")
}

#[test]
fn netns_callback_runs_inside_and_the_thread_stays_outside() {
    in_new_netns(|| {
        let (other, before) = (new_netns(), here());
        assert_eq!(other.run(here).expect("enter"), other.id().expect("its identity"));
        assert_ne!(other.id().expect("its identity"), before);
        assert_eq!(here(), before);
        let panicked =
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| other.run(|| panic!("inside"))));
        assert!(panicked.is_err(), "a panic comes through");
        assert_eq!(here(), before);
    });
}

#[test]
fn netns_path_that_is_a_pipe_is_refused_at_once() {
    let pipe = std::env::temp_dir().join(format!("netns-pipe-{}", std::process::id()));
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().expect("coreutils").success());
    let refused = Netns::open(&pipe).expect_err("a pipe is no namespace");
    std::fs::remove_file(&pipe).expect("removed");
    assert!(matches!(refused, kernel::Error::NotANetns { .. }), "{refused}");
}

#[test]
fn netns_closed_ones_leak_to_no_thread_under_load() {
    let entered = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..50 {
                    let before = here();
                    let other = new_netns();
                    let wanted = other.id().expect("its identity");
                    assert_eq!(other.run(here).expect("enter"), wanted);
                    drop(other);
                    assert_eq!(here(), before);
                    entered.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    assert_eq!(entered.into_inner(), 400);
}
