//! Delegation: a plug-in runs another one (its IPAM plug-in) with its own environment and its own stdin.
//!
//! The delegate is found in CNI_PATH, gets the environment of this process with CNI_COMMAND replaced, and the
//! exact bytes of the configuration. What it logs on stderr is passed on.

use std::io::Write;
use std::path::PathBuf;

use crate::exec::{Run, find};
use crate::{AddResult, NetConf, Result, result};

/// Runs ADD of `plugin_type`, found in `path`.
///
/// # Errors
/// The delegate's own error object, or why it could not be run or understood.
pub fn add(path: &[PathBuf], plugin_type: &str, conf: &NetConf) -> Result<AddResult> {
    let stdout = run(path, plugin_type, "ADD", conf)?;
    let decoded = result::decode_bytes(&stdout, conf.cni_version).map_err(|e| e.context(plugin_type))?;
    Ok(decoded.1)
}

/// Runs DEL of `plugin_type`.
///
/// # Errors
/// As [`add`].
pub fn del(path: &[PathBuf], plugin_type: &str, conf: &NetConf) -> Result<()> {
    run(path, plugin_type, "DEL", conf).map(drop)
}

/// Runs CHECK of `plugin_type`.
///
/// # Errors
/// As [`add`].
pub fn check(path: &[PathBuf], plugin_type: &str, conf: &NetConf) -> Result<()> {
    run(path, plugin_type, "CHECK", conf).map(drop)
}

/// Runs GC of `plugin_type`.
///
/// # Errors
/// As [`add`].
pub fn gc(path: &[PathBuf], plugin_type: &str, conf: &NetConf) -> Result<()> {
    run(path, plugin_type, "GC", conf).map(drop)
}

/// Runs STATUS of `plugin_type`.
///
/// # Errors
/// As [`add`].
pub fn status(path: &[PathBuf], plugin_type: &str, conf: &NetConf) -> Result<()> {
    run(path, plugin_type, "STATUS", conf).map(drop)
}

fn run(path: &[PathBuf], plugin_type: &str, command: &str, conf: &NetConf) -> Result<Vec<u8>> {
    let program = find(plugin_type, path)?;
    let env = [("CNI_COMMAND".to_owned(), command.to_owned())];
    let output = Run { program: &program, env: &env, stdin: &conf.bytes, deadline: None }.run()?;
    // A log that cannot be written must not fail the verb.
    let _ = std::io::stderr().write_all(&output.stderr);
    Ok(output.stdout)
}
