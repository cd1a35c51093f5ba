//! Pools: the endpoints of one Service port and scope, numbered without gaps so that a random number finds one.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use super::spread::{FIRST_NUMBER, WAY};
use crate::plan::Target;

/// Bits of a way or number below a pool's.
pub(super) const WAY_BITS: u32 = 12;
/// The greatest pool.
pub(super) const LAST_POOL: u32 = u32::MAX >> WAY_BITS;
/// With affinity a pool has at most so many endpoints, for each has a number of its own.
pub(super) const STICKY_MOST: usize = (WAY - FIRST_NUMBER + 1) as usize;

/// A pool as it is programmed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Pool {
    /// Its number, 1 to [`LAST_POOL`].
    pub(super) id: u32,
    /// Its endpoints by slot.
    pub(super) slots: Vec<SocketAddr>,
    /// With affinity, the number by which clients remember an endpoint.
    pub(super) numbers: BTreeMap<SocketAddr, u32>,
}

impl Pool {
    /// Its number as part of a packet's.
    pub(super) fn base(&self) -> u32 {
        self.id << WAY_BITS
    }

    /// Puts `targets` into the slots, moving as few as possible: new ones into the places of those that are gone, and
    /// where these are more, the last ones into the gaps. With affinity new ones get numbers that were long unused.
    pub(super) fn place(&mut self, targets: &[Target], is_sticky: bool) {
        // Both sides sorted: `targets` is.
        let is_wanted = |address: &SocketAddr| targets.binary_search_by_key(address, |t| t.address).is_ok();
        let mut placed: Vec<SocketAddr> = self.slots.clone();
        placed.sort_unstable();
        let mut fresh = targets.iter().map(|t| t.address).filter(|a| placed.binary_search(a).is_err());
        let mut slot = 0;
        while slot < self.slots.len() {
            if is_wanted(&self.slots[slot]) {
                slot += 1;
            } else if let Some(address) = fresh.next() {
                self.slots[slot] = address;
                slot += 1;
            } else {
                self.slots.swap_remove(slot);
            }
        }
        self.slots.extend(fresh);
        if is_sticky {
            self.number(is_wanted);
        } else {
            self.numbers.clear();
        }
    }

    fn number(&mut self, is_wanted: impl Fn(&SocketAddr) -> bool) {
        let mut next = self.numbers.values().max().map_or(FIRST_NUMBER, |last| last + 1);
        self.numbers.retain(|address, _| is_wanted(address));
        for address in &self.slots {
            if self.numbers.contains_key(address) {
                continue;
            }
            let taken = |number: u32| self.numbers.values().any(|other| *other == number);
            while next > WAY || taken(next) {
                next = if next >= WAY { FIRST_NUMBER } else { next + 1 };
            }
            self.numbers.insert(*address, next);
            next += 1;
        }
    }
}

/// Hands out pools.
#[derive(Debug, Clone, Default)]
pub(super) struct PoolIds {
    used: std::collections::BTreeSet<u32>,
    last: u32,
}

impl PoolIds {
    /// Takes this very one; false when another has it.
    pub(super) fn claim(&mut self, id: u32) -> bool {
        self.last = self.last.max(id);
        id != 0 && id <= LAST_POOL && self.used.insert(id)
    }

    /// Takes a free one, those unused for longest first; none when all are in use.
    pub(super) fn take(&mut self) -> Option<u32> {
        let ahead = (self.last + 1..=LAST_POOL).chain(1..=self.last.min(LAST_POOL));
        let id = ahead.into_iter().find(|id| !self.used.contains(id))?;
        self.used.insert(id);
        self.last = id;
        Some(id)
    }

    /// Gives one back.
    pub(super) fn release(&mut self, id: u32) {
        self.used.remove(&id);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn targets(lasts: &[u8]) -> Vec<Target> {
        let address = |last: &u8| SocketAddr::from(([10, 1, 0, *last], 80));
        let mut all: Vec<Target> =
            lasts.iter().map(|last| Target { address: address(last), is_local: false }).collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    fn lasts(pool: &Pool) -> Vec<String> {
        pool.slots.iter().map(|a| a.ip().to_string().rsplit('.').next().unwrap().to_owned()).collect()
    }

    #[test]
    fn few_endpoints_move() {
        let mut pool = Pool::default();
        let mut row = |wanted: &[u8], expected: &[&str]| {
            pool.place(&targets(wanted), false);
            assert_eq!(lasts(&pool), expected, "{wanted:?}");
        };
        row(&[1, 2, 3, 4], &["1", "2", "3", "4"]);
        row(&[1, 3, 4], &["1", "4", "3"]);
        row(&[1, 3, 4, 5], &["1", "4", "3", "5"]);
        row(&[1, 6, 3, 5], &["1", "6", "3", "5"]);
        row(&[7], &["7"]);
        row(&[], &[]);
    }

    #[test]
    fn a_number_comes_back_only_after_all_others() {
        let mut pool = Pool::default();
        pool.place(&targets(&[1, 2]), true);
        let first = pool.numbers.clone();
        pool.place(&targets(&[2]), true);
        pool.place(&targets(&[2, 3]), true);
        assert_eq!(pool.numbers.get(&targets(&[2])[0].address), first.get(&targets(&[2])[0].address));
        assert!(!first.values().any(|n| Some(n) == pool.numbers.get(&targets(&[3])[0].address)));
    }

    #[test]
    fn pools_are_taken_round_robin() {
        let mut ids = PoolIds::default();
        assert!(ids.claim(5) && !ids.claim(5) && !ids.claim(0));
        assert_eq!(ids.take(), Some(6));
        ids.release(6);
        assert_eq!(ids.take(), Some(7));
        ids.last = LAST_POOL;
        assert_eq!(ids.take(), Some(1));
    }

    proptest! {
        #[test]
        fn slots_hold_exactly_the_targets(steps in prop::collection::vec((prop::collection::vec(any::<u8>(), 0..20), any::<bool>()), 1..8)) {
            let mut pool = Pool::default();
            for (wanted, is_sticky) in steps {
                let wanted = targets(&wanted);
                pool.place(&wanted, is_sticky);
                let mut placed = pool.slots.clone();
                placed.sort_unstable();
                prop_assert_eq!(placed, wanted.iter().map(|t| t.address).collect::<Vec<_>>());
                let numbers: std::collections::BTreeSet<u32> = pool.numbers.values().copied().collect();
                prop_assert_eq!(numbers.len(), if is_sticky { wanted.len() } else { 0 });
            }
        }
    }
}
