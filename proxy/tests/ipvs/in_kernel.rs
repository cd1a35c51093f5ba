//! Stories for a kernel that has IPVS.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use kernel::netlink::{Protocol, Socket};
use lab::traffic::{Server, UdpClient};
use lab::vm::run_with_ipvs;
use lab::{Space, wait};
use proxy::ipvs::{Ipvs, rehearse};
use proxy::plan::stale;
use proxy::state::Service;
use proxy::{Dataplane as _, Family, IpvsOptions, ServicePlan, Snapshot};

use super::patient::{Conversation, PORT as PATIENT_PORT, Patient};
use super::sctp;
use super::support::backend::Backend;
use super::support::changes::syncing_changes_is_syncing_everything;
use super::support::flows::packets_agree;
use super::support::lab::{Outcome, World, connect};
use super::support::row::{Row, rows};
use super::support::{Place, TARGET_PORT, destination, ip, service, service_name, settings, slice, snapshot};

macro_rules! stories {
    ($($(#[$doc:meta])* fn $name:ident() $body:block)*) => {$(
        $(#[$doc])*
        #[test]
        fn $name() {
            run_with_ipvs("in_kernel::", concat!("in_kernel::", stringify!($name)), || $body);
        }
    )*};
}

stories! {
    /// Half of the rows for each family, and in both those of the matrix and those that deviate: a packet takes long
    /// in an emulated machine.
    fn packets_agree_with_every_row() {
        std::thread::scope(|scope| {
            for (part, family) in Family::BOTH.into_iter().enumerate() {
                let all = rows().into_iter().enumerate();
                let some = all.filter(|(index, row)| index % 2 == part || *index < 8 || !row.deviations.is_empty());
                let some: Vec<Row> = some.map(|(_, row)| row).collect();
                scope.spawn(move || packets_agree(Backend::Ipvs, family, &some));
            }
        });
    }

    fn syncing_changes() {
        syncing_changes_is_syncing_everything(Backend::Ipvs, 2);
    }

    fn an_endpoint_leaves_with_its_last_connection() {
        let mut stage = Stage::new(Family::V4, "", IpvsOptions::default(), |_| {});
        let to = destination(Family::V4, "cluster-ip");
        let _servers = [(&stage.world.local, "local"), (&stage.world.remote, "remote")].map(|(space, name)| Patient::new(space, name));
        stage.target_port(PATIENT_PORT, "local,remote");
        let mut held = Conversation::new(&stage.world.pod, to);
        let here = held.ask();
        let (own, other) = if here == "local" { ("10.1.0.6", "remote") } else { ("10.2.0.6", "local") };
        stage.endpoints(other);
        assert_eq!(held.ask(), here, "what is connected stays so");
        let drains = format!("{own}:{PATIENT_PORT} (drains)");
        assert!(stage.listing().contains(&drains), "{}", stage.listing());
        for _ in 0..4 {
            assert_eq!(Conversation::new(&stage.world.pod, to).ask(), other, "new ones go elsewhere");
        }
        stage.restart();
        assert_eq!(held.ask(), here, "a restart changes nothing");
        assert!(stage.listing().contains(&drains), "{}", stage.listing());
        stage.snapshot.remove_service(&service_name());
        stage.sync_service();
        assert_eq!(held.ask(), here, "even the whole Service may go");
        assert_eq!(connect(&stage.world.pod, to, Duration::from_millis(300)), Outcome::Silent, "for new ones it is gone");
        held.reset();
        wait::until("the last connection to be forgotten", || {
            stage.dataplane.sync(&stage.plan, None).expect("a sync");
            (!stage.listing().contains(own)).then_some(())
        });
    }

    fn endpoints_replaced_under_load_cost_no_connection() {
        let mut stage = Stage::new(Family::V4, "", IpvsOptions::default(), |_| {});
        let to = destination(Family::V4, "cluster-ip");
        let from = stage.world.pod.clone();
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let clients = scope.spawn(|| {
                let mut outcomes = Vec::new();
                while !done.load(Ordering::Relaxed) {
                    outcomes.push(connect(&from, to, wait::patience()));
                }
                outcomes
            });
            for round in 0..40 {
                stage.endpoints(["local!,remote", "remote", "local,remote", "local,remote!", "local"][round % 5]);
                if round % 20 == 10 {
                    stage.restart();
                }
            }
            done.store(true, Ordering::Relaxed);
            let outcomes = clients.join().expect("the clients end");
            let failed: Vec<_> = outcomes.iter().filter(|o| !matches!(o, Outcome::Answer { .. })).collect();
            assert!(failed.is_empty(), "{} of {}: {:?}", failed.len(), outcomes.len(), failed.first());
            assert!(outcomes.len() > 20, "only {} connections", outcomes.len());
        });
    }

    fn a_client_stays_with_its_endpoint_until_that_is_gone() {
        let sticky = |service: &mut Service| service.affinity = Some(Duration::from_secs(600));
        let mut stage = Stage::new(Family::V6, "", IpvsOptions::default(), sticky);
        for frontend in ["cluster-ip", "node-port", "load-balancer"] {
            stage.endpoints("local,remote");
            let first = stage.ask("pod", frontend);
            for _ in 0..4 {
                assert_eq!(stage.ask("pod", frontend), first, "{frontend}");
            }
            let other = if first == "local" { "remote" } else { "local" };
            stage.endpoints(other);
            assert_eq!(stage.ask("pod", frontend), other, "{frontend}");
            stage.endpoints("local,remote");
            for _ in 0..3 {
                assert_eq!(stage.ask("pod", frontend), other, "{frontend}: the new choice holds");
            }
        }
        stage.restart();
        stage.snapshot.set_service(service(&Row::with_options("")));
        stage.sync_service();
        let seen: BTreeSet<String> = (0..4).map(|_| stage.ask("pod", "cluster-ip")).collect();
        assert_eq!(seen.len(), 2, "without affinity both answer");
    }

    fn udp_clients_follow_their_service() {
        for family in Family::BOTH {
            let mut stage = Stage::new(family, "eps=local", IpvsOptions::default(), |_| {});
            for (frontend, sender) in [("cluster-ip", "pod"), ("node-port", "outside"), ("load-balancer", "node")] {
                stage.endpoints("local");
                let client = UdpClient::new(stage.world.space(sender), destination(family, frontend));
                let answer = |client: &UdpClient| client.ask().unwrap_or_default();
                assert!(answer(&client).starts_with("local "), "{family} {frontend}");
                stage.endpoints("remote");
                wait::until("the same socket to reach the other endpoint", || {
                    answer(&client).starts_with("remote ").then_some(())
                });
            }
        }
    }

    /// To program it takes nothing of the kernel's SCTP, which many nodes must not load; then real associations.
    fn sctp_is_served_and_needs_no_module_before() {
        let (world, row) = (World::new(), Row::with_options(""));
        let plan = ServicePlan::new(&snapshot(&row), &settings(&row), Family::V4);
        let backends = [Backend::Nftables, Backend::Ipvs];
        for backend in backends {
            let mut dataplane = backend.open(&world.node, Family::V4);
            dataplane.sync(&plan, None).expect("a sync");
            let modules = world.node.read("/proc/modules");
            assert!(!modules.lines().any(|line| line.starts_with("sctp ")), "{backend:?}: {modules}");
            dataplane.cleanup().expect("a cleanup");
        }
        for (space, name, last) in [(&world.local, "local", [10, 1, 0, 6]), (&world.remote, "remote", [10, 2, 0, 6])] {
            sctp::serve(space, std::net::SocketAddrV4::new(last.into(), TARGET_PORT), name);
        }
        for backend in backends {
            let mut dataplane = backend.open(&world.node, Family::V4);
            dataplane.sync(&plan, None).expect("a sync");
            for (sender, frontend) in [("pod", "cluster-ip"), ("node", "cluster-ip"), ("endpoint", "cluster-ip"), ("outside", "node-port")] {
                let mut seen = BTreeSet::new();
                wait::until(&format!("{backend:?}: both endpoints by SCTP for {sender}"), || {
                    seen.insert(sctp::ask(world.space(sender), destination(Family::V4, frontend)));
                    (seen.len() == 2).then_some(())
                });
            }
            dataplane.cleanup().expect("a cleanup");
        }
    }

    fn what_listens_on_this_host_is_not_on_virtual_addresses() {
        let stage = Stage::new(Family::V4, "etp=local", IpvsOptions::default(), |_| {});
        let node = &stage.world.node;
        let anywhere = |port| SocketAddr::new([0, 0, 0, 0].into(), port);
        let _servers = [22, 31000].map(|port| Server::tcp(node, anywhere(port), "host"));
        for (sender, place) in [("pod", Place::ClusterIp), ("outside", Place::LoadBalancer), ("node", Place::External)] {
            let at = |port| SocketAddr::new(ip(Family::V4, place), port);
            let from = stage.world.space(sender);
            assert_eq!(connect(from, at(22), wait::patience()), Outcome::Refused, "{place:?} from {sender}");
            let check = connect(from, at(31000), wait::patience());
            assert!(matches!(check, Outcome::Answer { .. }), "health checks of {place:?}: {check:?}");
            assert!(lab::traffic::ping(from, at(1).ip()), "{place:?} answers a ping of {sender}");
        }
        let own = SocketAddr::new(ip(Family::V4, Place::Node), 22);
        assert!(matches!(connect(&stage.world.outside, own, wait::patience()), Outcome::Answer { .. }));
    }

    fn an_endpoint_that_can_be_none_does_not_stop_the_rest() {
        let mut stage = Stage::new(Family::V4, "", IpvsOptions::default(), |_| {});
        // The pods' link has a broadcast address now.
        stage.world.node.sh("ip addr add 10.9.0.1/24 broadcast 10.9.0.255 dev cali0");
        let mut slice = slice(&Row::with_options(""), Family::V4);
        slice.endpoints.push(proxy::state::Endpoint::new("10.9.0.255".parse().expect("an address")));
        stage.snapshot.set_slice("web-IPv4", slice);
        stage.sync_service();
        stage.restart();
        let seen: BTreeSet<String> = (0..4).map(|_| stage.ask("pod", "cluster-ip")).collect();
        assert_eq!(seen.len(), 2, "{seen:?}");
        assert!(!stage.listing().contains("10.9.0.255"), "{}", stage.listing());
    }

    fn every_scheduler_balances() {
        let mut stage = Stage::new(Family::V4, "", IpvsOptions::default(), |_| {});
        for scheduler in kernel::ipvs::Scheduler::ALL {
            let row = Row::with_options("");
            stage.snapshot.set_service(Service { scheduler: scheduler.name().into(), ..service(&row) });
            stage.sync_service();
            stage.ask("pod", "cluster-ip");
            let listing = stage.listing();
            // Debian builds its kernel without this one, so the default takes its place.
            let is_there = scheduler.name() != "twos" || listing.contains("twos to [");
            let shown = if is_there { scheduler.name() } else { "rr" };
            assert!(listing.contains(&format!("{shown} to [10.1.0.6:8080, 10.2.0.6:8080]")), "{scheduler}: {listing}");
        }
    }

    fn others_keep_what_is_theirs() {
        let world = World::new();
        let settings_before = sysctls(&world.node);
        let foreign = ["-A -t 203.0.113.77:99 -s wlc", "-A -f 77 -s rr"];
        let ipvs = world.node.run(Foreign::new);
        let excluded = vec!["203.0.113.77/32".parse().expect("a network")];
        let options = IpvsOptions {
            exclude_cidrs: excluded,
            strict_arp: true,
            tcp_timeout: Some(Duration::from_secs(1234)),
            ..IpvsOptions::default()
        };
        let row = Row::with_options("");
        let mut dataplanes = Family::BOTH.map(|family| {
            let mut dataplane = world.node.run(|| Ipvs::open(family, &options)).expect("IPVS");
            let plan = ServicePlan::new(&snapshot(&row), &settings(&row), family);
            dataplane.sync(&plan, None).expect("a sync");
            assert_eq!(dataplane.drift(&plan).expect("a reading"), Vec::<String>::new());
            assert_eq!(dataplane.list().expect("a listing"), rehearse([(&plan, None)], &options));
            dataplane
        });
        assert!(sysctls(&world.node).contains("arp_ignore = 1"), "{}", sysctls(&world.node));
        assert_eq!(world.node.run(|| ipvs.timeout()), Some(Duration::from_secs(1234)));
        // Who cleans up knows nothing of the options.
        let mut other = world.node.run(|| Ipvs::open(Family::V4, &IpvsOptions::default())).expect("IPVS");
        other.cleanup().expect("a cleanup");
        assert!(world.node.sh("ip -6 addr show dev kube-ipvs0").contains("fd00:96::10/128"), "the other family stays");
        dataplanes[1].cleanup().expect("a cleanup");
        assert_eq!(world.node.run(|| ipvs.keys()), foreign.len(), "virtual servers of others");
        world.node.run(|| ipvs.remove());
        assert_eq!(Backend::Ipvs.traces(&world.node), "");
        assert_eq!(sysctls(&world.node), settings_before);
        assert!(!world.node.run(|| Ipvs::has_traces(Family::V4)).expect("a reading"));
    }
}

