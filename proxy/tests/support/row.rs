//! The flow table's lines.

use std::collections::BTreeSet;

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
        Row { line: 0, frontends: Vec::new(), options, expected: Vec::new() }
    }

    pub fn option(&self, key: &str) -> Option<&str> {
        self.options.iter().find(|(other, _)| other == key).map(|(_, value)| value.as_str())
    }
}

/// All of tests/flows.txt.
pub fn rows() -> Vec<Row> {
    let text = include_str!("../flows.txt");
    let lines = text.lines().enumerate().filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
    lines.map(|(index, line)| read(index + 1, line)).collect()
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
