//! The engine: changes in any order, families apart, failures made good, other modes' rules gone only afterwards.

mod support;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kernel::Error;
use lab::{Space, wait};
use proxy::engine::{Applied, Depth, Engine, OwnNode, SliceName, available, open};
use proxy::plan::ServicePlan;
use proxy::state::{Protocol, Service, ServiceName, ServicePort, ServicePortName};
use proxy::{Change, Changes, Dataplane, DualStack, Family, Mode, Options, Report, Served, Settings};
use support::lab::{Outcome, World, connect};
use support::row::Row;
use support::{destination, service, service_name, settings, slice, snapshot};

/// A dataplane that remembers what it was told and refuses on command.
#[derive(Debug, Clone, Default)]
struct Told(Arc<Mutex<Memory>>);

#[derive(Debug, Default)]
struct Memory {
    syncs: Vec<Option<usize>>,
    ports: BTreeSet<ServicePortName>,
    refuses: bool,
    is_clean: bool,
}

impl Dataplane for Told {
    fn mode(&self) -> Mode {
        Mode::Nftables
    }

    fn sync(
        &mut self,
        plan: &ServicePlan,
        changed: Option<&BTreeSet<ServicePortName>>,
    ) -> kernel::Result<Report> {
        let mut memory = self.0.lock().unwrap();
        memory.syncs.push(changed.map(BTreeSet::len));
        if memory.refuses {
            return Err(Error::Malformed { doing: "sync".into(), why: "it shall not" });
        }
        match changed {
            None => memory.ports = plan.ports.keys().cloned().collect(),
            Some(changed) => changed.iter().for_each(|name| {
                if plan.ports.contains_key(name) {
                    memory.ports.insert(name.clone());
                } else {
                    memory.ports.remove(name);
                }
            }),
        }
        Ok(Report { is_full: changed.is_none(), ..Report::default() })
    }

    fn drift(&mut self, _plan: &ServicePlan) -> kernel::Result<Vec<String>> {
        Ok(Vec::new())
    }

    fn list(&mut self) -> kernel::Result<Vec<Served>> {
        Ok(Vec::new())
    }

    fn cleanup(&mut self) -> kernel::Result<()> {
        self.0.lock().unwrap().is_clean = true;
        Ok(())
    }
}

fn engine() -> (Engine, Told, Told) {
    let (v4, v6) = (Told::default(), Told::default());
    let boxed = |told: &Told| Some(Box::new(told.clone()) as Box<dyn Dataplane>);
    let dataplanes = DualStack { v4: boxed(&v4), v6: boxed(&v6) };
    (Engine::new("Node-A", Settings::default(), dataplanes).unwrap(), v4, v6)
}

