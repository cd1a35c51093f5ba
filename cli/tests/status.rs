//! `bowline status` of a cluster, from the command line to the exit code, against the API stand-in.

use std::path::Path;
use std::process::Command;

use daemon::status::{Status, SyncStatus};
use daemon::survey::{SELECTOR, Survey};
use lab::apiserver::{ApiServer, Exec};
use serde_json::{Value, json};

/// A cluster of one node, whose daemon answers so.
fn cluster(answer: Exec) -> ApiServer {
    let server = ApiServer::local();
    let labels = SELECTOR.split(',').filter_map(|label| label.split_once('='));
    let labels: Value =
        labels.map(|(key, value)| (key.to_owned(), json!(value))).collect::<serde_json::Map<_, _>>().into();
    server.put(json!({
        "kind": "Node", "metadata": {"name": "a"}, "spec": {"podCIDRs": ["10.1.0.0/24"]},
        "status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.1"}]},
    }));
    server.put(json!({
        "kind": "Pod", "metadata": {"namespace": "kube-system", "name": "bowline-x", "labels": labels},
        "spec": {"nodeName": "a", "containers": [{"name": "bowlined", "image": "bowline"}]},
        "status": {"phase": "Running", "containerStatuses": [{"name": "bowlined", "state": {"running": {}}}]},
    }));
    server.answer_commands("kube-system/bowline-x", answer);
    server
}

fn well() -> Exec {
    let status = Status {
        version: env!("CARGO_PKG_VERSION").into(),
        node: "a".into(),
        mode: "vxlan".into(),
        ready: true,
        told: 100,
        pod_cidrs: vec!["10.1.0.0/24".parse().expect("a network")],
        last_sync: Some(SyncStatus { at: 88, ..SyncStatus::default() }),
        ..Status::default()
    };
    Exec::Says { stdout: serde_json::to_string(&status).expect("written"), stderr: String::new(), code: 0 }
}

/// What is said on stdout and stderr, and the exit code.
fn status(server: &ApiServer, args: &[&str], directory: &Path) -> (String, String, Option<i32>) {
    let kubeconfig = directory.join("kubeconfig");
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "test",
        "clusters": [{"name": "test", "cluster": {"server": server.url()}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        "users": [{"name": "test", "user": {}}],
    });
    std::fs::write(&kubeconfig, config.to_string()).expect("written");
    // No socket is there, so it is the cluster that is asked.
    let output = Command::new(env!("CARGO_BIN_EXE_bowline"))
        .args(["status", "--run-dir"])
        .arg(directory)
        .args(args)
        .env("KUBECONFIG", &kubeconfig)
        .output()
        .expect("bowline starts");
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    (text(output.stdout), text(output.stderr), output.status.code())
}

#[test]
fn the_exit_code_says_whether_all_is_well_or_not_or_not_known() {
    let directory = tempfile::tempdir().expect("a directory");
    let server = cluster(well());
    let (said, _, code) = status(&server, &[], directory.path());
    assert_eq!(code, Some(0), "{said}");
    let row = "a     ok     0.1.0    vxlan  10.1.0.0/24  0/0    -         12 s ago  0";
    assert!(said.lines().any(|line| line == row), "{said}");

    let silent = cluster(Exec::Refused(500, "error dialing backend: dial tcp: no route to host".into()));
    let (said, _, code) = status(&silent, &["--all-nodes"], directory.path());
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("NO ANSWER") && said.contains("-> the API server does not reach"), "{said}");

    let (said, error, code) = status(&server, &["--node", "b"], directory.path());
    assert_eq!((said.as_str(), code), ("", Some(2)));
    assert_eq!(error, format!("bowline: {}: there is no Node `b`\n", server.url()));
    server.stop();
    let (_, error, code) = status(&server, &[], directory.path());
    assert_eq!(code, Some(2), "{error}");
    assert!(error.starts_with("bowline: bowlined does not run on this node"), "{error}");
}

#[test]
fn programs_get_json() {
    let directory = tempfile::tempdir().expect("a directory");
    let (said, _, code) = status(&cluster(well()), &["-o", "json"], directory.path());
    assert_eq!(code, Some(0), "{said}");
    let value: Value = serde_json::from_str(&said).expect("JSON");
    assert_eq!((&value["ok"], &value["nodes"][0]["state"]), (&json!(true), &json!("ok")));
    let survey: Survey = serde_json::from_value(value).expect("a survey");
    assert_eq!(survey.nodes[0].status.as_ref().map(|status| status.node.as_str()), Some("a"));
}
