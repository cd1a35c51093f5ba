//! The dispatcher: from environment and stdin to one call of a [`Plugin`], and from its answer to stdout.
//!
//! ```text
//! env -> stdin -> JSON, name -> version gate -> same-netns -> callback -> result in the config's version
//!  4      5        6     7        1 or 6           8           any           7
//! ```
//! (below: the error code of each stage). [`run`] is pure; [`main`] lends it this process.

mod env;
mod gate;

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde_json::{Value, json};

pub use env::Env;

use crate::netconf::Envelope;
use crate::{
    AddResult, Attachment, Call, Code, ContainerId, Error, GcCall, IfName, Plugin, Result, StatusCall,
    Version, json as js, result,
};

/// What an invocation prints, and its exit status.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// A result, an error object, or nothing.
    pub stdout: String,
    /// Words for people.
    pub stderr: String,
    /// 0 or 1.
    pub exit: u8,
}

/// Serves this process' invocation of `plugin`: environment, stdin, stdout.
pub fn main(plugin: &dyn Plugin) -> ExitCode {
    use std::io::Write;
    let outcome = run_process(plugin);
    // Nobody is left to tell when these cannot be written, but the exit status still can.
    let _ = std::io::stderr().write_all(outcome.stderr.as_bytes());
    let written = std::io::stdout().write_all(outcome.stdout.as_bytes());
    if written.is_err() { ExitCode::FAILURE } else { ExitCode::from(outcome.exit) }
}

/// Serves this process' invocation of `plugin` but leaves the printing to the caller.
pub fn run_process(plugin: &dyn Plugin) -> Outcome {
    run(plugin, &Env::of_process(), std::io::stdin().lock(), &is_own_netns)
}

/// Serves one invocation. `is_own_netns` tells whether a path is the namespace that the caller runs in.
pub fn run(
    plugin: &dyn Plugin,
    env: &Env,
    stdin: impl Read,
    is_own_netns: &dyn Fn(&Path) -> bool,
) -> Outcome {
    let mut aside = Aside { notes: String::new(), version: Version::NEWEST };
    let outcome = match serve(&Service { plugin, env, is_own_netns }, stdin, &mut aside) {
        Ok(stdout) => Outcome { stdout, ..Outcome::default() },
        Err(_) if env.text("CNI_COMMAND").is_empty() && !plugin.about().is_empty() => {
            let versions: Vec<_> = plugin.versions().iter().map(|v| v.as_str()).collect();
            aside.notes =
                format!("{}\nCNI protocol versions supported: {}\n", plugin.about(), versions.join(", "));
            Outcome::default()
        }
        Err(e) => {
            Outcome { stdout: js::indented(&error_object(&e, aside.version)), exit: 1, ..Outcome::default() }
        }
    };
    Outcome { stderr: aside.notes, ..outcome }
}

/// The object that a failed invocation prints, in the version of the configuration.
pub fn error_object(e: &Error, version: Version) -> Value {
    let mut object = json!({ "cniVersion": version.as_str(), "code": e.code.0, "msg": e.msg });
    if !e.details.is_empty() {
        object["details"] = e.details.as_str().into();
    }
    object
}

/// What an invocation learns beside its answer.
struct Aside {
    /// For stderr.
    notes: String,
    /// The version to fail in: the newest until the configuration's is known.
    version: Version,
}

struct Service<'a> {
    plugin: &'a dyn Plugin,
    env: &'a Env,
    is_own_netns: &'a dyn Fn(&Path) -> bool,
}

fn serve(service: &Service<'_>, mut stdin: impl Read, aside: &mut Aside) -> Result<String> {
    let env = service.env;
    env.validate()?;
    let verb = env.text("CNI_COMMAND");
    if verb == "VERSION" {
        return Ok(service.version());
    }
    let mut bytes = Vec::new();
    stdin
        .read_to_end(&mut bytes)
        .map_err(|e| Error::new(Code::IO, format!("error reading from stdin: {e}")))?;
    let envelope = Envelope::parse(bytes)?;
    if !matches!(verb, "ADD" | "CHECK" | "DEL" | "GC" | "STATUS") {
        return Err(Error::new(Code::INVALID_ENVIRONMENT, format!("unknown CNI_COMMAND: {verb}")));
    }
    let version = gate::judge(verb, &envelope.core.cni_version, service.plugin.versions())?;
    aside.version = version;
    match verb {
        "ADD" => return service.add(envelope, version),
        "CHECK" => service.check(envelope, version),
        "DEL" => service.del(envelope, version, aside),
        "GC" => service.gc(envelope, version),
        _ => service.status(envelope, version),
    }?;
    Ok(String::new())
}

