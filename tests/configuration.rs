//! docs/configuration.md lists every option as the code has it. `make docs` writes the lists.
//!
//! What an option takes is not told by hand either: each is given nonsense, and the refusal says what would be right.

use std::path::Path;

use bowline_tests::{camel, root};
use clap::{Arg, Args as _, Command, FromArgMatches as _};
use daemon::config::{Config, Typed};
use daemon::kube_proxy::table::{Effect, SETTINGS, SPECIALS, Setting, Special};
use daemon::kube_proxy::value::Kind;

const FILE: &str = "docs/configuration.md";

/// Options that matter in some modes alone, where their help does not begin with that.
const MODES: [(&str, &str); 4] = [
    ("vni", "vxlan, cross-subnet"),
    ("vxlanPort", "vxlan, cross-subnet"),
    ("vxlanChecksumOffload", "vxlan, cross-subnet"),
    ("wireguardPort", "wireguard"),
];

/// Values that hardly anything takes: no word of a list, no number, no path; too long for a name. What takes several
/// values refuses the first of these, what takes one refuses both together.
const NONSENSE: [&str; 2] = ["?,?", "a-name-that-is-much-too-long,?"];

#[test]
fn every_option_is_listed_as_the_code_has_it() {
    let path = root().join(FILE);
    let present = std::fs::read_to_string(&path).unwrap_or_default();
    let mut wanted = present.clone();
    for (name, table) in
        [("options", options("")), ("proxy", options("proxy-")), ("kube-proxy", kube_proxy())]
    {
        let (begin, end) = (format!("<!-- {name}:begin -->\n"), format!("<!-- {name}:end -->"));
        let (before, rest) = wanted.split_once(&begin).unwrap_or_else(|| panic!("{FILE} lacks {begin}"));
        let (_, after) = rest.split_once(&end).unwrap_or_else(|| panic!("{FILE} lacks {end}"));
        wanted = format!("{before}{begin}\n{table}\n{end}{after}");
    }
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &wanted).expect("the document can be written");
    } else {
        assert!(present == wanted, "{FILE} is not what the code says: run `make docs`");
    }
}

/// A row for each flag that begins so; flags of the section `proxy` are told apart by their beginning.
fn options(prefix: &str) -> String {
    let command = Typed::augment_args(Command::new("bowlined"));
    let of_section =
        |arg: &&Arg| arg.get_long().is_some_and(|flag| flag.starts_with("proxy-") == (prefix == "proxy-"));
    let mut table = "| key, flag | takes | default | meaning |\n|---|---|---|---|\n".to_owned();
    for arg in command.get_arguments().filter(of_section) {
        let flag = arg.get_long().expect("every option has a flag");
        let key = camel(flag.trim_start_matches(prefix));
        let help = arg.get_long_help().or(arg.get_help()).expect("every option has help").to_string();
        let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
        let (meaning, default) = match help.strip_suffix(']').and_then(|help| help.rsplit_once(" [")) {
            Some((meaning, default)) => (meaning.to_owned(), default.to_owned()),
            None => (help.trim_end_matches('.').to_owned(), String::new()),
        };
        let modes = MODES.iter().find(|(name, _)| *name == key && prefix.is_empty());
        let modes = modes.map(|(_, modes)| format!(" (mode {modes})")).unwrap_or_default();
        let takes = takes(flag);
        // What the column before says need not be said twice.
        let choices = takes.trim_start_matches("one of ").replace(" or ", ", ");
        let meaning =
            cell(meaning.strip_suffix(&choices).map_or(&meaning, |rest| rest.trim_end_matches(": ")));
        let meaning = if meaning.is_empty() { "one of these".to_owned() } else { meaning };
        let takes = cell(&takes);
        table
            .push_str(&format!("| `{key}` `--{flag}` | {takes} | {} | {meaning}{modes} |\n", cell(&default)));
    }
    table
}

