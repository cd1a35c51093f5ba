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
