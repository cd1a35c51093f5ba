//! Rules that a machine can hold: names, lengths, directions, sleeps, and the list of acceptance rows.

use bowline_tests::{Text, read, texts};
use regex_lite::Regex;

/// Fails with every offence at once, one to a line.
#[track_caller]
fn none(rule: &str, offences: Vec<String>) {
    assert!(offences.is_empty(), "{rule}\n  {}", offences.join("\n  "));
}

/// A line, and the one above it.
struct Line<'a> {
    file: &'a Text,
    above: &'a str,
    text: &'a str,
}

/// `path:line: text` of every line that `offends`.
fn lines(files: &[Text], offends: impl Fn(&Line<'_>) -> bool) -> Vec<String> {
    let mut found = Vec::new();
    for file in files {
        let mut above = "";
        for (index, text) in file.content.lines().enumerate() {
            if offends(&Line { file, above, text }) {
                found.push(format!("{}:{}: {}", file.path, index + 1, text.trim()));
            }
            above = text;
        }
    }
    found
}

#[test]
fn a_file_has_at_most_600_lines() {
    let long = texts(&[".rs"]).into_iter().map(|f| (f.content.lines().count(), f.path));
    let long = long.filter(|(length, _)| *length > 600);
    none(
        "these files hold more than one thing",
        long.map(|(n, path)| format!("{path}: {n} lines")).collect(),
    );
}

#[test]
fn a_sleep_says_why_it_is_not_a_wait() {
    let sleeps = Regex::new(r"\bsleep\(").expect("constant");
    let files = texts(&[".rs"]);
    let bare = lines(&files, |line| {
        line.text.contains("sleep(")
            && sleeps.is_match(line.text)
            && !line.text.contains("//")
            && !line.above.trim_start().starts_with("//")
            && line.file.path != "tests/tidy.rs"
    });
    none("wait for a condition with a deadline, or say beside it why not", bare);
}

#[test]
fn no_name_is_banned_by_the_glossary() {
    let item = Regex::new(
        r"^\s*(?:pub(?:\([^)]*\))?\s+)?(?:const\s+|unsafe\s+)*(?:fn|struct|enum|trait|mod|type)\s+(\w+)",
    )
    .expect("constant");
    let files = texts(&[".rs"]);
    let banned = lines(&files, |line| {
        // kernel/ speaks the kernel's words (NFTA_DATA, RTM_GETLINK); a test's name is a sentence.
        let exempt = line.file.path.starts_with("kernel/") || line.above.contains("#[test]");
        !exempt && item.captures(line.text).is_some_and(|found| banned_name(&found[1]).is_some())
    });
    none("the glossary has better words", banned);
    let stems = files.iter().map(|f| f.path.rsplit('/').next().unwrap_or("").trim_end_matches(".rs"));
    none("the glossary has better file names", stems.filter_map(banned_name).collect());
}

/// The offending name, or `None`.
fn banned_name(name: &str) -> Option<String> {
    const WORDS: [&str; 8] = ["manager", "helper", "helpers", "util", "utils", "common", "info", "data"];
    const STARTS: [&str; 4] = ["handle_", "do_", "get_", "process_"];
    // The one configuration key that carries a banned word.
    let words = snake(name).replace("data_dir", "");
    let unnumbered = name.strip_suffix(['1', '2', '3']).unwrap_or("");
    let numbered = unnumbered.trim_end_matches('_').ends_with(|last: char| last.is_ascii_lowercase())
        && !name.ends_with("_1")
        && !name.ends_with("v1");
    let bad = words.split('_').any(|word| WORDS.contains(&word))
        || STARTS.iter().any(|start| words.starts_with(start))
        || numbered;
    bad.then(|| name.to_owned())
}

/// `LinkManager` and `link_manager` alike.
fn snake(name: &str) -> String {
    let mut words = String::new();
    for (index, letter) in name.char_indices() {
        if letter.is_uppercase() && index > 0 {
            words.push('_');
        }
        words.extend(letter.to_lowercase());
    }
    words
}

#[test]
fn banned_names_are_recognised() {
    for name in ["LinkManager", "get_mtu", "do_add", "handle_add", "parse_data", "utils", "plan2", "plan_2"] {
        assert!(banned_name(name).is_some(), "{name} passes");
    }
    for name in ["ip4", "Version", "metadata", "sha512", "information", "doing", "rfc_1035_1", "getrandom"] {
        assert!(banned_name(name).is_none(), "{name} is refused");
    }
}

#[test]
fn nothing_is_unfinished_or_ignored() {
    let marks = Regex::new(r"#\[ignore|\btodo!\(|\bunimplemented!\(|\bFIXME\b|\bXXX\b").expect("constant");
    let files = texts(&[".rs"]);
    none("finish it", lines(&files, |line| line.file.path != "tests/tidy.rs" && marks.is_match(line.text)));
}

#[test]
fn unsafe_code_lives_in_the_kernel_crate_the_lab_and_tests() {
    let word = Regex::new(r"\bunsafe\b").expect("constant");
    let files = texts(&[".rs"]);
    let strays = lines(&files, |Line { file, text, .. }| {
        !file.path.starts_with("kernel/")
            && !file.path.starts_with("netns-tests/")
            && !file.path.contains("tests/")
            && !text.trim_start().starts_with("//")
            && word.is_match(text)
    });
    none("unsafe belongs into kernel/", strays);
}

#[test]
fn dependencies_point_one_way() {
    let allowed: [(&str, &[&str]); 5] = [
        ("cni", &[]),
        ("kernel", &[]),
        ("overlay", &["bowline-kernel"]),
        ("plugins", &["bowline-cni", "bowline-kernel", "bowline-overlay"]),
        ("proxy", &["bowline-kernel"]),
    ];
    for (room, may) in allowed {
        let manifest = read(&format!("{room}/Cargo.toml"));
        let used = manifest.split("[dev-dependencies]").next().unwrap_or("");
        for line in used.lines().filter(|l| l.starts_with("bowline-")) {
            let name = line.split(['.', ' ', '=']).next().unwrap_or("");
            assert!(may.contains(&name), "{room} must not depend on {name}");
        }
    }
}

#[test]
fn no_path_of_one_machine_is_committed() {
    let homes = Regex::new(r"(?:^|[\s\x22'(=])/(?:work|home/\w+|root)/").expect("constant");
    let files = texts(&[".rs", ".md", ".toml", ".conflist", "Makefile", "setup"]);
    none(
        "name no machine",
        lines(&files, |line| line.file.path != "tests/tidy.rs" && homes.is_match(line.text)),
    );
}

#[test]
fn every_acceptance_row_has_a_test() {
    let function = Regex::new(r"\bfn (\w+)").expect("constant");
    let mut names = Vec::new();
    for file in texts(&[".rs"]) {
        // Only tests count: files of tests, and what follows cfg(test) elsewhere.
        let is_test = file.path.contains("test");
        let tests = if is_test {
            Some(file.content.as_str())
        } else {
            file.content.split_once("#[cfg(test)]").map(|(_, t)| t)
        };
        for found in function.captures_iter(tests.unwrap_or("")) {
            names.push((file.path.clone(), found[1].to_owned()));
        }
    }
    let missing =
        rows().into_iter().filter(|row| !names.iter().any(|(path, name)| row.is_tested_by(path, name)));
    none(
        "rows of tests/rows.txt without a test",
        missing.map(|row| format!("{:?} {}", row.places, row.name)).collect(),
    );
}

/// A line of rows.txt.
struct Row {
    places: Vec<String>,
    name: String,
}

impl Row {
    fn is_tested_by(&self, path: &str, function: &str) -> bool {
        self.places.iter().any(|place| {
            let behind_place = function.strip_prefix(&format!("{place}_")).unwrap_or(function);
            (path.contains(place) && function.starts_with(&self.name))
                || behind_place != function && behind_place.starts_with(&self.name)
        })
    }
}

fn rows() -> Vec<Row> {
    let text = read("tests/rows.txt");
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|line| {
            let mut words = line.split_whitespace();
            let mut word =
                || words.next().unwrap_or_else(|| panic!("rows.txt: `{line}`: place and row")).to_owned();
            let places = word().split('|').map(str::to_owned).collect();
            Row { places, name: word().replace('-', "_") }
        })
        .collect()
}
