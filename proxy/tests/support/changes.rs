//! Random changes of a small world, and what must hold for every dataplane that follows them.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use proptest::prelude::*;
use proxy::plan::DetectLocal;
use proxy::state::{
    Endpoint, EndpointSlice, Hints, Ingress, IngressMode, Policy, Protocol, Service, ServiceKind,
    ServiceName, ServicePort, SlicePort,
};
use proxy::{Dataplane as _, DualStack, Family, ServicePlan, Settings, Snapshot};

use super::backend::Backend;

/// One change of the world.
#[derive(Debug, Clone)]
pub enum Change {
    Service(Box<Service>),
    NoService(u8),
    /// The Service's last port goes, the others stay as they are.
    OnePortLess(u8),
    Slice(u8, Box<EndpointSlice>),
    NoSlice(u8, u8),
}

fn name(number: u8) -> ServiceName {
    ServiceName::new("default", &format!("web-{number}"))
}

fn address(last: u8) -> IpAddr {
    IpAddr::from([10, 96, 0, last])
}

fn policy(is_local: bool) -> Policy {
    if is_local { Policy::Local } else { Policy::Cluster }
}

fn port((name, is_udp, port, node_port): (&str, bool, u16, u16)) -> ServicePort {
    ServicePort {
        name: name.into(),
        protocol: if is_udp { Protocol::Udp } else { Protocol::Tcp },
        port,
        node_port: if node_port == 0 { 0 } else { 30000 + node_port },
    }
}

fn port_name() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["", "b"])
}

fn range() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["192.0.2.0/24", "192.0.2.0/25", "10.0.0.0/8", "0.0.0.0/0"])
}

prop_compose! {
    /// Few addresses and ports, so that Services get into each other's way.
    fn service()(
        number in 0u8..4,
        kind in prop::sample::select(vec![
            ServiceKind::ClusterIp, ServiceKind::NodePort, ServiceKind::LoadBalancer, ServiceKind::ExternalName,
        ]),
        cluster_ip in prop::option::weighted(0.8, 1u8..4),
        ports in prop::collection::vec((port_name(), any::<bool>(), 80u16..82, 0u16..3), 0..3),
        external in prop::collection::vec(0u8..6, 0..2),
        ingress in prop::collection::vec((4u8..7, any::<bool>()), 0..2),
        ranges in prop::collection::vec(range(), 0..3),
        (affinity, itp, etp) in (prop::option::of(1u64..3), any::<bool>(), any::<bool>()),
        is_foreign in prop::bool::weighted(0.1),
    ) -> Service {
        let mode = |vip| if vip { IngressMode::Vip } else { IngressMode::Proxy };
        Service {
            kind,
            cluster_ips: DualStack { v4: cluster_ip.map(address), v6: None },
            ports: ports.into_iter().map(port).collect(),
            external_ips: external.into_iter().map(address).collect(),
            ingress: ingress.into_iter().map(|(last, vip)| Ingress { ip: address(last), mode: mode(vip) }).collect(),
            source_ranges: ranges.into_iter().map(|r| r.parse().expect("a network")).collect(),
            affinity: affinity.map(Duration::from_secs),
            internal_policy: policy(itp),
            external_policy: policy(etp),
            is_foreign,
            ..Service::new(name(number))
        }
    }
}

prop_compose! {
    fn endpoint()(
        last in 0u8..6,
        (ready, serving, terminating) in prop::sample::select(vec![
            (true, true, false), (true, true, false), (false, true, true), (false, false, true), (false, false, false),
        ]),
        here in any::<bool>(),
        hint in prop::option::of(prop::sample::select(vec!["zone-here", "zone-there"])),
    ) -> Endpoint {
        Endpoint {
            ready,
            serving,
            terminating,
            node: Some(if here { "here" } else { "there" }.into()),
            hints: hint.map(|zone| Hints::of_zones([zone]).into()),
            ..Endpoint::new(IpAddr::from([10, 1, 0, last]))
        }
    }
}

