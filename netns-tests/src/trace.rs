//! "Leaves no trace": a node's whole network state as text, compared byte for byte.

use std::path::Path;
use std::time::{Duration, Instant};

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

/// State that is not looked up by a program.
const SYSCTLS: &str = "sysctl net";
const FILES: &str = "find ";

/// How long the kernel may take to finish what it does behind one's back: settle an address, free a link.
const SETTLING: Duration = Duration::from_secs(3);

impl Snapshot {
    /// Takes it. In the lab's virtual machine, where each program takes a fifth of a second, the quick one.
    pub fn of(node: &Space) -> Snapshot {
        if std::env::var_os("LAB_LAYERED").is_some() {
            return Self::quick(node);
        }
        Self::settled(node, &[&COMMANDS[..], &[SYSCTLS]].concat())
    }

    /// What changes fastest, in a tenth of the time: rulesets, links, addresses, routes and files. For loops that
    /// compare after each of many steps.
    pub fn quick(node: &Space) -> Snapshot {
        let commands =
            ["nft -s list ruleset", "ip -d link", "ip -o addr", "ip route show table all", "tc qdisc"];
        Self::settled(node, &commands)
    }

    /// Waits for addresses to be neither on probation nor on their way into the routing tables.
    fn settled(node: &Space, sources: &[&str]) -> Snapshot {
        let titles: Vec<String> = sources.iter().map(|s| s.to_string()).chain(directories()).collect();
        let deadline = Instant::now() + SETTLING;
        let mut last = Self::now(node, titles.iter().map(String::as_str));
        loop {
            let is_tentative = last.sections.iter().any(|(_, text)| text.contains(" tentative "));
            if !is_tentative || Instant::now() > deadline {
                return last;
            }
            last = Self::now(node, titles.iter().map(String::as_str));
        }
    }

    fn now<'a>(node: &Space, titles: impl Iterator<Item = &'a str>) -> Snapshot {
        let section = |title: &'a str| {
            let text = if title == SYSCTLS {
                node.run(|| sysctls(Path::new("/proc/sys/net")))
            } else if let Some(directory) = title.strip_prefix(FILES) {
                node.run(|| files(Path::new(directory)))
            } else {
                normalise(title, &node.sh(title))
            };
            (title.to_owned(), text)
        };
        Snapshot { sections: titles.map(section).collect() }
    }

    /// The lines that were there before and are not now (`-`) and the reverse (`+`); empty when all is as it was, at
    /// the latest once the kernel has settled.
    pub fn difference(&self, node: &Space) -> String {
        let deadline = Instant::now() + SETTLING;
        loop {
            let after = Self::now(node, self.sections.iter().map(|(title, _)| title.as_str()));
            let difference = self.compare(&after);
            if difference.is_empty() || Instant::now() > deadline {
                return difference;
            }
        }
    }

    fn compare(&self, after: &Snapshot) -> String {
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

fn directories() -> impl Iterator<Item = String> {
    DIRECTORIES.iter().map(|directory| format!("{FILES}{directory}"))
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
