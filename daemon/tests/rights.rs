//! As kube-proxy the program asks for what conf/overlays/proxy-only grants, and for all of that. (What bowlined asks for is
//! in in_cluster.rs.)

mod support;

use std::collections::BTreeSet;

use daemon::source::api::Config;
use daemon::source::services;
use lab::apiserver::ApiServer;
use serde_json::{Value, json};
use support::*;

/// `verb resource` of every rule of the one ClusterRole.
fn granted() -> BTreeSet<String> {
    let objects: Vec<Value> =
        serde_saphyr::from_multiple(include_str!("../../conf/rendered/proxy-only.yaml")).unwrap();
    let roles: Vec<&Value> = objects.iter().filter(|object| object["kind"] == "ClusterRole").collect();
    let [role] = roles[..] else { panic!("one ClusterRole") };
    let texts = |list: &Value| -> Vec<String> {
        list.as_array().into_iter().flatten().map(|text| text.as_str().unwrap().to_owned()).collect()
    };
    let of_rule = |rule: &Value| {
        let (verbs, resources) = (texts(&rule["verbs"]), texts(&rule["resources"]));
        assert!(rule["nonResourceURLs"].is_null(), "{rule}");
        verbs
            .into_iter()
            .flat_map(move |verb| resources.clone().into_iter().map(move |it| format!("{verb} {it}")))
    };
    role["rules"].as_array().unwrap().iter().flat_map(of_rule).collect()
}

#[tokio::test]
async fn kube_proxy_asks_for_what_it_is_granted() {
    let server = ApiServer::local();
    // Lists as such, too: a server without streaming lists is asked for both.
    server.stream(lab::apiserver::Streaming::Refused);
    server.put(json!({"kind": "Node", "metadata": {"name": "a"}, "status": {}}));
    let directory = tempfile::tempdir().unwrap();
    let kubeconfig = directory.path().join("kubeconfig");
    write_kubeconfig(&kubeconfig, &server, "first");
    let config = Config {
        kubeconfig: Some(kubeconfig),
        servers: vec![],
        state_dir: directory.path().join("state"),
        timing: hurried(),
    };
    let feeds = services::from_api(&config, "a", &[]);
    let used = || -> BTreeSet<String> {
        server.requests().iter().map(|it| format!("{} {}", it.verb, it.resource)).collect()
    };
    let deadline = tokio::time::Instant::now() + DEADLINE;
    while used() != granted() {
        assert!(tokio::time::Instant::now() < deadline, "used {:?}, granted {:?}", used(), granted());
        // The pause between two looks.
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    assert!(server.requests().iter().all(|request| request.subresource.is_empty()));
    drop(feeds);
}
