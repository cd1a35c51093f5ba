//! The demo as a person runs it. It needs the plug-ins that `make build` lays into target/cni.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

fn demo(args: &[&str]) -> Command {
    let plugins = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/cni");
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
