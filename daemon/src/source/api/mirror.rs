//! What the API has, as far as it is kept.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::objects::{Node, Objects};
use crate::source::node::{self, NodeObject};

/// That many Nodes with faults are named.
const NAMED: usize = 20;

/// Nodes, and what is wrong with them.
#[derive(Default)]
pub struct Mirror {
    nodes: BTreeMap<String, Arc<Node>>,
    faults: BTreeMap<String, String>,
    /// Counts what changed. Kubelets write a Node every few minutes without a word that matters here.
    pub changes: u64,
}

impl Mirror {
    /// Adds or replaces a Node.
    pub fn put(&mut self, object: &NodeObject) {
        let (node, faults) = node::decode(object);
        let name = node.name.clone();
        let sentence = faults.iter().map(node::Fault::to_string).collect::<Vec<_>>().join("; ");
        let old_sentence = self.faults.remove(&name).unwrap_or_default();
        let differs = self.nodes.get(&name).is_none_or(|old| **old != node);
        if differs || old_sentence != sentence {
            self.changes += 1;
        }
        if !sentence.is_empty() {
            self.faults.insert(name.clone(), format!("Node {name}: {sentence}"));
        }
        if differs && !name.is_empty() {
            self.nodes.insert(name, Arc::new(node));
        }
    }

    /// Removes a Node.
    pub fn remove(&mut self, object: &NodeObject) {
        let (node, _) = node::decode(object);
        self.faults.remove(&node.name);
        if self.nodes.remove(&node.name).is_some() {
            self.changes += 1;
        }
    }

    /// A snapshot.
    pub fn objects(&self) -> Objects {
        Objects { nodes: self.nodes.clone() }
    }

    /// What is wrong with the Nodes.
    pub fn problems(&self) -> Vec<String> {
        let mut problems: Vec<String> = self.faults.values().take(NAMED).cloned().collect();
        if self.faults.len() > NAMED {
            problems.push(format!("{} more Nodes have faults", self.faults.len() - NAMED));
        }
        problems
    }
}