impl Service<'_> {
    fn version(&self) -> String {
        let supported: Vec<_> = self.plugin.versions().iter().map(|v| v.as_str()).collect();
        let mut text =
            json!({ "cniVersion": Version::NEWEST.as_str(), "supportedVersions": supported }).to_string();
        text.push('\n');
        text
    }

    fn add(&self, envelope: Envelope, version: Version) -> Result<String> {
        let prev = envelope.prev_result(version)?;
        self.refuse_own_netns()?;
        let call = self.call(envelope, version, prev, self.netns())?;
        let made = self.plugin.add(&call)?;
        let encoded = result::encode(&made, version);
        if encoded.is_err() {
            // The caller will see an error, so nothing may remain; DEL's own error would hide the first.
            let _ = self.plugin.del(&call.into_del());
        }
        Ok(js::indented(&encoded?))
    }

    fn check(&self, envelope: Envelope, version: Version) -> Result<()> {
        let prev = envelope.prev_result(version)?;
        self.plugin.check(&self.call(envelope, version, prev, self.netns())?)
    }

    /// A `prevResult` that cannot be read is as good as none: refusing it would pin the container for ever. A
    /// namespace that is our own (a process ID that the host took over, say) is not the pod's: it is refused, but
    /// what the attachment holds elsewhere is freed first.
    fn del(&self, envelope: Envelope, version: Version, aside: &mut Aside) -> Result<()> {
        let prev = envelope.prev_result(version).unwrap_or_else(|e| {
            aside.notes.push_str(&format!("{}: DEL goes on without prevResult: {e}\n", self.plugin.name()));
            None
        });
        let refused = self.refuse_own_netns();
        let netns = Some(self.netns()).filter(|path| refused.is_ok() && !path.as_os_str().is_empty());
        let done = self.plugin.del(&self.call(envelope, version, prev, netns)?);
        refused.and(done)
    }

    fn gc(&self, envelope: Envelope, version: Version) -> Result<()> {
        let valid = envelope.valid_attachments()?;
        self.plugin.gc(&GcCall { path: self.env.path(), conf: envelope.into_conf(version, None), valid })
    }

    fn status(&self, envelope: Envelope, version: Version) -> Result<()> {
        self.plugin.status(&StatusCall { path: self.env.path(), conf: envelope.into_conf(version, None) })
    }

    fn call<N>(
        &self,
        envelope: Envelope,
        version: Version,
        prev: Option<AddResult>,
        netns: N,
    ) -> Result<Call<N>> {
        let attachment = Attachment {
            container_id: ContainerId::parse(self.env.text("CNI_CONTAINERID"))?,
            ifname: IfName::parse(self.env.text("CNI_IFNAME"))?,
        };
        let args = self.env.text("CNI_ARGS").to_owned();
        Ok(Call { attachment, netns, args, path: self.env.path(), conf: envelope.into_conf(version, prev) })
    }

    fn netns(&self) -> PathBuf {
        PathBuf::from(self.env.text("CNI_NETNS"))
    }

    /// On ADD before the work, so that nothing has changed.
    fn refuse_own_netns(&self) -> Result<()> {
        let netns = self.netns();
        if self.env.may_share_netns() || netns.as_os_str().is_empty() || !(self.is_own_netns)(&netns) {
            return Ok(());
        }
        let msg = "plugin's netns and netns from CNI_NETNS should not be the same";
        Err(Error::new(Code::INVALID_NETNS, msg).with_details(netns.display().to_string()))
    }
}

/// Whether `path` is this thread's network namespace; a path that cannot be opened is not.
fn is_own_netns(path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let identity = |path: &Path| std::fs::metadata(path).ok().map(|m| (m.dev(), m.ino()));
    let own = identity(Path::new("/proc/thread-self/ns/net"));
    own.is_some() && own == identity(path)
}
