//! From elements as they are and as they should be to changes.

use std::cmp::Ordering;

use kernel::nft::{Batch, Element, End, Table};

use super::layout::{Entry, Map};

/// Elements sorted by what makes them one of their kind: map, key and end. No two are the same in that.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Elements(Vec<Entry>);

impl Elements {
    /// Sorts entries; of two of a kind the first stays.
    pub(super) fn new(mut entries: Vec<Entry>) -> Self {
        entries.sort_by(order);
        entries.dedup_by(|later, earlier| order(later, earlier).is_eq());
        Elements(entries)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.0.iter()
    }

    /// Those of one map.
    pub(super) fn of(&self, map: Map) -> impl Iterator<Item = &Element> {
        let from = self.0.partition_point(|entry| entry.map < map);
        self.0[from..].iter().take_while(move |entry| entry.map == map).map(|entry| &entry.element)
    }

    /// The one with this key, which is no interval.
    pub(super) fn find(&self, map: Map, key: &[u8]) -> Option<&Element> {
        let at = self.0.binary_search_by(|entry| {
            let other = (entry.map, entry.element.key.as_slice(), &entry.element.end);
            other.cmp(&(map, key, &End::Single))
        });
        at.ok().map(|index| &self.0[index].element)
    }
}

fn order(a: &Entry, b: &Entry) -> Ordering {
    (a.map, &a.element.key, &a.element.end).cmp(&(b.map, &b.element.key, &b.element.end))
}

/// Elements to delete and to add, in their order.
#[derive(Debug, Default)]
pub(super) struct Diff {
    delete: Vec<Entry>,
    add: Vec<Entry>,
    replaced: usize,
}

impl Diff {
    /// An element with other data is deleted and added. Comments don't count.
    pub(super) fn new(old: Elements, new: Elements) -> Self {
        let mut diff = Diff::default();
        let (mut old, mut new) = (old.0.into_iter().peekable(), new.0.into_iter().peekable());
        loop {
            let next = match (old.peek(), new.peek()) {
                (Some(a), Some(b)) => order(a, b),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (None, None) => return diff,
            };
            let gone = if next.is_le() { old.next() } else { None };
            let come = if next.is_ge() { new.next() } else { None };
            if let (Some(gone), Some(come)) = (&gone, &come) {
                if gone.element.data == come.element.data {
                    continue;
                }
                diff.replaced += 1;
            }
            diff.delete.extend(gone);
            diff.add.extend(come);
        }
    }

    /// Elements touched: one that is replaced counts once.
    pub(super) fn touched(&self) -> usize {
        self.delete.len() + self.add.len() - self.replaced
    }

    /// Deletions first, so that a key may come back with other data in the same batch.
    pub(super) fn write(&self, batch: &mut Batch, table: &Table<'_>) {
        for part in by_map(&self.delete) {
            batch.delete_elements(table, part[0].map.name(), part.iter().map(|entry| &entry.element));
        }
        for part in by_map(&self.add) {
            batch.create_elements(table, part[0].map.name(), part.iter().map(|entry| &entry.element));
        }
    }
}

/// Parts with one map each, none of them empty.
fn by_map(entries: &[Entry]) -> impl Iterator<Item = &[Entry]> {
    entries.chunk_by(|a, b| a.map == b.map)
}
