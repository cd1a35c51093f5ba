//! The flow table's lines.

use std::collections::BTreeSet;

use proxy::{Family, Mode};

use super::backend::Backend;

/// Who sends: the columns of the table.
pub const SENDERS: [&str; 4] = ["pod", "node", "outside", "endpoint"];

/// One line.
#[derive(Debug, Clone)]
pub struct Row {
    pub line: usize,
    pub frontends: Vec<String>,
    pub options: Vec<(String, String)>,
    /// By sender; none is not asked.
    pub expected: Vec<Option<Expected>>,
    /// What single dataplanes do instead.
    pub deviations: Vec<Deviation>,
}

/// A dataplane that does something else.
#[derive(Debug, Clone)]
pub struct Deviation {
    pub mode: Mode,
    /// None is both.
    pub family: Option<Family>,
    pub reason: String,
    /// By sender: what it gets, or as everywhere.
    pub expected: Vec<Column>,
}

/// A column of a deviation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Column {
    AsEverywhere,
    Instead(Option<Expected>),
}

/// What a sender gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expected {
    Reject,
    Drop,
    NotOurs,
    /// Endpoint, and whether it is masqueraded.
    Endpoints(BTreeSet<(String, bool)>),
}

impl Row {
    /// A row with these options and nothing expected.
    pub fn with_options(options: &str) -> Row {
        let options = options.split_whitespace().map(|word| word.split_once('=').unwrap_or((word, "")));
        let options = options.map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
        Row { line: 0, frontends: Vec::new(), options, expected: Vec::new(), deviations: Vec::new() }
    }

    /// What each sender gets by a dataplane, or by the plan.
    pub fn expected_by(&self, backend: Option<Backend>, family: Family) -> Vec<Option<Expected>> {
        let mut expected = self.expected.clone();
        let mode = backend.map(|backend| match backend {
            Backend::Nftables => Mode::Nftables,
            Backend::IptablesNft | Backend::IptablesLegacy => Mode::Iptables,
            Backend::Ipvs => Mode::Ipvs,
        });
        let applies = |deviation: &&Deviation| {
            Some(deviation.mode) == mode && deviation.family.is_none_or(|other| other == family)
        };
        for deviation in self.deviations.iter().filter(applies) {
            for (expected, column) in expected.iter_mut().zip(&deviation.expected) {
                if let Column::Instead(instead) = column {
                    expected.clone_from(instead);
                }
            }
        }
        expected
    }

    pub fn option(&self, key: &str) -> Option<&str> {
        self.options.iter().find(|(other, _)| other == key).map(|(_, value)| value.as_str())
    }
}

/// All of tests/flows.txt.
pub fn rows() -> Vec<Row> {
    let text = include_str!("../flows.txt");
    let lines = text.lines().enumerate().filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
    let mut rows: Vec<Row> = Vec::new();
    for (index, line) in lines {
        match (line.strip_prefix('~'), rows.last_mut()) {
            (Some(deviation), Some(row)) => row.deviations.push(deviate(index + 1, deviation)),
            (Some(_), None) => panic!("line {}: a deviation from nothing", index + 1),
            (None, _) => rows.push(read(index + 1, line)),
        }
    }
    rows
}

/// `~ MODE [FAMILY] | reason | columns`, `=` for a column as it is.
fn deviate(line: usize, text: &str) -> Deviation {
    let columns: Vec<&str> = text.split('|').map(str::trim).collect();
    let [who, reason, expected @ ..] = &columns[..] else { panic!("line {line}: columns") };
    assert_eq!(expected.len(), SENDERS.len(), "line {line}: one column for each of {SENDERS:?}");
    let (mode, family) = who.split_once(' ').unwrap_or((who, ""));
    let family = match family {
        "" => None,
        "IPv4" => Some(Family::V4),
        "IPv6" => Some(Family::V6),
        other => panic!("line {line}: {other}"),
    };
    let column = |text: &&str| match *text {
        "=" => Column::AsEverywhere,
        other => Column::Instead(expect(line, other)),
    };
    let mode = Mode::named(mode).unwrap_or_else(|| panic!("line {line}: {mode}"));
    Deviation { mode, family, reason: (*reason).to_owned(), expected: expected.iter().map(column).collect() }
}

fn read(line: usize, text: &str) -> Row {
    let columns: Vec<&str> = text.split('|').map(str::trim).collect();
    let [frontend, options, expected @ ..] = &columns[..] else { panic!("line {line}: columns") };
    assert_eq!(expected.len(), SENDERS.len(), "line {line}: one column for each of {SENDERS:?}");
    let frontends = match *frontend {
        "external" => ["node-port", "load-balancer", "external-ip"].map(str::to_owned).to_vec(),
        other => vec![other.to_owned()],
    };
    let expected = expected.iter().map(|text| expect(line, text)).collect();
    Row { line, frontends, expected, ..Row::with_options(options) }
}

fn expect(line: usize, text: &str) -> Option<Expected> {
    Some(match text {
        "." => return None,
        "reject" => Expected::Reject,
        "drop" => Expected::Drop,
        "not-ours" => Expected::NotOurs,
        _ => Expected::Endpoints(
            text.split_whitespace()
                .map(|word| match word.split_once('/') {
                    Some((endpoint, "m")) => (endpoint.to_owned(), true),
                    Some((endpoint, "k")) => (endpoint.to_owned(), false),
                    _ => panic!("line {line}: {word}"),
                })
                .collect(),
        ),
    })
}