fn sysctls(node: &Space) -> String {
    let keys = [
        "vs.conntrack",
        "vs.expire_nodest_conn",
        "vs.expire_quiescent_template",
        "conf.all.arp_ignore",
        "conf.all.arp_announce",
    ];
    node.sh(&format!("sysctl {}", keys.map(|key| format!("net.ipv4.{key}")).join(" ")))
}

/// Virtual servers that somebody else has made.
struct Foreign {
    ipvs: kernel::ipvs::Family,
}

impl Foreign {
    fn new() -> Foreign {
        let mut socket = Socket::open(Protocol::Generic).expect("a socket");
        let ipvs = kernel::ipvs::Family::find(&mut socket).expect("an answer").expect("IPVS");
        let service = |key| kernel::ipvs::Service {
            key,
            scheduler: "wlc".into(),
            scheduler_flags: 0,
            persistence: None,
            one_packet: false,
        };
        socket.apply(&Self::all().map(|key| ipvs.add_service(&service(key)))).expect("services");
        Foreign { ipvs }
    }

    fn all() -> [kernel::ipvs::Key; 2] {
        let address = "203.0.113.77:99".parse().expect("an address");
        [
            kernel::ipvs::Key::Address { address, protocol: 6 },
            kernel::ipvs::Key::Mark { family: Family::V4, mark: 77 },
        ]
    }

