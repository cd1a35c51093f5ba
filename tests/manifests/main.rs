//! The Kubernetes manifests of conf/: what `kubectl apply` takes is whole, says only what the API knows, and says why.

mod options;
mod reasons;
mod references;
mod rendered;
mod strict;

use bowline_tests::{kustomize, root};
use serde_json::Value;

/// Everything that can be applied, by its directory below conf/; its last word is the rendered file's name.
pub const CHOICES: [&str; 8] = [
    "cleanup",
    "overlays/cross-subnet",
    "overlays/dual-stack",
    "overlays/network-only",
    "overlays/proxy-only",
    "overlays/routed",
    "overlays/vxlan",
    "overlays/wireguard",
];

/// The objects of a choice.
pub fn built(choice: &str) -> Vec<Value> {
    kustomize::build(&root().join("conf").join(choice)).unwrap_or_else(|error| panic!("{error}"))
}

/// The one object of that kind.
pub fn only<'a>(objects: &'a [Value], kind: &str) -> &'a Value {
    let found: Vec<&Value> = objects.iter().filter(|object| object["kind"] == kind).collect();
    assert_eq!(found.len(), 1, "{kind}");
    found[0]
}

#[test]
fn every_overlay_is_a_choice() {
    let entries = std::fs::read_dir(root().join("conf/overlays")).expect("conf/overlays is there");
    let mut found: Vec<String> =
        entries.flatten().map(|entry| format!("overlays/{}", entry.file_name().to_string_lossy())).collect();
    found.push("cleanup".into());
    found.sort();
    assert_eq!(found, CHOICES);
}
