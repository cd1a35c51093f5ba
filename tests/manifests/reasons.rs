//! Each capability, right, volume and probe stands below a line that says why.

use bowline_tests::read;

const FILES: [&str; 5] = [
    "conf/base/account.yaml",
    "conf/base/daemonset.yaml",
    "conf/cleanup/daemonset.yaml",
    "conf/overlays/proxy-only/account.yaml",
    "conf/overlays/proxy-only/daemonset.yaml",
];

/// Lines of `text` that open something to be explained, without the line above being a comment.
fn unexplained(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let (mut above, mut section) = ("", String::new());
    for line in text.lines() {
        let word = line.trim();
        let asks = match section.as_str() {
            "volumes:" => line.starts_with("      - name:"),
            "add:" => word.starts_with("- "),
            _ => false,
        };
        let is_setting =
            ["hostNetwork:", "priorityClassName:", "terminationGracePeriodSeconds:", "- operator:"]
                .iter()
                .any(|key| word.starts_with(key));
        if (asks || is_setting || word == "startupProbe:" || word == "livenessProbe:")
            && !above.trim().starts_with('#')
            && !found.contains(&word.to_owned())
        {
            found.push(word.to_owned());
        }
        if word.ends_with(':')
            && !word.starts_with('-')
            && (word == "add:" || word == "volumes:" || section == "add:")
        {
            section = word.to_owned();
        }
        above = line;
    }
    found
}

#[test]
fn whatever_a_manifest_asks_for_it_says_why() {
    for file in FILES {
        let unexplained = unexplained(&read(file));
        // The one that cleans up says it at its top, and ends like the other.
        let left: Vec<&String> =
            unexplained.iter().filter(|line| !file.contains("cleanup") || line.starts_with("- ")).collect();
        assert!(left.is_empty(), "{file}: {left:?}");
    }
}
