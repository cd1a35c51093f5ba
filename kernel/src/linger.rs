//! Answering before the kernel has finished freeing.
//!
//! Taking things down is quick; waiting until their memory may be freed is not. Deleting a link holds its caller in
//! `rcu_barrier()` after the link has left every list (`netdev_run_todo`, after the lock is dropped), and closing a
//! netfilter socket after a deletion waits for the deferred destruction (`nft_rcv_nl_event`). Measured: 15 ms and
//! 8 ms of pure waiting, beside some 50 µs of work, and the runtime waits along because a process is only over when
//! its sockets are.
//!
//! So a deleting plug-in works in a child. The parent answers as soon as the child says that all is gone, and the child
//! stays behind for the milliseconds that the kernel needs. Until then the two die together: a runtime that kills
//! the plug-in kills the work.

use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::{Error, Result};

static ANSWERING_EARLY: AtomicBool = AtomicBool::new(false);

/// What a finished piece of work wants said.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Answer {
    /// For stdout.
    pub stdout: Vec<u8>,
    /// For stderr.
    pub stderr: Vec<u8>,
    /// The process's exit status.
    pub status: u8,
}

impl Answer {
    /// Writes both streams and gives the exit status: failure when stdout did not take all that there was to say.
    pub fn give(&self) -> ExitCode {
        let _ = io::stderr().write_all(&self.stderr);
        let mut stdout = io::stdout();
        match stdout.write_all(&self.stdout).and_then(|()| stdout.flush()) {
            Err(_) if self.status == 0 => ExitCode::FAILURE,
            _ => ExitCode::from(self.status),
        }
    }
}

/// Runs `work` in a child and returns its answer without waiting for the child's end.
///
/// Call it while the process has one thread. Where no child can be had, `work` runs here and its waits are waited.
///
/// # Errors
/// [`Error::Malformed`] when the child dies without an answer.
pub fn answer_early(work: impl FnOnce() -> Answer) -> Result<Answer> {
    let Ok((reader, writer)) = io::pipe() else { return Ok(work()) };
    // SAFETY: the caller promises a single thread, so the child's copy of every lock is free.
    match unsafe { libc::fork() } {
        -1 => Ok(work()),
        0 => {
            drop(reader);
            ANSWERING_EARLY.store(true, Ordering::Relaxed);
            die_with_parent();
            let answer = work();
            leave_streams();
            let _ = hand_over(writer, &answer);
            // Threads may still sit in the kernel; the descriptors close here, and that is the wait.
            std::process::exit(0)
        }
        _ => {
            drop(writer);
            read_answer(reader)
        }
    }
}

/// Whether this process has still to give its answer, and closes nothing before that would make it wait.
pub(crate) fn is_answering_early() -> bool {
    ANSWERING_EARLY.load(Ordering::Relaxed)
}

/// The child follows its parent into death until the answer is given.
fn die_with_parent() {
    // SAFETY: prctl with scalar arguments touches no memory of ours.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
}

fn hand_over(mut writer: impl Write, answer: &Answer) -> io::Result<()> {
    // SAFETY: as above; signal 0 clears it, for the parent's end is now expected.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, 0) };
    let mut bytes = vec![answer.status];
    for stream in [&answer.stdout, &answer.stderr] {
        bytes.extend_from_slice(&(stream.len() as u64).to_ne_bytes());
        bytes.extend_from_slice(stream);
    }
    writer.write_all(&bytes)
}

fn read_answer(mut reader: impl Read) -> Result<Answer> {
    let doing = "wait for the working process";
    let mut bytes = Vec::new();
    reader.read_to_end(&mut bytes).map_err(|e| Error::io(doing, e))?;
    parse_answer(&bytes)
        .ok_or(Error::Malformed { doing: doing.to_owned(), why: "it ended without an answer (killed?)" })
}

fn parse_answer(bytes: &[u8]) -> Option<Answer> {
    let (&status, mut rest) = bytes.split_first()?;
    let mut stream = || -> Option<Vec<u8>> {
        let (length, tail) = rest.split_first_chunk::<8>()?;
        let (stream, tail) = tail.split_at_checked(usize::try_from(u64::from_ne_bytes(*length)).ok()?)?;
        rest = tail;
        Some(stream.to_vec())
    };
    let stdout = stream()?;
    let stderr = stream()?;
    rest.is_empty().then_some(Answer { stdout, stderr, status })
}

/// Lets go of the runtime's pipes, which it reads to their end.
fn leave_streams() {
    // SAFETY: opens a path that is a constant, and owns the descriptor at once.
    let null = unsafe { libc::open(c"/dev/null".as_ptr(), libc::O_RDWR | libc::O_CLOEXEC) };
    if null < 0 {
        for stream in 0..3 {
            // SAFETY: nothing in this process uses the standard streams any more.
            unsafe { libc::close(stream) };
        }
        return;
    }
    // SAFETY: a fresh descriptor that nobody else owns.
    let null = unsafe { OwnedFd::from_raw_fd(null) };
    for stream in 0..3 {
        // SAFETY: both are valid descriptors; the standard stream is replaced in one step.
        unsafe { libc::dup2(null.as_raw_fd(), stream) };
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn an_answer_is_read_as_it_was_handed_over(
            stdout in proptest::collection::vec(any::<u8>(), 0..200),
            stderr in proptest::collection::vec(any::<u8>(), 0..200),
            status in any::<u8>(),
        ) {
            let answer = Answer { stdout, stderr, status };
            let mut wire = Vec::new();
            hand_over(&mut wire, &answer).expect("a vector takes everything");
            prop_assert_eq!(parse_answer(&wire), Some(answer));
            wire.pop();
            prop_assert_eq!(parse_answer(&wire), None, "a cut answer is none");
        }
    }
}
