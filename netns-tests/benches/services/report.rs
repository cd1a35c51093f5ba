//! Figures to Markdown.

use std::fmt::Write;
use std::time::Duration;

use crate::contestant::Backend;
use crate::latency::{self, PARTS};
use crate::measure::{BURST, Figures};
use crate::objects::ENDPOINTS;

/// What one program did at one size.
#[derive(Debug, Clone)]
pub struct Row {
    /// By which way.
    pub backend: Backend,
    /// With how many Services.
    pub services: u32,
    /// What was measured; none where it was left out, for that reason.
    pub figures: Result<Figures, &'static str>,
}

/// Connections with few Services and with many, in turn.
pub struct Connections {
    /// Through whose proxy.
    pub program: &'static str,
    /// How many Services each has.
    pub sizes: [u32; 2],
    /// Every duration of each.
    pub took: [Vec<Duration>; 2],
}

/// The table of one program.
pub fn alone(rows: &[Row]) -> String {
    let mut text = format!(
        "| bowline | Services x {ENDPOINTS} | first sync | one change, p50 / p99 | {} changes, CPU | memory, at most |\n\
         |---|--:|--:|--:|--:|--:|\n",
        thousands(BURST)
    );
    for Row { backend, services, figures } in rows {
        let _ = write!(text, "| {} | {} |", backend.name(), thousands(*services));
        let _ = match figures {
            Ok(figures) => writeln!(
                text,
                " {} | {} / {} | {} | {:.0} MB |",
                short(figures.first),
                short(at(&figures.changes, 50)),
                short(at(&figures.changes, 99)),
                short(figures.burst),
                megabytes(figures),
            ),
            Err(why) => writeln!(text, " {why} | | | |"),
        };
    }
    text
}

/// Both programs beside each other: kube-proxy, ours, and how many times ours is better.
pub fn beside(ours: &[Row], theirs: &[Row]) -> String {
    let mut text = format!(
        "| kube-proxy, bowline, ratio | Services x {ENDPOINTS} | first sync | one change, p50 | {} changes, CPU | memory, at most |\n\
         |---|--:|--:|--:|--:|--:|\n",
        thousands(BURST)
    );
    for Row { backend, services, figures } in theirs {
        let same = |row: &&Row| row.backend == *backend && row.services == *services;
        let mine = ours.iter().find(same).and_then(|row| row.figures.as_ref().ok());
        let _ = write!(text, "| {} | {} |", backend.name(), thousands(*services));
        let (their, mine) = match (figures, mine) {
            (Ok(their), Some(mine)) => (their, mine),
            (Err(why), _) => {
                let _ = writeln!(text, " {why} | | | |");
                continue;
            }
            (_, None) => continue,
        };
        for time in [(|f| f.first) as fn(&Figures) -> Duration, |f| at(&f.changes, 50), |f| f.burst] {
            let (their, mine) = (time(their), time(mine));
            let ratio = their.as_secs_f64() / mine.as_secs_f64().max(1e-3);
            let _ = write!(text, " {}, {}, {} |", short(their), short(mine), times(ratio));
        }
        let (their, mine) = (megabytes(their), megabytes(mine));
        let _ = writeln!(text, " {their:.0}, {mine:.0} MB, {} |", times(their / mine));
    }
    text
}

/// A sentence about connections.
pub fn connections(all: &[Connections]) -> String {
    let mut text = String::new();
    for Connections { program, sizes: [few, many], took: [few_took, many_took] } in all {
        let (above, least, most) = latency::compared(few_took, many_took);
        let us = |took: &[Duration]| latency::median(took).as_secs_f64() * 1e6;
        let _ = writeln!(
            text,
            "A new connection through a ClusterIP, pod to pod, {program} on nftables: {:.1} us (p50) with {} Service, \
             {:.1} us with {}: {above:+.1} %. {} connections through each in turn; in {PARTS} parts of the run \
             {least:+.1} to {most:+.1} %.",
            us(few_took),
            thousands(*few),
            us(many_took),
            thousands(*many),
            thousands(u32::try_from(few_took.len()).unwrap_or(u32::MAX)),
        );
    }
    text
}

fn megabytes(figures: &Figures) -> f64 {
    figures.peak_kib as f64 * 1024.0 / 1e6
}

fn at(sorted: &[Duration], percent: usize) -> Duration {
    sorted.get(sorted.len().saturating_sub(1) * percent / 100).copied().unwrap_or_default()
}

fn times(ratio: f64) -> String {
    if ratio < 9.95 { format!("{ratio:.1}×") } else { format!("{ratio:.0}×") }
}

fn short(time: Duration) -> String {
    let ms = time.as_secs_f64() * 1e3;
    match ms {
        ms if ms < 9.95 => format!("{ms:.1} ms"),
        ms if ms < 999.5 => format!("{ms:.0} ms"),
        ms => format!("{:.1} s", ms / 1e3),
    }
}

fn thousands(number: u32) -> String {
    match (number / 1000, number % 1000) {
        (0, rest) => rest.to_string(),
        (whole, rest) => format!("{whole},{rest:03}"),
    }
}
