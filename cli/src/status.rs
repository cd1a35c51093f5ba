//! `bowline status`: how this node is, by the control socket of its daemon.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use clap::Args;
use daemon::status::{PeerStatus, SOCKET, Status, seconds};

/// How long the daemon may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// How this node is. Exits with 1 when it can't carry new pods.
#[derive(Debug, Clone, Args)]
pub struct StatusArgs {
    /// Print the daemon's answer as it is.
    #[arg(long)]
    json: bool,
    /// The daemon's --run-dir.
    #[arg(long, default_value = "/run/bowline")]
    run_dir: PathBuf,
}

/// Asks and prints.
pub fn run(args: &StatusArgs) -> ExitCode {
    let told = ask(&args.run_dir.join(SOCKET)).and_then(|text| {
        let status =
            serde_json::from_str::<Status>(&text).map_err(|error| format!("the daemon's answer: {error}"))?;
        Ok((text, status))
    });
    match told {
        Ok((text, status)) => {
            let shown = if args.json { text } else { table(&status, seconds(SystemTime::now())) };
            // A reader who has left has seen enough.
            let _ = io::stdout().write_all(shown.as_bytes());
            if status.ready { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            eprintln!("bowline: {error}");
            ExitCode::FAILURE
        }
    }
}

fn ask(socket: &Path) -> Result<String, String> {
    let shown = socket.display();
    let mut stream = UnixStream::connect(socket).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            format!("bowlined does not run on this node: nobody listens at {shown}")
        }
        _ => format!("{shown}: {error}"),
    })?;
    let mut answer = String::new();
    stream
        .set_read_timeout(Some(PATIENCE))
        .and_then(|()| {
            stream.write_all(b"GET /status HTTP/1.1\r\nHost: bowlined\r\nConnection: close\r\n\r\n")
        })
        .and_then(|()| stream.read_to_string(&mut answer))
        .map_err(|error| format!("bowlined does not answer at {shown}: {error}"))?;
    body(&answer).map(str::to_owned).ok_or_else(|| format!("{shown}: not the answer of a bowlined"))
}

/// The body of a whole answer with status 200.
fn body(answer: &str) -> Option<&str> {
    let (head, body) = answer.split_once("\r\n\r\n")?;
    head.split(' ').nth(1).filter(|code| *code == "200").map(|_| body)
}

fn table(status: &Status, now: u64) -> String {
    let mut text = String::new();
    let mut line = |key: &str, value: String| {
        if !value.is_empty() {
            text.push_str(&format!("{key:<11} {value}\n"));
        }
    };
    line("node", format!("{}, {}", status.node, if status.ready { "ready" } else { "NOT READY" }));
    let vni = status.vni.map(|vni| format!(", VNI {vni}")).unwrap_or_default();
    let mtu = status.mtu.map(|mtu| format!(", pod MTU {mtu}")).unwrap_or_default();
    line("mode", format!("{}{vni}{mtu}", status.mode));
    let pods = status.pods.map(|pods| format!(" ({})", counted(pods, "pod"))).unwrap_or_default();
    line(
        "pod CIDRs",
        if status.pod_cidrs.is_empty() { String::new() } else { joined(&status.pod_cidrs) + &pods },
    );
    let uplinks = status.uplinks.iter().map(|up| format!("{} on {} (MTU {})", up.ip, up.link, up.mtu));
    line("uplinks", uplinks.collect::<Vec<_>>().join(", "));
    line("source", source(status, now));
    let held = &status.programmed;
    line(
        "kernel",
        [
            counted(held.tunnels, "tunnel"),
            counted(held.routes, "route"),
            counted(held.fdb, "FDB entry"),
            counted(held.neighbours, "neighbour"),
        ]
        .join(", "),
    );
    if let Some(sync) = &status.last_sync {
        let ago = now.saturating_sub(sync.at);
        line("last sync", format!("{ago} s ago, took {:.1} ms", sync.took_ms));
    }
    let drift: Vec<String> =
        status.drift_repaired.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
    line("put back", drift.join(", "));
    line(
        "bowlined",
        format!("{}, process {}, up {} s", status.version, status.pid, now.saturating_sub(status.started)),
    );
    text.push_str(&peers(&status.peers));
    text.push_str(&complaints(status));
    text
}

