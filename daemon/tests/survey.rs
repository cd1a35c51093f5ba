//! A survey of a cluster behind the API stand-in: what it asks for, and what it makes of every answer.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use daemon::status::{Status, SyncStatus};
use daemon::survey::{Asked, NAMESPACE, NodeSurvey, SELECTOR, State, Survey, look};
use lab::apiserver::{ApiServer, Exec, Misbehaviour, Target};
use serde_json::json;

/// A cluster, and where its kubeconfig is.
struct Cluster {
    server: ApiServer,
    directory: tempfile::TempDir,
}

impl Cluster {
    /// One with that many nodes, a daemon on each.
    fn of(count: usize) -> Self {
        let cluster =
            Cluster { server: ApiServer::local(), directory: tempfile::tempdir().expect("a directory") };
        let kubeconfig = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{"name": "test", "cluster": {"server": cluster.server.url()}}],
            "users": [{"name": "operator", "user": {"token": "secret"}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "operator"}}],
        });
        std::fs::write(cluster.kubeconfig(), kubeconfig.to_string()).expect("written");
        for index in 0..count {
            cluster.server.put(json!({
                "kind": "Node", "metadata": {"name": name(index)},
                "spec": {"podCIDRs": [format!("10.{}.{}.0/24", index / 250, index % 250)]},
                "status": {"addresses": [{"type": "InternalIP", "address": format!("192.0.{}.{}", index / 250, 1 + index % 250)}]},
            }));
            cluster.pod(index, SELECTOR, "bowline:1");
            cluster
                .answer(index, Exec::Says { stdout: status(index, count), stderr: String::new(), code: 0 });
        }
        cluster
    }

    fn kubeconfig(&self) -> PathBuf {
        self.directory.path().join("kubeconfig")
    }

    fn pod(&self, index: usize, labels: &str, image: &str) {
        let labels: BTreeMap<&str, &str> = labels.split(',').filter_map(|it| it.split_once('=')).collect();
        self.server.put(json!({
            "kind": "Pod",
            "metadata": {"namespace": NAMESPACE, "name": format!("bowline-{index}"), "labels": labels},
            "spec": {"nodeName": name(index), "containers": [{"name": "bowlined", "image": image}]},
            "status": {"phase": "Running", "containerStatuses": [{"name": "bowlined", "state": {"running": {}}}]},
        }));
    }

    fn answer(&self, index: usize, answer: Exec) {
        self.server.answer_commands(&format!("{NAMESPACE}/bowline-{index}"), answer);
    }

    fn asked(&self) -> Asked {
        Asked {
            kubeconfig: Some(self.kubeconfig()),
            context: None,
            namespace: NAMESPACE.into(),
            selector: SELECTOR.into(),
            nodes: vec![],
            patience: Duration::from_secs(30),
        }
    }

    fn survey(&self) -> Survey {
        look(&self.asked()).expect("surveyed")
    }
}

fn name(index: usize) -> String {
    format!("n{index:03}")
}

/// What the daemon of a node that is well says, in brief.
fn status(index: usize, count: usize) -> String {
    let status = Status {
        version: env!("CARGO_PKG_VERSION").into(),
        node: name(index),
        mode: "vxlan".into(),
        ready: true,
        told: 1000,
        peers_known: count - 1,
        last_sync: Some(SyncStatus { at: 990, ..SyncStatus::default() }),
        ..Status::default()
    };
    serde_json::to_string_pretty(&status).expect("written")
}

fn node(survey: &Survey, index: usize) -> &NodeSurvey {
    survey.nodes.iter().find(|node| node.name == name(index)).expect("the node is there")
}

#[test]
fn every_node_answers_and_only_the_asker_needs_rights() {
    let cluster = Cluster::of(3);
    let survey = cluster.survey();
    assert!(survey.is_well(), "{survey:#?}");
    let states: Vec<(State, usize)> = survey.nodes.iter().map(|it| (it.state, it.peers_expected)).collect();
    assert_eq!(states, [(State::Ok, 2); 3]);
    let mut requests: Vec<String> = cluster
        .server
        .requests()
        .iter()
        .map(|it| format!("{} {} {}", it.verb, it.resource, it.subresource))
        .collect();
    requests.sort();
    requests.dedup();
    assert_eq!(requests, ["get pods exec", "list nodes ", "list pods "]);
}

