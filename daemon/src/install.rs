//! The plug-ins' program into the runtime's directory, by the program itself: `bowline-cni install DIR --skip-foreign`.
//!
//! It replaces what is bowline's and differs, writes nothing that is there already, and leaves other projects' files of
//! the same name. `portmap`, `bandwidth` or `loopback` of another project serve as well; without `vxlan` and `routed`
//! of ours no pod can be attached.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The program to install: as configured, else `bowline-cni` beside this one.
pub fn program(configured: Option<&Path>) -> PathBuf {
    let beside = || {
        let own = std::env::current_exe().ok()?;
        Some(own.parent()?.join("bowline-cni"))
    };
    configured.map(Path::to_owned).or_else(beside).unwrap_or_else(|| "bowline-cni".into())
}

/// Installs `program` into `dir` under every plug-in's name; returns the names that were left to other projects.
///
/// # Errors
/// A sentence: the program can't be run, the directory can't be written, or the plug-in `needed` is another's.
pub fn install(program: &Path, dir: &Path, needed: &str) -> Result<Vec<String>, String> {
    let output = run(program, &["install", &dir.display().to_string(), "--skip-foreign"])?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let said = said.trim().trim_start_matches("bowline-cni: ");
        return Err(format!("plug-ins can't be installed into {}: {said}", dir.display()));
    }
    let skipped: Vec<String> = String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect();
    if skipped.iter().any(|name| name == needed) {
        let file = dir.join(needed);
        return Err(format!("{} is not bowline's: move it away, or set cniBinDir", file.display()));
    }
    Ok(skipped)
}

/// Whether the plug-in `needed` is still where [`install`] put it.
pub fn is_there(dir: &Path, needed: &str) -> bool {
    dir.join(needed).is_file()
}

/// The program under its own name, whatever its file is called: under a plug-in's name it would be that plug-in.
fn run(program: &Path, args: &[&str]) -> Result<Output, String> {
    let mut command = Command::new(program);
    command.arg0("bowline-cni").args(args).env_clear();
    command.output().map_err(|error| format!("run {}: {error}", program.display()))
}

/// Removes the plug-ins of ours from `dir`, and returns what is removed; with [`Removal::Tell`] nothing is. The installed
/// `vxlan` does it when `program` is gone: it is the same program.
///
/// # Errors
/// A sentence that names the file.
pub fn uninstall(program: &Path, dir: &Path, removal: Removal) -> Result<Vec<PathBuf>, String> {
    let candidates = [program.to_owned(), dir.join("vxlan")];
    let Some(program) = candidates.iter().find(|program| program.is_file()) else { return Ok(Vec::new()) };
    let shown = dir.display().to_string();
    let mut args = vec!["uninstall", shown.as_str()];
    args.extend((removal == Removal::Tell).then_some("--dry-run"));
    let output = run(program, &args)?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(format!("plug-ins can't be removed from {shown}: {}", said.trim()));
    }
    Ok(String::from_utf8_lossy(&output.stdout).lines().map(PathBuf::from).collect())
}

/// Whether something goes, or is only told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Removal {
    /// It goes.
    Now,
    /// It is told.
    Tell,
}