fn source(status: &Status, now: u64) -> String {
    let source = &status.source;
    let state = if source.connected { "connected" } else { "NOT CONNECTED" };
    let since = source.since.map(|since| format!(" for {} s", now.saturating_sub(since))).unwrap_or_default();
    format!(
        "{}, {state}{since}, {}",
        source.what,
        counted(usize::try_from(source.snapshots).unwrap_or(usize::MAX), "snapshot")
    )
}

fn peers(peers: &[PeerStatus]) -> String {
    if peers.is_empty() {
        return "\nno other nodes\n".to_owned();
    }
    let mut rows = vec![["NODE", "ADDRESSES", "POD CIDRS", "VIA", "PROBLEM"].map(str::to_owned)];
    rows.extend(peers.iter().map(|peer| {
        [
            peer.name.clone(),
            joined(&peer.ips),
            joined(&peer.pod_cidrs),
            peer.via.join(", "),
            peer.problems.join("; "),
        ]
    }));
    let widths: Vec<usize> =
        (0..4).map(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0)).collect();
    let mut text = "\n".to_owned();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(widths.iter().chain([&0])) {
            line.push_str(&format!("{cell:<width$}  "));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

fn complaints(status: &Status) -> String {
    let unmet =
        status.checks.iter().filter(|check| !check.ok).map(|it| format!("{}: {}", it.name, it.detail));
    let mut text = String::new();
    for (title, lines) in [
        ("missing", unmet.collect::<Vec<_>>()),
        ("problems of the source", status.source.problems.clone()),
        ("to be known", status.notes.clone()),
    ] {
        if !lines.is_empty() {
            text.push_str(&format!("\n{title}\n"));
            lines.iter().for_each(|line| text.push_str(&format!("  {line}\n")));
        }
    }
    text
}

fn joined(things: &[impl ToString]) -> String {
    things.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn counted(count: usize, thing: &str) -> String {
    match (count, thing.strip_suffix('y')) {
        (1, _) => format!("1 {thing}"),
        (_, Some(stem)) => format!("{count} {stem}ies"),
        (_, None) => format!("{count} {thing}s"),
    }
}

#[cfg(test)]
mod tests {
    use daemon::status::{Check, SourceStatus};

    use super::*;

    #[test]
    fn a_node_is_shown_with_what_is_missing() {
        let peer = |name: &str, problem: &str| PeerStatus {
            name: name.into(),
            ips: vec!["192.0.2.2".parse().expect("an address")],
            pod_cidrs: vec!["10.2.0.0/24".parse().expect("a network")],
            via: vec!["bowline.1".into()],
            problems: if problem.is_empty() { Vec::new() } else { vec![problem.into()] },
        };
        let status = Status {
            node: "a".into(),
            mode: "vxlan".into(),
            vni: Some(1),
            mtu: Some(1450),
            pods: Some(1),
            pod_cidrs: vec!["10.1.0.0/24".parse().expect("a network")],
            checks: vec![Check::met("node", ""), Check::unmet("plug-ins", "put them there")],
            source: SourceStatus { what: "manifests /m".into(), connected: true, ..SourceStatus::default() },
            peers: vec![peer("bb", ""), peer("c", "is away")],
            ..Status::default()
        };
        let text = table(&status, 100);
        for line in [
            "node        a, NOT READY",
            "mode        vxlan, VNI 1, pod MTU 1450",
            "pod CIDRs   10.1.0.0/24 (1 pod)",
            "NODE  ADDRESSES  POD CIDRS    VIA        PROBLEM",
            "bb    192.0.2.2  10.2.0.0/24  bowline.1",
            "c     192.0.2.2  10.2.0.0/24  bowline.1  is away",
            "missing",
            "  plug-ins: put them there",
        ] {
            assert!(text.lines().any(|it| it == line), "{line}\n{text}");
        }
    }

    #[test]
    fn only_a_whole_answer_counts() {
        assert_eq!(body("HTTP/1.1 200 OK\r\na: b\r\n\r\n{}"), Some("{}"));
        assert_eq!(body("HTTP/1.1 404 Not Found\r\n\r\n{}"), None);
        assert_eq!(body("garbage"), None);
    }
}
