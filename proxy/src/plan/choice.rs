//! Which endpoints serve: readiness, termination, locality and hints.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::settings::Site;
use crate::Family;
use crate::state::{Endpoint, EndpointSlice, Protocol, ServicePortName, Snapshot};

/// An endpoint that may be chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Target {
    /// Address and port.
    pub address: SocketAddr,
    /// Whether it is on this node.
    pub is_local: bool,
}

/// Which lists a Service port needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Needs {
    pub(super) cluster: bool,
    pub(super) local: bool,
}

/// Endpoints chosen for one Service port, each list sorted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Choice {
    /// For policy Cluster.
    pub(super) cluster: Vec<Target>,
    /// For policy Local.
    pub(super) local: Vec<Target>,
    /// Whether anything anywhere could serve: without, packets are rejected, else dropped.
    pub(super) any: bool,
    /// All that serve, ready or not: flows to them are left alone.
    pub(super) serving: Vec<SocketAddr>,
}

/// Every endpoint of a Service port in a family that packets can be sent to, whether or not one is chosen.
pub fn endpoints_of<'a>(
    snapshot: &'a Snapshot,
    name: &ServicePortName,
    family: Family,
) -> BTreeMap<SocketAddr, &'a Endpoint> {
    gather(snapshot.slices_of(&name.service), &name.port, name.protocol, family)
}

/// The endpoints of one port over all slices of its Service. One address twice: the later one counts, but one that
/// terminates never replaces another (its address may belong to a new pod already).
pub(super) fn gather<'a>(
    slices: impl Iterator<Item = &'a Arc<EndpointSlice>>,
    port: &str,
    protocol: Protocol,
    family: Family,
) -> BTreeMap<SocketAddr, &'a Endpoint> {
    let mut found: BTreeMap<SocketAddr, &Endpoint> = BTreeMap::new();
    for slice in slices.filter(|s| s.family == family && !s.is_headless) {
        let numbers =
            slice.ports.iter().filter(|p| *p.name == *port && p.protocol == protocol && p.port != 0);
        for number in numbers {
            for endpoint in slice.endpoints.iter().filter(|e| is_usable(e.ip, family)) {
                let address = SocketAddr::new(endpoint.ip, number.port);
                if !endpoint.terminating || !found.contains_key(&address) {
                    found.insert(address, endpoint);
                }
            }
        }
    }
    found
}

