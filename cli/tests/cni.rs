//! `bowline cni` against a fake plug-in: cnitool's command line, variables, container ID and cache.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Output};

use tempfile::TempDir;

const PLUGIN: &str = r#"#!/bin/sh
here=$(dirname "$0")
cat > "$here/stdin.$CNI_COMMAND"
env | grep '^CNI_' | sort > "$here/env.$CNI_COMMAND"
[ ! -f "$here/fail" ] || { echo '{"code":50,"msg":"not now"}'; exit 1; }
[ "$CNI_COMMAND" != ADD ] || echo '{"cniVersion":"1.1.0","ips":[{"address":"10.1.0.2/24"}]}'
"#;
const LIST: &str =
    r#"{"cniVersion":"1.1.0","name":"pods","plugins":[{"type":"fake","capabilities":{"mac":true}}]}"#;
/// SHA-512 of `/run/netns/x`, first ten bytes.
const CONTAINER_ID: &str = "cnitool-55e2cecc95014b0f7fc4";

struct Node(TempDir);

impl Node {
    fn new() -> Node {
        let node = Node(TempDir::new().unwrap());
        fs::write(node.path("10-pods.conflist"), LIST).unwrap();
        fs::write(node.path("fake"), PLUGIN).unwrap();
        fs::set_permissions(node.path("fake"), fs::Permissions::from_mode(0o755)).unwrap();
        node
    }

    fn path(&self, below: &str) -> PathBuf {
        self.0.path().join(below)
    }

    fn text(&self, below: &str) -> String {
        fs::read_to_string(self.path(below)).unwrap()
    }

    fn run(&self, words: &[&str], variables: &[(&str, &str)]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bowline"));
        command.arg("cni").args(words).arg("--cache-dir").arg(self.path("cache"));
        for name in ["CNI_ARGS", "CAP_ARGS", "CNI_IFNAME"] {
            command.env_remove(name);
        }
        command.env("NETCONFPATH", self.0.path()).env("CNI_PATH", self.0.path());
        command.envs(variables.iter().copied()).output().unwrap()
    }
}

#[track_caller]
fn succeeded(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[test]
fn add_check_del_gc_status() {
    let node = Node::new();
    let printed = succeeded(&node.run(&["add", "pods", "/run/netns/./x/"], &[]));
    let expected = r#"{
    "cniVersion": "1.1.0",
    "ips": [
        {
            "address": "10.1.0.2/24"
        }
    ]
}
"#;
    assert_eq!(printed, expected);
    let env = node.text("env.ADD");
    assert!(
        env.contains(&format!("CNI_CONTAINERID={CONTAINER_ID}\nCNI_IFNAME=eth0\nCNI_NETNS=/run/netns/x\n")),
        "{env}"
    );
    let kept = node.path(&format!("cache/results/pods-{CONTAINER_ID}-eth0"));
    assert!(kept.exists());
    for verb in ["check", "status"] {
        assert_eq!(succeeded(&node.run(&[verb, "pods", "/run/netns/x"], &[])), "");
    }
    assert!(node.text("stdin.CHECK").contains("10.1.0.2/24"));
    succeeded(&node.run(&["del", "pods", "/run/netns/x"], &[]));
    assert!(!kept.exists());
    succeeded(&node.run(&["add", "pods", "/run/netns/x", "-i", "net1"], &[]));
    succeeded(&node.run(&["gc", "pods", "/run/netns/x"], &[]));
    assert!(node.text("env.DEL").contains("CNI_IFNAME=net1\n"));
    assert!(!node.text("stdin.GC").contains("valid-attachments"));
}

#[test]
fn variables_of_cnitool() {
    let node = Node::new();
    let variables = [
        ("CNI_ARGS", "IgnoreUnknown=1;A=b"),
        ("CAP_ARGS", r#"{"mac":"m","ips":[]}"#),
        ("CNI_IFNAME", "net2"),
    ];
    succeeded(&node.run(&["add", "pods", "/run/netns/x"], &variables));
    let env = node.text("env.ADD");
    assert!(env.contains("CNI_ARGS=IgnoreUnknown=1;A=b\n") && env.contains("CNI_IFNAME=net2\n"), "{env}");
    assert!(node.text("stdin.ADD").contains(r#""runtimeConfig":{"mac":"m"}"#));
    for (variable, mention) in [
        (("CNI_ARGS", "A="), "\"A=\""),
        (("CNI_ARGS", "A"), "\"A\""),
        (("CAP_ARGS", "[]"), "not an object"),
        (("CAP_ARGS", "{"), "EOF"),
        (("CNI_IFNAME", "a/b"), "a/b"),
        (("CNI_PATH", "/nowhere"), "/nowhere"),
    ] {
        let output = node.run(&["add", "pods", "/run/netns/x"], &[variable]);
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            !output.status.success() && output.stdout.is_empty() && told.contains(mention),
            "{variable:?}: {told}"
        );
    }
}

#[test]
fn failures_reach_stderr_with_their_code() {
    let node = Node::new();
    fs::write(node.path("fail"), "").unwrap();
    let output = node.run(&["status", "pods", "/run/netns/x", "-v"], &[]);
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success());
    assert!(told.contains("plugin type=\"fake\" failed (status): not now (code 50)"), "{told}");
    assert!(told.contains(" ms  failed: not now"), "{told}");
    let output = node.run(&["add", "absent", "/run/netns/x"], &[]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("no net configuration with name \"absent\""));
    assert!(!node.run(&["add", "pods"], &[]).status.success());
}
