//! What is wrong with objects: said once, and kept as long as it is true.

use std::collections::BTreeMap;
use std::fmt;

/// That many objects with faults are named.
const NAMED: usize = 20;

/// What is wrong with one field of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The field: `spec.podCIDRs[0]`, `metadata.annotations[a.b/c]`.
    pub field: String,
    /// What is wrong with it, with its value.
    pub what: String,
}

impl Fault {
    /// From field and sentence.
    pub fn new(field: impl Into<String>, what: impl Into<String>) -> Self {
        Fault { field: field.into(), what: what.into() }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.what)
    }
}

/// The faults of all objects of a kind.
#[derive(Debug)]
pub struct Faults {
    kind: &'static str,
    by_name: BTreeMap<String, String>,
}

impl Faults {
    /// None yet, of objects of a kind.
    pub fn new(kind: &'static str) -> Self {
        Faults { kind, by_name: BTreeMap::new() }
    }

    /// What is wrong with an object now, in place of what was; whether that differs. New faults go into the log.
    pub fn set(&mut self, name: &str, faults: &[Fault]) -> bool {
        if faults.is_empty() {
            return self.clear(name);
        }
        let what = faults.iter().map(Fault::to_string).collect::<Vec<_>>().join("; ");
        let sentence = format!("{} {name}: {what}", self.kind);
        if self.by_name.get(name) == Some(&sentence) {
            return false;
        }
        tracing::warn!("{sentence}");
        self.by_name.insert(name.to_owned(), sentence);
        true
    }

    /// An object is gone; whether it had faults.
    pub fn clear(&mut self, name: &str) -> bool {
        self.by_name.remove(name).is_some()
    }

    /// Objects of other names than these are gone.
    pub fn retain(&mut self, mut is_there: impl FnMut(&str) -> bool) {
        self.by_name.retain(|name, _| is_there(name));
    }

    /// The first of them as sentences, and how many more there are.
    pub fn sentences(&self) -> Vec<String> {
        let mut sentences: Vec<String> = self.by_name.values().take(NAMED).cloned().collect();
        if self.by_name.len() > NAMED {
            let more = self.by_name.len() - NAMED;
            sentences.push(format!("{more} more {}s have faults", self.kind));
        }
        sentences
    }
}