#[test]
fn every_bad_answer_is_told_with_its_node_and_holds_up_no_other() {
    let cluster = Cluster::of(7);
    let says =
        |stdout: &str, stderr: &str, code| Exec::Says { stdout: stdout.into(), stderr: stderr.into(), code };
    let not_ready = status(0, 7).replace("\"ready\": true", "\"ready\": false");
    cluster.answer(0, says(&not_ready, "", 1));
    cluster.answer(
        1,
        Exec::Refused(500, "error dialing backend: dial tcp 192.0.2.9:10250: no route to host".into()),
    );
    cluster.answer(
        2,
        Exec::Refused(403, "pods \"bowline-2\" is forbidden: User \"x\" cannot create pods/exec".into()),
    );
    cluster.answer(3, says("", "bowline: bowlined does not run on this node\n", 2));
    cluster.answer(4, Exec::Torn(status(4, 7)[..99].to_owned()));
    cluster.answer(5, Exec::Silent);
    let began = Instant::now();
    let asked = Asked { patience: Duration::from_secs(2), ..cluster.asked() };
    let survey = look(&asked).expect("surveyed");
    assert!(
        began.elapsed() < Duration::from_secs(20),
        "all are asked at the same time: {:?}",
        began.elapsed()
    );
    for (index, state, words) in [
        (0, State::NotReady, ""),
        (1, State::NoAnswer, "no route to host"),
        (2, State::NoAnswer, "cannot create pods/exec"),
        (3, State::NoAnswer, "bowlined does not run on this node"),
        (4, State::NoAnswer, "the connection ended before its answer did"),
        (5, State::NoAnswer, "no answer within 2 s"),
        (6, State::Ok, ""),
    ] {
        let node = node(&survey, index);
        assert_eq!(node.state, state, "{node:#?}");
        let told = node.findings.iter().any(|it| it.what.contains(words));
        assert!(told || words.is_empty(), "{words}: {node:#?}");
    }
    assert!(!survey.is_well());
}

#[test]
fn a_crowd_is_read_in_pages_and_asked_in_brief() {
    let cluster = Cluster::of(600);
    let survey = cluster.survey();
    assert_eq!((survey.nodes.len(), survey.is_well()), (600, true), "{:#?}", survey.findings);
    let requests = cluster.server.requests();
    let lists = requests.iter().filter(|it| it.verb == "list" && it.resource == "nodes").count();
    assert_eq!(lists, 2, "two pages of nodes");
    let asked = requests.iter().find(|it| it.subresource == "exec").expect("asked");
    assert_eq!(asked.query.get("command").map(String::as_str), Some("--brief"), "the last word of it");
}

#[test]
fn single_nodes_and_other_pods() {
    let cluster = Cluster::of(3);
    cluster.pod(2, "app.kubernetes.io/name=other", "bowline:1");
    let only = Asked { nodes: vec![name(1)], ..cluster.asked() };
    let survey = look(&only).expect("surveyed");
    assert_eq!(survey.nodes.iter().map(|it| it.name.as_str()).collect::<Vec<_>>(), ["n001"]);
    let commands = cluster.server.requests().iter().filter(|it| it.subresource == "exec").count();
    assert_eq!(commands, 1);
    assert_eq!(node(&cluster.survey(), 2).state, State::NoDaemon);
    let absent = Asked { nodes: vec!["nobody".into()], ..cluster.asked() };
    assert!(look(&absent).expect_err("no such node").contains("there is no Node `nobody`"));
}

#[test]
fn a_proxy_in_the_place_of_kubeadms_is_found_and_kubeadms_own_is_not() {
    for (image, state) in [
        ("registry.example/bowline:1-iptables", State::Ok),
        ("registry.k8s.io/kube-proxy:v1", State::NoDaemon),
    ] {
        let cluster = Cluster::of(1);
        cluster.pod(0, "k8s-app=kube-proxy", image);
        assert_eq!(node(&cluster.survey(), 0).state, state, "{image}");
    }
}

#[test]
fn what_can_not_be_found_out_is_one_sentence() {
    let cluster = Cluster::of(1);
    let url = cluster.server.url();
    let sentence = |asked: &Asked| look(asked).expect_err("nothing to survey");
    cluster.server.misbehave(Target::List, Misbehaviour::Status(403, None), 2);
    assert_eq!(sentence(&cluster.asked()), format!("{url}: list nodes: 403: on command"));
    cluster.server.misbehave(Target::List, Misbehaviour::WebPage, 2);
    let web = sentence(&cluster.asked());
    assert!(
        web.starts_with(&format!("{url}: list nodes: /api/v1/nodes")) && web.contains("not the API's"),
        "{web}"
    );
    cluster.server.behave();
    let context = Asked { context: Some("nowhere".into()), ..cluster.asked() };
    assert!(sentence(&context).contains("nowhere"), "{}", sentence(&context));
    let absent = Asked { kubeconfig: Some("/nonexistent".into()), ..cluster.asked() };
    assert!(sentence(&absent).starts_with("kubeconfig: /nonexistent: "), "{}", sentence(&absent));
    cluster.server.stop();
    assert!(sentence(&cluster.asked()).starts_with(&format!("{url}: list nodes: ")));
}
