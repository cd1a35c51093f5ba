//! conf/rendered is what kustomize makes of the rest. `make manifests` writes it.

use std::path::PathBuf;
use std::process::Command;

use bowline_tests::{kustomize, root, yaml};
use serde_json::Value;

use super::{CHOICES, built};

fn file(choice: &str) -> PathBuf {
    let name = choice.rsplit('/').next().unwrap_or(choice);
    root().join("conf/rendered").join(format!("{name}.yaml"))
}

#[test]
fn rendered_files_are_what_the_overlays_say() {
    for choice in CHOICES {
        let head = format!(
            "# Made of conf/{choice} by `make manifests`; why each right, mount and capability is needed stands there.\n"
        );
        let objects = built(choice);
        let text = head + &yaml::render(&objects);
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(file(choice), &text).expect("conf/rendered can be written");
        }
        let present = std::fs::read_to_string(file(choice)).unwrap_or_default();
        assert!(present == text, "{} is not conf/{choice}: run `make manifests`", file(choice).display());
        assert_eq!(kustomize::documents(&file(choice)).expect("it is read again"), objects, "{choice}");
    }
    let present = std::fs::read_dir(root().join("conf/rendered")).expect("it is there").count();
    assert_eq!(present, CHOICES.len(), "conf/rendered has a file that nothing makes");
}

/// The commands by which a real kustomize builds a directory.
fn real() -> Vec<Vec<PathBuf>> {
    let assets = std::env::var_os("KUBEBUILDER_ASSETS").map(PathBuf::from);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places: Vec<PathBuf> = assets.into_iter().chain(std::env::split_paths(&path)).collect();
    let find = |name: &str| places.iter().map(|place| place.join(name)).find(|program| program.is_file());
    [("kustomize", "build"), ("kubectl", "kustomize")]
        .into_iter()
        .filter_map(|(name, verb)| Some(vec![find(name)?, verb.into()]))
        .collect()
}

/// Where a kustomize or kubectl is at hand, it makes the same.
#[test]
fn the_real_kustomize_makes_the_same() {
    for command in real() {
        for choice in CHOICES {
            let done = Command::new(&command[0])
                .args(&command[1..])
                .arg(root().join("conf").join(choice))
                .output()
                .unwrap_or_else(|error| panic!("{}: {error}", command[0].display()));
            assert!(done.status.success(), "{choice}: {}", String::from_utf8_lossy(&done.stderr));
            let theirs: Vec<Value> =
                serde_saphyr::from_multiple(&String::from_utf8_lossy(&done.stdout)).expect("YAML");
            assert_eq!(theirs, built(choice), "{choice} by {}", command[0].display());
        }
        eprintln!("{} makes the same of {} directories", command[0].display(), CHOICES.len());
    }
}
