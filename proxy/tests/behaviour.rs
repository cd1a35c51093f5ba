//! What a flow table cannot say: remembered clients, flows that outlive their endpoint, changes under load.

mod support;

use std::collections::BTreeSet;
use std::time::Duration;

use kernel::netlink::{Protocol, Socket};
use lab::traffic::UdpClient;
use lab::wait;
use proxy::plan::stale;
use proxy::{Dataplane as _, Family, ServicePlan, Snapshot};
use support::backend::{Backend, Inside};
use support::lab::{Outcome, World, connect};
use support::row::Row;
use support::{destination, service, service_name, settings, slice, snapshot};

/// A world, a plan, and the dataplane that carries it.
struct Stage {
    world: World,
    backend: Backend,
    family: Family,
    snapshot: Snapshot,
    plan: ServicePlan,
    dataplane: Inside,
    conntrack: Socket,
}

impl Stage {
    fn new(family: Family, options: &str, affinity: Option<Duration>) -> Stage {
        Stage::by(Backend::Nftables, family, options, affinity)
    }

    fn by(backend: Backend, family: Family, options: &str, affinity: Option<Duration>) -> Stage {
        let world = World::new();
        let row = Row::with_options(options);
        let mut snapshot = snapshot(&row);
        snapshot.set_service(proxy::state::Service { affinity, ..service(&row) });
        let plan = ServicePlan::new(&snapshot, &settings(&row), family);
        let mut dataplane = backend.open(&world.node, family);
        let conntrack = world.node.run(|| Socket::open(Protocol::Netfilter)).expect("a socket");
        dataplane.sync(&plan, None).expect("a sync");
        Stage { world, backend, family, snapshot, plan, dataplane, conntrack }
    }

    /// Other endpoints, synced as a change, stale flows forgotten; the elements touched, and the flows.
    fn endpoints(&mut self, endpoints: &str) -> (usize, usize) {
        let row = Row::with_options(&format!("eps={endpoints}"));
        self.snapshot.set_slice(&format!("web-{}", self.family), slice(&row, self.family));
        let before = self.plan.clone();
        let touched = self.plan.update(&self.snapshot, &BTreeSet::from([service_name()]));
        let report = self.dataplane.sync(&self.plan, Some(&touched)).expect("a sync");
        assert!(!report.is_full);
        let stale = stale(&before, &self.plan, &touched);
        let forgotten = proxy::conntrack::forget(&mut self.conntrack, self.family, &stale);
        (report.elements, forgotten.expect("flows can be forgotten"))
    }

    /// Another process takes over; what it changed.
    fn restart(&mut self) -> proxy::Report {
        self.dataplane = self.backend.open(&self.world.node, self.family);
        self.dataplane.sync(&self.plan, None).expect("a sync after a restart")
    }

    fn ask(&self, sender: &str, frontend: &str) -> String {
        let to = destination(self.family, frontend);
        match connect(self.world.space(sender), to, wait::patience()) {
            Outcome::Answer { endpoint, .. } => endpoint,
            other => panic!("{frontend} from {sender}: {other:?}"),
        }
    }
}

/// Every dataplane for both families.
fn everywhere() -> impl Iterator<Item = (Backend, Family)> {
    Backend::ALL.into_iter().flat_map(|backend| Family::BOTH.map(|family| (backend, family)))
}

#[test]
fn a_client_stays_with_its_endpoint_until_that_is_gone() {
    for (backend, family) in everywhere() {
        let mut stage = Stage::by(backend, family, "", Some(Duration::from_secs(600)));
        let frontends = ["cluster-ip", "node-port", "load-balancer", "external-ip"];
        let first = stage.ask("pod", "cluster-ip");
        for round in 0..20 {
            assert_eq!(stage.ask("pod", frontends[round % 4]), first, "one choice for all frontends");
        }
        let other = if first == "local" { "remote" } else { "local" };
        stage.endpoints(other);
        for _ in 0..10 {
            assert_eq!(stage.ask("pod", "cluster-ip"), other);
        }
        stage.endpoints("local,remote");
        for _ in 0..20 {
            assert_eq!(stage.ask("pod", "cluster-ip"), other, "the new choice holds");
        }
        if backend == Backend::Nftables {
            let table = stage.world.node.sh("nft list ruleset");
            assert!(table.contains("pick-2-for-600s"), "{table}");
        }
    }
}

