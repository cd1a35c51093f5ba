//! Look, decide, commit, and look again when somebody else was faster.

use std::time::{Duration, Instant};

use super::batch::Batch;
use super::observe::{generation, is_outdated};
use crate::netlink::Socket;
use crate::{Error, Result};

/// How long others may keep changing the ruleset under us before we give up. One round takes some 0.1 ms.
const PATIENCE: Duration = Duration::from_secs(10);

/// Commits the batch that `look` makes of what it sees, as one atomic step: if anybody changed the ruleset between
/// the look and the commit, the kernel refuses the batch and `look` is asked again. An empty batch ends it.
///
/// # Errors
/// What `look` or the kernel refuses; or that the ruleset changed without pause for ten seconds.
pub fn converge(socket: &mut Socket, mut look: impl FnMut(&mut Socket) -> Result<Batch>) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let seen = generation(socket)?;
        let batch = look(socket)?;
        match batch.commit_at(socket, seen) {
            Err(error) if is_outdated(&error) && Instant::now() < deadline => {}
            Err(error) if is_outdated(&error) => {
                let doing = batch.sentences().next().unwrap_or("change the nf_tables ruleset").to_owned();
                return Err(Error::Malformed { doing, why: "others changed the ruleset without pause" });
            }
            outcome => return outcome,
        }
    }
}
