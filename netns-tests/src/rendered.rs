//! The manifests that operators apply, as conf/rendered has them, and the images that they name, as `make image` packs
//! them.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{LazyLock, Mutex};

use serde_json::Value;

/// What `kubectl apply -f conf/rendered/NAME.yaml` brings into a cluster.
#[derive(Debug, Clone)]
pub struct Rendered {
    objects: Vec<Value>,
}

impl Rendered {
    /// Reads one.
    ///
    /// # Panics
    /// When there is none, or it is no YAML.
    pub fn read(name: &str) -> Rendered {
        let path = repository().join(format!("conf/rendered/{name}.yaml"));
        let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let objects =
            serde_saphyr::from_multiple(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        Rendered { objects }
    }

    /// With one object more, such as a ConfigMap of kubeadm's.
    #[must_use]
    pub fn with(mut self, object: Value) -> Rendered {
        self.objects.push(object);
        self
    }

    /// The pod of its DaemonSet.
    ///
    /// # Panics
    /// When it has none.
    pub fn pod(&self) -> &Value {
        let set = self.objects.iter().find(|object| object["kind"] == "DaemonSet").expect("a DaemonSet");
        &set["spec"]["template"]["spec"]
    }

    /// The texts of a ConfigMap, by name.
    ///
    /// # Panics
    /// When it has none of that name.
    pub fn config(&self, name: &str) -> &serde_json::Map<String, Value> {
        let is = |object: &&Value| object["kind"] == "ConfigMap" && object["metadata"]["name"] == name;
        let found = self.objects.iter().find(is).unwrap_or_else(|| panic!("no ConfigMap {name}"));
        found["data"].as_object().expect("a ConfigMap has texts")
    }

    /// Switches an option of `bowline.yaml` on, as an administrator does: `#key: ...` becomes `key: value`, or `key: ...`
    /// another value.
    ///
    /// # Panics
    /// When the file does not have that option once.
    pub fn set(&mut self, key: &str, value: &str) {
        let of_bowline = |object: &&mut Value| object["data"]["bowline.yaml"].is_string();
        let object = self.objects.iter_mut().find(of_bowline).expect("a ConfigMap with bowline.yaml");
        let text = object["data"]["bowline.yaml"].as_str().unwrap_or_default().to_owned();
        let is = |line: &str| line.trim_start().trim_start_matches('#').starts_with(&format!("{key}: "));
        assert_eq!(text.lines().filter(|line| is(line)).count(), 1, "{key}");
        let set = |line: &str| match is(line) {
            true => format!("{}{key}: {value}\n", &line[..line.len() - line.trim_start().len()]),
            false => format!("{line}\n"),
        };
        object["data"]["bowline.yaml"] = text.lines().map(set).collect::<String>().into();
    }

    /// Gives the pod another image, as an upgrade does.
    ///
    /// # Panics
    /// When there is no pod.
    pub fn set_image(&mut self, image: &str) {
        let set = self.objects.iter_mut().find(|object| object["kind"] == "DaemonSet").expect("a DaemonSet");
        set["spec"]["template"]["spec"]["containers"][0]["image"] = image.into();
    }
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Images that are packed already; each is packed once.
static PACKED: LazyLock<Mutex<HashMap<String, PathBuf>>> = LazyLock::new(Mutex::default);

/// Packs an image of that name as `make image` does, of what `make build` left; with iptables where the name ends so.
///
/// # Panics
/// When that can't be done.
pub fn image(name: &str) -> PathBuf {
    let mut packed = PACKED.lock().expect("no panic while an image is packed");
    if let Some(path) = packed.get(name) {
        return path.clone();
    }
    let directory = tempfile::tempdir().expect("a directory").keep();
    let path = directory.join("image.tar");
    let mut command = Command::new(repository().join("scripts/image"));
    // Debian's packages as this machine has them, because the lab asks no mirror.
    command.args(["--iptables", "--installed"].iter().filter(|_| name.ends_with("-iptables")));
    let done = command.args(["--name", name]).arg(&path).output().expect("python3 is there");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    packed.insert(name.to_owned(), path.clone());
    path
}
