//! What an object names is there.

use std::collections::BTreeSet;

use bowline_tests::read;
use serde_json::Value;

use super::{CHOICES, built, only};

fn texts(list: &Value) -> Vec<&str> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

fn names<'a>(list: &'a Value, key: &str) -> Vec<&'a str> {
    list.as_array().into_iter().flatten().map(|it| it[key].as_str().expect("a name")).collect()
}

/// What kubeadm has put into a cluster; part of no choice.
const KUBEADM: [(&str, &str); 1] = [("ConfigMap", "kube-proxy")];

fn exists(objects: &[Value], kind: &str, name: &Value) -> bool {
    KUBEADM.iter().any(|(theirs, called)| *theirs == kind && name == called)
        || objects.iter().any(|object| object["kind"] == kind && object["metadata"]["name"] == *name)
}

#[test]
fn pods_are_the_daemon_sets_own() {
    for choice in CHOICES {
        let objects = built(choice);
        let set = only(&objects, "DaemonSet");
        let selected = set["spec"]["selector"]["matchLabels"].as_object().expect("labels");
        assert!(!selected.is_empty());
        for (key, value) in selected {
            assert_eq!(&set["spec"]["template"]["metadata"]["labels"][key], value, "{choice}: {key}");
        }
    }
    // Applied side by side none takes the other's pods.
    let selectors = ["overlays/vxlan", "overlays/proxy-only", "cleanup"]
        .map(|choice| only(&built(choice), "DaemonSet")["spec"]["selector"].to_string());
    assert_eq!(selectors.iter().collect::<BTreeSet<_>>().len(), selectors.len());
}

#[test]
fn everything_that_is_named_is_there() {
    for choice in CHOICES {
        let objects = built(choice);
        let pod = &only(&objects, "DaemonSet")["spec"]["template"]["spec"];
        match &pod["serviceAccountName"] {
            Value::Null => assert_eq!(pod["automountServiceAccountToken"], false, "{choice}"),
            account => assert!(exists(&objects, "ServiceAccount", account), "{choice}: {account}"),
        }
        // The API server has it from its start.
        assert_eq!(pod["priorityClassName"], "system-node-critical", "{choice}");
        for volume in pod["volumes"].as_array().expect("volumes") {
            let config = &volume["configMap"]["name"];
            assert!(config.is_null() || exists(&objects, "ConfigMap", config), "{choice}: {config}");
        }
        for binding in objects.iter().filter(|object| object["kind"] == "ClusterRoleBinding") {
            assert!(exists(&objects, "ClusterRole", &binding["roleRef"]["name"]), "{choice}");
            for subject in binding["subjects"].as_array().expect("subjects") {
                assert!(exists(&objects, "ServiceAccount", &subject["name"]), "{choice}");
            }
        }
        for binding in objects.iter().filter(|it| it["kind"] == "ValidatingAdmissionPolicyBinding") {
            assert!(
                exists(&objects, "ValidatingAdmissionPolicy", &binding["spec"]["policyName"]),
                "{choice}"
            );
        }
    }
}

/// Each volume is mounted and each mount has its volume; the image has a place for it, because its root is read-only.
#[test]
fn volumes_and_mounts_belong_together() {
    let image = read("scripts/image");
    let places = image.split("MOUNT_POINTS = [").nth(1).and_then(|rest| rest.split(']').next());
    let places: BTreeSet<String> = places
        .expect("scripts/image lists them")
        .split('"')
        .skip(1)
        .step_by(2)
        .map(|it| format!("/{it}"))
        .collect();
    for choice in CHOICES {
        let objects = built(choice);
        let pod = &only(&objects, "DaemonSet")["spec"]["template"]["spec"];
        let container = &pod["containers"][0];
        let mounts = &container["volumeMounts"];
        let sorted =
            |list: &Value| names(list, "name").into_iter().map(str::to_owned).collect::<BTreeSet<_>>();
        assert_eq!(sorted(mounts), sorted(&pod["volumes"]), "{choice}");
        assert_eq!(container["securityContext"]["readOnlyRootFilesystem"], true, "{choice}");
        for path in names(mounts, "mountPath") {
            // The runtime makes the last step itself, before it closes the root.
            let (above, _) = path.rsplit_once('/').expect("a path");
            let there = places.iter().any(|place| place == path || place.starts_with(&format!("{above}/")));
            assert!(there, "{choice}: the image has no {path}: add it to MOUNT_POINTS of scripts/image");
        }
    }
}

/// As little as possible, everywhere.
#[test]
fn privileges_are_the_least() {
    for choice in CHOICES {
        let objects = built(choice);
        let pod = &only(&objects, "DaemonSet")["spec"]["template"]["spec"];
        assert!(pod["hostPID"].is_null() && pod["hostIPC"].is_null(), "{choice}");
        assert_eq!(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault", "{choice}");
        let context = &pod["containers"][0]["securityContext"];
        assert_eq!(context["privileged"], false, "{choice}");
        assert_eq!(context["allowPrivilegeEscalation"], false, "{choice}");
        assert_eq!(texts(&context["capabilities"]["drop"]), ["ALL"], "{choice}");
        let may = |capability: &&str| ["NET_ADMIN", "NET_RAW", "DAC_OVERRIDE"].contains(capability);
        assert!(texts(&context["capabilities"]["add"]).iter().all(may), "{choice}");
    }
}

/// The policy means the account that the pods have, and the annotation that the code writes.
#[test]
fn the_admission_policy_means_bowlined() {
    let objects = built("overlays/vxlan");
    let account = only(&objects, "ServiceAccount");
    let (name, namespace) =
        (account["metadata"]["name"].as_str().unwrap(), account["metadata"]["namespace"].as_str().unwrap());
    let policy = only(&objects, "ValidatingAdmissionPolicy")["spec"].to_string();
    assert!(policy.contains(&format!("'system:serviceaccount:{namespace}:{name}'")), "{policy}");
    assert!(policy.contains(&format!("'{}'", daemon::objects::WIREGUARD_KEY)), "{policy}");
}

/// Images bear the version of the workspace.
#[test]
fn images_are_of_this_version() {
    let manifest = read("Cargo.toml");
    let version = manifest.lines().find_map(|line| line.strip_prefix("version = \"")?.strip_suffix('"'));
    let version = version.expect("the workspace has a version");
    for choice in CHOICES {
        let objects = built(choice);
        let image = &only(&objects, "DaemonSet")["spec"]["template"]["spec"]["containers"][0]["image"];
        let plain = format!("docker.io/library/bowline:{version}");
        assert!(*image == plain || *image == format!("{plain}-iptables"), "{choice}: {image}");
    }
}
