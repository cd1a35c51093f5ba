//! From elements as they are and as they should be to changes.

use std::cmp::Ordering;

use kernel::nft::{Batch, Table};

use super::elements::{Elements, Seen};

/// Elements to delete and to add, in their order.
#[derive(Debug, Default)]
pub(super) struct Diff {
    old: Elements,
    new: Elements,
    /// Which of the old.
    delete: Vec<usize>,
    /// Which of the new.
    add: Vec<usize>,
    replaced: usize,
}

impl Diff {
    /// An element with other data is deleted and added. Comments don't count.
    pub(super) fn new(old: Elements, new: Elements) -> Self {
        let mut diff = Diff { old, new, ..Diff::default() };
        let (mut at_old, mut at_new) = (0, 0);
        loop {
            let (gone, come) = (diff.old.nth(at_old), diff.new.nth(at_new));
            let next = match (&gone, &come) {
                (Some(a), Some(b)) => a.identity.cmp(b.identity),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (None, None) => return diff,
            };
            let is_same = next.is_eq() && gone.map(|e| e.data) == come.map(|e| e.data);
            diff.replaced += usize::from(next.is_eq() && !is_same);
            diff.delete.extend(Some(at_old).filter(|_| next.is_le() && !is_same));
            diff.add.extend(Some(at_new).filter(|_| next.is_ge() && !is_same));
            at_old += usize::from(next.is_le());
            at_new += usize::from(next.is_ge());
        }
    }

    /// Elements touched: one that is replaced counts once.
    pub(super) fn touched(&self) -> usize {
        self.delete.len() + self.add.len() - self.replaced
    }

    /// Deletions first, so that a key may come back with other data in the same batch.
    pub(super) fn write(&self, batch: &mut Batch, table: &Table<'_>) {
        for part in by_map(&self.old, &self.delete) {
            let elements: Vec<_> = part.iter().map(Seen::element).collect();
            batch.delete_elements(table, part[0].map.name(), &elements);
        }
        for part in by_map(&self.new, &self.add) {
            let elements: Vec<_> = part.iter().map(Seen::element).collect();
            batch.create_elements(table, part[0].map.name(), &elements);
        }
    }
}

/// Parts with one map each, none of them empty, none so large that it would take much memory.
fn by_map<'a>(elements: &'a Elements, which: &'a [usize]) -> impl Iterator<Item = Vec<Seen<'a>>> {
    const MOST: usize = 1000;
    let map_of = |at: &usize| elements.nth(*at).map(|element| element.map);
    let of_one_map = which.chunk_by(move |a, b| map_of(a) == map_of(b));
    of_one_map
        .flat_map(|part| part.chunks(MOST))
        .map(|part| part.iter().filter_map(|at| elements.nth(*at)).collect())
}
