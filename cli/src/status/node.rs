//! How this node is, by the control socket of its daemon.

use daemon::status::{ServicesStatus, Status};

use crate::columns::{aligned, counted, joined};

/// For people.
pub fn table(status: &Status) -> String {
    let now = status.told;
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
    line("source", if status.source.what.is_empty() { String::new() } else { source(status, now) });
    let held = &status.programmed;
    let held = [
        counted(held.tunnels, "tunnel"),
        counted(held.routes, "route"),
        counted(held.fdb, "FDB entry"),
        counted(held.neighbours, "neighbour"),
    ];
    line("kernel", if status.last_sync.is_some() { held.join(", ") } else { String::new() });
    line("services", status.services.as_ref().map(|it| services(it, now)).unwrap_or_default());
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
    if status.mode != daemon::kube_proxy::NAME {
        text.push_str(&peers(status));
    }
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

fn services(services: &ServicesStatus, now: u64) -> String {
    let ago = services.last_sync.map(|at| format!(", in the kernel {} s ago", now.saturating_sub(at)));
    let waiting = services.waiting.map(|seconds| format!(", a change waits for {seconds} s"));
    let ports = counted(services.ports, "Service port");
    format!("{ports} by {}{}{}", services.mode, ago.unwrap_or_default(), waiting.unwrap_or_default())
}

fn peers(status: &Status) -> String {
    let peers = &status.peers;
    match (peers.len(), status.peers_known) {
        (0, 0) => return "\nno other nodes\n".to_owned(),
        (0, known) => return format!("\n{}, nothing is wrong with any\n", counted(known, "other node")),
        _ => {}
    }
    let title = ["NODE", "ADDRESSES", "POD CIDRS", "VIA", "PROBLEM"];
    let mut rows = vec![title.map(str::to_owned).to_vec()];
    rows.extend(peers.iter().map(|peer| {
        vec![
            peer.name.clone(),
            joined(&peer.ips),
            joined(&peer.pod_cidrs),
            peer.via.join(", "),
            peer.problems.join("; "),
        ]
    }));
    format!("\n{}", aligned(0, &rows))
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

#[cfg(test)]
mod tests {
    use daemon::status::{Check, PeerStatus, SourceStatus};

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
        let text = table(&status);
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
}
