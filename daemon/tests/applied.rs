//! What `kubectl apply` brings, to a real kube-apiserver (`KUBEBUILDER_ASSETS`): every object is taken as it is, over
//! what kubeadm has put there too, and the admission policy lets bowlined write what it writes and nothing else.
//! Without one there is nobody to ask; tests/manifests then holds the same objects against the API's types.

mod support;

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use support::real::KubeApiserver;

const CHOICES: [&str; 8] =
    ["cleanup", "cross-subnet", "dual-stack", "network-only", "proxy-only", "routed", "vxlan", "wireguard"];
const NODES: &str = "/api/v1/nodes";

fn assets() -> Option<PathBuf> {
    std::env::var_os("KUBEBUILDER_ASSETS").map(PathBuf::from)
}

fn rendered(choice: &str) -> Vec<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../conf/rendered/{choice}.yaml"));
    serde_saphyr::from_multiple(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// Where an object of the manifests lives.
fn path_of(object: &Value) -> String {
    let name = object["metadata"]["name"].as_str().unwrap();
    let rbac = "/apis/rbac.authorization.k8s.io/v1";
    let admission = "/apis/admissionregistration.k8s.io/v1";
    let in_system = |prefix: &str| format!("{prefix}/namespaces/kube-system");
    let collection = match object["kind"].as_str().unwrap() {
        "ServiceAccount" => in_system("/api/v1") + "/serviceaccounts",
        "ConfigMap" => in_system("/api/v1") + "/configmaps",
        "DaemonSet" => in_system("/apis/apps/v1") + "/daemonsets",
        "ClusterRole" => format!("{rbac}/clusterroles"),
        "ClusterRoleBinding" => format!("{rbac}/clusterrolebindings"),
        "ValidatingAdmissionPolicy" => format!("{admission}/validatingadmissionpolicies"),
        "ValidatingAdmissionPolicyBinding" => format!("{admission}/validatingadmissionpolicybindings"),
        other => panic!("{other} is new to this test"),
    };
    format!("{collection}/{name}")
}

/// `kubectl apply --server-side --validate=strict`.
async fn apply(server: &KubeApiserver, object: &Value) -> Value {
    let path = path_of(object) + "?fieldManager=kubectl&fieldValidation=Strict&force=true";
    let (code, answer) = server.send_as(None, ("PATCH", &path), "application/apply-patch+yaml", object).await;
    assert!([200, 201].contains(&code), "{path}: {code} {answer}");
    answer
}

/// kubeadm's DaemonSet, in what matters here: privileged, with mounts of its own.
fn kube_proxy_of_kubeadm() -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "DaemonSet",
        "metadata": {"name": "kube-proxy", "namespace": "kube-system", "labels": {"k8s-app": "kube-proxy"}},
        "spec": {
            "selector": {"matchLabels": {"k8s-app": "kube-proxy"}},
            "updateStrategy": {"type": "RollingUpdate"},
            "template": {"metadata": {"labels": {"k8s-app": "kube-proxy"}}, "spec": {
                "priorityClassName": "system-node-critical",
                "serviceAccountName": "kube-proxy",
                "hostNetwork": true,
                "tolerations": [{"operator": "Exists"}],
                "nodeSelector": {"kubernetes.io/os": "linux"},
                "containers": [{
                    "name": "kube-proxy",
                    "image": "registry.k8s.io/kube-proxy:v1.36.2",
                    "command": [
                        "/usr/local/bin/kube-proxy", "--config=/var/lib/kube-proxy/config.conf",
                        "--hostname-override=$(NODE_NAME)",
                    ],
                    "securityContext": {"privileged": true},
                    "volumeMounts": [
                        {"mountPath": "/var/lib/kube-proxy", "name": "kube-proxy"},
                        {"mountPath": "/run/xtables.lock", "name": "xtables-lock"},
                        {"mountPath": "/lib/modules", "name": "lib-modules", "readOnly": true},
                    ],
                    "env": [{"name": "NODE_NAME", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}],
                }],
                "volumes": [
                    {"name": "kube-proxy", "configMap": {"name": "kube-proxy"}},
                    {"name": "xtables-lock", "hostPath": {"path": "/run/xtables.lock", "type": "FileOrCreate"}},
                    {"name": "lib-modules", "hostPath": {"path": "/lib/modules"}},
                ],
            }},
        },
    })
}

