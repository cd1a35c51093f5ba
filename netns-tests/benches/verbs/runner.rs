//! Starts plug-ins for the bench and times them, from a small process of its own.
//!
//! A process that holds the sandboxes of a thousand pods starts others slowly: each start copies its table of open
//! files, and closes in the child what exec must not pass on (0.1 ms for every thousand, which the chain pays four
//! times). A runtime's shim holds next to nothing, so neither does this.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use lab::Node;
use lab::plugin::Invocation;
use serde_json::{Value, json};

/// The argument that makes this program a runner.
pub const FLAG: &str = "--runner";

/// The bench's end of the pipe. The process at the other end stands in a node's namespaces and ends with this.
pub struct Runner {
    process: Child,
    requests: ChildStdin,
    answers: BufReader<ChildStdout>,
}

/// What is measured of one run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Measure {
    /// Nanoseconds from before the program is started until it has ended, as a runtime sees it.
    Time,
    /// The largest resident size in KiB among the program and its children.
    Memory,
}

impl Runner {
    /// A runner in `node`'s namespaces.
    ///
    /// # Panics
    /// When this program cannot start itself.
    pub fn start(node: &Node) -> Runner {
        let mut command = Command::new(std::env::current_exe().expect("this program has a path"));
        command.arg(FLAG).env_clear().stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = node.run(|| command.spawn()).expect("this program can start itself");
        let requests = process.stdin.take().expect("stdin was asked for");
        let answers = BufReader::new(process.stdout.take().expect("stdout was asked for"));
        Runner { process, requests, answers }
    }

    /// Runs one plug-in: what it printed, and how long it took.
    ///
    /// # Panics
    /// When it refuses: a bench of failures measures nothing.
    pub fn time(&mut self, call: &Invocation) -> (Value, Duration) {
        let (answer, nanoseconds) = self.run(call, Measure::Time);
        (answer, Duration::from_nanos(nanoseconds))
    }

    /// The same, giving the peak in KiB instead of the time.
    ///
    /// # Panics
    /// As above.
    pub fn weigh(&mut self, call: &Invocation) -> (Value, u64) {
        self.run(call, Measure::Memory)
    }

    fn run(&mut self, call: &Invocation, measure: Measure) -> (Value, u64) {
        let request = json!({"program": call.program, "env": call.env, "weigh": measure == Measure::Memory,
            "stdin": String::from_utf8_lossy(&call.stdin)});
        writeln!(self.requests, "{request}").expect("the runner reads requests");
        let mut line = String::new();
        self.answers.read_line(&mut line).expect("the runner answers");
        let answer: Value = serde_json::from_str(&line).expect("the runner answers in JSON");
        let figure = answer["figure"].as_u64();
        let figure = figure.unwrap_or_else(|| panic!("{} {:?}: {answer}", call.program.display(), call.env));
        (serde_json::from_str(answer["stdout"].as_str().unwrap_or_default()).unwrap_or(Value::Null), figure)
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        // It is idle: each request was waited for.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The other end: one request a line, one answer a line, until there are no more.
///
/// # Panics
/// When the bench at the other end sends something else or a program cannot be started.
pub fn serve() {
    let mut answers = std::io::stdout().lock();
    for line in std::io::stdin().lock().lines() {
        let request: Value = serde_json::from_str(&line.expect("requests are text")).expect("and JSON");
        let measure = if request["weigh"] == true { Measure::Memory } else { Measure::Time };
        let answer = measured(&mut command(&request), request["stdin"].as_str().unwrap_or_default(), measure);
        writeln!(answers, "{answer}").expect("the bench waits for the answer");
    }
}

fn command(request: &Value) -> Command {
    let mut command = Command::new(request["program"].as_str().expect("a request names a program"));
    let env = request["env"].as_object().expect("a request has an environment");
    command.env_clear().envs(env.iter().map(|(name, value)| (name, value.as_str().unwrap_or_default())));
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    command
}

fn measured(command: &mut Command, request: &str, measure: Measure) -> Value {
    if measure == Measure::Memory {
        // SAFETY: the closure does nothing. Having one means fork instead of vfork: a child that shares our memory
        // until exec would be charged for it.
        unsafe { command.pre_exec(|| Ok(())) };
    }
    let started = Instant::now();
    let mut child = command.spawn().expect("a plug-in can be started");
    // A request fits into the pipe, so writing never waits for the reader.
    let mut stdin = child.stdin.take().expect("stdin was asked for");
    // One that ends before it has read its request breaks the pipe: its status tells.
    let _ = stdin.write_all(request.as_bytes());
    drop(stdin);
    let mut answer = Vec::new();
    let mut stdout = child.stdout.take().expect("stdout was asked for");
    stdout.read_to_end(&mut answer).expect("a pipe can be read");
    let (status, peak) = wait(child);
    let took = started.elapsed();
    let figure = match measure {
        Measure::Time => took.as_nanos() as u64,
        Measure::Memory => peak,
    };
    json!({"stdout": String::from_utf8_lossy(&answer), "status": status, "figure": (status == 0).then_some(figure)})
}

/// The wait status of `child`, which ends with this, and its largest resident size in KiB.
fn wait(child: Child) -> (libc::c_int, u64) {
    let mut status = 0;
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: wait4 fills the status and the struct that it is given; zeroed bytes are a valid rusage.
    let ended = unsafe { libc::wait4(child.id() as libc::pid_t, &mut status, 0, usage.as_mut_ptr()) };
    assert!(ended > 0, "a child can be waited for");
    // SAFETY: initialised by zeroed() and then by the kernel.
    (status, unsafe { usage.assume_init() }.ru_maxrss as u64)
}
