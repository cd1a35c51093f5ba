//! Mirrors that keep nothing, or little: what comes is handed on as changes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proxy::Change;
use serde::de::DeserializeOwned;

use crate::proxy::Inbox;
use crate::source::api::mirror::{Asked, Identified, Identity, Mirror};
use crate::source::fault::{Fault, Faults};

/// A kind of which there may be tens of thousands: each object is a change of its own.
pub(super) trait Kind: Send + Sync {
    type Object: Identified + DeserializeOwned + Send;
    type Kept: Send + Sync;
    const NOUN: &'static str;

    fn asked(&self) -> Asked;

    /// None where the object is nothing to a proxy.
    fn decode(&mut self, object: &Self::Object, faults: &mut Vec<Fault>) -> Option<Self::Kept>;

    fn came(&mut self, kept: Self::Kept) -> Change;

    fn gone(&mut self, identity: &Identity) -> Change;

    fn all(&mut self, kept: Vec<Self::Kept>) -> Change;

    fn servers(&mut self) -> Option<Vec<String>> {
        None
    }
}

/// Hands on changes of a [`Kind`].
pub(super) struct Delta<K: Kind> {
    kind: K,
    asked: Asked,
    inbox: Arc<Inbox>,
    faults: Faults,
    /// What a list has told so far, and of which objects with faults.
    list: Option<(Vec<K::Kept>, BTreeSet<String>)>,
    pending: Vec<Change>,
    changes: u64,
}

impl<K: Kind> Delta<K> {
    pub(super) fn new(kind: K, inbox: &Arc<Inbox>) -> Self {
        Delta {
            asked: kind.asked(),
            kind,
            inbox: Arc::clone(inbox),
            faults: Faults::new(K::NOUN),
            list: None,
            pending: Vec::new(),
            changes: 0,
        }
    }

    fn accuse(&mut self, name: &str, faults: &[Fault]) {
        if self.faults.set(name, faults) {
            self.changes += 1;
        }
        if let Some((_, faulty)) = self.list.as_mut().filter(|_| !faults.is_empty()) {
            faulty.insert(name.to_owned());
        }
    }

    fn push(&mut self, change: Change) {
        self.changes += 1;
        self.pending.push(change);
    }
}

impl<K: Kind> Mirror for Delta<K> {
    type Object = K::Object;

    fn asked(&self) -> &Asked {
        &self.asked
    }

    fn begin(&mut self) {
        self.list = Some((Vec::new(), BTreeSet::new()));
    }

    fn put(&mut self, object: K::Object) {
        let mut faults = Vec::new();
        let kept = self.kind.decode(&object, &mut faults);
        let identity = object.identity();
        self.accuse(&identity.shown(), &faults);
        match (&mut self.list, kept) {
            (Some((list, _)), kept) => list.extend(kept),
            (None, Some(kept)) => {
                let change = self.kind.came(kept);
                self.push(change);
            }
            // It may have been something to a proxy before.
            (None, None) => {
                let change = self.kind.gone(&identity);
                self.push(change);
            }
        }
    }

    /// What was last good of it stays.
    fn put_broken(&mut self, identity: &Identity, what: &str) {
        self.accuse(&identity.shown(), &[Fault::new("the object", what)]);
    }

    fn remove(&mut self, identity: &Identity) {
        self.accuse(&identity.shown(), &[]);
        let change = self.kind.gone(identity);
        self.push(change);
    }

    fn complete(&mut self) {
        let (list, faulty) = self.list.take().unwrap_or_default();
        self.faults.retain(|name| faulty.contains(name));
        let change = self.kind.all(list);
        self.push(change);
    }

    fn changes(&self) -> u64 {
        self.changes
    }

    fn show(&mut self) -> bool {
        let is_anything = !self.pending.is_empty();
        self.inbox.put(self.pending.drain(..));
        is_anything
    }

    fn problems(&self) -> Vec<String> {
        self.faults.sentences()
    }

    fn servers(&mut self) -> Option<Vec<String>> {
        self.kind.servers()
    }
}

/// A kind of which there are few: any change is all of them.
pub(super) trait Small: Send + Sync {
    type Object: Identified + DeserializeOwned + Send;
    type Kept: Send + Sync + PartialEq;
    const NOUN: &'static str;

    fn asked(&self) -> Asked;

    fn decode(&self, object: &Self::Object, faults: &mut Vec<Fault>) -> Self::Kept;

    fn all(&self, kept: &BTreeMap<String, Self::Kept>) -> Change;
}

/// Hands on all objects of a [`Small`] kind.
pub(super) struct Whole<K: Small> {
    kind: K,
    asked: Asked,
    inbox: Arc<Inbox>,
    faults: Faults,
    known: BTreeMap<String, K::Kept>,
    /// What a list has told so far.
    list: Option<BTreeMap<String, K::Kept>>,
    changes: u64,
    shown: u64,
}

impl<K: Small> Whole<K> {
    pub(super) fn new(kind: K, inbox: &Arc<Inbox>) -> Self {
        Whole {
            asked: kind.asked(),
            kind,
            inbox: Arc::clone(inbox),
            faults: Faults::new(K::NOUN),
            known: BTreeMap::new(),
            list: None,
            changes: 0,
            shown: 0,
        }
    }
}

impl<K: Small> Mirror for Whole<K> {
    type Object = K::Object;

    fn asked(&self) -> &Asked {
        &self.asked
    }

    fn begin(&mut self) {
        self.list = Some(BTreeMap::new());
    }

    fn put(&mut self, object: K::Object) {
        let mut faults = Vec::new();
        let name = object.identity().shown();
        let kept = self.kind.decode(&object, &mut faults);
        let is_news = self.faults.set(&name, &faults);
        let differs = self.list.is_none() && self.known.get(&name) != Some(&kept);
        self.list.as_mut().unwrap_or(&mut self.known).insert(name, kept);
        if is_news || differs {
            self.changes += 1;
        }
    }

    fn put_broken(&mut self, identity: &Identity, what: &str) {
        if self.faults.set(&identity.shown(), &[Fault::new("the object", what)]) {
            self.changes += 1;
        }
    }

    fn remove(&mut self, identity: &Identity) {
        self.faults.clear(&identity.shown());
        self.known.remove(&identity.shown());
        self.changes += 1;
    }

    fn complete(&mut self) {
        self.known = self.list.take().unwrap_or_default();
        self.faults.retain(|name| self.known.contains_key(name));
        self.changes += 1;
    }

    fn changes(&self) -> u64 {
        self.changes
    }

    fn show(&mut self) -> bool {
        if std::mem::replace(&mut self.shown, self.changes) == self.changes {
            return false;
        }
        self.inbox.put([self.kind.all(&self.known)]);
        true
    }

    fn problems(&self) -> Vec<String> {
        self.faults.sentences()
    }
}
