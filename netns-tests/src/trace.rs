//! "Leaves no trace": a node's whole network state as text, compared byte for byte.

use std::path::Path;

use crate::Space;

/// What a node looked like at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    sections: Vec<(String, String)>,
}

/// Commands whose output must be the same afterwards. `nft -s` and `iptables-save` without `-c` leave counters out:
/// foreign rules go on counting while a test runs.
const COMMANDS: [&str; 13] = [
    "nft -s list ruleset",
    "ip -d link",
    "ip addr",
    "ip route show table all",
    "ip -6 route show table all",
    "ip rule",
    "ip -6 rule",
    "bridge vlan",
    "bridge fdb show",
    "tc qdisc",
    "tc filter show dev eth0",
    "iptables-legacy-save",
    "ip6tables-legacy-save",
];

/// State directories of plug-ins: addresses, backups, results, and whatever is put beside them.
const DIRECTORIES: [&str; 4] = ["/var/lib/cni", "/run/cni", "/run/bowline", "/var/lib/bowline"];

impl Snapshot {
    /// Takes it. In the lab's virtual machine, where each program takes a fifth of a second, the quick one.
    pub fn of(node: &Space) -> Snapshot {
        if std::env::var_os("LAB_LAYERED").is_some() {
            return Self::quick(node);
        }
        let mut sections: Vec<(String, String)> = COMMANDS
            .iter()
            .map(|command| (command.to_string(), normalise(command, &node.sh(command))))
            .collect();
        sections.push(("sysctl net".into(), node.run(|| sysctls(Path::new("/proc/sys/net")))));
        for directory in DIRECTORIES {
            sections.push((format!("find {directory}"), node.run(|| files(Path::new(directory)))));
        }
        Snapshot { sections }
    }

    /// What changes fastest, in a tenth of the time: rulesets, links, addresses, routes and files. For loops that
    /// compare after each of many steps.
    pub fn quick(node: &Space) -> Snapshot {
        let commands =
            ["nft -s list ruleset", "ip -d link", "ip -o addr", "ip route show table all", "tc qdisc"];
        let mut sections: Vec<(String, String)> = commands
            .iter()
            .map(|command| (command.to_string(), normalise(command, &node.sh(command))))
            .collect();
        for directory in DIRECTORIES {
            sections.push((format!("find {directory}"), node.run(|| files(Path::new(directory)))));
        }
        Snapshot { sections }
    }

    /// The lines that were there before and are not now (`-`) and the reverse (`+`); empty when nothing changed.
    pub fn difference(&self, after: &Snapshot) -> String {
        let mut text = String::new();
        for ((title, before), (_, after)) in self.sections.iter().zip(&after.sections) {
            if before == after {
                continue;
            }
            text.push_str(&format!("{title}:\n"));
            let missing = |from: &str, other: &str, sign: char| -> String {
                let gone = from.lines().filter(|line| !other.lines().any(|o| o == *line));
                gone.map(|line| format!("  {sign} {line}\n")).collect()
            };
            let lines = missing(before, after, '-') + &missing(after, before, '+');
            text.push_str(if lines.is_empty() { "  the order of lines changed\n" } else { &lines });
        }
        text
    }

    /// The same without the sections whose title starts with one of `titles`.
    #[must_use]
    pub fn without(mut self, titles: &[&str]) -> Snapshot {
        self.sections.retain(|(title, _)| !titles.iter().any(|t| title.starts_with(t)));
        self
    }
}

/// Takes out what changes by itself: the time of day with which iptables-save stamps its output, and the seconds left
/// on a bridge's timers.
fn normalise(command: &str, text: &str) -> String {
    let mut kept = String::new();
    for line in text.lines() {
        if command.contains("-save") && line.starts_with('#') {
            continue;
        }
        // Numbers are padded to a width, so there may be empty words between a timer and its value.
        let mut is_after_timer = false;
        for word in line.split(' ') {
            if is_after_timer {
                is_after_timer = word.is_empty();
                continue;
            }
            kept.push_str(word);
            kept.push(' ');
            is_after_timer = word.ends_with("_timer");
        }
        kept.push('\n');
    }
    kept
}

/// Every readable sysctl below net but the count of conntrack entries.
fn sysctls(directory: &Path) -> String {
    let mut lines = Vec::new();
    walk(directory, &mut |path| {
        let name = path.display().to_string();
        if !name.ends_with("nf_conntrack_count")
            && let Ok(value) = std::fs::read_to_string(path)
        {
            lines.push(format!("{name} = {}\n", value.trim()));
        }
    });
    lines.sort();
    lines.concat()
}

/// Every file with its size, but for the two markers that host-local leaves by design: its lock and the address it
/// gave out last, from which it goes on.
fn files(directory: &Path) -> String {
    let mut lines = Vec::new();
    walk(directory, &mut |path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name != "lock" && !name.starts_with("last_reserved_ip.") {
            let size = path.metadata().map(|m| m.len()).unwrap_or_default();
            lines.push(format!("{} ({size} bytes)\n", path.display()));
        }
    });
    lines.sort();
    lines.concat()
}

fn walk(directory: &Path, visit: &mut dyn FnMut(&Path)) {
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => walk(&path, visit),
            Ok(_) => visit(&path),
            Err(_) => {}
        }
    }
}
