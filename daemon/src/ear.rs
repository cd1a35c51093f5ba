//! The kernel's events in an event loop.

use std::os::fd::{AsFd, AsRawFd, RawFd};

use kernel::Result;
use kernel::netlink::{Monitor, Protocol, Reply};
use tokio::io::Interest as Readiness;
use tokio::io::unix::AsyncFd;

/// Readings after which a storm of events is left to whoever hears next.
const FORGETTING: usize = 10_000;

struct Source(Monitor);

impl AsRawFd for Source {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

/// A monitor that is waited for.
pub struct Ear(AsyncFd<Source>);

impl Ear {
    /// Begins to listen. What happens from now on is not missed.
    ///
    /// # Errors
    /// What the kernel refuses.
    #[expect(deprecated, reason = "its successor asks for a promise that only the kernel crate may give")]
    pub fn open(protocol: Protocol, groups: &[u32]) -> Result<Self> {
        let source = Source(Monitor::open_of(protocol, groups)?);
        AsyncFd::with_interest(source, Readiness::READABLE).map(Ear).map_err(unreadable)
    }

    /// Returns once there was an event that `concerns` us, or events were lost.
    ///
    /// # Errors
    /// When events can't be read any more.
    pub async fn hear(&mut self, concerns: impl Fn(&Reply) -> bool) -> Result<()> {
        loop {
            let mut guard = self.0.readable_mut().await.map_err(unreadable)?;
            match guard.get_inner_mut().0.pending() {
                Ok(events) if events.is_empty() => guard.clear_ready(),
                Ok(events) if events.iter().any(&concerns) => return Ok(()),
                Ok(_) => {}
                Err(error) if error.errno().is_some_and(|errno| errno.0 == libc::ENOBUFS) => {
                    tracing::debug!("the kernel had more events than could be read: looking at everything");
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Forgets what has happened so far: who has just looked at everything needs no hint to do so. Whether any of it was
    /// `alarming` all the same.
    pub fn forget(&mut self, alarming: impl Fn(&Reply) -> bool) -> bool {
        let mut is_alarmed = false;
        // Events that were lost matter to nobody who does not want any; a socket that fails tells so when it is heard.
        for _ in 0..FORGETTING {
            match self.0.get_mut().0.pending() {
                Ok(events) if events.is_empty() => break,
                Ok(events) => is_alarmed |= events.iter().any(&alarming),
                Err(_) => {}
            }
        }
        is_alarmed
    }
}

fn unreadable(error: std::io::Error) -> kernel::Error {
    kernel::Error::io("wait for netlink events", error)
}
