//! A survey of a cluster, for people and for programs.

use daemon::status::Status;
use daemon::survey::{Finding, NodeSurvey, Severity, State, Survey};

use crate::columns::{aligned, counted, joined};

/// As JSON, with what the exit code says.
///
/// # Errors
/// A sentence: it can't be written.
pub fn json(survey: &Survey) -> Result<String, String> {
    let mut value = serde_json::to_value(survey).map_err(|error| error.to_string())?;
    value["ok"] = survey.is_well().into();
    serde_json::to_string_pretty(&value).map(|text| text + "\n").map_err(|error| error.to_string())
}

/// A line for each node, then what is wrong and what to do.
pub fn table(survey: &Survey) -> String {
    let well = survey.nodes.iter().filter(|node| node.state == State::Ok).count();
    let mut text =
        format!("cluster  {}, {}, {well} of them ok\n\n", survey.server, counted(survey.nodes.len(), "node"));
    let title = ["NODE", "STATE", "VERSION", "MODE", "POD CIDRS", "PEERS", "SERVICES", "SYNCED", "PUT BACK"];
    let mut rows = vec![title.map(str::to_owned).to_vec()];
    rows.extend(survey.nodes.iter().map(row));
    text.push_str(&aligned(0, &rows));
    text.push_str(&findings("cluster", &survey.findings));
    for node in &survey.nodes {
        text.push_str(&findings(&node.name, &node.findings));
    }
    text
}

fn row(node: &NodeSurvey) -> Vec<String> {
    let told = |of: &dyn Fn(&Status) -> String| node.status.as_ref().map_or_else(String::new, of);
    let cells = vec![
        node.name.clone(),
        word(node.state).to_owned(),
        told(&|it| it.version.clone()),
        told(&|it| it.mode.clone()),
        told(&|it| joined(&it.pod_cidrs)),
        told(&|it| match it.last_sync {
            Some(_) => format!("{}/{}", it.peers_known, node.peers_expected),
            None => String::new(),
        }),
        told(&|it| {
            it.services.as_ref().map_or_else(String::new, |it| format!("{} by {}", it.ports, it.mode))
        }),
        told(&|it| synced(it).map_or_else(String::new, |age| format!("{age} s ago"))),
        told(&|it| it.drift_repaired.values().sum::<u64>().to_string()),
    ];
    // An empty cell would make the ones behind it seem to be its own.
    cells.into_iter().map(|cell| if cell.is_empty() { "-".to_owned() } else { cell }).collect()
}

/// For how many seconds nothing has been brought to the kernel.
fn synced(status: &Status) -> Option<u64> {
    let network = status.last_sync.as_ref().map(|sync| sync.at);
    let at = network.or_else(|| status.services.as_ref()?.last_sync)?;
    Some(status.told.saturating_sub(at))
}

fn word(state: State) -> &'static str {
    match state {
        State::Ok => "ok",
        State::Problem => "PROBLEM",
        State::NotReady => "NOT READY",
        State::NoAnswer => "NO ANSWER",
        State::NoDaemon => "NO DAEMON",
        State::NotOurs => "not ours",
    }
}

fn findings(of: &str, findings: &[Finding]) -> String {
    if findings.is_empty() {
        return String::new();
    }
    let mut text = format!("\n{of}\n");
    for finding in findings {
        let note = if finding.severity == Severity::Note { "note: " } else { "" };
        text.push_str(&format!("  {note}{}\n", finding.what));
        if !finding.advice.is_empty() {
            text.push_str(&format!("    -> {}\n", finding.advice));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use daemon::status::{ServicesStatus, SyncStatus};

    use super::*;

    fn survey() -> Survey {
        let status = Status {
            version: "0.1.0".into(),
            node: "a".into(),
            mode: "vxlan".into(),
            ready: true,
            told: 100,
            pod_cidrs: vec!["10.1.0.0/24".parse().expect("a network")],
            peers_known: 2,
            last_sync: Some(SyncStatus { at: 88, ..SyncStatus::default() }),
            services: Some(ServicesStatus {
                mode: "nftables".into(),
                ports: 35,
                ..ServicesStatus::default()
            }),
            ..Status::default()
        };
        let a = NodeSurvey {
            name: "a".into(),
            state: State::Ok,
            status: Some(status),
            peers_expected: 2,
            ..NodeSurvey::default()
        };
        let b = NodeSurvey {
            name: "b".into(),
            findings: vec![Finding::problem("no pod of bowlined is here", "look"), Finding::note("cold", "")],
            ..NodeSurvey::default()
        };
        Survey { server: "https://x".into(), nodes: vec![a, b], findings: vec![] }
    }

    #[test]
    fn every_node_has_a_line_and_what_is_wrong_comes_below() {
        let expected = "\
cluster  https://x, 2 nodes, 1 of them ok

NODE  STATE      VERSION  MODE   POD CIDRS    PEERS  SERVICES        SYNCED    PUT BACK
a     ok         0.1.0    vxlan  10.1.0.0/24  2/2    35 by nftables  12 s ago  0
b     NO DAEMON  -        -      -            -      -               -         -

b
  no pod of bowlined is here
    -> look
  note: cold
";
        assert_eq!(table(&survey()), expected);
    }

    #[test]
    fn json_says_whether_all_is_well_and_can_be_read_back() {
        let survey = survey();
        let text = json(&survey).expect("written");
        assert!(text.contains("\"ok\": false"), "{text}");
        assert!(text.contains("\"state\": \"noDaemon\""), "{text}");
        assert_eq!(serde_json::from_str::<Survey>(&text).expect("read"), survey);
    }
}
