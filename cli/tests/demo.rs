//! The demo as a person runs it. It needs the plug-ins that `make build` lays into target/cni.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

fn demo(args: &[&str]) -> Command {
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/cni");
    let plugins = std::env::var_os("LAB_SUBJECT").map_or(built, std::path::PathBuf::from);
    assert!(plugins.join("bridge").is_file(), "no plug-ins in target/cni (make build)");
    let mut command = Command::new(env!("CARGO_BIN_EXE_bowline"));
    command.arg("demo").arg("--plugins").arg(plugins).args(args);
    command
}

/// What the demo must not touch: links, routes, mounts and state of the machine.
fn host() -> [String; 5] {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let names = |path: &str| {
        let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
        let mut names: Vec<String> = entries.map(|e| e.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names.join(" ")
    };
    let mounts =
        read("/proc/self/mounts").lines().filter(|m| m.contains("netns")).collect::<Vec<_>>().join("\n");
    [
        names("/sys/class/net"),
        read("/proc/net/route"),
        names("/var/lib/cni/networks"),
        names("/var/lib/cni/results"),
        mounts,
    ]
}

#[test]
fn every_step_succeeds_and_the_host_stays_as_it_was() {
    let before = host();
    let output = demo(&[]).env("LANG", "C.UTF-8").output().expect("the demo starts");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    for part in [
        "ADD web",
        "pod to pod, IPv6",
        "to the node's port, IPv4",
        "from the node itself",
        "hairpin",
        "masquerade",
        "bandwidth, egress",
        "CHECK",
        "no trace",
    ] {
        assert!(said.contains(part), "{part:?} is missing in:\n{said}");
    }
    assert!(!said.contains('✗') && !said.contains('\x1b'), "{said}");
    assert_eq!(host(), before);
}

/// `bowlined`, as `make build` leaves it.
fn cluster(args: &[&str]) -> Command {
    let daemon = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/release/bowlined");
    let daemon = std::env::var_os("LAB_BOWLINED").map_or(daemon, std::path::PathBuf::from);
    assert!(daemon.is_file(), "no {} (make build)", daemon.display());
    let mut command = demo(args);
    command.env("LANG", "C.UTF-8").arg("--daemon").arg(daemon);
    command
}

#[test]
fn clusters_talk_and_what_travels_is_shown() {
    let before = host();
    for (args, parts) in [
        (
            ["--nodes", "2", "--mode", "vxlan"],
            vec!["172.16.0.10 → 172.16.0.11", "→ 8472", "VXLAN  network 1", "IPv4   10.244.0.2 → 10.244.1.2"],
        ),
        (["--nodes", "2", "--mode", "routed"], vec!["as it is", "MTU 1500"]),
        (["--nodes", "3", "--mode", "cross-subnet"], vec!["as it is", "wrapped", "network 172.16.1.0/24"]),
        (["--nodes", "4", "--mode", "vxlan"], vec!["pod-3 → all", "node-3"]),
    ] {
        let output = cluster(&args).output().expect("the demo starts");
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
        let always = [
            "masquerade, IPv6",
            "pod to ClusterIP, IPv6",
            "node to ClusterIP, IPv4",
            "outside to NodePort, IPv4",
            "affinity",
            " connections, 0 lost",
            "$ bowline trace 10.244.0.2 10.96.0.10:80",
            "goes to one of 2 endpoints of default/web:http",
            "every node's kernel is as planned",
            "CHECK",
            "no lease and no result is left",
        ];
        for part in parts.into_iter().chain(always) {
            assert!(said.contains(part), "{args:?}: {part:?} is missing in:\n{said}");
        }
        assert!(!said.contains('✗') && !said.contains('\x1b'), "{said}");
        let wide: Vec<&str> = said.lines().filter(|line| line.chars().count() > 100).collect();
        assert!(wide.is_empty(), "wider than 100 columns: {wide:#?}");
    }
    assert_eq!(host(), before);
}

#[test]
fn a_cluster_left_running_can_be_entered() {
    let before = host();
    let mut child =
        cluster(&["--nodes", "2", "--keep"]).stdout(Stdio::piped()).spawn().expect("the demo starts");
    let enter = said(&mut child, "ip netns exec pod-0");
    let enter = enter.trim_start_matches("pod-0").trim().trim_start_matches("sudo ");
    let inside = enter.replace("bash", "ip -o addr show dev eth0");
    let mut words = inside.split_whitespace();
    let program = words.next().expect("a command to enter");
    let shown = Command::new(program).args(words).output().expect("nsenter runs");
    assert!(String::from_utf8_lossy(&shown.stdout).contains("10.244.0.2/32"), "{inside}: {shown:?}");
    interrupt(&mut child);
    assert_eq!(host(), before);
}

#[test]
fn who_looks_away_stops_it_quietly() {
    for command in [&mut demo(&[]), &mut cluster(&["--nodes", "2"])] {
        let mut child =
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the demo starts");
        drop(child.stdout.take());
        let output = child.wait_with_output().expect("a child can be waited for");
        assert_eq!((output.status.code(), String::from_utf8_lossy(&output.stderr).as_ref()), (Some(141), ""));
    }
}

#[test]
fn without_a_daemon_it_says_what_to_do() {
    let output = demo(&["--nodes", "2", "--daemon", "/nowhere"]).output().expect("the demo starts");
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("no daemon at /nowhere (make build, or --daemon FILE)"), "{said}");
}

#[test]
fn kept_running_it_says_how_to_enter_and_ends_without_a_trace() {
    let before = host();
    let mut child = demo(&["--keep"]).stdout(Stdio::piped()).spawn().expect("the demo starts");
    let enter = said(&mut child, "enter a pod");
    let enter = enter.trim_start_matches("enter a pod").trim().trim_start_matches("sudo ");
    let inside = enter.replace("bash", "ip -o addr show dev eth0");
    let mut words = inside.split_whitespace();
    let program = words.next().expect("a command to enter");
    let shown = Command::new(program).args(words).output().expect("nsenter runs");
    assert!(String::from_utf8_lossy(&shown.stdout).contains("10.77.0.2/24"), "{inside}: {shown:?}");
    interrupt(&mut child);
    assert_eq!(host(), before);
}

#[test]
fn interrupted_it_leaves_nothing() {
    let before = host();
    let mut child = demo(&[]).stdout(Stdio::piped()).spawn().expect("the demo starts");
    said(&mut child, "ADD web");
    interrupt(&mut child);
    assert_eq!(host(), before);
}

#[test]
fn without_plugins_it_says_what_to_do() {
    let output = Command::new(env!("CARGO_BIN_EXE_bowline")).args(["demo", "--plugins", "/nowhere"]).output();
    let output = output.expect("the demo starts");
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("no plug-ins in /nowhere (make build, or --plugins DIR)"), "{said}");
}

/// The first line that contains `text`.
fn said(child: &mut Child, text: &str) -> String {
    let stdout = child.stdout.as_mut().expect("stdout was asked for");
    let mut lines = BufReader::new(stdout).lines().map_while(Result::ok);
    lines.find(|line| line.contains(text)).unwrap_or_else(|| panic!("the demo never said {text:?}"))
}

/// Ctrl-C.
fn interrupt(child: &mut Child) {
    // A shell starts background jobs with SIGINT ignored, and children inherit that: SIGTERM for this case.
    for signal in ["-INT", "-TERM"] {
        let killed = Command::new("kill").args([signal, &child.id().to_string()]).status();
        assert!(killed.is_ok_and(|status| status.success()));
    }
    child.wait().expect("a child can be waited for");
}