/// With a port, and addresses that no other name has.
fn named(name: &str) -> Service {
    let number = name.bytes().fold(0u16, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
    let [high, low] = number.to_be_bytes();
    let port = ServicePort { name: "http".into(), protocol: Protocol::Tcp, port: 80, node_port: 0 };
    let v6 = format!("fd00:96::{number:x}").parse().unwrap();
    Service {
        cluster_ips: DualStack { v4: Some(IpAddr::from([10, 96, high, low])), v6: Some(v6) },
        ports: vec![port],
        ..Service::new(ServiceName::new("default", name))
    }
}

fn apply(engine: &mut Engine, changes: impl IntoIterator<Item = Change>) -> Applied {
    engine.apply(changes.into_iter().collect())
}

#[test]
fn nothing_is_programmed_before_services_and_slices_are_whole() {
    let (mut engine, v4, _) = engine();
    apply(&mut engine, [Change::Service(named("web"))]);
    apply(&mut engine, [Change::Services(vec![named("web")])]);
    assert!(!engine.is_ready() && !engine.is_due(Family::V4));
    assert!(engine.sync(Family::V4, Depth::Changes).unwrap().is_none());
    apply(&mut engine, [Change::Slices(vec![])]);
    assert!(engine.is_ready() && engine.is_due(Family::V4));
    assert!(engine.sync(Family::V4, Depth::Changes).unwrap().unwrap().report.is_full);
    assert!(!engine.is_due(Family::V4) && engine.is_due(Family::V6), "families are apart");
    assert_eq!(v4.0.lock().unwrap().syncs, [None]);
}

#[test]
fn a_change_costs_what_it_changes_and_words_without_meaning_nothing() {
    let (mut engine, v4, _) = engine();
    let all = (0..50).map(|at| named(&format!("s{at}"))).collect();
    apply(&mut engine, [Change::Services(all), Change::Slices(vec![])]);
    engine.sync(Family::V4, Depth::Changes).unwrap();
    let again = apply(&mut engine, [Change::Service(named("s7"))]);
    assert!(again.is_nothing() && !engine.is_due(Family::V4));
    let other = Service { affinity: Some(Duration::from_secs(9)), ..named("s7") };
    assert_eq!(apply(&mut engine, [Change::Service(other)]).services, 1);
    engine.sync(Family::V4, Depth::Changes).unwrap();
    assert_eq!(v4.0.lock().unwrap().syncs, [None, Some(1)]);
    // A list after a lost connection is compared, not programmed anew; what is missing from it goes.
    let rest = (0..49).map(|at| named(&format!("s{at}"))).collect();
    let applied = apply(&mut engine, [Change::Services(rest)]);
    assert_eq!(applied.services, 2, "s7 as it was, s49 gone");
    engine.sync(Family::V4, Depth::Changes).unwrap();
    assert_eq!(v4.0.lock().unwrap().ports.len(), 49);
}

#[test]
fn a_family_that_fails_leaves_the_other_at_work_and_comes_back_whole() {
    let (mut engine, v4, v6) = engine();
    apply(&mut engine, [Change::Services(vec![named("a")]), Change::Slices(vec![])]);
    for family in Family::BOTH {
        engine.sync(family, Depth::Changes).unwrap();
    }
    v6.0.lock().unwrap().refuses = true;
    apply(&mut engine, [Change::Service(named("b"))]);
    assert!(engine.sync(Family::V4, Depth::Changes).is_ok());
    assert!(engine.sync(Family::V6, Depth::Changes).is_err());
    apply(&mut engine, [Change::ServiceGone(ServiceName::new("default", "a"))]);
    assert!(engine.sync(Family::V4, Depth::Changes).is_ok());
    assert!(engine.sync(Family::V6, Depth::Changes).is_err());
    assert!(engine.is_due(Family::V6) && !engine.is_due(Family::V4));
    v6.0.lock().unwrap().refuses = false;
    assert!(engine.sync(Family::V6, Depth::Changes).unwrap().unwrap().report.is_full);
    assert!(!engine.is_due(Family::V6));
    assert_eq!(v4.0.lock().unwrap().ports, v6.0.lock().unwrap().ports);
    let some = Some(1);
    assert_eq!(v4.0.lock().unwrap().syncs, [None, some, some]);
    assert_eq!(v6.0.lock().unwrap().syncs, [None, some, None, None]);
}

#[test]
fn a_kernel_without_ipv6_serves_ipv4() {
    let v4 = Told::default();
    let dataplanes = DualStack { v4: Some(Box::new(v4.clone()) as Box<dyn Dataplane>), v6: None };
    let mut engine = Engine::new("a", Settings::default(), dataplanes).unwrap();
    apply(&mut engine, [Change::Services(vec![named("a")]), Change::Slices(vec![])]);
    assert!(engine.sync(Family::V6, Depth::Changes).unwrap().is_none());
    assert!(engine.sync(Family::V4, Depth::Changes).unwrap().is_some());
}

#[test]
fn other_modes_go_after_the_first_success_and_only_then() {
    let (mut engine, v4, _) = engine();
    let other = Told::default();
    engine.remove_afterwards(Family::V4, vec![Box::new(other.clone())]);
    apply(&mut engine, [Change::Services(vec![]), Change::Slices(vec![])]);
    v4.0.lock().unwrap().refuses = true;
    assert!(engine.sync(Family::V4, Depth::Changes).is_err());
    assert!(!other.0.lock().unwrap().is_clean, "nothing goes while ours is not there");
    v4.0.lock().unwrap().refuses = false;
    let synced = engine.sync(Family::V4, Depth::Changes).unwrap().unwrap();
    assert!(other.0.lock().unwrap().is_clean && synced.removed.len() == 1);
}

#[test]
fn slices_change_hands_and_wait_for_their_service() {
    let (mut engine, ..) = engine();
    let row = Row::with_options("");
    let name = SliceName::new("default", "x");
    let mut of_web = slice(&row, Family::V4);
    of_web.service = ServiceName::new("default", "web");
    let mut of_other = of_web.clone();
    of_other.service = ServiceName::new("default", "other");
    apply(&mut engine, [Change::Services(vec![]), Change::Slices(vec![(name.clone(), of_web.clone())])]);
    apply(&mut engine, [Change::Service(named("web")), Change::Service(named("other"))]);
    let count = |engine: &Engine, service: &str| {
        engine.snapshot().slices_of(&ServiceName::new("default", service)).count()
    };
    assert_eq!((count(&engine, "web"), count(&engine, "other")), (1, 0));
    let applied = apply(&mut engine, [Change::Slice(name.clone(), of_other, None)]);
    assert_eq!((applied.endpoints, count(&engine, "web"), count(&engine, "other")), (2, 0, 1));
    apply(&mut engine, [Change::SliceGone(name)]);
    assert_eq!((count(&engine, "web"), count(&engine, "other")), (0, 0));
}

#[test]
fn of_what_is_told_while_the_engine_is_busy_the_last_counts() {
    let mut changes = Changes::new();
    let gone = ServiceName::new("default", "a");
    for _ in 0..1000 {
        changes.put(Change::Service(named("a")));
        changes.put(Change::ServiceGone(gone.clone()));
    }
    assert_eq!(changes.services(), 1);
    changes.put(Change::Services(vec![named("b")]));
    assert_eq!(changes.services(), 1, "a whole list makes what came before void");
    let (mut engine, ..) = engine();
    engine.apply(changes);
    assert_eq!(engine.snapshot().services().count(), 1);
    let node = OwnNode { zone: "z".into(), ..OwnNode::default() };
    let ip: IpAddr = "192.0.2.1".parse().unwrap();
    assert!(apply(&mut engine, [Change::Node(Some(node.clone())), Change::Addresses(vec![ip, ip])]).site);
    assert!(!apply(&mut engine, [Change::Node(Some(node)), Change::Addresses(vec![ip])]).site);
    assert_eq!((&*engine.snapshot().node.name, &*engine.snapshot().node.zone), ("node-a", "z"));
    apply(&mut engine, [Change::Node(None)]);
    assert_eq!(engine.own_node(), Some(None));
    assert_eq!(&*engine.snapshot().node.zone, "z", "what was known of a lost Node stays");
}

/// With the real table and real packets.
#[test]
fn the_kernel_follows_the_engine_and_stale_flows_are_forgotten() {
    let world = World::new();
    let row = Row::with_options("eps=local");
    let prepared = snapshot(&row);
    let mut engine = world.node.run(|| {
        let dataplanes = DualStack::from_fn(|family| open(Mode::Nftables, family, &Options::default()).ok());
        Engine::new(&prepared.node.name, settings(&row), dataplanes).unwrap()
    });
    let slice_of = |endpoints: &str, family| slice(&Row::with_options(&format!("eps={endpoints}")), family);
    let named = |family: Family| SliceName::new("default", &format!("web-{family}"));
    let all = Family::BOTH.map(|family| (named(family), slice_of("local", family))).to_vec();
    apply(
        &mut engine,
        [
            Change::Addresses(prepared.node.addresses.clone()),
            Change::Services(vec![service(&row)]),
            Change::Slices(all),
        ],
    );
    for family in Family::BOTH {
        engine.sync(family, Depth::Changes).unwrap();
        let to = destination(family, "cluster-ip");
        let answer = |from: &Space| match connect(from, to, wait::patience()) {
            Outcome::Answer { endpoint, .. } => endpoint,
            other => panic!("{other:?}"),
        };
        assert_eq!(answer(&world.pod), "local");
        let client = lab::traffic::UdpClient::new(&world.pod, to);
        assert!(client.ask().unwrap().starts_with("local "));
        apply(&mut engine, [Change::Slice(named(family), slice_of("remote", family), None)]);
        let synced = engine.sync(family, Depth::Changes).unwrap().unwrap();
        assert!(
            !synced.report.is_full && synced.report.elements <= 3 * service(&row).ports.len(),
            "{synced:?}"
        );
        assert!(matches!(synced.forgotten, Some(Ok(1..))), "{synced:?}");
        assert!(client.ask().unwrap().starts_with("remote "));
        assert_eq!(answer(&world.pod), "remote");
        let audit = engine.sync(family, Depth::Everything).unwrap().unwrap();
        assert_eq!((audit.repaired, audit.report.requests), (0, 0), "a second sync sends nothing");
    }
    world.node.sh("nft flush map ip bowline_proxy endpoints");
    let audit = engine.sync(Family::V4, Depth::Everything).unwrap().unwrap();
    assert!(audit.repaired > 0);
    assert_eq!(engine.plan(Family::V4).unwrap().port_names(&service_name()).len(), service(&row).ports.len());
}

#[test]
fn the_kernel_is_tried_without_leaving_anything() {
    let space = Space::new_node().unwrap();
    let before = space.sh("nft list ruleset");
    assert_eq!(space.run(|| available(&Options::default())).unwrap(), Mode::Nftables);
    assert_eq!(space.sh("nft list ruleset"), before);
}