    fn keys(&self) -> usize {
        let mut socket = Socket::open(Protocol::Generic).expect("a socket");
        let all = self.ipvs.list_services(&mut socket).expect("a listing");
        assert!(all.iter().all(|(service, _)| Self::all().contains(&service.key)), "{all:?}");
        all.len()
    }

    fn timeout(&self) -> Option<Duration> {
        self.ipvs.timeouts(&mut Socket::open(Protocol::Generic).expect("a socket")).expect("an answer").tcp
    }

    fn remove(&self) {
        let mut socket = Socket::open(Protocol::Generic).expect("a socket");
        socket.apply(&Self::all().map(|key| self.ipvs.delete_service(key))).expect("services");
    }
}

/// A world, a plan, and the dataplane that carries it.
struct Stage {
    world: World,
    family: Family,
    options: IpvsOptions,
    snapshot: Snapshot,
    plan: ServicePlan,
    dataplane: Ipvs,
    conntrack: Socket,
    port: u16,
}

impl Stage {
    fn new(family: Family, row: &str, options: IpvsOptions, more: impl FnOnce(&mut Service)) -> Stage {
        let world = World::new();
        let row = Row::with_options(row);
        let mut snapshot = snapshot(&row);
        let mut service = service(&row);
        more(&mut service);
        snapshot.set_service(service);
        let plan = ServicePlan::new(&snapshot, &settings(&row), family);
        let mut dataplane = world.node.run(|| Ipvs::open(family, &options)).expect("IPVS");
        let conntrack = world.node.run(|| Socket::open(Protocol::Netfilter)).expect("a socket");
        dataplane.sync(&plan, None).expect("a sync");
        Stage { world, family, options, snapshot, plan, dataplane, conntrack, port: TARGET_PORT }
    }

