//! What Kubernetes asks of a Service proxy is listed, and every line names the tests that show it.

use std::collections::BTreeSet;

use bowline_tests::{Text, read, texts};

/// A line of `tests/e2e.txt` or `tests/machinery.txt`.
struct Line {
    /// What stands before what.
    class: String,
    what: String,
    shown: Vec<String>,
}

fn lines(file: &str) -> Vec<Line> {
    let text = read(file);
    let kept = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let one = |line: &str| {
        let [class, what, shown] = line.splitn(3, " | ").collect::<Vec<_>>()[..] else {
            panic!("{file}: `{line}`: class, what, and what shows it")
        };
        let shown = match shown.starts_with("- ") {
            true => vec![shown.to_owned()],
            // A row's options have commas too, without a blank behind them.
            false => shown.split(", ").map(str::to_owned).collect(),
        };
        Line { class: class.to_owned(), what: what.to_owned(), shown }
    };
    kept.map(one).collect()
}

/// Everything that a line may name.
struct There {
    sources: Vec<Text>,
    rows: BTreeSet<String>,
    differences: String,
}

impl There {
    fn look() -> There {
        let flows = read("proxy/tests/flows.txt");
        let rows = flows.lines().filter(|line| !line.starts_with(['#', '~']) && line.contains('|'));
        let row = |line: &str| {
            let mut columns = line.split('|');
            let words = columns.by_ref().take(2).flat_map(str::split_whitespace);
            words.collect::<Vec<_>>().join(" ")
        };
        // Lines that name a difference do so by the beginning of its row.
        let readme = read("proxy/README.md");
        let differences = readme.lines().filter(|line| line.starts_with("| ")).collect::<Vec<_>>().join("\n");
        There { sources: texts(&[".rs"]), rows: rows.map(row).collect(), differences }
    }

    fn has(&self, shown: &str) -> bool {
        if let Some(row) = shown.strip_prefix("row ") {
            return self.rows.contains(row);
        }
        if let Some(what) = shown.strip_prefix("difference ") {
            return self.differences.lines().any(|line| line.trim_start_matches("| ").starts_with(what));
        }
        let Some((file, function)) = shown.split_once("::") else { return false };
        let (file, function) = (format!("/{file}.rs"), format!("fn {function}("));
        self.sources
            .iter()
            .any(|text| format!("/{}", text.path).ends_with(&file) && text.content.contains(&function))
    }
}

/// Complains of all that is not as it should be at once.
fn all_are_shown(file: &str, may_be_unshown: impl Fn(&Line) -> bool) {
    let there = There::look();
    let mut wrong = Vec::new();
    for line in lines(file) {
        match &line.shown[..] {
            [reason] if reason.starts_with("- ") => {
                if !may_be_unshown(&line) || reason.split(' ').count() < 4 {
                    wrong.push(format!("{}: nothing shows it", line.what));
                }
            }
            shown => wrong.extend(
                shown
                    .iter()
                    .filter(|name| !there.has(name))
                    .map(|name| format!("{}: there is no {name}", line.what)),
            ),
        }
    }
    assert!(wrong.is_empty(), "{file}:\n{}", wrong.join("\n"));
}

/// What asks the proxy itself must be shown; what asks others needs a reason.
#[test]
fn every_end_to_end_test_has_one_here() {
    all_are_shown("tests/e2e.txt", |line| line.class != "P");
    let all = lines("tests/e2e.txt");
    let names: BTreeSet<&str> = all.iter().map(|line| line.what.as_str()).collect();
    assert_eq!(names.len(), all.len(), "each is named once");
    assert!(all.iter().filter(|line| line.class == "P").count() > 100, "the list is whole");
}

/// Machinery, configuration, observability: a test or a difference for each line.
#[test]
fn every_line_of_the_machinery_is_shown_or_named_as_a_difference() {
    all_are_shown("tests/machinery.txt", |_| false);
    let sections: BTreeSet<String> =
        lines("tests/machinery.txt").into_iter().map(|line| line.class).collect();
    let all = ["C.1", "C.2", "C.3", "C.4", "C.5", "C.6", "C.7", "C.8", "D", "E.1", "E.2", "E.3"];
    assert!(sections.iter().eq(all), "{sections:?}");
}

#[test]
fn what_is_missing_would_be_noticed() {
    let there = There::look();
    assert!(there.has("tests/kubernetes::what_is_missing_would_be_noticed") && there.has("row cluster-ip"));
    for absent in
        ["tests/kubernetes::no_such", "no/file::look", "row cluster-ip eps=nowhere", "difference no such row"]
    {
        assert!(!there.has(absent), "{absent}");
    }
}
