//! One run of one plug-in, timed as a runtime sees it: from before the program is started until it has ended.

use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// The first argument that makes this program run another one and say how much memory that took.
pub const WEIGH: &str = "--weigh";

/// A verb for a container and an interface.
#[derive(Debug, Clone, Copy)]
pub struct Verb<'a> {
    /// ADD or DEL.
    pub command: &'a str,
    /// The container ID.
    pub container_id: &'a str,
    /// CNI_NETNS.
    pub netns: &'a Path,
}

impl Verb<'_> {
    fn command(&self, program: &Path, directory: &Path) -> Command {
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("CNI_COMMAND", self.command)
            .env("CNI_CONTAINERID", self.container_id)
            .env("CNI_IFNAME", "eth0")
            .env("CNI_NETNS", self.netns)
            .env("CNI_PATH", directory)
            // The reference calls iptables by name.
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        command
    }

    /// Runs plug-in `kind` of `directory` in the calling thread's namespaces.
    ///
    /// # Panics
    /// When it refuses: a bench of failures measures nothing.
    pub fn run(&self, directory: &Path, kind: &str, conf: &Value) -> (Value, Duration) {
        let request = serde_json::to_vec(conf).expect("a value can be printed");
        let mut command = self.command(&directory.join(kind), directory);
        let started = Instant::now();
        let mut child = command.spawn().unwrap_or_else(|e| panic!("start {kind}: {e}"));
        // A request fits into the pipe, so writing never waits for the reader.
        let mut stdin = child.stdin.take().expect("stdin was asked for");
        stdin.write_all(&request).expect("a plug-in reads its request");
        drop(stdin);
        let mut answer = Vec::new();
        let mut stdout = child.stdout.take().expect("stdout was asked for");
        stdout.read_to_end(&mut answer).expect("a pipe can be read");
        let status = child.wait().expect("a child can be waited for");
        let took = started.elapsed();
        let text = String::from_utf8_lossy(&answer);
        assert!(status.success(), "{kind} {} {}: {text}", self.command, self.container_id);
        (serde_json::from_slice(&answer).unwrap_or(Value::Null), took)
    }

    /// The same, giving the largest resident size in KiB among the plug-in and its children instead of the time.
    ///
    /// The kernel counts what a process was before exec as its own, so a small process does the starting: this
    /// program afresh (some 1 MB, the least that can be seen), which then reports on stderr.
    pub fn weigh(&self, directory: &Path, kind: &str, conf: &Value) -> (Value, u64) {
        let this = std::env::current_exe().expect("this program has a path");
        let mut command = self.command(&this, directory);
        command.arg(WEIGH).arg(directory.join(kind)).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|e| panic!("start the scales: {e}"));
        let request = serde_json::to_vec(conf).expect("a value can be printed");
        child
            .stdin
            .take()
            .expect("stdin was asked for")
            .write_all(&request)
            .expect("a plug-in reads its request");
        let output = child.wait_with_output().expect("a child can be waited for");
        let text = String::from_utf8_lossy(&output.stderr);
        let size = text.lines().last().and_then(|line| line.parse().ok());
        let size = size.unwrap_or_else(|| panic!("{kind} {}: {text}", self.command));
        (serde_json::from_slice(&output.stdout).unwrap_or(Value::Null), size)
    }
}

/// The other end of [`Verb::weigh`]: runs `program` on our own stdin and stdout and prints its peak on stderr.
pub fn weigh(program: &str) {
    let mut command = Command::new(program);
    // SAFETY: the closure does nothing. Having one means fork instead of vfork: a child that shares our memory until
    // exec would be charged for it.
    unsafe { command.pre_exec(|| Ok(())) };
    let status = command.stderr(Stdio::null()).status().expect("a plug-in can be started");
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: getrusage fills the struct it is given; zeroed bytes are a valid rusage.
    let failed = unsafe { libc::getrusage(libc::RUSAGE_CHILDREN, usage.as_mut_ptr()) };
    assert!(status.success() && failed == 0, "{program} failed");
    // SAFETY: initialised by zeroed() and then by the kernel.
    eprintln!("{}", unsafe { usage.assume_init() }.ru_maxrss);
}
