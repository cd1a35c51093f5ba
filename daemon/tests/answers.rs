//! Answers about Services and packets: from a plan, and from a kernel that a test makes up.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};

use daemon::proxy::answer::{services, trace};
use daemon::proxy::{Asked, Filter, Goal, Origin, TracesAnswer};
use proxy::engine::{Depth, Engine, OwnNode, SliceName};
use proxy::plan::{DetectLocal, FrontendKind, Scope};
use proxy::state::{
    Endpoint, EndpointSlice, Hints, Ingress, IngressMode, Policy, Protocol, Service, ServiceKind,
    ServiceName, ServicePort, ServicePortName, SlicePort,
};
use proxy::{Change, Changes, Dataplane, DualStack, Family, Mode, Report, Served, ServicePlan, Settings};

/// A kernel of memory: it serves the last plan, but for what is taken out of it.
#[derive(Debug, Default)]
struct Memory {
    served: Vec<Served>,
    missing: Arc<Mutex<Vec<u16>>>,
}

impl Dataplane for Memory {
    fn mode(&self) -> Mode {
        Mode::Nftables
    }

    fn sync(&mut self, plan: &ServicePlan, _: Option<&BTreeSet<ServicePortName>>) -> kernel::Result<Report> {
        let lines = plan.ports.values().flat_map(|port| {
            port.frontends.iter().map(|frontend| {
                let scope = if port.cluster.is_empty() { Scope::Local } else { Scope::Cluster };
                let endpoints: Vec<_> = port.targets(scope).iter().map(|target| target.address).collect();
                Served {
                    protocol: Some(port.name.protocol),
                    ip: frontend.ip,
                    port: Some(frontend.port),
                    does: if endpoints.is_empty() { "reject".into() } else { format!("pick {endpoints:?}") },
                }
            })
        });
        let whole = plan.ports.values().flat_map(|port| &port.frontends);
        let whole = whole.filter(|frontend| frontend.kind == FrontendKind::ClusterIp).map(|frontend| {
            Served { protocol: None, ip: frontend.ip, port: None, does: "cluster-ips".into() }
        });
        self.served = lines.chain(whole).collect();
        Ok(Report::default())
    }

    fn drift(&mut self, _: &ServicePlan) -> kernel::Result<Vec<String>> {
        let missing = self.missing.lock().expect("nobody panicked").clone();
        Ok(missing.iter().map(|port| format!("add frontend port {port}")).collect())
    }

    fn list(&mut self) -> kernel::Result<Vec<Served>> {
        let missing = self.missing.lock().expect("nobody panicked").clone();
        let is_there = |line: &&Served| line.port.is_none_or(|port| !missing.contains(&port));
        Ok(self.served.iter().filter(is_there).cloned().collect())
    }

    fn cleanup(&mut self) -> kernel::Result<()> {
        self.served.clear();
        Ok(())
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn port(name: &str, protocol: Protocol, port: u16, node_port: u16) -> ServicePort {
    ServicePort { name: name.into(), protocol, port, node_port }
}

fn service(name: &str, cluster_ip: &str, ports: Vec<ServicePort>) -> Service {
    let mut service = Service::new(ServiceName::new("default", name));
    service.cluster_ips.v4 = Some(ip(cluster_ip));
    service.ports = ports;
    service
}

fn endpoint(address: &str, node: &str) -> Endpoint {
    Endpoint { node: Some(node.into()), ..Endpoint::new(ip(address)) }
}

fn slice(service: &str, port: (&str, Protocol, u16), endpoints: Vec<Endpoint>) -> Change {
    let mut slice = EndpointSlice::new(ServiceName::new("default", service), Family::V4);
    slice.ports = vec![SlicePort { name: port.0.into(), protocol: port.1, port: port.2 }];
    slice.endpoints = endpoints;
    Change::Slice(SliceName::new("default", &format!("{service}-1")), slice, None)
}

/// Services of every kind, on node `a` with address 192.0.2.1 and pods in 10.1.0.0/24.
fn changes() -> Changes {
    let mut web = service("web", "10.96.0.10", vec![port("http", Protocol::Tcp, 80, 30080)]);
    web.kind = ServiceKind::LoadBalancer;
    web.external_policy = Policy::Local;
    web.health_check_node_port = 32000;
    web.ingress = vec![Ingress { ip: ip("198.51.100.7"), mode: IngressMode::Vip }];
    web.source_ranges = vec!["203.0.113.0/24".parse().expect("a network")];
    web.affinity = Some(std::time::Duration::from_secs(10800));
    let dns = service(
        "dns",
        "10.96.0.53",
        vec![port("dns", Protocol::Udp, 53, 0), port("dns-tcp", Protocol::Tcp, 53, 0)],
    );
    let mut local = service("agent", "10.96.0.11", vec![port("", Protocol::Tcp, 9000, 0)]);
    local.internal_policy = Policy::Local;
    let mut thief = service("thief", "10.96.0.66", vec![port("", Protocol::Tcp, 80, 0)]);
    thief.external_ips = vec![ip("10.96.0.10"), ip("127.0.0.1")];
    let mut headless = Service::new(ServiceName::new("default", "db"));
    headless.ports = vec![port("", Protocol::Tcp, 5432, 0)];
    let mut away = endpoint("10.2.0.5", "b");
    away.hints = Some(Hints::of_zones(["east"]).into());
    let leaving = Endpoint { ready: false, terminating: true, ..endpoint("10.1.0.6", "a") };
    let mut changes = Changes::new();
    for change in [
        Change::Services(vec![web, dns, local, thief, headless]),
        Change::Slices(Vec::new()),
        slice("web", ("http", Protocol::Tcp, 8080), vec![endpoint("10.1.0.5", "a"), away, leaving]),
        slice("dns", ("dns", Protocol::Udp, 5353), vec![endpoint("10.2.0.53", "b")]),
        slice("agent", ("", Protocol::Tcp, 9000), vec![endpoint("10.2.0.9", "b")]),
        Change::ServiceCidrs(vec!["10.96.0.0/16".parse().expect("a network")]),
        Change::Addresses(vec![ip("127.0.0.1"), ip("192.0.2.1")]),
        Change::Node(Some(OwnNode {
            ips: DualStack { v4: Some(ip("192.0.2.1")), v6: None },
            ..OwnNode::default()
        })),
    ] {
        changes.put(change);
    }
    changes
}

/// An engine that has synced them; the ports put into what comes with it are missing in its kernel.
fn engine() -> (Engine, Arc<Mutex<Vec<u16>>>) {
    let memory = Memory::default();
    let missing = Arc::clone(&memory.missing);
    let cluster = DualStack { v4: Some("10.0.0.0/14".parse().expect("a network")), v6: None };
    let settings = Settings { detect_local: DetectLocal::ClusterCidr(cluster), ..Settings::default() };
    let dataplanes = DualStack { v4: Some(Box::new(memory) as Box<dyn Dataplane>), v6: None };
    let mut engine = Engine::new("a", settings, dataplanes).expect("conntrack can be asked");
    engine.apply(changes());
    engine.sync(Family::V4, Depth::Changes).expect("synced");
    (engine, missing)
}

/// Compares with `golden/NAME`; `UPDATE_GOLDEN=1` writes it. `bowline services` and `bowline trace` are tested with
/// the same files.
#[track_caller]
fn same_as_golden(name: &str, answer: &impl serde::Serialize) {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    let made = serde_json::to_string_pretty(answer).expect("serialised") + "\n";
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &made).expect("the golden file is written");
    }
    let golden = std::fs::read_to_string(&path).expect("the golden file is there; UPDATE_GOLDEN=1 writes it");
    assert!(made == golden, "{name}: made\n{made}\ngolden\n{golden}");
}

