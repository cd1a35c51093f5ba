//! `bowline cni`: one verb on one network by hand, with cnitool's command line, variables and result cache.

use std::io::Write;
use std::path::{Component, Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use cni::list::NetworkList;
use cni::runtime::{Runtime, RuntimeArgs, Step, container_id_of};
use cni::{Code, Error, Result, json};
use serde_json::{Map, Value};

const DEFAULT_CONF_DIR: &str = "/etc/cni/net.d";
const DEFAULT_PATH: &str = "/opt/cni/bin";
const DEFAULT_IFNAME: &str = "eth0";

/// Attach a network namespace to a network, or check, detach, collect, ask.
///
/// Variables: NETCONFPATH (directory of configurations, /etc/cni/net.d), CNI_PATH (directories of plug-ins,
/// /opt/cni/bin), CNI_ARGS (KEY=VALUE;KEY=VALUE), CAP_ARGS (a JSON object of values for capabilities), CNI_IFNAME.
#[derive(Debug, Clone, Args)]
pub struct CniArgs {
    /// What to do.
    #[arg(value_enum)]
    verb: Verb,
    /// The network's name, as in the configuration.
    network: String,
    /// Path of the network namespace; also wanted, but not used, for gc and status.
    netns: PathBuf,
    /// The interface inside [CNI_IFNAME, else eth0].
    #[arg(short, long)]
    ifname: Option<String>,
    /// Where results are kept, in its sub-directory `results`.
    #[arg(long, default_value = cni::runtime::DEFAULT_CACHE_DIR)]
    cache_dir: PathBuf,
    /// Tell on stderr what each plug-in did and how long it took.
    #[arg(short, long)]
    verbose: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Verb {
    /// Attach, and print the result.
    Add,
    /// Find drift since `add`.
    Check,
    /// Detach; repeatable.
    Del,
    /// Detach everything that was ever attached to the network here.
    Gc,
    /// Could `add` be served?
    Status,
}

/// Runs one verb in this process' environment.
pub fn run(args: &CniArgs) -> ExitCode {
    let variable = |name: &str| std::env::var(name).ok().filter(|text| !text.is_empty());
    match serve(args, &variable) {
        Ok(None) => ExitCode::SUCCESS,
        Ok(Some(result)) => {
            let text = json::indented(&result) + "\n";
            let written = std::io::stdout().write_all(text.as_bytes());
            if written.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(e) => {
            eprintln!("{e} (code {})", e.code.0);
            ExitCode::FAILURE
        }
    }
}

fn serve(args: &CniArgs, variable: &dyn Fn(&str) -> Option<String>) -> Result<Option<Value>> {
    let conf_dir = variable("NETCONFPATH").unwrap_or_else(|| DEFAULT_CONF_DIR.to_owned());
    let list = NetworkList::find(Path::new(&conf_dir), &args.network)?;
    let attachment = attachment(args, variable)?;
    let runtime = runtime(args, variable);
    match args.verb {
        Verb::Add => return runtime.add(&list, &attachment).map(|(_, result)| Some(result)),
        Verb::Check => runtime.check(&list, &attachment),
        Verb::Del => runtime.del(&list, &attachment),
        Verb::Gc => runtime.gc(&list, None),
        Verb::Status => runtime.status(&list),
    }?;
    Ok(None)
}

fn runtime(args: &CniArgs, variable: &dyn Fn(&str) -> Option<String>) -> Runtime {
    let path = variable("CNI_PATH").unwrap_or_else(|| DEFAULT_PATH.to_owned());
    let dirs = path.split(':').filter(|dir| !dir.is_empty()).map(PathBuf::from);
    let runtime = Runtime::new(dirs).with_cache_dir(&args.cache_dir);
    if args.verbose { runtime.with_observer(tell) } else { runtime }
}

fn tell(step: &Step<'_>) {
    let outcome = step.outcome.map_or_else(|e| format!("failed: {e}"), |_| "done".to_owned());
    let milliseconds = step.elapsed.as_secs_f64() * 1000.0;
    eprintln!("{:<6} {:<16} {milliseconds:>8.1} ms  {outcome}", step.verb, step.plugin_type);
}

fn attachment(args: &CniArgs, variable: &dyn Fn(&str) -> Option<String>) -> Result<RuntimeArgs> {
    let netns = absolute(&args.netns)?;
    let ifname = args.ifname.clone().or_else(|| variable("CNI_IFNAME"));
    let ifname = ifname.as_deref().unwrap_or(DEFAULT_IFNAME);
    let mut attachment = RuntimeArgs::new(container_id_of(&netns).as_str(), netns, ifname)?;
    for (key, value) in cni::args::pairs(variable("CNI_ARGS").as_deref().unwrap_or_default())? {
        if key.is_empty() || value.is_empty() {
            let msg = format!("CNI_ARGS: invalid pair {:?}", format!("{key}={value}"));
            return Err(Error::new(Code::INVALID_ENVIRONMENT, msg));
        }
        attachment.args.push((key.to_owned(), value.to_owned()));
    }
    attachment.capabilities = capabilities(variable("CAP_ARGS"))?;
    Ok(attachment)
}

fn capabilities(text: Option<String>) -> Result<Map<String, Value>> {
    let Some(text) = text else { return Ok(Map::new()) };
    let invalid = |why: String| Error::new(Code::INVALID_ENVIRONMENT, format!("CAP_ARGS: {text:?}: {why}"));
    match json::parse(text.as_bytes()).map_err(|e| invalid(e.to_string()))? {
        Value::Object(object) => Ok(object),
        _ => Err(invalid("it is not an object".to_owned())),
    }
}

/// The absolute path by text alone, since the namespace may be gone; the container ID is derived from it.
fn absolute(path: &Path) -> Result<PathBuf> {
    let full = std::path::absolute(path)
        .map_err(|e| Error::new(Code::INVALID_ENVIRONMENT, format!("netns {:?}: {e}", path.display())))?;
    let mut clean = PathBuf::new();
    for component in full.components() {
        match component {
            Component::ParentDir => {
                clean.pop();
            }
            other => clean.push(other),
        }
    }
    Ok(clean)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn netns_is_made_absolute_by_text() {
        for (given, expected) in
            [("/a/b/", "/a/b"), ("/a/./b/../c", "/a/c"), ("/../a", "/a"), ("/a//b", "/a/b")]
        {
            assert_eq!(absolute(Path::new(given)).unwrap(), Path::new(expected), "{given}");
        }
        assert!(absolute(Path::new("x")).unwrap().is_absolute());
        assert!(absolute(Path::new("")).is_err());
    }
}
