//! One plug-in of one call: run, timed, shown.

use std::fmt;
use std::io::Write;
use std::time::{Duration, Instant};

use super::request::Request;
use super::{Runtime, RuntimeArgs};
use crate::exec::{Run, find};
use crate::{Error, Result, args};

/// What an observer sees after each plug-in.
#[derive(Debug)]
pub struct Step<'a> {
    /// ADD, CHECK, DEL, GC or STATUS.
    pub verb: &'a str,
    /// The network's name.
    pub network: &'a str,
    /// The plug-in's `type`.
    pub plugin_type: &'a str,
    /// From before its program was looked up until it had ended.
    pub elapsed: Duration,
    /// What it read.
    pub request: &'a [u8],
    /// What it printed, or how it failed.
    pub outcome: Result<&'a [u8], &'a Error>,
}

/// A callback, see [`Runtime::with_observer`].
pub struct Observer(Box<dyn Fn(&Step<'_>) + Send + Sync>);

impl Observer {
    pub(super) fn new(see: impl Fn(&Step<'_>) + Send + Sync + 'static) -> Self {
        Observer(Box::new(see))
    }
}

impl fmt::Debug for Observer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Observer")
    }
}

impl Runtime {
    /// Runs one verb of one plug-in and returns what it printed. Its error says which plug-in and verb it was.
    pub(super) fn call(
        &self,
        verb: &str,
        request: &Request<'_>,
        deadline: Option<Instant>,
    ) -> Result<Vec<u8>> {
        let plugin_type = request.plugin.plugin_type.as_str();
        let stdin = request.bytes();
        let started = Instant::now();
        let outcome =
            self.env(verb, request.args).and_then(|env| self.run(plugin_type, &env, &stdin, deadline));
        if let Some(Observer(see)) = &self.observer {
            see(&Step {
                verb,
                network: &request.list.name,
                plugin_type,
                elapsed: started.elapsed(),
                request: &stdin,
                outcome: outcome.as_deref(),
            });
        }
        let doing = format!("plugin type={plugin_type:?} failed ({})", verb.to_ascii_lowercase());
        outcome.map_err(|e| e.context(doing))
    }

    pub(super) fn run(
        &self,
        plugin_type: &str,
        env: &[(String, String)],
        stdin: &[u8],
        deadline: Option<Instant>,
    ) -> Result<Vec<u8>> {
        let program = find(plugin_type, &self.path)?;
        let output = Run { program: &program, env, stdin, deadline }.run()?;
        // A log that cannot be written must not fail the verb.
        let _ = std::io::stderr().write_all(&output.stderr);
        Ok(output.stdout)
    }

    /// The protocol's variables; all are set, so that none of our own environment shines through.
    pub(super) fn env(&self, verb: &str, args: Option<&RuntimeArgs>) -> Result<Vec<(String, String)>> {
        let path: Vec<_> = self.path.iter().map(|dir| dir.to_string_lossy()).collect();
        let netns = args.and_then(|a| a.netns.as_ref()).map(|p| p.to_string_lossy().into_owned());
        let cni_args = args.map(|a| args::join(&a.args)).transpose()?;
        let variables = [
            ("CNI_COMMAND", verb.to_owned()),
            ("CNI_CONTAINERID", args.map(|a| a.container_id.to_string()).unwrap_or_default()),
            ("CNI_NETNS", netns.unwrap_or_default()),
            ("CNI_ARGS", cni_args.unwrap_or_default()),
            ("CNI_IFNAME", args.map(|a| a.ifname.to_string()).unwrap_or_default()),
            ("CNI_PATH", path.join(":")),
        ];
        Ok(variables.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
    }
}