    /// Other endpoints, synced as a change, stale flows forgotten.
    fn endpoints(&mut self, endpoints: &str) {
        let row = Row::with_options(&format!("eps={endpoints}"));
        let mut slice = slice(&row, self.family);
        slice.ports.iter_mut().for_each(|port| port.port = self.port);
        self.snapshot.set_slice(&format!("web-{}", self.family), slice);
        self.sync_service();
    }

    fn target_port(&mut self, port: u16, endpoints: &str) {
        self.port = port;
        self.endpoints(endpoints);
    }

    fn sync_service(&mut self) {
        let before = self.plan.clone();
        let touched = self.plan.update(&self.snapshot, &BTreeSet::from([service_name()]));
        self.dataplane.sync(&self.plan, Some(&touched)).expect("a sync");
        let stale = stale(&before, &self.plan, &touched);
        proxy::conntrack::forget(&mut self.conntrack, self.family, &stale).expect("flows can be forgotten");
    }

    fn restart(&mut self) {
        self.dataplane = self.world.node.run(|| Ipvs::open(self.family, &self.options)).expect("IPVS");
        self.dataplane.sync(&self.plan, None).expect("a sync");
    }

    fn listing(&mut self) -> String {
        let lines = self.dataplane.list().expect("a listing");
        lines.iter().map(|line| format!("{line}\n")).collect()
    }

    fn ask(&self, sender: &str, frontend: &str) -> String {
        match connect(self.world.space(sender), destination(self.family, frontend), wait::patience()) {
            Outcome::Answer { endpoint, .. } => endpoint,
            other => panic!("{frontend} from {sender}: {other:?}"),
        }
    }
}