/// Whether packets can be sent to an endpoint of this address at all. The API refuses the others.
pub(super) fn is_usable(ip: IpAddr, family: Family) -> bool {
    let is_link_local = match ip {
        IpAddr::V4(ip) => ip.is_link_local() || ip.is_broadcast(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    Family::of(ip) == family
        && !is_link_local
        && !ip.is_loopback()
        && !ip.is_unspecified()
        && !ip.is_multicast()
}

pub(super) fn choose(endpoints: &BTreeMap<SocketAddr, &Endpoint>, site: &Site, needs: Needs) -> Choice {
    let is_local = |e: &Endpoint| e.node.as_ref().is_some_and(|node| *node == site.node);
    let is_last_resort = |e: &Endpoint| e.serving && e.terminating;
    let pick = |wanted: &dyn Fn(&Endpoint) -> bool| -> Vec<Target> {
        let those = endpoints.iter().filter(|(_, e)| wanted(e));
        let targets = those.map(|(address, e)| Target { address: *address, is_local: is_local(e) });
        // They stay for long: as many as there are, and no room for more.
        targets.collect::<Box<[Target]>>().into_vec()
    };
    let mut choice = Choice {
        any: endpoints.values().any(|e| e.ready || is_last_resort(e)),
        serving: endpoints.iter().filter(|(_, e)| e.serving).map(|(address, _)| *address).collect(),
        ..Choice::default()
    };
    if needs.cluster {
        let near = Nearness::of(endpoints, site);
        choice.cluster = pick(&|e| e.ready && near.includes(e, site));
        if choice.cluster.is_empty() {
            choice.cluster = pick(&is_last_resort);
        }
    }
    if needs.local {
        choice.local = pick(&|e| e.ready && is_local(e));
        if choice.local.is_empty() {
            choice.local = pick(&|e| is_last_resort(e) && is_local(e));
        }
    }
    choice
}

/// How near an endpoint must be, by the hints of all that are ready. A single one without hints, or hints that leave
/// this node without any, and they count for nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Nearness {
    Node,
    Zone,
    Anywhere,
}

impl Nearness {
    fn of(endpoints: &BTreeMap<SocketAddr, &Endpoint>, site: &Site) -> Self {
        let ready = || endpoints.values().filter(|e| e.ready);
        let hinted = |hints: fn(&Endpoint) -> &[Arc<str>], here: &Arc<str>| {
            !here.is_empty()
                && ready().all(|e| !hints(e).is_empty())
                && ready().any(|e| hints(e).contains(here))
        };
        if hinted(Endpoint::node_hints, &site.node) {
            Nearness::Node
        } else if hinted(Endpoint::zone_hints, &site.zone) {
            Nearness::Zone
        } else {
            Nearness::Anywhere
        }
    }

    fn includes(self, endpoint: &Endpoint, site: &Site) -> bool {
        match self {
            Nearness::Node => endpoint.node_hints().contains(&site.node),
            Nearness::Zone => endpoint.zone_hints().contains(&site.zone),
            Nearness::Anywhere => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Settings;
    use crate::state::{Hints, ServiceName, SlicePort};

    fn slice(port: u16, endpoints: Vec<Endpoint>) -> Arc<EndpointSlice> {
        let mut slice = EndpointSlice::new(ServiceName::new("default", "web"), Family::V4);
        slice.ports = vec![SlicePort { name: "http".into(), protocol: Protocol::Tcp, port }];
        slice.endpoints = endpoints;
        Arc::new(slice)
    }

    fn endpoint(last: u8) -> Endpoint {
        Endpoint::new(IpAddr::from([10, 1, 0, last]))
    }

    fn terminating(last: u8) -> Endpoint {
        Endpoint { ready: false, terminating: true, ..endpoint(last) }
    }

    fn found(slices: &[Arc<EndpointSlice>]) -> Vec<(String, bool)> {
        let all = gather(slices.iter(), "http", Protocol::Tcp, Family::V4);
        all.into_iter().map(|(address, e)| (address.to_string(), e.terminating)).collect()
    }

    #[test]
    fn of_two_endpoints_with_one_address_the_one_that_stays_counts() {
        let living = [("10.1.0.1:80".to_owned(), false)];
        let (old, new) = (|| slice(80, vec![terminating(1)]), || slice(80, vec![endpoint(1)]));
        assert_eq!(found(&[old(), new()]), living);
        assert_eq!(found(&[new(), old()]), living);
        assert_eq!(found(&[old(), old()]), [("10.1.0.1:80".to_owned(), true)]);
    }

    #[test]
    fn one_port_name_may_mean_different_numbers() {
        let slices = [slice(80, vec![endpoint(1)]), slice(8080, vec![endpoint(2)])];
        let both = [("10.1.0.1:80".to_owned(), false), ("10.1.0.2:8080".to_owned(), false)];
        assert_eq!(found(&slices), both);
        assert!(found(&[slice(0, vec![endpoint(1)])]).is_empty(), "port 0 is no port");
        let udp = gather(slices.iter(), "http", Protocol::Udp, Family::V4);
        assert!(udp.is_empty(), "another protocol is another port");
    }

    #[test]
    fn hints_of_those_that_are_not_ready_never_count() {
        let mut snapshot = Snapshot::default();
        snapshot.node = crate::state::Node { zone: "a".into(), ..Default::default() }.into();
        let site = Site::new(&snapshot, &Settings::default(), Family::V4);
        let hinted = |last, zone: &str| endpoint(last).hinted(Hints::of_zones([zone]));
        let unready = Endpoint { ready: false, serving: false, ..endpoint(3) };
        let chosen = |endpoints: Vec<Endpoint>| {
            let slices = [slice(80, endpoints)];
            let all = gather(slices.iter(), "http", Protocol::Tcp, Family::V4);
            let choice = choose(&all, &site, Needs { cluster: true, local: false });
            choice.cluster.iter().map(|target| target.address.ip().to_string()).collect::<Vec<_>>()
        };
        assert_eq!(chosen(vec![hinted(1, "a"), hinted(2, "b"), unready]), ["10.1.0.1"]);
        assert_eq!(chosen(vec![hinted(1, "a"), endpoint(2)]), ["10.1.0.1", "10.1.0.2"]);
        assert_eq!(chosen(vec![hinted(1, "b"), hinted(2, "c")]), ["10.1.0.1", "10.1.0.2"]);
    }
}