#[test]
fn a_restarted_proxy_still_knows_its_clients() {
    for (backend, family) in everywhere() {
        let mut stage = Stage::by(backend, family, "", Some(Duration::from_secs(600)));
        let first = stage.ask("outside", "cluster-ip");
        let report = stage.restart();
        assert_eq!((report.elements, report.requests), (0, 0));
        for _ in 0..20 {
            assert_eq!(stage.ask("outside", "cluster-ip"), first);
        }
    }
}

/// Any endpoint may be next then, not that of before alone.
#[test]
fn a_client_is_forgotten_when_its_time_is_over() {
    std::thread::scope(|scope| {
        for backend in Backend::ALL {
            scope.spawn(move || {
                let stage = Stage::by(backend, Family::V4, "", Some(Duration::from_secs(1)));
                let first = stage.ask("pod", "cluster-ip");
                wait::until("another endpoint after a pause", || {
                    let asked = std::time::Instant::now();
                    wait::until("the client's time to be over", || {
                        (asked.elapsed() > Duration::from_millis(1100)).then_some(())
                    });
                    let differs = stage.ask("pod", "cluster-ip") != first;
                    differs.then_some(())
                });
            });
        }
    });
    let stage = Stage::new(Family::V4, "", Some(Duration::from_secs(1)));
    let first = stage.ask("pod", "cluster-ip");
    assert_eq!(stage.ask("pod", "cluster-ip"), first);
    wait::until("the client to be forgotten", || {
        let clients = stage.world.node.sh("nft list map ip bowline_proxy clients");
        (!clients.contains("elements")).then_some(())
    });
}

#[test]
fn udp_clients_follow_their_service() {
    for (backend, family) in everywhere() {
        let mut stage = Stage::by(backend, family, "eps=local", None);
        for (frontend, sender) in [("cluster-ip", "pod"), ("node-port", "outside"), ("load-balancer", "node")]
        {
            stage.endpoints("local");
            let client = UdpClient::new(stage.world.space(sender), destination(family, frontend));
            let answer = |client: &UdpClient| client.ask().unwrap_or_default();
            assert!(answer(&client).starts_with("local "), "{backend:?} {family} {frontend}");
            let (_, forgotten) = stage.endpoints("remote");
            assert!(forgotten > 0, "{backend:?} {family} {frontend}");
            wait::until("the same socket to reach the other endpoint", || {
                answer(&client).starts_with("remote ").then_some(())
            });
        }
    }
}

#[test]
fn a_udp_flow_that_is_served_is_left_alone() {
    let mut stage = Stage::new(Family::V4, "eps=local", None);
    let client = UdpClient::new(&stage.world.pod, destination(Family::V4, "cluster-ip"));
    assert!(client.ask().is_some_and(|answer| answer.starts_with("local ")));
    let (_, forgotten) = stage.endpoints("local,remote");
    assert_eq!(forgotten, 0, "its endpoint still serves");
    let (_, forgotten) = stage.endpoints("none");
    assert_eq!(forgotten, 1, "without endpoints too");
}

#[test]
fn one_endpoint_is_three_elements_at_most() {
    let mut stage = Stage::new(Family::V4, "type=cluster-ip eps=remote", None);
    let row = Row::with_options("type=cluster-ip eps=remote");
    let mut service = service(&row);
    service.external_ips.clear();
    service.ingress.clear();
    service.ports.truncate(1);
    stage.snapshot.set_service(service);
    let touched = stage.plan.update(&stage.snapshot, &BTreeSet::from([service_name()]));
    stage.dataplane.sync(&stage.plan, Some(&touched)).expect("a sync");
    for (endpoints, most) in [("remote,local", 3), ("remote", 3), ("local", 3), ("none", 3), ("remote", 3)] {
        let (elements, _) = stage.endpoints(endpoints);
        assert!((1..=most).contains(&elements), "{endpoints}: {elements}");
    }
    let (elements, _) = stage.endpoints("remote");
    assert_eq!(elements, 0);
}

