//! From elements as they are and as they should be to changes.

use std::collections::BTreeMap;

use kernel::nft::{Batch, Element, Table};

use super::layout::{Entry, Map};
use super::observe::Key;

/// Elements to delete and to add, in the order of their keys.
#[derive(Debug, Default)]
pub(super) struct Diff {
    pub(super) delete: Vec<(Map, Element)>,
    pub(super) add: Vec<(Map, Element)>,
}

impl Diff {
    /// An element with other data is deleted and added. Comments don't count.
    pub(super) fn new(old: &BTreeMap<Key, Element>, new: &BTreeMap<Key, Element>) -> Self {
        let is_as = |all: &BTreeMap<Key, Element>, key: &Key, element: &Element| {
            all.get(key).is_some_and(|other| other.data == element.data)
        };
        let but = |all: &BTreeMap<Key, Element>, others: &BTreeMap<Key, Element>| {
            let those = all.iter().filter(|(key, element)| !is_as(others, key, element));
            those.map(|(key, element)| (key.0, element.clone())).collect()
        };
        Diff { delete: but(old, new), add: but(new, old) }
    }

    /// Elements touched: one that is replaced counts once.
    pub(super) fn touched(&self) -> usize {
        let is_replaced = |(map, element): &&(Map, Element)| {
            let at = self.add.binary_search_by(|(m, e)| (m, &e.key).cmp(&(map, &element.key)));
            at.is_ok()
        };
        self.delete.len() + self.add.len() - self.delete.iter().filter(is_replaced).count()
    }

    /// Deletions first, so that a key may come back with other data in the same batch.
    pub(super) fn write(&self, batch: &mut Batch, table: &Table<'_>) {
        for (map, elements) in by_map(&self.delete) {
            batch.delete_elements(table, map.name(), &elements);
        }
        for (map, elements) in by_map(&self.add) {
            batch.create_elements(table, map.name(), &elements);
        }
    }
}

/// Entries by their keys; of two for one key the first stays.
pub(super) fn keyed(entries: impl IntoIterator<Item = Entry>) -> BTreeMap<Key, Element> {
    let mut all = BTreeMap::new();
    for Entry { map, element } in entries {
        all.entry((map, element.key.clone(), element.end.clone())).or_insert(element);
    }
    all
}

fn by_map(changes: &[(Map, Element)]) -> impl Iterator<Item = (Map, Vec<Element>)> {
    changes.chunk_by(|(a, _), (b, _)| a == b).map(|part| {
        let map = part.first().map_or(Map::ClusterIps, |(map, _)| *map);
        (map, part.iter().map(|(_, element)| element.clone()).collect())
    })
}
