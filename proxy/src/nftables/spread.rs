//! Ways: regular chains that carry out what a frontend's number says in its last twelve bits. There are as many as
//! there are different pool sizes (and timeouts) in use, not as many as Services.

use std::collections::BTreeMap;
use std::time::Duration;

use kernel::nft::{Change, Family as NftFamily, Field, Reg, Rule};

use super::layout::{Map, clients, nft_family};
use super::skeleton;
use crate::plan::Site;

/// The last bits of a number: way of a frontend, or number of an endpoint in its pool.
pub(super) const WAY: u32 = 0xfff;
/// A frontend's way that rejects.
pub(super) const REJECT: u32 = 1;
/// A frontend's way that drops.
pub(super) const DROP: u32 = 2;
/// A frontend's way that depends on the sender.
pub(super) const BY_SOURCE: u32 = 3;
/// Ways that are made when needed begin here.
pub(super) const FIRST: u32 = 0x10;
/// Numbers of endpoints begin here, so that none is also a way.
pub(super) const FIRST_NUMBER: u32 = 0x400;

/// Whose packets are masqueraded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Masquerade {
    Nobody,
    AllButPods,
    Everybody,
}

/// How one of a pool's endpoints is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Spread {
    pub(super) masquerade: Masquerade,
    /// Endpoints in the pool, at least 1.
    pub(super) size: u32,
    /// Seconds a client is remembered; 0 is without affinity.
    pub(super) timeout: u32,
}

impl Spread {
    /// Its chain.
    pub(super) fn chain(&self) -> String {
        let who = match self.masquerade {
            Masquerade::Nobody => "pick",
            Masquerade::AllButPods => "masquerade-others-pick",
            Masquerade::Everybody => "masquerade-pick",
        };
        match self.timeout {
            0 => format!("{who}-{}", self.size),
            timeout => format!("{who}-{}-for-{timeout}s", self.size),
        }
    }

    /// The spread with this chain; none for any other chain.
    pub(super) fn of_chain(chain: &str) -> Option<Self> {
        let (who, rest) = chain.split_once("pick-")?;
        let masquerade = match who {
            "" => Masquerade::Nobody,
            "masquerade-others-" => Masquerade::AllButPods,
            "masquerade-" => Masquerade::Everybody,
            _ => return None,
        };
        let (size, timeout) = match rest.split_once("-for-") {
            Some((size, timeout)) => (size, timeout.strip_suffix('s')?.parse().ok()?),
            None => (rest, 0),
        };
        Some(Spread { masquerade, size: size.parse().ok().filter(|size| *size > 0)?, timeout })
    }

    /// Its rules.
    pub(super) fn rules(&self, site: &Site) -> Vec<Rule> {
        let family = nft_family(site.family);
        let mut rules = Vec::new();
        let mark = match self.masquerade {
            Masquerade::Nobody => None,
            Masquerade::AllButPods => skeleton::not_from_pods(site),
            Masquerade::Everybody => Some(Rule::in_family(family)),
        };
        rules.extend(mark.map(|rule| rule.set_mark_bits(site.masquerade_mark)));
        if self.timeout == 0 {
            let picked = pool_and(family, &[]).random_at(Reg(1), self.size);
            let endpoint = picked.map_at(Map::Endpoints.name(), Reg(0), Reg(0));
            rules.push(endpoint.set_priority(0).dnat_at(family, Reg(0)));
        } else {
            rules.extend(self.sticky_rules(family, clients(site.family).name));
        }
        rules
    }

