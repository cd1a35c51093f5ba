//! Running another program. Only the iptables backend does; with the nftables backend nothing is ever run.

use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::{Error, Result};

/// Searched after `PATH`: runtimes often start plug-ins with a `PATH` that lacks the administrator's directories.
const FALLBACK: [&str; 4] = ["/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/bin"];

/// How a program ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// Its exit status; minus the signal's number when a signal killed it.
    pub status: i32,
    /// What it printed.
    pub stdout: String,
    /// What it complained about.
    pub stderr: String,
}

/// The path of the program `name`, looked up in `PATH` and then in the administrator's directories.
pub fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .filter(|dir| dir.is_absolute())
        .chain(FALLBACK.iter().map(PathBuf::from))
        .map(|dir| dir.join(name))
        .find(|candidate| candidate.is_file())
}

/// Runs `program` with `args`, feeds it `input` and waits. Its status is not judged.
///
/// # Errors
/// [`Error::Io`] when it cannot be started.
pub fn run(program: &Path, args: &[&str], input: &str) -> Result<Outcome> {
    let doing = || format!("run {}", command_line(program, args));
    let stdin = whole_file(input).map_err(|e| Error::io(doing(), e))?;
    let output = Command::new(program)
        .args(args)
        .env("LC_ALL", "C")
        .stdin(Stdio::from(stdin))
        .output()
        .map_err(|e| Error::io(doing(), e))?;
    Ok(Outcome {
        status: output.status.code().unwrap_or_else(|| -output.status.signal().unwrap_or(1)),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

/// The command as one would type it, for errors.
pub fn command_line(program: &Path, args: &[&str]) -> String {
    let name = program.file_name().map_or_else(|| program.to_string_lossy(), |n| n.to_string_lossy());
    std::iter::once(name.as_ref()).chain(args.iter().copied()).collect::<Vec<_>>().join(" ")
}

/// `input` in an unnamed file: unlike a pipe it can't block the writer when the reader is slow to read or talkative.
fn whole_file(input: &str) -> io::Result<File> {
    // SAFETY: the name is a literal with its terminating zero; the result is checked before it is owned.
    let fd = unsafe { libc::memfd_create(c"input".as_ptr(), libc::MFD_CLOEXEC) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: fd is a fresh descriptor that nobody else owns.
    let mut file = File::from(unsafe { OwnedFd::from_raw_fd(fd) });
    file.write_all(input.as_bytes())?;
    file.seek(SeekFrom::Start(0))?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_gets_its_input_and_its_outcome_is_whole() {
        let shell = find("sh").expect("every system has a shell");
        let outcome = run(&shell, &["-c", "cat; echo oops >&2; exit 3"], "hello").expect("it starts");
        let expected = Outcome { status: 3, stdout: "hello".into(), stderr: "oops\n".into() };
        assert_eq!(outcome, expected);
    }

    #[test]
    fn input_larger_than_a_pipe_does_not_block_on_a_talkative_program() {
        let shell = find("sh").expect("every system has a shell");
        let input = "x".repeat(1 << 20);
        let outcome = run(&shell, &["-c", "cat >&2; cat"], &input).expect("it starts");
        assert_eq!((outcome.status, outcome.stderr.len()), (0, 1 << 20));
    }

    #[test]
    fn a_killed_program_has_a_negative_status() {
        let shell = find("sh").expect("every system has a shell");
        assert_eq!(run(&shell, &["-c", "kill -9 $$"], "").expect("it starts").status, -9);
    }

    #[test]
    fn a_missing_program_is_not_found_anywhere() {
        assert_eq!(find("bowline-no-such-program"), None);
    }
}
