//! kube-proxy's flags and file: every row of kube_proxy/settings.txt, and what kubeadm writes.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use daemon::kube_proxy::given::Settings;
use daemon::kube_proxy::table::{SETTINGS, SPECIALS};
use daemon::kube_proxy::{Decided, Line, decide};
use proxy::plan::{DetectLocal, NodePortAddresses};

const ROWS: &str = include_str!("kube_proxy/settings.txt");

#[derive(Debug)]
struct Row<'a> {
    field: Option<&'a str>,
    flag: Option<&'a str>,
    /// Fields that are set besides, the mode first.
    besides: Vec<(&'a str, &'a str)>,
    value: &'a str,
    outcome: &'a str,
}

fn rows() -> Vec<Row<'static>> {
    let lines = ROWS.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|line| {
            let cells: Vec<&str> = line.split(" | ").map(str::trim).collect();
            assert_eq!(cells.len(), 5, "not five cells: {line}");
            let named = |cell: &'static str| (cell != "-").then_some(cell);
            let besides = named(cells[2]).into_iter().flat_map(str::split_whitespace);
            let besides = besides.map(|word| word.split_once('=').unwrap_or(("mode", word))).collect();
            let value = cells[3].trim_matches('"');
            Row { field: named(cells[0]), flag: named(cells[1]), besides, value, outcome: cells[4] }
        })
        .collect()
}

/// What a way of giving settings comes to.
type Outcome = Result<(Decided, Vec<String>), String>;

fn by_flags(flags: &[String]) -> Outcome {
    let mut warnings = Vec::new();
    let line = Line::parse(flags)?;
    decide(&line, "host", &mut warnings).map(|decided| (decided, warnings))
}

fn by_file(text: &str, flags: &[&str]) -> Outcome {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("config.conf");
    std::fs::write(&path, text).expect("written");
    let mut words = vec![format!("--config={}", path.display())];
    words.extend(flags.iter().map(|flag| (*flag).to_owned()));
    let outcome = by_flags(&words);
    let short = |text: String| text.replace(&format!("{}/", dir.path().display()), "");
    outcome.map(|(decided, warnings)| (decided, warnings.into_iter().map(short).collect())).map_err(short)
}

/// A file with these fields.
fn file(fields: &[(&str, &str)]) -> String {
    let mut text = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n".to_owned();
    for (field, value) in fields {
        let close = "}".repeat(field.matches('.').count());
        text.push_str(&format!("{}: {value}{close}\n", field.replace('.', ": {")));
    }
    text
}

/// A value of a field in YAML.
fn in_file(field: &str, value: &str) -> String {
    let quoted = |text: &str| format!("{text:?}");
    match field {
        "featureGates" => format!("{{{}}}", value.replace('=', ": ")),
        "logging.vmodule" => {
            let (pattern, level) = value.split_once('=').expect("pattern=level");
            format!("[{{filePattern: {pattern}, verbosity: {level}}}]")
        }
        "nodePortAddresses" | "ipvs.excludeCIDRs" => {
            format!("[{}]", value.split(',').map(quoted).collect::<Vec<_>>().join(", "))
        }
        _ if value.parse::<f64>().is_ok() || value == "true" || value == "false" => {
            // Versions are text.
            if field == "showHiddenMetricsForVersion" { quoted(value) } else { value.to_owned() }
        }
        _ if value.starts_with('{') => value.to_owned(),
        _ => quoted(value),
    }
}

/// What one decided thing has that another has not, in one line.
fn difference(decided: &Decided, from: &Decided) -> String {
    let lines = |decided: &Decided| {
        let bare = Decided { settings: Settings::default(), file: None, ..decided.clone() };
        format!("{bare:#?}").lines().map(|line| line.trim().to_owned()).collect::<Vec<_>>()
    };
    let (new, old) = (lines(decided), lines(from));
    let shared = new.iter().zip(&old).take_while(|(new, old)| new == old).count();
    let tail = new[shared..]
        .iter()
        .rev()
        .zip(old[shared..].iter().rev())
        .take_while(|(new, old)| new == old)
        .count();
    new[shared..new.len() - tail].join(" ")
}