    /// A known client goes where it went, if that endpoint is still there. Otherwise it is forgotten, a number is
    /// picked, the client remembered with it, and goes there. Where no more clients can be remembered the pick holds.
    fn sticky_rules(&self, family: NftFamily, clients: &str) -> [Rule; 6] {
        let (pool, number) = (Reg(0), Reg(6));
        let endpoint = number.after(4);
        let timeout = Duration::from_secs(self.timeout.into());
        let client = || pool_and(family, &[Field::Saddr(family)]);
        let client_and_number = || client().load_at(number, &[Field::Priority]);
        let numbers = Map::Numbers.name();
        let known = client().map_at(clients, pool, pool).priority_from(pool);
        let alive = client_and_number().map_at(numbers, number, endpoint);
        let alive = alive.remember(Change::Update, clients, (pool, number), timeout);
        let forget = client_and_number().forget(clients, (pool, number));
        let pick = pool_and(family, &[]).random_at(Reg(1), self.size);
        let pick = pick.map_at(Map::Slots.name(), pool, pool).priority_from(pool);
        let remember = client_and_number().remember(Change::Add, clients, (pool, number), timeout);
        let go =
            Rule::in_family(family).load_at(number, &[Field::Priority]).map_at(numbers, number, endpoint);
        [
            known.comment("a known client"),
            alive
                .set_priority(0)
                .dnat_at(family, endpoint)
                .comment("to where it went, if that is still there"),
            forget.comment("else it is forgotten"),
            pick,
            remember,
            go.set_priority(0).dnat_at(family, endpoint),
        ]
    }
}

/// Loads the pool of the packet's number, and fields after it.
fn pool_and(family: NftFamily, fields: &[Field]) -> Rule {
    let pool = Rule::in_family(family).load_at(Reg(0), &[Field::Priority]).bits_at(Reg(0), !WAY, 0);
    pool.load_at(Reg(1), fields)
}

/// Which spread has which number.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Ways {
    by_spread: BTreeMap<Spread, u32>,
    used: std::collections::BTreeSet<u32>,
}

impl Ways {
    /// Those of a listing: way and chain.
    pub(super) fn adopt(&mut self, way: u32, spread: Spread) {
        if !self.by_spread.contains_key(&spread) && self.used.insert(way) {
            self.by_spread.insert(spread, way);
        }
    }

    /// The number of a spread; true when it is new. None when there are too many different ones.
    pub(super) fn ensure(&mut self, spread: Spread) -> Option<(u32, bool)> {
        if let Some(way) = self.by_spread.get(&spread) {
            return Some((*way, false));
        }
        let way = (FIRST..FIRST_NUMBER).find(|way| !self.used.contains(way))?;
        self.used.insert(way);
        self.by_spread.insert(spread, way);
        Some((way, true))
    }

    /// The number of a spread, for one that [`Ways::ensure`] has seen.
    pub(super) fn find(&self, spread: &Spread) -> Option<u32> {
        self.by_spread.get(spread).copied()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&Spread, u32)> {
        self.by_spread.iter().map(|(spread, way)| (spread, *way))
    }

    /// Forgets those that nobody uses, and returns them.
    pub(super) fn retain(&mut self, is_used: impl Fn(&Spread) -> bool) -> Vec<(Spread, u32)> {
        let unused: Vec<(Spread, u32)> =
            self.iter().filter(|(spread, _)| !is_used(spread)).map(|(spread, way)| (*spread, way)).collect();
        for (spread, way) in &unused {
            self.by_spread.remove(spread);
            self.used.remove(way);
        }
        unused
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chains_name_tells_all() {
        for masquerade in [Masquerade::Nobody, Masquerade::AllButPods, Masquerade::Everybody] {
            for (size, timeout) in [(1, 0), (4000, 0), (3, 10800)] {
                let spread = Spread { masquerade, size, timeout };
                assert_eq!(Spread::of_chain(&spread.chain()), Some(spread), "{}", spread.chain());
            }
        }
        for chain in ["services", "pick-", "pick-0", "pick-x", "other-pick-1", "pick-1-for-2", "pick-1-for-s"]
        {
            assert_eq!(Spread::of_chain(chain), None, "{chain}");
        }
    }

    #[test]
    fn ways_run_out_below_the_numbers_of_endpoints_and_come_back() {
        let mut ways = Ways::default();
        let spread = |size| Spread { masquerade: Masquerade::Nobody, size, timeout: 0 };
        let room = FIRST_NUMBER - FIRST;
        for size in 1..=room {
            assert_eq!(ways.ensure(spread(size)), Some((FIRST + size - 1, true)));
        }
        assert_eq!(ways.ensure(spread(7)), Some((FIRST + 6, false)));
        assert_eq!(ways.ensure(spread(room + 1)), None);
        assert_eq!(ways.retain(|spread| spread.size != 9), [(spread(9), FIRST + 8)]);
        assert_eq!(ways.ensure(spread(room + 1)), Some((FIRST + 8, true)));
    }
}
