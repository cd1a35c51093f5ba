//! Objects that nobody should write neither crash nor stop the rest, and are reported.

mod support;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use proptest::prelude::*;
use proxy::plan::{Packet, Verdict};
use proxy::state::{
    Endpoint, EndpointSlice, Ingress, IngressMode, Protocol, Service, ServiceKind, ServiceName, ServicePort,
    SlicePort, ip, network,
};
use proxy::{Dataplane as _, DualStack, Family, ServicePlan, Settings, Snapshot};
use support::backend::Backend;

fn service(name: &str, cluster_ip: &str, ports: u16) -> Service {
    let port = |number: u16| ServicePort {
        name: format!("port-{number}").into(),
        protocol: Protocol::Tcp,
        port: number,
        node_port: 0,
    };
    Service {
        cluster_ips: DualStack { v4: ip(cluster_ip), v6: None },
        ports: (1..=ports).map(port).collect(),
        ..Service::new(ServiceName::new("default", name))
    }
}

fn slice(name: &str, ports: u16, endpoints: &[&str]) -> EndpointSlice {
    let mut slice = EndpointSlice::new(ServiceName::new("default", name), Family::V4);
    let port = |number: u16| SlicePort {
        name: format!("port-{number}").into(),
        protocol: Protocol::Tcp,
        port: 8080,
    };
    slice.ports = (1..=ports).map(port).collect();
    slice.endpoints = endpoints.iter().map(|text| Endpoint::new(ip(text).expect("an address"))).collect();
    slice
}

/// A good Service beside what the test adds.
fn with_good(add: impl FnOnce(&mut Snapshot)) -> Snapshot {
    let mut snapshot = Snapshot::default();
    snapshot.node = support::node().into();
    snapshot.set_service(service("good", "10.96.0.1", 1));
    snapshot.set_slice("good", slice("good", 1, &["10.1.0.9"]));
    add(&mut snapshot);
    snapshot
}

/// Plans it and programs it by every dataplane; the plan, after the good Service was found to be served.
fn carried(snapshot: &Snapshot) -> ServicePlan {
    let plan = ServicePlan::new(snapshot, &Settings::default(), Family::V4);
    let packet = Packet {
        source: ip("192.0.2.2").expect("an address"),
        interface: Some("eth0"),
        destination: "10.96.0.1:1".parse().expect("an address"),
        protocol: Protocol::Tcp,
    };
    let served = vec![("10.1.0.9:8080".parse().expect("an address"), 1.0)];
    assert_eq!(plan.trace(&packet).verdict, Verdict::Endpoints(served));
    for backend in Backend::ALL {
        let space = lab::Space::new_node().expect("a namespace needs root");
        let mut dataplane = backend.open(&space, Family::V4);
        dataplane.sync(&plan, None).expect("the kernel takes it");
        let again = dataplane.sync(&plan, None).expect("a second sync");
        assert_eq!(again.requests, 0, "{backend:?}: a second sync emits nothing");
        dataplane.cleanup().expect("a cleanup");
        assert_eq!(backend.traces(&space), "", "{backend:?}: cleanup leaves no trace");
    }
    plan
}

#[test]
fn thousands_of_ports_and_endpoints() {
    let many: Vec<String> = (0..4000).map(|n| format!("10.1.{}.{}", n / 250, 1 + n % 250)).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let plan = carried(&with_good(|snapshot| {
        snapshot.set_service(service("ports", "10.96.0.2", 3000));
        snapshot.set_slice("ports", slice("ports", 3000, &["10.1.0.1"]));
        snapshot.set_service(service("endpoints", "10.96.0.3", 1));
        snapshot.set_slice("endpoints", slice("endpoints", 1, &many));
        let sticky = Service { affinity: Some(Duration::from_secs(9)), ..service("sticky", "10.96.0.4", 1) };
        snapshot.set_service(sticky);
        snapshot.set_slice("sticky", slice("sticky", 1, &many));
    }));
    assert_eq!(plan.ports.len(), 3003);
}

#[test]
fn one_address_for_two_services() {
    let thief = ServiceName::new("aaa", "thief");
    let plan = carried(&with_good(|snapshot| {
        let stolen = vec![ip("10.96.0.1").expect("an address")];
        let mut service = Service { external_ips: stolen, ..service("x", "10.96.0.7", 1) };
        service.name = thief.clone();
        snapshot.set_service(service);
        snapshot.set_service(self::service("twin", "10.96.0.1", 1));
    }));
    let lost: Vec<String> =
        plan.ports.values().flat_map(|port| &port.lost).map(|l| l.frontend.to_string()).collect();
    assert_eq!(lost, ["external IP 10.96.0.1 port 1", "ClusterIP 10.96.0.1 port 1"]);
}

