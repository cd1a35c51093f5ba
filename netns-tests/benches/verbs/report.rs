//! Figures to Markdown, and Markdown into README.md.

use std::fmt::Write;
use std::time::Duration;

use lab::readme;

use crate::contestant::{CHAIN, Contestant, Course, size_on_disk};

/// What one suite did in one row.
#[derive(Debug, Default, Clone)]
pub struct Cell {
    /// Every ADD.
    pub add: Vec<Duration>,
    /// Every DEL.
    pub del: Vec<Duration>,
    /// The largest process of one ADD, in KiB.
    pub peak_kib: u64,
}

/// Everything measured: rows by node size and course, two cells each.
pub struct Figures {
    disk: [u64; 2],
    courses: Vec<&'static str>,
    rows: Vec<(usize, &'static str, [Cell; 2])>,
}

/// The plug-ins whose size counts: those that both suites have here.
const SUITE: [&str; 9] =
    ["bandwidth", "bridge", "firewall", "host-local", "loopback", "portmap", "ptp", "static", "tuning"];

impl Figures {
    /// No rows yet.
    pub fn new(suites: &[Contestant; 2], courses: &[Course]) -> Figures {
        let disk = [0, 1].map(|i: usize| size_on_disk(&suites[i].directory, &SUITE));
        Figures { disk, courses: courses.iter().map(|c| c.name).collect(), rows: Vec::new() }
    }

    /// One more row.
    pub fn record(&mut self, nth: usize, course: &'static str, cells: [Cell; 2]) {
        self.rows.push((nth, course, cells));
    }

    /// The block for README.md.
    pub fn report(&self, took: Duration) -> String {
        let mut text = String::new();
        let sizes: Vec<usize> = {
            let mut sizes: Vec<usize> = self.rows.iter().map(|(nth, ..)| *nth).collect();
            sizes.dedup();
            sizes
        };
        for (verb, times) in
            [("ADD", (|cell| &cell.add) as fn(&Cell) -> &Vec<Duration>), ("DEL", |cell| &cell.del)]
        {
            let _ = write!(
                text,
                "{verb}, milliseconds, p50 / p99: bowline, reference, ratio of the medians\n\n|"
            );
            for nth in &sizes {
                let _ = write!(text, " | {} pod | | ", ordinal(*nth));
            }
            let _ = write!(text, "|\n|---|{}\n", "--:|--:|--:|".repeat(sizes.len()));
            for course in &self.courses {
                let strong = if *course == CHAIN { "**" } else { "" };
                let _ = write!(text, "| {strong}{course}{strong} ");
                for nth in &sizes {
                    let cells = self.cells(*nth, course);
                    let [ours, theirs] = [0, 1].map(|i: usize| Spread::of(times(&cells[i])));
                    let _ =
                        write!(text, "| {ours} | {theirs} | {strong}{:.0}×{strong} ", theirs.p50 / ours.p50);
                }
                text.push_str("|\n");
            }
            text.push('\n');
        }
        self.sizes(&mut text);
        let samples = self.rows.iter().map(|(.., cells)| cells[0].add.len());
        let _ = write!(
            text,
            "\n{} to {} samples a row, the two suites in turn on nodes of their own; reference: {}, with its default \
             backend; {}; {:.0} s in all.\n",
            samples.clone().min().unwrap_or(0),
            samples.max().unwrap_or(0),
            reference_version(),
            readme::machine(),
            took.as_secs_f64()
        );
        text
    }

    fn sizes(&self, text: &mut String) {
        let _ = write!(text, "| | bowline | reference |\n|---|--:|--:|\n");
        let [ours, theirs] = self.disk.map(|bytes| bytes as f64 / 1e6);
        let _ = writeln!(text, "| nine plug-ins on disk, MB | {ours:.1} | {theirs:.1} |");
        let peak = |i: usize, chain_only: bool| {
            let rows = self.rows.iter().filter(|(_, course, _)| !chain_only || *course == CHAIN);
            rows.map(|(.., cells)| cells[i].peak_kib).max().unwrap_or(0) as f64 * 1024.0 / 1e6
        };
        for (what, chain_only) in [("chain", true), ("any plug-in", false)] {
            let (ours, theirs) = (peak(0, chain_only), peak(1, chain_only));
            let _ = writeln!(
                text,
                "| peak memory of one ADD ({what}), largest process, MB | {ours:.1} | {theirs:.1} |"
            );
        }
    }

    fn cells(&self, nth: usize, course: &str) -> &[Cell; 2] {
        let row = self.rows.iter().find(|(n, c, _)| *n == nth && *c == course);
        &row.expect("every course was run at every size").2
    }
}

/// Two percentiles in milliseconds.
struct Spread {
    p50: f64,
    p99: f64,
}

impl Spread {
    fn of(times: &[Duration]) -> Spread {
        let mut sorted: Vec<f64> = times.iter().map(|t| t.as_secs_f64() * 1e3).collect();
        sorted.sort_by(f64::total_cmp);
        let at = |share: f64| sorted[((sorted.len() - 1) as f64 * share).round() as usize];
        Spread { p50: at(0.5), p99: at(0.99) }
    }
}

impl std::fmt::Display for Spread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} / {}", short(self.p50), short(self.p99))
    }
}

fn short(ms: f64) -> String {
    if ms < 20.0 { format!("{ms:.1}") } else { format!("{ms:.0}") }
}

fn ordinal(nth: usize) -> String {
    match nth {
        1 => "1st".to_owned(),
        1000 => "1,000th".to_owned(),
        nth => format!("{nth}th"),
    }
}

/// A row for people who watch.
pub fn line(course: &str, cells: &[Cell; 2]) -> String {
    let [ours, theirs] = cells.clone().map(|cell| {
        let (add, del) = (Spread::of(&cell.add), Spread::of(&cell.del));
        format!("ADD {add}  DEL {del}  {} KiB", cell.peak_kib)
    });
    format!("  {course:<44} {ours:<40} {theirs}")
}

fn reference_version() -> String {
    let asked = std::process::Command::new("dpkg-query")
        .args(["-W", "-f", "${Package} ${Version}", "containernetworking-plugins"])
        .output();
    asked.map(|o| String::from_utf8_lossy(&o.stdout).into_owned()).unwrap_or_default()
}
