//! Being kube-proxy: from the command line to the end.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use proxy::Mode;

use super::decided::{Decided, decide};
use super::flags::Line;
use super::table::{SETTINGS, SPECIALS, Special};
use super::{cleanup, render, serve};
use crate::log;
use crate::proxy::sysctls;

/// The name by which the program is kube-proxy.
pub const NAME: &str = "kube-proxy";

/// The arguments behind the name, if this command line calls kube-proxy: by the program's name, or by its first word.
pub fn called(line: &[String]) -> Option<&[String]> {
    let (program, rest) = line.split_first()?;
    if Path::new(program).file_name().is_some_and(|name| name == NAME) {
        return Some(rest);
    }
    rest.split_first().filter(|(first, _)| *first == NAME).map(|(_, rest)| rest)
}

/// Runs until somebody asks for an end.
pub fn main(args: &[String]) -> ExitCode {
    match run(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(sentences) => {
            sentences.iter().for_each(|sentence| eprintln!("{NAME}: {sentence}"));
            ExitCode::FAILURE
        }
    }
}

fn run(args: &[String]) -> Result<(), Vec<String>> {
    let one = |sentence: String| vec![sentence];
    let line = Line::parse(args).map_err(one)?;
    if line.wants(Special::Help) {
        print!("{}", help());
        return Ok(());
    }
    if line.wants(Special::Version) {
        println!("bowline {}, as kube-proxy of Kubernetes v1.36", env!("CARGO_PKG_VERSION"));
        return Ok(());
    }
    let mut warnings = Vec::new();
    let decided = decide(&line, &host(), &mut warnings).map_err(one)?;
    log::start(decided.log_format, &decided.log_level).map_err(one)?;
    if let Some(path) = line.special(Special::WriteConfigTo).filter(|path| !path.is_empty()) {
        let written = std::fs::write(path, render::yaml(&decided.settings));
        return written.map_err(|error| one(format!("--write-config-to: {path}: {error}")));
    }
    if line.wants(Special::Cleanup) {
        return cleanup::everything(&decided.proxy.state_dir);
    }
    warnings.iter().for_each(|sentence| tracing::warn!("{sentence}"));
    if line.wants(Special::InitOnly) {
        return initialise(&decided);
    }
    serve::serve(decided).map_err(one)
}

/// This machine's name.
fn host() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default()
}

/// What needs more rights than serving does.
fn initialise(decided: &Decided) -> Result<(), Vec<String>> {
    let is_iptables = decided.proxy.mode == Some(Mode::Iptables);
    let outcome =
        sysctls::ensure(&decided.proxy, &kernel::dual::DualStack { v4: true, v6: true }, is_iptables);
    outcome.changes.iter().for_each(|sentence| tracing::info!("{sentence}"));
    if outcome.problems.is_empty() { Ok(()) } else { Err(outcome.problems) }
}

/// Every flag that is known.
fn help() -> String {
    let mut flags: Vec<String> = SETTINGS
        .iter()
        .filter(|setting| !setting.flag.is_empty())
        .map(|setting| {
            let default =
                if setting.default.is_empty() { String::new() } else { format!(" [{}]", setting.default) };
            let dashes = if setting.flag.len() == 1 { "-" } else { "--" };
            format!("  {dashes}{}{default}  as {} in the file", setting.flag, setting.field)
        })
        .collect();
    let special = |special: Special| match special {
        Special::Config => {
            Some("file of settings (KubeProxyConfiguration); most flags have no effect beside it")
        }
        Special::WriteConfigTo => Some("write the settings to this file, and end"),
        Special::Cleanup => Some("remove all rules of every mode, and end"),
        Special::InitOnly => Some("set the sysctls that need most rights, and end"),
        Special::Version => Some("print the version"),
        Special::Help => Some("print this"),
        Special::Master => Some("URL of the API server, whatever the kubeconfig says"),
        Special::Manifests => Some("directory of manifests to read objects from, in place of the API"),
        Special::HealthzPort => Some("port for a --healthz-bind-address without one; 0 is no such server"),
        Special::MetricsPort => Some("port for a --metrics-bind-address without one; 0 is no such server"),
        Special::Former => None,
    };
    flags.extend(SPECIALS.iter().filter_map(|(flag, _, it)| Some(format!("  --{flag}  {}", special(*it)?))));
    flags.sort();
    format!("Serves Services as kube-proxy of Kubernetes v1.36 does.\n\n{}\n", flags.join("\n"))
}

/// The directory of a file.
pub(super) fn directory_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_decides() {
        let rows: [(&[&str], Option<&[&str]>); 5] = [
            (&["/usr/local/bin/kube-proxy", "--config=x"], Some(&["--config=x"])),
            (&["kube-proxy"], Some(&[])),
            (&["/usr/local/bin/bowlined", "kube-proxy", "-v=2"], Some(&["-v=2"])),
            (&["bowlined", "--mode=vxlan"], None),
            (&["my-kube-proxy"], None),
        ];
        for (line, expected) in rows {
            let line: Vec<String> = line.iter().map(|word| (*word).to_owned()).collect();
            let expected =
                expected.map(|rest| rest.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>());
            assert_eq!(called(&line).map(<[String]>::to_vec), expected, "{line:?}");
        }
    }

    #[test]
    fn help_has_every_flag_that_has_an_effect_or_a_field() {
        let text = help();
        for flag in ["--proxy-mode", "--config", "-v [0]", "--nodeport-addresses", "--cleanup"] {
            assert!(text.contains(flag), "{flag} is missing in:\n{text}");
        }
        assert!(!text.contains("--logtostderr"));
    }
}