/// Judges one way of giving a row's setting.
fn judge(row: &Row<'_>, outcome: Outcome, base: Outcome) {
    let shown = format!("{row:?}");
    if let Some(error) = row.outcome.strip_prefix("error: ") {
        let said = outcome.map(|_| ()).expect_err(&shown);
        assert!(said.contains(error), "{shown}: {said}");
        return;
    }
    let (decided, warnings) = outcome.unwrap_or_else(|error| panic!("{shown}: {error}"));
    let (base, usual) = base.unwrap_or_else(|error| panic!("{shown}: {error}"));
    let news: Vec<&String> = warnings.iter().filter(|warning| !usual.contains(warning)).collect();
    let changed = difference(&decided, &base);
    if row.outcome.contains("no effect") {
        let text = row
            .outcome
            .strip_prefix("no effect: ")
            .map_or(row.outcome.to_owned(), |why| format!("no effect: {why}"));
        assert!(changed.is_empty(), "{shown}: changes {changed}");
        assert_eq!(news.len(), 1, "{shown}: one warning, not {news:?}");
        assert!(news[0].contains(&text), "{shown}: {news:?}");
        let name = row.field.into_iter().chain(row.flag).any(|name| news[0].contains(name));
        assert!(name, "{shown}: the warning names neither field nor flag: {news:?}");
    } else if row.outcome == "nothing" {
        assert!(changed.is_empty() && news.is_empty(), "{shown}: {changed} {news:?}");
    } else {
        assert!(changed.contains(row.outcome), "{shown}: changes {changed:?}");
        assert!(news.is_empty(), "{shown}: warns {news:?}");
    }
}

#[test]
fn every_setting_does_what_the_table_says() {
    for row in rows().iter().filter(|row| row.outcome != "run") {
        if let Some(field) = row.field {
            let value = in_file(field, row.value);
            let with: Vec<_> = row.besides.iter().copied().chain([(field, value.as_str())]).collect();
            // Some have to be there for anything to be decided at all.
            let base = if row.besides.len() > 1 { &row.besides[..1] } else { &row.besides[..] };
            judge(row, by_file(&file(&with), &[]), by_file(&file(base), &[]));
        }
        if let Some(flag) = row.flag {
            let flag_of = |field: &str| {
                let setting = SETTINGS.iter().find(|setting| setting.field == field);
                setting.map(|setting| setting.flag).expect("a field that has a flag")
            };
            let besides = |fields: &[(&str, &str)]| {
                fields
                    .iter()
                    .map(|(field, value)| format!("--{}={value}", flag_of(field)))
                    .collect::<Vec<_>>()
            };
            let mut with = besides(&row.besides);
            with.push(format!("--{flag}={}", row.value));
            let base = if row.besides.len() > 1 { &row.besides[..1] } else { &row.besides[..] };
            judge(row, by_flags(&with), by_flags(&besides(base)));
        }
    }
}

#[test]
fn the_table_has_every_field_and_every_flag_and_no_other() {
    let rows = rows();
    let fields: BTreeSet<&str> = rows.iter().filter_map(|row| row.field).collect();
    let flags: BTreeSet<&str> = rows.iter().filter_map(|row| row.flag).collect();
    let known: BTreeSet<&str> = SETTINGS.iter().map(|setting| setting.field).chain(["something"]).collect();
    let odd: Vec<_> = fields.symmetric_difference(&known).collect();
    assert!(odd.is_empty(), "only in one of both: {odd:?}");
    let known = SETTINGS.iter().map(|setting| setting.flag).filter(|flag| !flag.is_empty());
    let known: BTreeSet<&str> =
        known.chain(SPECIALS.iter().map(|(flag, ..)| *flag)).chain(["something-new"]).collect();
    let odd: Vec<_> = flags.symmetric_difference(&known).collect();
    assert!(odd.is_empty(), "only in one of both: {odd:?}");
}

