//! Running one plug-in binary, and whose it is.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::Space;

/// Whose plug-ins a scenario runs on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    /// Where the binaries are.
    pub directory: PathBuf,
    /// Whether they are the reference's, which speaks at most 1.0.0 and iptables.
    pub is_reference: bool,
}

impl Subject {
    /// Ours: `$LAB_SUBJECT`, else `target/cni` of this workspace, which `make build` fills.
    ///
    /// # Panics
    /// When there is nothing to run.
    pub fn bowline() -> Subject {
        let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/cni");
        let directory = std::env::var_os("LAB_SUBJECT").map_or(built, PathBuf::from);
        Self::at(&directory, directory == Path::new(REFERENCE))
    }

    /// The reference plug-ins, as Debian installs them.
    ///
    /// # Panics
    /// When they are not installed: the comparison is never skipped.
    pub fn reference() -> Subject {
        Self::at(Path::new(REFERENCE), true)
    }

    /// The plug-ins in `directory`.
    fn at(directory: &Path, is_reference: bool) -> Subject {
        let hint = if is_reference { "apt-get install containernetworking-plugins" } else { "make build" };
        let directory = std::fs::canonicalize(directory)
            .unwrap_or_else(|e| panic!("no plug-ins in {}: {e} ({hint})", directory.display()));
        assert!(directory.join("bridge").is_file(), "no bridge in {} ({hint})", directory.display());
        Subject { directory, is_reference }
    }

    /// A stand-in for any directory, such as one that holds both suites.
    pub fn mixed(directory: &Path) -> Subject {
        Subject { directory: directory.to_owned(), is_reference: false }
    }
}

const REFERENCE: &str = "/usr/lib/cni";

/// What a plug-in answered when it refused, or how it ended without an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The spec's code; 0 when it did not print an error object.
    pub code: u64,
    /// The sentence, with details when there are any.
    pub msg: String,
    /// The signal that ended it.
    pub signal: Option<i32>,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "code {}: {}", self.code, self.msg)?;
        self.signal.map_or(Ok(()), |s| write!(f, " (killed by signal {s})"))
    }
}

/// One run of one plug-in: a verb, the environment, and stdin.
#[derive(Debug, Clone)]
pub struct Invocation {
    /// The binary.
    pub program: PathBuf,
    /// A command to run it under (strace and its options); usually empty.
    pub under: Vec<String>,
    /// The whole environment.
    pub env: BTreeMap<String, String>,
    /// The request; sent as these bytes.
    pub stdin: Vec<u8>,
}

impl Invocation {
    /// `verb` for the plug-in `kind` of `subject` with the request `conf`.
    pub fn new(subject: &Subject, verb: &str, kind: &str, conf: &Value) -> Invocation {
        let env = BTreeMap::from([
            ("CNI_COMMAND".to_owned(), verb.to_owned()),
            ("CNI_PATH".to_owned(), subject.directory.display().to_string()),
            // The reference calls iptables by name.
            ("PATH".to_owned(), "/usr/sbin:/usr/bin:/sbin:/bin".to_owned()),
        ]);
        Invocation {
            program: subject.directory.join(kind),
            under: Vec::new(),
            env,
            stdin: serde_json::to_vec(conf).expect("a value can be printed"),
        }
    }

    /// The same with one more variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl Into<String>) -> Self {
        self.env.insert(name.to_owned(), value.into());
        self
    }

    /// The command with its environment and three pipes, to be started in a [`Space`].
    pub(crate) fn command(&self) -> Command {
        let mut words: Vec<&std::ffi::OsStr> = self.under.iter().map(AsRef::as_ref).collect();
        words.push(self.program.as_os_str());
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).env_clear().envs(&self.env);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Runs it in `space`; `Value::Null` when it printed nothing.
    ///
    /// # Panics
    /// When it cannot be started, or claims success with something other than JSON on stdout.
    pub fn run(&self, space: &Space) -> Result<Value, Refusal> {
        space.run(|| {
            let mut command = self.command();
            let mut child = command.spawn().unwrap_or_else(|e| panic!("cannot start {command:?}: {e}"));
            let mut input = child.stdin.take().expect("stdin was asked for");
            let output = std::thread::scope(|scope| {
                use std::io::Write;
                // A plug-in that ends before it read its request breaks the pipe: the outcome tells.
                scope.spawn(move || input.write_all(&self.stdin).ok());
                child.wait_with_output().expect("a child can be waited for")
            });
            judge(&output)
        })
    }

    /// The outcome of a child that was waited for by other means.
    pub(crate) fn judge(&self, status: i32, child: std::process::Child) -> Result<(), Refusal> {
        use std::io::Read;
        use std::os::unix::process::ExitStatusExt;
        let mut output = std::process::Output {
            status: std::process::ExitStatus::from_raw(status),
            stdout: Vec::new(),
            stderr: Vec::new(),
        };
        let _ = child.stdout.map(|mut pipe| pipe.read_to_end(&mut output.stdout));
        let _ = child.stderr.map(|mut pipe| pipe.read_to_end(&mut output.stderr));
        judge(&output).map(drop)
    }
}

fn judge(output: &std::process::Output) -> Result<Value, Refusal> {
    use std::os::unix::process::ExitStatusExt;
    let stdout = String::from_utf8_lossy(&output.stdout);
    let parsed: Option<Value> = serde_json::from_str(&stdout).ok();
    if output.status.success() {
        return match parsed {
            Some(value) => Ok(value),
            None if stdout.is_empty() => Ok(json!(null)),
            None => panic!("success, but stdout is not JSON: {stdout:?}"),
        };
    }
    let text = |key: &str| {
        parsed.as_ref().and_then(|v| v.get(key)).and_then(Value::as_str).unwrap_or_default().to_owned()
    };
    let code = parsed.as_ref().and_then(|v| v.get("code")).and_then(Value::as_u64);
    let msg = match code {
        Some(_) if text("details").is_empty() => text("msg"),
        Some(_) => format!("{}; {}", text("msg"), text("details")),
        None => format!("stdout {stdout:?}, stderr {:?}", String::from_utf8_lossy(&output.stderr)),
    };
    Err(Refusal { code: code.unwrap_or(0), msg, signal: output.status.signal() })
}
