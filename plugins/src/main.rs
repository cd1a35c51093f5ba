//! `bowline-cni`: every plug-in in one binary, chosen by the exact file name of argv\[0\].

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use kernel::linger::{self, Answer};
use plugins::install::{Foreign, Removal, install, uninstall};

const HELP: &str = "\
bowline-cni: CNI plugins in one binary. A container runtime starts it under a plugin's name.

usage:
  bowline-cni install DIR [NAME...] [--force]   install every plugin, or those named, into DIR
              --skip-foreign                    but leave what is not bowline's, and print its name
  bowline-cni uninstall DIR [--dry-run]         remove from DIR what is bowline's, and print it
  bowline-cni list                              print the plugins' names
  bowline-cni version                           print the version
";

fn main() -> ExitCode {
    let mut args = std::env::args_os().map(|arg| arg.to_string_lossy().into_owned());
    let program = args.next().unwrap_or_default();
    let name = Path::new(&program).file_name().unwrap_or_default().to_string_lossy();
    match plugins::find(&name) {
        Some(plugin) => serve(plugin),
        None => command(&args.collect::<Vec<_>>()),
    }
}

/// DEL and GC take things down, and answer before the kernel has freed them.
fn serve(plugin: &dyn cni::Plugin) -> ExitCode {
    let deletes = std::env::var_os("CNI_COMMAND").is_some_and(|verb| verb == "DEL" || verb == "GC");
    if !deletes {
        return answer(plugin).give();
    }
    match linger::answer_early(|| answer(plugin)) {
        Ok(answer) => answer.give(),
        Err(error) => {
            let error = cni::Error::from_chain(&error).context(plugin.name());
            let object = cni::dispatch::error_object(&error, cni::Version::NEWEST).to_string();
            Answer { stdout: object.into_bytes(), status: 1, ..Answer::default() }.give()
        }
    }
}

fn answer(plugin: &dyn cni::Plugin) -> Answer {
    let outcome = cni::dispatch::run_process(plugin);
    Answer { stdout: outcome.stdout.into_bytes(), stderr: outcome.stderr.into_bytes(), status: outcome.exit }
}

fn command(args: &[String]) -> ExitCode {
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["install", rest @ ..] => return install_command(rest),
        ["uninstall", dir] => return uninstall_command(dir, Removal::Now),
        ["uninstall", dir, "--dry-run"] => return uninstall_command(dir, Removal::Tell),
        ["list"] => plugins::TABLE.iter().for_each(|plugin| say(&format!("{}\n", plugin.name()))),
        ["version" | "--version" | "-V"] => say(concat!("bowline-cni ", env!("CARGO_PKG_VERSION"), "\n")),
        ["help" | "--help" | "-h"] => say(HELP),
        _ => {
            eprint!("{HELP}");
            return ExitCode::from(2);
        }
    }
    ExitCode::SUCCESS
}

/// Prints for a person; one who has left is no error.
fn say(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
}

fn install_command(args: &[&str]) -> ExitCode {
    let (options, words): (Vec<&str>, Vec<&str>) = args.iter().partition(|arg| arg.starts_with('-'));
    let foreign = match options.as_slice() {
        [] => Foreign::Keep,
        ["--force"] => Foreign::Replace,
        ["--skip-foreign"] => Foreign::Skip,
        _ => {
            eprint!("{HELP}");
            return ExitCode::from(2);
        }
    };
    let Some((dir, names)) = words.split_first() else {
        eprint!("{HELP}");
        return ExitCode::from(2);
    };
    let every: Vec<&str> = plugins::TABLE.iter().map(|plugin| plugin.name()).collect();
    match install(Path::new(dir), if names.is_empty() { &every } else { names }, foreign) {
        Ok(skipped) => {
            skipped.iter().for_each(|name| say(&format!("{name}\n")));
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("bowline-cni: {}", cni::Error::from_chain(&error));
            ExitCode::FAILURE
        }
    }
}

fn uninstall_command(dir: &str, removal: Removal) -> ExitCode {
    let every: Vec<&str> = plugins::TABLE.iter().map(|plugin| plugin.name()).collect();
    match uninstall(Path::new(dir), &every, removal) {
        Ok(files) => {
            files.iter().for_each(|file| say(&format!("{}\n", file.display())));
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("bowline-cni: {}", cni::Error::from_chain(&error));
            ExitCode::FAILURE
        }
    }
}