prop_compose! {
    fn slice()(
        number in 0u8..4,
        ports in prop::collection::vec((port_name(), any::<bool>(), 8080u16..8082), 0..4),
        endpoints in prop::collection::vec(endpoint(), 0..5),
        is_headless in prop::bool::weighted(0.1),
    ) -> EndpointSlice {
        let port = |(name, is_udp, port): (&str, bool, u16)| SlicePort {
            name: name.into(),
            protocol: if is_udp { Protocol::Udp } else { Protocol::Tcp },
            port,
        };
        EndpointSlice {
            ports: ports.into_iter().map(port).collect(),
            endpoints,
            is_headless,
            ..EndpointSlice::new(name(number), Family::V4)
        }
    }
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        3 => service().prop_map(|service| Change::Service(Box::new(service))),
        1 => (0u8..4).prop_map(Change::NoService),
        2 => (0u8..4).prop_map(Change::OnePortLess),
        4 => (slice(), 0u8..2).prop_map(|(slice, part)| Change::Slice(part, Box::new(slice))),
        1 => (0u8..4, 0u8..2).prop_map(|(number, part)| Change::NoSlice(number, part)),
    ]
}

pub fn steps() -> impl Strategy<Value = Vec<Vec<Change>>> {
    prop::collection::vec(prop::collection::vec(change(), 1..4), 1..8)
}

/// Makes the changes; the Services concerned.
pub fn make(snapshot: &mut Snapshot, changes: Vec<Change>) -> BTreeSet<ServiceName> {
    let mut one = |change| {
        let (service, changed) = match change {
            Change::Service(service) => (service.name.clone(), snapshot.set_service(*service)),
            Change::NoService(number) => (name(number), snapshot.remove_service(&name(number))),
            Change::OnePortLess(number) => {
                let mut less = snapshot.service(&name(number)).map(|service| (**service).clone());
                let had_one = less.as_mut().is_some_and(|s| s.ports.pop().is_some());
                (name(number), had_one && less.is_some_and(|service| snapshot.set_service(service)))
            }
            Change::Slice(part, slice) => {
                (slice.service.clone(), snapshot.set_slice(&format!("part-{part}"), *slice))
            }
            Change::NoSlice(number, part) => {
                (name(number), snapshot.remove_slice(&name(number), &format!("part-{part}")))
            }
        };
        changed.then_some(service)
    };
    changes.into_iter().filter_map(&mut one).collect()
}

pub fn settings() -> Settings {
    Settings { detect_local: DetectLocal::ClusterCidr(super::cluster_cidrs()), ..Settings::default() }
}

pub fn nothing() -> Snapshot {
    let mut snapshot = Snapshot::default();
    snapshot.node = super::node().into();
    snapshot
}

/// So many random sequences of changes: what is synced part by part is what is synced as a whole.
pub fn syncing_changes_is_syncing_everything(backend: Backend, cases: u32) {
    let space = lab::Space::new_node().expect("a namespace needs root");
    // Where no address at all was ever local Linux takes every one for broadcast, and IPVS refuses it as an endpoint.
    space.sh("ip link set lo up");
    let open = || backend.open(&space, Family::V4);
    let config = ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() };
    let law = |steps: Vec<Vec<Change>>| {
        let mut snapshot = nothing();
        let mut plan = ServicePlan::new(&snapshot, &settings(), Family::V4);
        let mut dataplane = open();
        dataplane.sync(&plan, None).expect("a first sync");
        for step in steps {
            let changed = make(&mut snapshot, step);
            let touched = plan.update(&snapshot, &changed);
            let partial = dataplane.sync(&plan, Some(&touched)).expect("a partial sync");
            prop_assert!(!partial.is_full);
            let after = dataplane.list().expect("a listing");
            prop_assert_eq!(dataplane.drift(&plan).expect("a reading"), Vec::<String>::new());
            let full = dataplane.sync(&plan, None).expect("a full sync");
            // The nftables table keeps chains that no pool needs any more until then.
            let sent = if backend == Backend::Nftables { full.elements } else { full.requests };
            prop_assert_eq!(sent, 0, "a full sync finds nothing to do");
            let adopted = open().sync(&plan, None).expect("a sync after a restart");
            prop_assert_eq!((adopted.elements, adopted.requests), (0, 0), "a restart changes nothing");
            let mut other = open();
            other.cleanup().expect("a cleanup");
            other.sync(&plan, None).expect("from scratch");
            prop_assert_eq!(other.list().expect("a listing"), after);
            dataplane = other;
        }
        dataplane.cleanup().expect("a cleanup");
        Ok(())
    };
    let mut runner = proptest::test_runner::TestRunner::new(config);
    runner.run(&steps(), law).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(backend.traces(&space), "", "cleanup leaves no trace");
}
