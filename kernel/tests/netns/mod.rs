//! A network namespace per test, and golden text.

use std::path::Path;
use std::process::Command;

/// Runs `work` on a thread of its own in a fresh network namespace, which ends with it.
pub fn in_new_netns<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let inside = scope.spawn(|| {
            // SAFETY: unshare takes no pointers and moves only this thread.
            let status = unsafe { libc::unshare(libc::CLONE_NEWNET) };
            assert_eq!(status, 0, "a network namespace needs root: {}", std::io::Error::last_os_error());
            work()
        });
        inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// What `nft list ruleset` prints in the calling thread's namespace.
pub fn listing() -> String {
    let output = Command::new("nft").args(["list", "ruleset"]).output().expect("the nft program");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Compares with tests/golden/NAME.nft, or writes it when UPDATE_GOLDEN is set.
#[track_caller]
pub fn matches_golden(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(format!("{name}.nft"));
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, text).unwrap();
    }
    let golden = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(text, golden, "differs from {}; UPDATE_GOLDEN=1 rewrites it", path.display());
}