#[test]
fn endpoints_replaced_under_load_cost_no_connection() {
    replaced_under_load(Backend::Nftables);
}

#[test]
fn endpoints_replaced_under_load_by_iptables_cost_no_connection() {
    replaced_under_load(Backend::IptablesNft);
}

#[test]
fn endpoints_replaced_under_load_by_legacy_iptables_cost_no_connection() {
    replaced_under_load(Backend::IptablesLegacy);
}

fn replaced_under_load(backend: Backend) {
    let mut stage = Stage::by(backend, Family::V4, "", None);
    let to = destination(Family::V4, "cluster-ip");
    let from = stage.world.pod.clone();
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let clients = scope.spawn(|| {
            let mut outcomes = Vec::new();
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                outcomes.push(connect(&from, to, wait::patience()));
            }
            outcomes
        });
        for round in 0..300 {
            // Terminating endpoints serve until they are gone, as graceful ones do.
            stage.endpoints(["local!,remote", "remote", "local,remote", "local,remote!", "local"][round % 5]);
            if round % 100 == 50 {
                stage.restart();
            }
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        let outcomes = clients.join().expect("the clients end");
        let failed: Vec<_> =
            outcomes.iter().filter(|outcome| !matches!(outcome, Outcome::Answer { .. })).collect();
        assert!(failed.is_empty(), "{} of {}: {:?}", failed.len(), outcomes.len(), failed.first());
        assert!(outcomes.len() > 50, "only {} connections", outcomes.len());
    });
}

#[test]
fn the_table_reads_well() {
    let stage = Stage::new(Family::V4, "etp=local ranges=outside", Some(Duration::from_secs(10800)));
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/table.nft");
    let table = stage.world.node.sh("nft list ruleset");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(path, &table).expect("the golden file can be written");
    }
    let golden = std::fs::read_to_string(path).unwrap_or_default();
    assert_eq!(table, golden, "differs from {path}; UPDATE_GOLDEN=1 rewrites it");
}

#[test]
fn a_table_that_is_not_ours_is_replaced() {
    let mut stage = Stage::new(Family::V4, "", None);
    let node = stage.world.node.clone();
    let before = stage.dataplane.list().expect("a listing");
    assert_eq!(stage.dataplane.drift(&stage.plan).expect("a reading"), Vec::<String>::new());
    node.sh("nft flush chain ip bowline_proxy services");
    assert!(!stage.dataplane.drift(&stage.plan).expect("a reading").is_empty());
    stage.dataplane.sync(&stage.plan, None).expect("a sync mends rules");
    stage.ask("pod", "cluster-ip");
    node.sh("nft flush map ip bowline_proxy node-ports");
    let drift = stage.dataplane.drift(&stage.plan).expect("a reading");
    assert_eq!(drift.len(), 1, "{drift:?}");
    assert!(drift[0].contains("node-ports"), "{drift:?}");
    node.sh("nft delete table ip bowline_proxy");
    stage.dataplane.sync(&stage.plan, None).expect("a sync mends everything");
    stage.ask("pod", "cluster-ip");
    node.sh("nft delete table ip bowline_proxy");
    node.sh("nft add table ip bowline_proxy");
    let wrong = node.output("nft", &["-f", "-"], b"add set ip bowline_proxy frontends { type ether_addr; }");
    assert!(wrong.status.success());
    stage.dataplane.sync(&stage.plan, None).expect("a sync replaces what does not fit");
    stage.ask("pod", "cluster-ip");
    assert_eq!(stage.dataplane.list().expect("a listing"), before);
}
