//! From virtual servers as they are and as they should be to requests, in an order that costs no connection.
//!
//! What is new comes first, then the filter lets packets to it; the filter keeps packets from what goes, then that goes.
//! A destination that goes takes no new connections, and is deleted once its last one has ended.

use std::collections::{BTreeMap, BTreeSet};

use kernel::ipvs::{Destination, Family as Ipvs, Key, Scheduler, Served, Service};
use kernel::netlink::Op;

use super::layout::At;
use super::observe::Servers;
use super::translate::{Server, destination};
use crate::state::Protocol;

/// Virtual servers as they should be; none is one that goes.
pub(super) type Desired = BTreeMap<Key, Option<Server>>;

/// What to do to virtual servers.
#[derive(Debug, Default)]
pub(super) struct Steps {
    /// What is new or changed.
    pub(super) raise: Vec<Op>,
    /// What goes or takes no new connections.
    pub(super) lower: Vec<Op>,
    /// What takes none and has no connections left.
    pub(super) sweep: Vec<Op>,
    /// Those with destinations that take none any more: some may be without connections already.
    pub(super) drained: BTreeSet<Key>,
    /// Those that go, but have destinations with connections.
    pub(super) lingering: BTreeSet<Key>,
}

impl Steps {
    pub(super) fn new(ipvs: Ipvs, desired: &Desired, observed: &Servers) -> Self {
        let mut steps = Steps::default();
        for (key, server) in desired {
            match (server, observed.get(key)) {
                (Some(server), None) => steps.create(ipvs, server),
                (Some(server), Some(old)) => steps.change(ipvs, server, old),
                (None, Some(old)) => steps.remove(ipvs, *key, old),
                (None, None) => {}
            }
        }
        steps
    }

    /// What is left to do of `desired`'s removals, everything that could take connections having been told not to.
    pub(super) fn finish(ipvs: Ipvs, desired: &Desired, observed: &Servers) -> Self {
        let mut steps = Steps::new(ipvs, desired, observed);
        steps.raise.clear();
        steps
    }

    fn create(&mut self, ipvs: Ipvs, server: &Server) {
        let key = server.service.key;
        self.raise.push(ipvs.add_service(&server.service));
        let all = server.destinations.iter();
        self.raise.extend(all.map(|(to, weight)| ipvs.add_destination(key, &destination(*to, *weight))));
    }

    fn change(&mut self, ipvs: Ipvs, server: &Server, (service, served): &(Service, Vec<Served>)) {
        let key = server.service.key;
        if *service != server.service {
            self.raise.push(ipvs.set_service(&server.service));
        }
        let old: BTreeMap<_, &Served> = served.iter().map(|one| (one.destination.address, one)).collect();
        for (to, weight) in &server.destinations {
            let wanted = destination(*to, *weight);
            match old.get(to) {
                None => self.raise.push(ipvs.add_destination(key, &wanted)),
                Some(one) if one.destination != wanted => {
                    self.raise.push(ipvs.set_destination(key, &wanted));
                }
                Some(_) => {}
            }
        }
        for one in served.iter().filter(|one| !server.destinations.contains_key(&one.destination.address)) {
            self.let_go(ipvs, key, (one, server.drains));
        }
    }

    fn remove(&mut self, ipvs: Ipvs, key: Key, (service, served): &(Service, Vec<Served>)) {
        let drains = drains(key, service);
        let ways = || served.iter().map(|one| leave(one, drains));
        if ways().all(|way| matches!(way, Leave::Now | Leave::Swept)) {
            let is_swept = !served.is_empty() && ways().all(|way| way == Leave::Swept);
            let ops = if is_swept { &mut self.sweep } else { &mut self.lower };
            ops.push(ipvs.delete_service(key));
            return;
        }
        self.lingering.insert(key);
        for one in served {
            self.let_go(ipvs, key, (one, drains));
        }
    }

    fn let_go(&mut self, ipvs: Ipvs, key: Key, (one, drains): (&Served, bool)) {
        let delete = || ipvs.delete_destination(key, one.destination.address).or_absent();
        match leave(one, drains) {
            Leave::Now => self.lower.push(delete()),
            Leave::Swept => self.sweep.push(delete()),
            Leave::Quiet => {
                self.lower.push(ipvs.set_destination(key, &Destination { weight: 0, ..one.destination }));
                self.drained.insert(key);
            }
            Leave::Later => {}
        }
    }
}

/// How a destination goes that nobody wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Leave {
    /// It is deleted.
    Now,
    /// It is deleted: it takes no new connections and has none left.
    Swept,
    /// It takes no new connections from now on.
    Quiet,
    /// It takes none, and has some still.
    Later,
}

fn leave(one: &Served, drains: bool) -> Leave {
    let connections = one.connections;
    match (drains, one.destination.weight) {
        (false, _) => Leave::Now,
        (true, 0) if connections.active == 0 && connections.inactive == 0 => Leave::Swept,
        (true, 0) => Leave::Later,
        (true, _) => Leave::Quiet,
    }
}

fn drains(key: Key, service: &Service) -> bool {
    let is_udp = At::of(key).is_some_and(|at| at.protocol == Protocol::Udp);
    !is_udp && service.scheduler != Scheduler::DestinationHashing.name()
}
