//! The documents say what is there.

use bowline_tests::{read, root, texts};
use regex_lite::Regex;

#[test]
fn every_room_is_on_both_maps() {
    let readme = read("README.md");
    let architecture = read("ARCHITECTURE.md");
    for entry in std::fs::read_dir(root()).expect("the root is readable").flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if !entry.path().is_dir() || name == "target" || name.starts_with('.') {
            continue;
        }
        let linked = readme.contains(&format!("]({name})")) || readme.contains(&format!("| `{name}/` |"));
        assert!(linked, "README.md's map lacks {name}/");
        assert!(architecture.contains(&format!("`{name}/")), "ARCHITECTURE.md's code map lacks {name}/");
    }
}

#[test]
fn ci_runs_what_the_readme_tells() {
    let readme = read("README.md");
    let section = readme.split("## Tests").nth(1).expect("README.md has a section Tests");
    let told = section.lines().find_map(|line| line.strip_prefix("$ ")).expect("it shows a command");
    let told = told.split('#').next().unwrap_or("").trim();
    let ci = read(".ci/run");
    let runs: Vec<&str> = ci
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .filter(|line| !line.starts_with("set ") && !line.starts_with("cd "))
        .collect();
    assert_eq!(runs, [told], ".ci/run must call exactly the command of README.md");
}

#[test]
fn every_link_leads_somewhere() {
    let link = Regex::new(r"\]\(([^)#]+)(?:#[^)]*)?\)").expect("constant");
    for text in texts(&[".md"]) {
        let folder = root().join(&text.path).parent().expect("a file has a folder").to_owned();
        for found in link.captures_iter(&text.content) {
            let target = &found[1];
            if !target.contains("://") {
                assert!(folder.join(target).exists(), "{}: `{target}` does not exist", text.path);
            }
        }
    }
}

#[test]
fn every_make_target_that_documents_name_exists() {
    let makefile = read("Makefile");
    let named = Regex::new(r"\bmake ([a-z][a-z0-9-]*)").expect("constant");
    for text in texts(&[".md"]) {
        let code = text.content.lines().filter(|l| l.starts_with("$ ") || l.contains("`make "));
        for line in code {
            for found in named.captures_iter(line) {
                let rule = format!("\n{}:", &found[1]);
                assert!(makefile.contains(&rule), "{}: `make {}` is no target", text.path, &found[1]);
            }
        }
    }
}

#[test]
fn every_conflist_that_documents_name_exists() {
    let named = Regex::new(r"\bconf/([A-Za-z0-9._-]+\.conflist)").expect("constant");
    for text in texts(&[".md", ".rs"]) {
        for found in named.captures_iter(&text.content) {
            let path = format!("conf/{}", &found[1]);
            assert!(root().join(&path).is_file(), "{} names {path}, which does not exist", text.path);
        }
    }
}
