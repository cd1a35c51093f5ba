//! Killing a plug-in at every step, by ptrace(2), and seeing what it executes, by strace(1).

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::plugin::{Invocation, Refusal};
use crate::{Node, Space, sys, wait};

/// How a run under [`killed_at`] ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// It was killed before the system call of this name.
    Killed(&'static str),
    /// It ended by itself: all its steps have been walked.
    Ended(Result<(), Refusal>),
}

/// The system calls before which a plug-in is killed, each in its turn: all that change anything outside the process,
/// and those that may begin to.
const STEPS: &[(libc::c_long, &str)] = &[
    (libc::SYS_sendto, "sendto"),
    (libc::SYS_sendmsg, "sendmsg"),
    (libc::SYS_openat, "openat"),
    (libc::SYS_write, "write"),
    (libc::SYS_pwrite64, "pwrite64"),
    (libc::SYS_renameat, "renameat"),
    (libc::SYS_renameat2, "renameat2"),
    (libc::SYS_linkat, "linkat"),
    (libc::SYS_unlinkat, "unlinkat"),
    (libc::SYS_mkdirat, "mkdirat"),
    (libc::SYS_fchmod, "fchmod"),
    (libc::SYS_ftruncate, "ftruncate"),
    (libc::SYS_fsync, "fsync"),
    (libc::SYS_fdatasync, "fdatasync"),
    (libc::SYS_flock, "flock"),
    (libc::SYS_setns, "setns"),
    (libc::SYS_ioctl, "ioctl"),
    (libc::SYS_execve, "execve"),
    (libc::SYS_exit_group, "exit_group"),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_open, "open"),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_rename, "rename"),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_link, "link"),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_unlink, "unlink"),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_mkdir, "mkdir"),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_rmdir, "rmdir"),
];

/// Of those, what changes anything that others see, and nothing that only looks or speaks. A kill between two of them is
/// a kill before the later one.
const CHANGES: &[&str] = &[
    "sendto",
    "sendmsg",
    "pwrite64",
    "rename",
    "renameat",
    "renameat2",
    "link",
    "linkat",
    "unlink",
    "unlinkat",
    "mkdir",
    "mkdirat",
    "fchmod",
    "ftruncate",
    "fsync",
    "flock",
    "ioctl",
    "execve",
];

/// Runs a program that stays until it is `done`, and kills it, with all its threads and children, just before its `nth`
/// step (the first is 1) that may change anything outside of it. Gives that step's name, or `None` when it was done
/// before; it is killed then as well.
///
/// # Panics
/// When it cannot be traced, or ends by itself.
pub fn killed_at_or_done(
    space: &Space,
    program: &Path,
    args: &[String],
    nth: u32,
    done: impl Fn() -> bool + Sync,
) -> Option<&'static str> {
    space.run(|| {
        let mut command = Command::new(program);
        command.args(args).env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        sys::ask_to_be_traced(&mut command);
        let mut child = command.spawn().unwrap_or_else(|e| panic!("cannot start {command:?}: {e}"));
        let pidfd = sys::pidfd(child.id()).expect("a child that was not waited for can be opened");
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                wait::until("the program to be done or killed", || {
                    (is_over.load(Ordering::Relaxed) || done()).then_some(())
                });
                // One that has ended needs no signal.
                let _ = sys::send_signal(&pidfd, libc::SIGKILL);
            });
            let mut steps = 0;
            let (killed, status) = sys::trace_to_the_end(child.id(), |number| {
                let step = STEPS.iter().find(|(step, name)| *step == number && CHANGES.contains(name))?;
                steps += 1;
                (steps == nth).then_some(step.1)
            });
            is_over.store(true, Ordering::Relaxed);
            // Tracing has waited for it already.
            let _ = child.wait();
            assert!(libc::WIFSIGNALED(status), "{} ended by itself: {status}", program.display());
            killed
        })
    })
}

/// Runs `call` and kills it, with all its threads and children, just before its `nth` step (the first is 1).
///
/// # Panics
/// When it cannot be traced.
pub fn killed_at(node: &Node, call: &Invocation, nth: u32) -> Fate {
    node.run(|| {
        let mut command = call.command();
        sys::ask_to_be_traced(&mut command);
        let mut child = command.spawn().unwrap_or_else(|e| panic!("cannot start {command:?}: {e}"));
        let mut input = child.stdin.take().expect("stdin was asked for");
        std::thread::scope(|scope| {
            use std::io::Write;
            // A plug-in killed before it read its request breaks the pipe: the outcome tells.
            scope.spawn(move || input.write_all(&call.stdin).ok());
            let mut steps = 0;
            let killed = sys::trace_to_the_end(child.id(), |number| {
                let step = STEPS.iter().find(|(step, _)| *step == number)?;
                steps += 1;
                (steps == nth).then_some(step.1)
            });
            match killed {
                (Some(step), _) => Fate::Killed(step),
                (None, status) => Fate::Ended(call.judge(status, child)),
            }
        })
    })
}

/// Runs `call` under strace and gives its outcome with the programs that it executed, itself excluded.
///
/// # Panics
/// When strace is missing or traced nothing.
pub fn programs_executed(
    node: &Space,
    call: &Invocation,
) -> (Result<serde_json::Value, Refusal>, Vec<String>) {
    let mut call = call.clone();
    let log = format!("/run/strace.{:?}", std::thread::current().id());
    call.under =
        ["strace", "-f", "-qq", "-o", &log, "-e", "trace=execve,execveat"].map(str::to_owned).to_vec();
    let outcome = call.run(node);
    let lines = node.read(&log);
    let mut executed = lines.lines().filter(|line| line.contains("exec"));
    assert!(executed.next().is_some(), "strace saw not even the plug-in's own start");
    (outcome, executed.map(str::to_owned).collect())
}