#[test]
fn what_kubeadm_writes_is_taken_as_it_is() {
    let (decided, warnings) =
        by_file(include_str!("kube_proxy/kubeadm.conf"), &["--hostname-override=node-1"]).expect("decided");
    assert_eq!(warnings, Vec::<String>::new());
    assert_eq!(decided.proxy.node_name, "node-1");
    assert_eq!(decided.kubeconfig.as_deref(), Some(Path::new("/var/lib/kube-proxy/kubeconfig.conf")));
    assert_eq!(decided.healthz, Some("0.0.0.0:10256".parse().expect("an address")));
    assert_eq!(decided.metrics, Some("127.0.0.1:10249".parse().expect("an address")));
    assert_eq!(decided.proxy.sync_period, Duration::from_secs(30));
    assert_eq!(decided.proxy.min_sync_period, Duration::from_secs(1));
    assert_eq!(decided.proxy.conntrack, daemon::proxy::Conntrack::default());
    assert_eq!(decided.proxy.settings.masquerade_bit, 14);
    assert_eq!(decided.proxy.settings.node_port_addresses, NodePortAddresses::Within(Vec::new()));
    assert!(matches!(&decided.proxy.settings.detect_local, DetectLocal::ClusterCidr(of) if of.v4.is_some()));
    assert_eq!(decided.oom_score_adj, -999);
}

#[test]
fn beside_a_file_only_the_name_and_the_log_are_heard() {
    let text = file(&[("mode", "nftables"), ("clusterCIDR", "10.0.0.0/8"), ("hostnameOverride", "a")]);
    let (decided, warnings) =
        by_file(&text, &["--hostname-override=B", "-v=4", "--proxy-mode=ipvs", "--healthz-port=1"])
            .expect("decided");
    assert_eq!(decided.proxy.node_name, "b");
    assert_eq!(decided.log_level, "info,daemon=debug,proxy=debug");
    assert_eq!(
        warnings,
        ["--proxy-mode has no effect beside --config", "--healthz-port has no effect beside --config"]
    );
    assert_eq!(by_file(&text, &[]).expect("decided").0.proxy.node_name, "a");
}

#[test]
fn a_wrong_file_is_named_with_line_and_field() {
    let head = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n";
    let rows = [
        ("".to_owned(), "config.conf: has 0 documents, not one"),
        (
            "kind: KubeProxyConfiguration\n".into(),
            "config.conf: apiVersion: is missing; it must be kubeproxy.config.k8s.io/v1alpha1",
        ),
        (
            "apiVersion: v1\nkind: ConfigMap\n".into(),
            "config.conf:1: apiVersion: `v1` is not kubeproxy.config.k8s.io/v1alpha1",
        ),
        (format!("{head}mode: 5\n"), "config.conf:3: mode: `5` is no text"),
        (format!("{head}mode:\n  - ipvs\n"), "config.conf:4: mode: `[ipvs]` is no text"),
        (format!("{head}iptables: 5\n"), "config.conf:3: iptables: `5` is no object"),
        (
            format!("{head}iptables:\n  syncPeriod: 5\n"),
            "config.conf:4: iptables.syncPeriod: `5` is no duration such as 30s or 1m30s",
        ),
        (
            format!("{head}conntrack: {{min: 1.5}}\n"),
            "config.conf:3: conntrack.min: `1.5` is no whole number of 32 bits",
        ),
        (format!("{head}mode: [\n"), "config.conf:"),
        (format!("{head}---\n{head}"), "config.conf: has 2 documents, not one"),
    ];
    for (text, error) in rows {
        let said = by_file(&text, &[]).map(|_| ()).expect_err(&text);
        assert!(said.starts_with(error), "{text:?}: {said}");
        assert_eq!(said.lines().count(), 1, "{said}");
    }
}
