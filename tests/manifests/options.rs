//! The ConfigMap has every option of bowlined, with the words of its help, and each can be switched on.

use std::path::Path;

use bowline_tests::camel;
use clap::{Args as _, Command};
use daemon::config::{Config, Typed};
use serde_json::Value;

use super::{built, only};

/// An option as the file shows it.
#[derive(Debug, PartialEq, Eq)]
struct Shown {
    section: &'static str,
    key: String,
    /// The lines above, joined.
    comment: String,
    line: usize,
}

fn file() -> String {
    let objects = built("overlays/vxlan");
    only(&objects, "ConfigMap")["data"]["bowline.yaml"].as_str().expect("text").to_owned()
}

/// `#key: value` is an option that is off, `key: value` one that is on, `# text` a comment.
fn options(text: &str) -> Vec<Shown> {
    let mut found = Vec::new();
    let mut comment: Vec<&str> = Vec::new();
    for (line, whole) in text.lines().enumerate() {
        let word = whole.trim();
        if let Some(said) = word.strip_prefix("# ") {
            comment.push(said);
            continue;
        }
        if let Some((key, value)) = word.trim_start_matches('#').split_once(':')
            && !value.is_empty()
        {
            let section = if whole.starts_with(' ') { "proxy" } else { "" };
            found.push(Shown { section, key: key.to_owned(), comment: comment.join(" "), line });
        }
        comment.clear();
    }
    found
}

#[test]
fn every_option_is_there_with_the_words_of_its_help() {
    let shown = options(&file());
    let command = Typed::augment_args(Command::new("bowlined"));
    let mut known = Vec::new();
    for argument in command.get_arguments() {
        let Some(flag) = argument.get_long() else { continue };
        let (section, key) = match flag.strip_prefix("proxy-") {
            Some(key) => ("proxy", camel(key)),
            None => ("", camel(flag)),
        };
        let help = argument.get_long_help().or(argument.get_help()).expect("every flag has help").to_string();
        let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
        let help = help.trim_end_matches('.');
        let option = shown.iter().find(|option| (option.section, &option.key) == (section, &key));
        let option = option.unwrap_or_else(|| panic!("conf/base/config.yaml lacks {section} {key}: {help}"));
        assert!(option.comment.starts_with(help), "{section} {key}: {}\nhelp: {help}", option.comment);
        known.push((section, key));
    }
    for option in &shown {
        assert!(known.contains(&(option.section, option.key.clone())), "no option: {option:?}");
    }
    assert_eq!(shown.len(), known.len());
}

#[test]
fn each_option_can_be_switched_on() {
    let text = file();
    let environment = |name: &str| (name == "NODE_NAME").then(|| "node".to_owned());
    let understood = |text: &str| {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("bowline.yaml");
        std::fs::write(&path, text).expect("written");
        let typed = Typed::read(&path)?;
        Config::understand(&Typed::default(), &typed, Path::new("bowline.yaml"), &environment)
    };
    let config = understood(&text).expect("as it is");
    assert!(config.proxy.is_some());
    for option in options(&text) {
        let switched: Vec<String> = text
            .lines()
            .enumerate()
            .map(|(at, line)| if at == option.line { line.replacen('#', "", 1) } else { line.to_owned() })
            .collect();
        understood(&switched.join("\n")).unwrap_or_else(|error| panic!("{}: {error}", option.key));
    }
}

/// What an overlay says by flags is understood beside the file.
#[test]
fn flags_of_overlays_are_understood() {
    for choice in super::CHOICES.iter().filter(|choice| !["cleanup", "overlays/proxy-only"].contains(choice))
    {
        let objects = built(choice);
        let container = &only(&objects, "DaemonSet")["spec"]["template"]["spec"]["containers"][0];
        let args = container["args"].as_array().expect("flags").iter().filter_map(Value::as_str);
        let args: Vec<&str> = args.filter(|arg| !arg.starts_with("--config=")).collect();
        let command = Typed::augment_args(Command::new("bowlined"));
        let matches = command.try_get_matches_from([&["bowlined"], &args[..]].concat());
        matches.unwrap_or_else(|error| panic!("{choice}: {error}"));
    }
}
