//! What `make image` packs: the same bytes from the same programs, and nothing but them.

use std::path::{Path, PathBuf};
use std::process::Command;

use bowline_tests::root;
use serde_json::Value;

/// Programs that are none: packing asks only for their bytes.
fn programs(directory: &Path) {
    for name in ["bowline", "bowline-cni", "bowlined"] {
        std::fs::write(directory.join(name), name.repeat(1000)).expect("a file can be written");
    }
}

fn pack(directory: &Path, output: &str, more: &[&str]) -> PathBuf {
    let output = directory.join(output);
    let mut command = Command::new(root().join("scripts/image"));
    command.env_remove("SOURCE_DATE_EPOCH").args(more).arg("--from").arg(directory).arg(&output);
    let done = command.output().expect("python3 is there");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    output
}

fn tar(arguments: &[&str]) -> Vec<u8> {
    let done = Command::new("tar").args(arguments).output().expect("tar is there");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    done.stdout
}

fn json(image: &str, name: &str) -> Value {
    serde_json::from_slice(&tar(&["-xOf", image, name])).expect("JSON")
}

fn blob(descriptor: &Value) -> String {
    let digest = descriptor["digest"].as_str().expect("a digest");
    format!("blobs/sha256/{}", digest.strip_prefix("sha256:").expect("SHA-256"))
}

#[test]
fn the_same_programs_are_the_same_image() {
    let directory = tempfile::tempdir().expect("a directory");
    programs(directory.path());
    let read = |path: PathBuf| std::fs::read(path).expect("it was written");
    let one = read(pack(directory.path(), "one.tar", &[]));
    let other = read(pack(directory.path(), "other.tar", &[]));
    assert!(one == other, "two runs differ");
    std::fs::write(directory.path().join("bowline"), "another").expect("a file can be written");
    assert!(one != read(pack(directory.path(), "third.tar", &[])), "another program makes no difference");
}

#[test]
fn the_image_holds_the_programs_the_plug_ins_and_places_to_mount() {
    let directory = tempfile::tempdir().expect("a directory");
    programs(directory.path());
    let image = pack(directory.path(), "image.tar", &["--arch", "arm64", "--name", "example/bowline:1"]);
    let image = image.to_str().expect("a path in UTF-8");
    let index = json(image, "index.json");
    assert_eq!(index["manifests"][0]["annotations"]["io.containerd.image.name"], "example/bowline:1");
    assert_eq!(index["manifests"][0]["platform"]["architecture"], "arm64");
    let manifest = json(image, &blob(&index["manifests"][0]));
    let config = json(image, &blob(&manifest["config"]));
    assert_eq!(config["config"]["Entrypoint"][0], "/usr/local/bin/bowlined");
    let layer = directory.path().join("layer.tar.gz");
    let layers = manifest["layers"].as_array().expect("layers");
    assert_eq!(layers.len(), 1);
    std::fs::write(&layer, tar(&["-xOf", image, &blob(&layers[0])])).expect("a file can be written");
    let listed = tar(&["-tvzf", layer.to_str().expect("a path in UTF-8")]);
    let listed = String::from_utf8(listed).expect("names in UTF-8");
    for line in listed.lines() {
        assert!(line.contains(" 0/0 "), "not root's: {line}");
        assert!(line.contains(" 1970-01-01 "), "a time of the machine: {line}");
    }
    let files: Vec<&str> = listed.lines().filter(|line| !line.starts_with('d')).collect();
    let has = |end: &str| files.iter().any(|line| line.ends_with(end));
    for name in ["bowline", "bowline-cni", "bowlined", "kube-proxy -> bowlined"] {
        assert!(has(&format!(" usr/local/bin/{name}")), "{name} is missing\n{listed}");
    }
    for plugin in plugins::TABLE {
        let name = plugin.name();
        assert!(
            has(&format!(" usr/local/lib/bowline/cni/{name} link to usr/local/bin/bowline-cni")),
            "{name}"
        );
    }
    assert_eq!(files.len(), plugins::TABLE.len() + 5, "something else is in it\n{listed}");
    for place in
        ["etc/cni/net.d", "host/proc/sys/net", "opt/cni/bin", "run/bowline", "tmp", "var/lib/bowline"]
    {
        assert!(listed.lines().any(|line| line.ends_with(&format!(" {place}/"))), "{place} is missing");
    }
}