#[test]
fn addresses_that_are_none_are_reported_once_and_left_out() {
    let plan = carried(&with_good(|snapshot| {
        let mut odd = service("odd", "10.96.0.5", 1);
        odd.external_ips = ["127.0.0.1", "224.0.0.1", "0.0.0.0"].map(|t| ip(t).expect("an address")).to_vec();
        odd.ingress = vec![Ingress { ip: odd.external_ips[1], mode: IngressMode::Vip }];
        snapshot.set_service(odd);
        snapshot
            .set_slice("odd", slice("odd", 1, &["127.0.0.1", "169.254.169.254", "224.0.0.1", "10.1.0.1"]));
        snapshot.set_service(service("loop", "127.0.0.1", 1));
    }));
    let problems: Vec<&str> = plan.problems.values().flatten().map(String::as_str).collect();
    assert_eq!(
        problems,
        [
            "default/loop: clusterIPs: 127.0.0.1 can't be a Service's address",
            "default/odd: externalIPs: 127.0.0.1 can't be a Service's address",
            "default/odd: externalIPs: 224.0.0.1 can't be a Service's address",
            "default/odd: externalIPs: 0.0.0.0 can't be a Service's address",
            "default/odd: status.loadBalancer: 224.0.0.1 can't be a Service's address",
            "default/odd: endpoints: 127.0.0.1 can't be an endpoint's address",
            "default/odd: endpoints: 169.254.169.254 can't be an endpoint's address",
            "default/odd: endpoints: 224.0.0.1 can't be an endpoint's address",
        ]
    );
}

#[test]
fn a_scheduler_that_is_none_is_reported_and_the_default_used() {
    let plan = carried(&with_good(|snapshot| {
        for (name, ip, scheduler) in [("maglev", "10.96.0.5", "mh"), ("odd", "10.96.0.6", "rr; drop table")] {
            let scheduler = scheduler.into();
            snapshot.set_service(Service { scheduler, ..service(name, ip, 1) });
        }
    }));
    let problems: Vec<&str> = plan.problems.values().flatten().map(String::as_str).collect();
    let expected = "default/odd: annotation bowline.dev/ipvs-scheduler: `rr; drop table` is no scheduler of IPVS, so \
                    the default is used";
    assert_eq!(problems, [expected]);
    let schedulers: Vec<_> = plan.ports.values().map(|port| port.scheduler).collect();
    assert_eq!(schedulers, [None, Some(kernel::ipvs::Scheduler::MaglevHashing), None]);
}

#[test]
fn names_longer_than_the_kernel_keeps() {
    let long = "n".repeat(63);
    carried(&with_good(|snapshot| {
        let mut service = service("x", "10.96.0.6", 1);
        service.name = ServiceName::new(&long, &long);
        service.ports[0].name = "é".repeat(40).into();
        snapshot.set_service(service);
    }));
}

#[test]
fn odd_numbers_are_reported() {
    let plan = carried(&with_good(|snapshot| {
        let mut odd = service("odd", "10.96.0.5", 2);
        odd.ports[0].port = 0;
        odd.ports.push(odd.ports[1].clone());
        odd.kind = ServiceKind::LoadBalancer;
        odd.external_policy = proxy::state::Policy::Local;
        odd.affinity = Some(Duration::ZERO);
        odd.source_ranges = ["0.0.0.0/32", "255.255.255.255/32", "192.0.2.9/24"]
            .map(|text| network(text).expect("a network"))
            .to_vec();
        odd.ingress =
            vec![Ingress { ip: "192.0.2.200".parse().expect("an address"), mode: IngressMode::Vip }];
        snapshot.set_service(odd);
    }));
    let problems: Vec<&str> = plan.problems.values().flatten().map(String::as_str).collect();
    assert_eq!(problems.len(), 3, "{problems:?}");
    let names: BTreeSet<String> = plan.ports.keys().map(ToString::to_string).collect();
    assert_eq!(names.into_iter().collect::<Vec<_>>(), ["default/good:port-1", "default/odd:port-2"]);
}

proptest! {
    #[test]
    fn any_address_is_planned_and_traced_without_panic(
        ips in prop::collection::vec(any::<[u8; 4]>(), 6),
        wide in prop::collection::vec(any::<[u8; 16]>(), 6),
        prefix in 0u8..=32,
        port in any::<u16>(),
    ) {
        let at = |index: usize| IpAddr::from(ips[index]);
        let mut snapshot = Snapshot::default();
        snapshot.node = support::node().into();
        let mut service = service("any", "10.96.0.1", 1);
        service.cluster_ips = DualStack { v4: Some(at(0)), v6: Some(IpAddr::from(wide[0])) };
        service.external_ips = vec![at(1), IpAddr::from(wide[1])];
        service.ingress = vec![Ingress { ip: at(2), mode: IngressMode::Vip }];
        service.source_ranges = ipnetwork::IpNetwork::new(at(3), prefix).into_iter().collect();
        service.ports[0].port = port;
        service.ports[0].node_port = port;
        snapshot.set_service(service);
        snapshot.set_slice("any", slice("any", 1, &[]));
        for family in Family::BOTH {
            let plan = ServicePlan::new(&snapshot, &Settings::default(), family);
            for destination in [at(0), at(1), at(2), at(4), IpAddr::from(wide[0]), IpAddr::from(wide[2])] {
                let destination = std::net::SocketAddr::new(destination, port);
                plan.trace(&Packet { source: at(5), interface: None, destination, protocol: Protocol::Tcp });
            }
        }
    }
}
