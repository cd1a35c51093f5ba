//! As much of kustomize as conf/ uses: bases, and patches of JSON operations (RFC 6902). Everything else is refused, so
//! what this builds is what kustomize builds; where a kustomize or kubectl is at hand, a test compares.

use std::path::Path;

use regex_lite::Regex;
use serde::Deserialize;
use serde_json::Value;

/// A kustomization.yaml, of those fields that are understood here.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Kustomization {
    api_version: String,
    kind: String,
    sort_options: SortOptions,
    resources: Vec<String>,
    #[serde(default)]
    patches: Vec<Patch>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SortOptions {
    order: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Patch {
    target: Target,
    patch: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Target {
    kind: String,
    name: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Operation {
    op: String,
    path: String,
    value: Option<Value>,
}

/// The objects of the kustomization in `directory`, in its order.
///
/// # Errors
/// A sentence that names the file.
pub fn build(directory: &Path) -> Result<Vec<Value>, String> {
    let file = directory.join("kustomization.yaml");
    let named = |why: String| format!("{}: {why}", file.display());
    let text = std::fs::read_to_string(&file).map_err(|error| named(error.to_string()))?;
    let this: Kustomization = serde_saphyr::from_str(&text).map_err(|error| named(error.to_string()))?;
    if (this.api_version.as_str(), this.kind.as_str()) != ("kustomize.config.k8s.io/v1beta1", "Kustomization")
    {
        return Err(named(format!("{} {} is not understood", this.api_version, this.kind)));
    }
    if this.sort_options.order != "fifo" {
        return Err(named(format!("order {} is not understood", this.sort_options.order)));
    }
    let mut objects = Vec::new();
    for resource in &this.resources {
        let path = directory.join(resource);
        objects.extend(if path.is_dir() { build(&path)? } else { documents(&path)? });
    }
    for patch in &this.patches {
        apply(patch, &mut objects).map_err(named)?;
    }
    Ok(objects)
}

/// The objects of one file.
///
/// # Errors
/// A sentence that names the file.
pub fn documents(file: &Path) -> Result<Vec<Value>, String> {
    let named = |why: String| format!("{}: {why}", file.display());
    let text = std::fs::read_to_string(file).map_err(|error| named(error.to_string()))?;
    serde_saphyr::from_multiple(&text).map_err(|error| named(error.to_string()))
}

/// Applies a patch to every object that it means; there must be one.
fn apply(patch: &Patch, objects: &mut [Value]) -> Result<(), String> {
    let Target { kind, name } = &patch.target;
    let whole = |text: &str| Regex::new(&format!("^(?:{text})$")).map_err(|error| error.to_string());
    let (kinds, names) = (whole(kind)?, whole(name)?);
    let operations: Vec<Operation> = serde_saphyr::from_str(&patch.patch)
        .map_err(|error| format!("the patch of {kind} {name}: {error}"))?;
    let is = |pattern: &Regex, text: &Value| text.as_str().is_some_and(|text| pattern.is_match(text));
    let mut found = 0;
    for object in
        objects.iter_mut().filter(|it| is(&kinds, &it["kind"]) && is(&names, &it["metadata"]["name"]))
    {
        found += 1;
        for operation in &operations {
            operate(object, operation)
                .ok_or_else(|| format!("{kind} {name} has no {} to {}", operation.path, operation.op))?;
        }
    }
    if found == 0 { Err(format!("there is no {kind} {name} to patch")) } else { Ok(()) }
}

/// One JSON operation; none where it does not fit.
fn operate(object: &mut Value, operation: &Operation) -> Option<()> {
    let (parent, key) = operation.path.rsplit_once('/')?;
    let key = key.replace("~1", "/").replace("~0", "~");
    let parent = object.pointer_mut(parent)?;
    match (operation.op.as_str(), &operation.value, parent) {
        ("add", Some(value), Value::Array(list)) => {
            let at = if key == "-" { list.len() } else { key.parse().ok()? };
            (at <= list.len()).then(|| list.insert(at, value.clone()))
        }
        ("add", Some(value), Value::Object(map)) => {
            map.insert(key, value.clone());
            Some(())
        }
        ("replace", Some(value), parent) => {
            *parent.pointer_mut(&format!("/{key}"))? = value.clone();
            Some(())
        }
        ("remove", None, Value::Array(list)) => {
            let at = key.parse().ok()?;
            (at < list.len()).then(|| drop(list.remove(at)))
        }
        ("remove", None, Value::Object(map)) => map.shift_remove(&key).map(drop),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn operated(op: &str, path: &str, value: Option<Value>) -> Option<Value> {
        let mut object = json!({"a": {"b/c": [1, 2]}});
        operate(&mut object, &Operation { op: op.into(), path: path.into(), value })?;
        Some(object)
    }

    #[test]
    fn operations_as_in_the_rfc() {
        let rows = [
            ("add", "/a/b~1c/-", Some(json!(3)), Some(json!({"a": {"b/c": [1, 2, 3]}}))),
            ("add", "/a/b~1c/0", Some(json!(0)), Some(json!({"a": {"b/c": [0, 1, 2]}}))),
            ("add", "/a/b~1c/3", Some(json!(0)), None),
            ("add", "/a/d", Some(json!({})), Some(json!({"a": {"b/c": [1, 2], "d": {}}}))),
            ("add", "/x/d", Some(json!({})), None),
            ("replace", "/a/b~1c/1", Some(json!(9)), Some(json!({"a": {"b/c": [1, 9]}}))),
            ("replace", "/a/x", Some(json!(9)), None),
            ("remove", "/a/b~1c/0", None, Some(json!({"a": {"b/c": [2]}}))),
            ("remove", "/a/b~1c/2", None, None),
            ("remove", "/a", None, Some(json!({}))),
            ("move", "/a", None, None),
        ];
        for (op, path, value, expected) in rows {
            assert_eq!(operated(op, path, value), expected, "{op} {path}");
        }
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        let head =
            "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nsortOptions: {order: fifo}\n";
        let patch = "patches: [{target: {kind: Service, name: a}, patch: '[]'}]\n";
        for (tail, why) in [
            ("resources: []\nnamePrefix: x-\n", "namePrefix"),
            (&*format!("resources: []\n{patch}"), "there is no Service a to patch"),
            ("resources: [none.yaml]\n", "none.yaml"),
        ] {
            let directory = tempfile::tempdir().expect("a directory");
            std::fs::write(directory.path().join("kustomization.yaml"), format!("{head}{tail}"))
                .expect("written");
            let error = build(directory.path()).expect_err(tail);
            assert!(error.contains(why), "{error}");
        }
    }
}
