//! What a follower keeps of the API's objects of one kind, and where that goes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use kube::Resource;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::objects::{Node, Objects};
use crate::source::fault::{Fault, Faults};
use crate::source::node::{self, NodeObject};
use crate::source::outlet::Outlet;

/// Which objects a follower asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// Path of the list.
    pub path: &'static str,
    /// `kind` of the list.
    pub list: &'static str,
    /// Only objects with such labels.
    pub labels: Option<String>,
    /// Only objects with such fields.
    pub fields: Option<String>,
    /// Objects to a page.
    pub page: u32,
    /// Whether servers without this kind are no trouble.
    pub may_be_absent: bool,
    /// Events that follow each other this quickly are shown together.
    pub quiet: Duration,
}

/// `metadata`, as far as every kind has it.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Identity {
    /// `metadata.namespace`.
    pub namespace: Option<String>,
    /// `metadata.name`.
    pub name: Option<String>,
    /// `metadata.resourceVersion`.
    pub resource_version: Option<String>,
}

impl Identity {
    /// `NAMESPACE/NAME`, or `NAME`.
    pub fn shown(&self) -> String {
        let name = self.name.as_deref().unwrap_or_default();
        self.namespace.as_ref().map_or_else(|| name.to_owned(), |namespace| format!("{namespace}/{name}"))
    }
}

/// An object with a name and a version.
pub trait Identified {
    /// Both.
    fn identity(&self) -> Identity;
}

/// What a follower keeps. It hears of a list object by object, and of every event.
pub trait Mirror: Send + Sync {
    /// The objects.
    type Object: Identified + DeserializeOwned + Send;

    /// Which ones.
    fn asked(&self) -> &Asked;

    /// A list begins. Until it is complete what was known before stays in force.
    fn begin(&mut self);

    /// An object of the list, or of an event.
    fn put(&mut self, object: Self::Object);

    /// An object that is no object of this kind, and why.
    fn put_broken(&mut self, identity: &Identity, what: &str);

    /// An object is gone.
    fn remove(&mut self, identity: &Identity);

    /// The list is complete: what was not in it is gone.
    fn complete(&mut self);

    /// Counts what has changed.
    fn changes(&self) -> u64;

    /// Hands over what has changed; whether anything had.
    fn show(&mut self) -> bool;

    /// What is wrong with the objects.
    fn problems(&self) -> Vec<String>;

    /// URLs of servers of this very API, where the objects tell of them and they are others than last time.
    fn servers(&mut self) -> Option<Vec<String>> {
        None
    }
}

/// All Nodes.
pub struct Nodes {
    asked: Asked,
    outlet: Outlet,
    nodes: BTreeMap<String, Arc<Node>>,
    faults: Faults,
    /// The names that a list has told so far, and what it says.
    list: Option<BTreeMap<String, Arc<Node>>>,
    /// Kubelets write a Node every few minutes without a word that matters here.
    changes: u64,
}

impl Nodes {
    /// None yet.
    pub fn new(outlet: Outlet) -> Self {
        let asked = Asked {
            path: "/api/v1/nodes",
            list: "NodeList",
            labels: None,
            fields: None,
            // 20 KiB each at the server's end.
            page: 100,
            may_be_absent: false,
            quiet: Duration::from_millis(20),
        };
        let nodes = BTreeMap::new();
        Nodes { asked, outlet, nodes, faults: Faults::new("Node"), list: None, changes: 0 }
    }
}

impl Identified for NodeObject {
    fn identity(&self) -> Identity {
        let metadata = self.meta();
        Identity {
            namespace: None,
            name: metadata.name.clone(),
            resource_version: metadata.resource_version.clone(),
        }
    }
}

impl Mirror for Nodes {
    type Object = NodeObject;

    fn asked(&self) -> &Asked {
        &self.asked
    }

    fn begin(&mut self) {
        self.list = Some(BTreeMap::new());
    }

    fn put(&mut self, object: NodeObject) {
        let (node, faults) = node::decode(&object);
        let name = node.name.clone();
        if self.faults.set(&name, &faults) {
            self.changes += 1;
        }
        let old = self.nodes.get(&name).filter(|old| ***old == node).cloned();
        let differs = old.is_none();
        let node = old.unwrap_or_else(|| Arc::new(node));
        if name.is_empty() {
            return;
        }
        if let Some(list) = &mut self.list {
            list.insert(name, node);
        } else if differs {
            self.changes += 1;
            self.nodes.insert(name, node);
        }
    }

    fn put_broken(&mut self, identity: &Identity, what: &str) {
        if self.faults.set(&identity.shown(), &[Fault::new("the object", what)]) {
            self.changes += 1;
        }
        // What was last good of it stays.
        let name = identity.name.clone().unwrap_or_default();
        if let (Some(list), Some(old)) = (&mut self.list, self.nodes.get(&name)) {
            list.insert(name, Arc::clone(old));
        }
    }

    fn remove(&mut self, identity: &Identity) {
        let name = identity.shown();
        if self.faults.clear(&name) | self.nodes.remove(&name).is_some() {
            self.changes += 1;
        }
    }

    fn complete(&mut self) {
        self.nodes = self.list.take().unwrap_or_default();
        let names: BTreeSet<&str> = self.nodes.keys().map(String::as_str).collect();
        self.faults.retain(|name| name.is_empty() || names.contains(name));
        self.changes += 1;
    }

    fn changes(&self) -> u64 {
        self.changes
    }

    fn show(&mut self) -> bool {
        self.outlet.publish(Objects { nodes: self.nodes.clone() })
    }

    fn problems(&self) -> Vec<String> {
        self.faults.sentences()
    }
}
