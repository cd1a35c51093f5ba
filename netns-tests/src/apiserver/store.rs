//! The objects, and what happened to them.

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
    /// The object before it.
    pub old: Option<Value>,
    /// Of which kind.
    pub kind_of: Kind,
}

/// The kinds that are served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs, reason = "the API's words")]
pub enum Kind {
    Node,
    Pod,
    Service,
    EndpointSlice,
    ServiceCidr,
}

impl Kind {
    /// Every one.
    pub const ALL: [Kind; 5] = [Kind::Node, Kind::Pod, Kind::Service, Kind::EndpointSlice, Kind::ServiceCidr];

    /// `kind` of its objects, their `apiVersion`, and the last part of their path.
    pub fn words(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Kind::Node => ("Node", "v1", "nodes"),
            Kind::Pod => ("Pod", "v1", "pods"),
            Kind::Service => ("Service", "v1", "services"),
            Kind::EndpointSlice => ("EndpointSlice", "discovery.k8s.io/v1", "endpointslices"),
            Kind::ServiceCidr => ("ServiceCIDR", "networking.k8s.io/v1", "servicecidrs"),
        }
    }

    /// That of an object; one that does not say is a Node.
    pub fn of(object: &Value) -> Kind {
        let is = |kind: &Kind| object["kind"] == kind.words().0;
        Kind::ALL.into_iter().find(is).unwrap_or(Kind::Node)
    }

    /// That of a path's last part.
    pub fn of_resource(resource: &str) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| kind.words().2 == resource)
    }
}

/// A selector of labels or fields, as far as proxies use them: `!KEY`, `KEY=VALUE`, `KEY!=VALUE`.
pub fn selects(labels: &str, fields: &str, object: &Value) -> bool {
    let label = |key: &str| object["metadata"]["labels"][key].as_str();
    let field = |path: &str| {
        path.split('.').fold(object, |at, step| &at[step]).as_str().unwrap_or_default().to_owned()
    };
    let by_labels =
        labels.split(',').filter(|part| !part.is_empty()).all(|part| match part.strip_prefix('!') {
            Some(key) => label(key).is_none(),
            None => part.split_once('=').is_some_and(|(key, value)| label(key) == Some(value)),
        });
    let by_fields =
        fields.split(',').filter(|part| !part.is_empty()).all(|part| match part.split_once("!=") {
            Some((path, value)) => field(path) != value,
            None => part.split_once('=').is_some_and(|(path, value)| field(path) == value),
        });
    by_labels && by_fields
}

/// `NAMESPACE/NAME`, or `NAME`.
pub fn key_of(object: &Value) -> String {
    let metadata = &object["metadata"];
    let name = metadata["name"].as_str().expect("an object has a name");
    metadata["namespace"].as_str().map_or_else(|| name.to_owned(), |namespace| format!("{namespace}/{name}"))
}

/// Objects and history.
#[derive(Default)]
pub struct Store {
    /// By kind and name.
    pub objects: BTreeMap<(Kind, String), Value>,
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
        let (kind_of, name) = (Kind::of(&node), key_of(&node));
        let old = self.objects.get(&(kind_of, name.clone()));
        let kind = if old.is_some() { "MODIFIED" } else { "ADDED" };
        node["apiVersion"] = json!(kind_of.words().1);
        node["kind"] = json!(kind_of.words().0);
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
    pub fn delete(&mut self, kind: Kind, name: &str) -> bool {
        let Some(object) = self.objects.get(&(kind, name.to_owned())).cloned() else { return false };
        self.change("DELETED", name, object);
        self.objects.remove(&(kind, name.to_owned()));
        true
    }

    /// A Node.
    pub fn node(&self, name: &str) -> Option<&Value> {
        self.objects.get(&(Kind::Node, name.to_owned()))
    }

    /// All of a kind, by name.
    pub fn of_kind(&self, kind: Kind) -> impl Iterator<Item = (&str, &Value)> {
        self.objects
            .iter()
            .filter(move |((of, _), _)| *of == kind)
            .map(|((_, name), object)| (name.as_str(), object))
    }

    /// Merges `patch` into a Node; `of_status` leaves the spec alone. The Node afterwards, `None` where there is none.
    pub fn patch(&mut self, name: &str, patch: &Value, is_strategic: bool, of_status: bool) -> Option<Value> {
        let old = self.node(name)?.clone();
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
        self.node(name).cloned()
    }

    /// Whether a patch is meant for another object of this name.
    pub fn is_another(&self, name: &str, patch: &Value) -> bool {
        let uid = &patch["metadata"]["uid"];
        !uid.is_null() && self.node(name).is_some_and(|node| node["metadata"]["uid"] != *uid)
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
        let kind_of = Kind::of(&object);
        let old = self.objects.insert((kind_of, name.to_owned()), object.clone());
        self.history.push(Change { version: self.version, kind, object, old, kind_of });
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
