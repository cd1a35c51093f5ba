//! When the program shall end.

use tokio::signal::unix::{SignalKind, signal};

/// Completes when SIGTERM or SIGINT comes; both are caught from now on. Must be called within a tokio runtime.
///
/// # Errors
/// A sentence: signals can't be listened to.
pub fn asked() -> Result<impl Future<Output = ()>, String> {
    let listen = |kind| signal(kind).map_err(|error| format!("listen to signals: {error}"));
    let (mut terminate, mut interrupt) = (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?);
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

/// Blocks until SIGTERM or SIGINT comes. Must be called outside of tokio's runtimes.
///
/// # Errors
/// As [`asked`].
pub fn wait() -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| format!("start an event loop: {error}"))?;
    runtime.block_on(async {
        asked()?.await;
        Ok(())
    })
}