/// What an option takes, in the words by which it refuses something else.
fn takes(flag: &str) -> String {
    for value in NONSENSE {
        let mut line = vec![format!("--{flag}={value}"), "--node-name=n".to_owned()];
        if flag == "node-name" {
            line.pop();
        }
        if flag.starts_with("proxy-") && flag != "proxy-mode" {
            line.push("--proxy-mode=auto".to_owned());
        }
        let command = Typed::augment_args(Command::new("bowlined").no_binary_name(true));
        let matches = command.try_get_matches_from(line).expect("it is a flag");
        let typed = Typed::from_arg_matches(&matches).expect("text is taken as it is");
        let understood = Config::understand(&typed, &Typed::default(), Path::new("x"), &|_| None);
        if let Err(sentence) = understood {
            return asked_for(&sentence, value);
        }
    }
    "text".to_owned()
}

/// `a port from 1 to 9` of ``--port: `?` is not a port from 1 to 9``.
fn asked_for(sentence: &str, value: &str) -> String {
    let (first, _) = value.split_once(',').expect("two values");
    let refused = |value: &str| Some(sentence.split_once(&format!("`{value}` "))?.1);
    let (refusal, end) = match (refused(value), refused(first)) {
        (Some(refusal), _) => (refusal, ""),
        (None, Some(refusal)) => (refusal, "; several"),
        (None, None) => panic!("a refusal names its value: {sentence}"),
    };
    for (start, instead) in [
        ("is none of ", "one of "),
        ("is neither ", ""),
        ("is not ", ""),
        ("is no ", "a "),
        ("does not begin with /", "a path from / on"),
        ("does not begin with ", "a URL that begins with "),
    ] {
        if let Some(rest) = refusal.strip_prefix(start) {
            let rest = if start == "is neither " { rest.replace(" nor ", " or ") } else { rest.to_owned() };
            return format!("{instead}{}{end}", rest.replace(", nor ", ", or "));
        }
    }
    panic!("a refusal of another form: {sentence}")
}

/// In a table nothing may look like its border.
fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

/// A row for each field and flag of kube-proxy.
fn kube_proxy() -> String {
    let mut table = "| field | flag | takes | default | here |\n|---|---|---|---|---|\n".to_owned();
    for Setting { field, flag, kind, default, effect, .. } in SETTINGS {
        let dashes = if flag.len() == 1 { "-" } else { "--" };
        let flag = if flag.is_empty() { String::new() } else { format!("`{dashes}{flag}`") };
        let default = if default.is_empty() { String::new() } else { format!("`{default}`") };
        let here = match effect {
            Effect::Same => "as there".to_owned(),
            Effect::In(modes) => format!("as there, in mode {}", modes.join(", ")),
            Effect::Nothing(why) => format!("no effect: {why}"),
        };
        table.push_str(&format!("| `{field}` | {flag} | {} | {default} | {here} |\n", form(*kind)));
    }
    for (flag, kind, special) in SPECIALS {
        table.push_str(&format!("| | `--{flag}` | {} | | {} |\n", form(*kind), role(*special)));
    }
    table
}

fn form(kind: Kind) -> &'static str {
    match kind {
        Kind::Bool => "true or false",
        Kind::Int => "a whole number",
        Kind::Float => "a number",
        Kind::Text => "text",
        Kind::Duration => "a time such as 1m30s or 100ms",
        Kind::DurationOrNanoseconds => "a time such as 5s, or nanoseconds",
        Kind::Texts => "a list; as a flag with commas",
        Kind::Gates => "names with true or false",
        Kind::Quantity => "a size such as 4Ki",
        Kind::Patterns => "patterns with numbers",
    }
}

fn role(special: Special) -> &'static str {
    match special {
        Special::Config => "the file of these fields; most flags have no effect beside it",
        Special::WriteConfigTo => "writes the settings into this file, and ends",
        Special::Cleanup => "removes all rules of every mode, and ends",
        Special::InitOnly => "sets the sysctls that need most rights, and ends",
        Special::Version => "prints the version, and ends",
        Special::Help => "prints the flags, and ends",
        Special::Master => "URL of the API server, whatever the kubeconfig says",
        Special::Manifests => "ours: directory of manifests to read objects from, in place of the API",
        Special::HealthzPort => "port for a `--healthz-bind-address` without one; 0 is no such server",
        Special::MetricsPort => "port for a `--metrics-bind-address` without one; 0 is no such server",
        Special::Former => "no effect: kube-proxy has it no more",
    }
}