fn asked(from: &str, to: &str) -> Asked {
    Asked { from: Origin::parse(from).expect(from), to: Goal::parse(to).expect(to), protocol: None }
}

#[test]
fn services_are_told_as_planned_and_as_the_kernel_has_them() {
    let (mut engine, missing) = engine();
    missing.lock().expect("nobody panicked").push(30080);
    let answer = services(&mut engine, &Filter::default());
    same_as_golden("services.json", &answer);
    let one = Filter { namespace: Some("default".into()), name: Some("dns".into()) };
    let names: Vec<String> =
        services(&mut engine, &one).services.into_iter().map(|service| service.name).collect();
    assert_eq!(names, ["dns"]);
    assert_eq!(services(&mut engine, &Filter { name: Some("none".into()), ..one }).services, []);
}

#[test]
fn packets_are_followed_through_plan_and_kernel() {
    let (mut engine, missing) = engine();
    missing.lock().expect("nobody panicked").push(9000);
    let questions = [
        ("10.1.0.5", "default/web"),
        ("node", "default/web:80"),
        ("203.0.113.9", "192.0.2.1:30080"),
        ("198.51.100.99", "198.51.100.7:80"),
        ("10.1.0.5", "default/dns"),
        ("node", "default/agent"),
        ("10.1.0.5", "10.96.0.10:81"),
        ("10.1.0.5", "10.96.9.9:80"),
        ("eth7", "192.0.2.1:22"),
        ("10.1.0.5%eth7", "10.96.0.66:80"),
    ];
    let answers: Vec<TracesAnswer> = questions
        .iter()
        .map(|(from, to)| {
            trace(&mut engine, &asked(from, to)).unwrap_or_else(|error| panic!("{from} {to}: {error}"))
        })
        .collect();
    same_as_golden("traces.json", &answers);
}

#[test]
fn what_can_not_be_followed_is_said_in_a_sentence() {
    let (mut engine, _) = engine();
    for (from, to, sentence) in [
        ("node", "default/none", "to: there is no Service default/none"),
        ("node", "default/db", "to: default/db has nothing that a proxy serves"),
        ("node", "default/web:https", "to: default/web has no port `https` in a family of the sender's"),
        ("fd00::1", "default/web", "to: default/web has no port in a family of the sender's"),
        ("node", "[fd00::1]:80", "to: [fd00::1]:80: Services of IPv6 are not served on this node"),
        ("fd00::1", "10.96.0.10:80", "from: the sender has no IPv4 address, and 10.96.0.10 has no other"),
    ] {
        assert_eq!(trace(&mut engine, &asked(from, to)), Err(sentence.to_owned()), "{from} {to}");
    }
    let mut empty =
        Engine::new("a", Settings::default(), DualStack::default()).expect("conntrack can be asked");
    let early = trace(&mut empty, &asked("node", "default/web")).expect_err("too early");
    assert!(early.starts_with("nothing is planned yet"), "{early}");
}