#[tokio::test]
async fn every_object_is_taken_as_it_is() {
    let Some(assets) = assets() else { return };
    let server = KubeApiserver::start(&assets, &["--allow-privileged=true"]).await;
    let theirs = kube_proxy_of_kubeadm();
    let daemon_sets = "/apis/apps/v1/namespaces/kube-system/daemonsets?fieldManager=kubeadm";
    let (code, answer) = server.send_as(None, ("POST", daemon_sets), "application/json", &theirs).await;
    assert_eq!(code, 201, "{answer}");
    for choice in CHOICES {
        for object in rendered(choice) {
            let first = apply(&server, &object).await;
            // Twice is the same, and nobody else's field is fought for.
            let second = apply(&server, &object).await;
            assert_eq!(
                first["metadata"]["resourceVersion"], second["metadata"]["resourceVersion"],
                "{choice}"
            );
        }
    }
    // In kubeadm's place: not privileged any more, ours by every word that counts.
    let (_, set) = server.send_as(None, ("GET", &path_of(&theirs)), "application/json", &Value::Null).await;
    let pod = &set["spec"]["template"]["spec"];
    let container = &pod["containers"][0];
    assert_eq!(pod["containers"].as_array().map(Vec::len), Some(1), "{pod}");
    assert_eq!(container["securityContext"]["privileged"], false);
    assert_eq!(container["command"], json!(["/usr/local/bin/kube-proxy"]));
    assert_eq!(container["args"][0], "--config=/var/lib/kube-proxy/config.conf");
    assert_eq!(pod["serviceAccountName"], "bowline-proxy");
    assert!(container["image"].as_str().unwrap().contains("/bowline:"), "{container}");
}

/// A patch of the status of a node by bowlined, as it makes them.
async fn written(server: &KubeApiserver, token: &str, node: &str, patch: Value) -> (u16, String) {
    let path = format!("{NODES}/{node}/status");
    let kind = "application/strategic-merge-patch+json";
    let (code, answer) = server.send_as(Some(token), ("PATCH", &path), kind, &patch).await;
    (code, answer["message"].as_str().unwrap_or_default().to_owned())
}

fn condition(kind: &str, status: &str) -> Value {
    json!({"status": {"conditions": [{"type": kind, "status": status, "reason": "Test", "message": "x"}]}})
}

fn node(name: &str) -> Value {
    json!({
        "kind": "Node",
        "metadata": {"name": name, "labels": {"zone": "1"}, "annotations": {"other": "1"}},
        "status": {
            "addresses": [{"type": "InternalIP", "address": "192.0.2.1"}],
            "conditions": [{"type": "Ready", "status": "True"}, {"type": "NetworkUnavailable", "status": "True"}],
            "capacity": {"cpu": "2"},
        },
    })
}

#[tokio::test]
async fn the_policy_lets_bowlined_write_its_own_node_alone() {
    let Some(assets) = assets() else { return };
    let server = KubeApiserver::start(&assets, &[]).await;
    for name in ["a", "b"] {
        server.put(node(name)).await;
    }
    for object in rendered("wireguard") {
        apply(&server, &object).await;
    }
    let token = server.token_of("a").await;
    let mut tries = 0;
    let mut label = || {
        tries += 1;
        json!({"metadata": {"labels": {"zone": tries.to_string()}}})
    };
    // A policy is in force a moment after it was made: what it refuses goes through before.
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(60);
    while written(&server, &token, "a", label()).await.0 != 422 {
        assert!(tokio::time::Instant::now() < deadline, "a label is written");
        // The pause between two looks.
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    let key = |text: &str| json!({"metadata": {"annotations": {daemon::objects::WIREGUARD_KEY: text}}});
    let refused = [
        ("b", condition("NetworkUnavailable", "False"), "the Node that it runs on"),
        ("a", json!({"metadata": {"labels": {"zone": null}}}), "of a Node's metadata"),
        ("a", json!({"metadata": {"annotations": {"other": "2"}}}), "of a Node's annotations"),
        ("a", json!({"metadata": {"annotations": {"other": null}}}), "of a Node's annotations"),
        ("a", json!({"metadata": {"annotations": {"new": "1"}}}), "of a Node's annotations"),
        ("a", condition("Ready", "False"), "of a Node's conditions"),
        ("a", condition("DiskPressure", "True"), "of a Node's conditions"),
        (
            "a",
            json!({"status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.66"}]}}),
            "of a Node's status",
        ),
        ("a", json!({"status": {"capacity": {"cpu": "64"}}}), "of a Node's status"),
        ("a", json!({"status": {"nodeInfo": {"kernelVersion": "x"}}}), "of a Node's status"),
    ];
    for (node, patch, why) in refused {
        let (code, message) = written(&server, &token, node, patch.clone()).await;
        assert!(code == 422 && message.contains(why), "{node} {patch}: {code} {message}");
    }
    for patch in [condition("NetworkUnavailable", "False"), key("first"), key("second"), json!({})] {
        assert_eq!(written(&server, &token, "a", patch.clone()).await, (200, String::new()), "{patch}");
    }
    // A token that names no node writes nothing; who is not bowlined is not meant.
    let unbound = std::fs::read_to_string(server.kubeconfig()).unwrap();
    let unbound: Value = serde_json::from_str(&unbound).unwrap();
    let unbound = unbound["users"][0]["user"]["token"].as_str().unwrap();
    assert_eq!(written(&server, unbound, "a", key("third")).await.0, 422);
    let (code, _) = server
        .send_as(None, ("PATCH", &format!("{NODES}/b/status")), "application/merge-patch+json", &label())
        .await;
    assert_eq!(code, 200);
}
