//! The Nodes, and what happened to them.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

/// What a watch sends of one change.
#[derive(Clone)]
pub struct Change {
    /// The version that it made.
    pub version: u64,
    /// `ADDED`, `MODIFIED`, `DELETED`.
    pub kind: &'static str,
    /// The object after it, or before it was deleted.
    pub object: Value,
}

/// Nodes and history.
#[derive(Default)]
pub struct Store {
    /// By name.
    pub nodes: BTreeMap<String, Value>,
    /// Changes, oldest first.
    pub history: Vec<Change>,
    /// Counts changes.
    pub version: u64,
    /// Versions below are forgotten.
    pub oldest: u64,
    /// Counts bookmarks asked for.
    pub bookmarks: u64,
    uids: u64,
}

impl Store {
    /// Creates or replaces.
    pub fn put(&mut self, mut node: Value) {
        let name = node["metadata"]["name"].as_str().expect("a Node has a name").to_owned();
        let old = self.nodes.get(&name);
        let kind = if old.is_some() { "MODIFIED" } else { "ADDED" };
        node["apiVersion"] = json!("v1");
        node["kind"] = json!("Node");
        let own = match old {
            Some(old) => (old["metadata"]["uid"].clone(), old["metadata"]["creationTimestamp"].clone()),
            None => {
                self.uids += 1;
                let second = self.uids % 60;
                (json!(format!("uid-{}", self.uids)), json!(format!("2026-01-01T00:00:{second:02}Z")))
            }
        };
        (node["metadata"]["uid"], node["metadata"]["creationTimestamp"]) = own;
        self.change(kind, &name, node);
    }

    /// Deletes; whether there was one.
    pub fn delete(&mut self, name: &str) -> bool {
        let Some(node) = self.nodes.get(name).cloned() else { return false };
        self.change("DELETED", name, node);
        self.nodes.remove(name);
        true
    }

    /// Merges `patch` into a Node; `of_status` leaves the spec alone. The Node afterwards, `None` where there is none.
    pub fn patch(&mut self, name: &str, patch: &Value, is_strategic: bool, of_status: bool) -> Option<Value> {
        let old = self.nodes.get(name)?.clone();
        let mut node = old.clone();
        merge(&mut node, patch, is_strategic);
        if of_status {
            node["spec"] = old["spec"].clone();
        } else {
            node["status"] = old["status"].clone();
        }
        if node != old {
            self.change("MODIFIED", name, node);
        }
        self.nodes.get(name).cloned()
    }

    /// Whether a patch is meant for another object of this name.
    pub fn is_another(&self, name: &str, patch: &Value) -> bool {
        let uid = &patch["metadata"]["uid"];
        !uid.is_null() && self.nodes.get(name).is_some_and(|node| node["metadata"]["uid"] != *uid)
    }

    /// Forgets all history.
    pub fn compact(&mut self) {
        self.version += 1;
        self.oldest = self.version;
        self.history.clear();
    }

    fn change(&mut self, kind: &'static str, name: &str, mut object: Value) {
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        self.nodes.insert(name.to_owned(), object.clone());
        self.history.push(Change { version: self.version, kind, object });
    }
}

/// RFC 7386; strategic merge differs in that conditions and addresses are merged by their type.
fn merge(into: &mut Value, patch: &Value, is_strategic: bool) {
    match (into, patch) {
        (Value::Array(items), Value::Array(patches)) if is_strategic => {
            for patch in patches {
                match items.iter_mut().find(|item| item["type"] == patch["type"]) {
                    Some(item) => merge(item, patch, is_strategic),
                    None => items.push(patch.clone()),
                }
            }
        }
        (into, Value::Object(patches)) => {
            if !into.is_object() {
                *into = Value::Object(Map::new());
            }
            for (key, patch) in patches {
                if patch.is_null() {
                    into.as_object_mut().expect("just made").remove(key);
                } else {
                    merge(&mut into[key.as_str()], patch, is_strategic);
                }
            }
        }
        (into, patch) => *into = patch.clone(),
    }
}
