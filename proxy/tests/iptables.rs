//! What is special about the iptables dataplane: kube-proxy's dialect, its heirs, and other users of the same tables.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use lab::Space;
use proxy::plan::{DetectLocal, NodePortAddresses};
use proxy::state::{
    Endpoint, EndpointSlice, Ingress, IngressMode, Policy, Protocol, Service, ServiceKind, ServiceName,
    ServicePort, SlicePort, ip, network,
};
use proxy::{Dataplane as _, DualStack, Family, ServicePlan, Settings, Snapshot};
use support::backend::{Backend, Inside};

const VARIANTS: [(Backend, &str); 2] = [(Backend::IptablesNft, "nft"), (Backend::IptablesLegacy, "legacy")];

fn address(text: &str) -> IpAddr {
    ip(text).expect("an address")
}

/// A Service with these ports: name, protocol, port, node port; and its endpoints' ports.
struct Sketch {
    service: Service,
    slice: EndpointSlice,
}

impl Sketch {
    fn new(namespace: &str, name: &str, cluster_ip: &str) -> Self {
        let name = ServiceName::new(namespace, name);
        let cluster_ips = DualStack { v4: ip(cluster_ip), v6: None };
        let service = Service { cluster_ips, kind: ServiceKind::NodePort, ..Service::new(name.clone()) };
        Sketch { service, slice: EndpointSlice::new(name, Family::V4) }
    }

    fn port(mut self, name: &str, protocol: Protocol, (port, node_port): (u16, u16), target: u16) -> Self {
        self.service.ports.push(ServicePort { name: name.into(), protocol, port, node_port });
        self.slice.ports.push(SlicePort { name: name.into(), protocol, port: target });
        self
    }

    /// The first one on this node.
    fn endpoints(mut self, ips: &[&str]) -> Self {
        for (index, ip) in ips.iter().enumerate() {
            let node = if index == 0 { "here" } else { "there" };
            self.slice.endpoints.push(Endpoint { node: Some(node.into()), ..Endpoint::new(address(ip)) });
        }
        self
    }

    fn enter(self, snapshot: &mut Snapshot) {
        snapshot.set_service(self.service);
        snapshot.set_slice("only", self.slice);
    }
}

/// A cluster as a book would show it.
fn cluster() -> Snapshot {
    let mut snapshot = Snapshot::default();
    snapshot.node = support::node().into();
    let https = (443, 0);
    Sketch::new("default", "kubernetes", "10.96.0.1")
        .port("https", Protocol::Tcp, https, 6443)
        .endpoints(&["192.0.2.1"])
        .enter(&mut snapshot);
    Sketch::new("kube-system", "kube-dns", "10.96.0.10")
        .port("dns", Protocol::Udp, (53, 0), 53)
        .port("dns-tcp", Protocol::Tcp, (53, 0), 53)
        .endpoints(&["10.244.0.2", "10.244.1.3"])
        .enter(&mut snapshot);
    let mut web = Sketch::new("default", "web", "10.96.0.20").port("", Protocol::Tcp, (80, 30080), 8080);
    web.service.affinity = Some(Duration::from_secs(10800));
    web.endpoints(&["10.244.0.6", "10.244.1.6", "10.244.2.6"]).enter(&mut snapshot);
    let mut shop = Sketch::new("prod", "shop", "10.96.0.30").port("https", Protocol::Tcp, (443, 31443), 8443);
    shop.service.kind = ServiceKind::LoadBalancer;
    shop.service.external_policy = Policy::Local;
    shop.service.health_check_node_port = 31500;
    shop.service.ingress = vec![Ingress { ip: address("203.0.113.10"), mode: IngressMode::Vip }];
    shop.service.external_ips = vec![address("203.0.113.20")];
    shop.service.source_ranges = network("198.51.100.0/24").into_iter().collect();
    shop.endpoints(&["10.244.0.4", "10.244.1.5"]).enter(&mut snapshot);
    Sketch::new("prod", "empty", "10.96.0.40")
        .port("http", Protocol::Tcp, (80, 30081), 8080)
        .enter(&mut snapshot);
    snapshot
}

fn settings() -> Settings {
    Settings {
        detect_local: DetectLocal::ClusterCidr(DualStack { v4: network("10.244.0.0/16"), v6: None }),
        node_port_addresses: NodePortAddresses::Within(Vec::new()),
        ..Settings::default()
    }
}

/// A node whose only user is this test.
struct Stage {
    space: Space,
    backend: Backend,
    variant: &'static str,
    snapshot: Snapshot,
    plan: ServicePlan,
    dataplane: Inside,
}

impl Stage {
    fn new((backend, variant): (Backend, &'static str)) -> Stage {
        let space = Space::new_node().expect("a namespace needs root");
        let snapshot = cluster();
        let plan = ServicePlan::new(&snapshot, &settings(), Family::V4);
        let dataplane = backend.open(&space, Family::V4);
        Stage { space, backend, variant, snapshot, plan, dataplane }
    }

    fn synced(which: (Backend, &'static str)) -> Stage {
        let mut stage = Stage::new(which);
        stage.dataplane.sync(&stage.plan, None).expect("a sync");
        stage
    }

    fn save(&self) -> String {
        saved(&self.space.sh(&format!("iptables-{}-save", self.variant)))
    }

    fn restore(&self, script: &str) {
        let program = format!("iptables-{}-restore", self.variant);
        let output = self.space.output(&program, &["--noflush"], script.as_bytes());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    fn iptables(&self, args: &str) {
        self.space.sh(&format!("iptables-{} {args}", self.variant));
    }

    /// Other endpoints for default/web, synced as a change; the lines sent.
    fn web(&mut self, ips: &[&str]) -> kernel::Result<usize> {
        let sketch = Sketch::new("default", "web", "10.96.0.20").port("", Protocol::Tcp, (80, 30080), 8080);
        self.snapshot.set_slice("only", sketch.endpoints(ips).slice);
        let touched = self.plan.update(&self.snapshot, &BTreeSet::from([ServiceName::new("default", "web")]));
        self.dataplane.sync(&self.plan, Some(&touched)).map(|report| report.requests)
    }
}

/// A listing with chains in the order of their names, without counters, built-in chains and times.
fn saved(text: &str) -> String {
    #[derive(Default)]
    struct Table<'a> {
        chains: BTreeSet<&'a str>,
        rules: BTreeMap<&'a str, Vec<&'a str>>,
    }
    let mut tables: BTreeMap<&str, Table<'_>> = BTreeMap::new();
    let mut table = "";
    for line in text.lines() {
        if line.starts_with('*') {
            table = line;
        } else if let Some(chain) = line.split(' ').next().filter(|chain| chain.starts_with(":KUBE")) {
            tables.entry(table).or_default().chains.insert(chain);
        } else if let Some(chain) = line.strip_prefix("-A ").and_then(|rest| rest.split(' ').next()) {
            tables.entry(table).or_default().rules.entry(chain).or_default().push(line);
        }
    }
    let mut lines = Vec::new();
    for (table, Table { chains, rules }) in tables {
        lines.push(table);
        lines.extend(chains);
        lines.extend(rules.into_values().flatten());
    }
    lines.join("\n") + "\n"
}

#[test]
fn the_listing_is_that_of_a_cluster_book() {
    let golden = include_str!("golden/iptables-save.txt");
    for which in VARIANTS {
        let stage = Stage::synced(which);
        let got = stage.save();
        let differ: Vec<String> = golden
            .lines()
            .filter(|line| !got.contains(*line))
            .map(|line| format!("- {line}"))
            .chain(got.lines().filter(|line| !golden.contains(*line)).map(|line| format!("+ {line}")))
            .collect();
        assert!(differ.is_empty(), "{which:?}\n{}", differ.join("\n"));
        assert_eq!(got, golden, "{which:?}: the order");
    }
}

#[test]
fn one_endpoint_touches_its_service_ports_chains_alone() {
    for which in VARIANTS {
        let mut stage = Stage::synced(which);
        let before = stage.save();
        let lines = stage.web(&["10.244.0.6", "10.244.1.6"]).expect("a sync");
        // KUBE-SVC with a mark, two remembered and two random picks; an endpoint's chain goes.
        assert_eq!(lines, 1 + 5 + 1, "{which:?}");
        let lines = stage.web(&["10.244.0.6", "10.244.1.6", "10.244.2.6"]).expect("a sync");
        assert_eq!(lines, 1 + 7 + 1 + 2, "{which:?}");
        assert_eq!(stage.save(), before);
        assert_eq!(stage.web(&["10.244.0.6", "10.244.1.6", "10.244.2.6"]).expect("a sync"), 0);
    }
}

#[test]
fn rules_of_an_older_kube_proxy_are_taken_over() {
    for which in VARIANTS {
        let mut stage = Stage::new(which);
        // Its listing, with a Service of yesterday, in another order, and with a chain that newer ones have not.
        let golden = include_str!("golden/iptables-save.txt");
        let mut script = String::new();
        for line in golden.lines() {
            match line.split_at(1) {
                ("*", _) if !script.is_empty() => script += &format!("COMMIT\n{line}\n"),
                (":", _) => script += &format!("{line} - [0:0]\n"),
                _ => script += &format!("{line}\n"),
            }
        }
        script += ":KUBE-XLB-AAAAAAAAAAAAAAAA - [0:0]\n:KUBE-SVC-AAAAAAAAAAAAAAAA - [0:0]\n\
                   -A KUBE-XLB-AAAAAAAAAAAAAAAA -j KUBE-SVC-AAAAAAAAAAAAAAAA\n\
                   -I KUBE-SERVICES -d 10.96.9.9/32 -p tcp -m tcp --dport 80 -j KUBE-XLB-AAAAAAAAAAAAAAAA\nCOMMIT\n";
        // The listing's rules need the kernel's counters, which a sync makes.
        stage.dataplane.sync(&stage.plan, None).expect("a sync");
        for table in ["filter", "nat", "mangle"] {
            stage.iptables(&format!("-t {table} -F"));
            stage.iptables(&format!("-t {table} -X"));
        }
        stage.restore(&script);
        let mut heir = stage.backend.open(&stage.space, Family::V4);
        let drift = heir.drift(&stage.plan).expect("a reading");
        assert_eq!(drift.len(), 3, "{which:?} {drift:?}");
        let report = heir.sync(&stage.plan, None).expect("a sync");
        assert_eq!(report.requests, 3, "one rule and two chains go");
        assert_eq!(stage.save(), golden, "{which:?}");
    }
}

#[test]
fn what_others_flush_is_noticed_and_mended() {
    for which in VARIANTS {
        let mut stage = Stage::synced(which);
        let before = stage.save();
        assert!(!stage.dataplane.is_flushed().expect("an answer"));
        for table in ["filter", "nat", "mangle"] {
            stage.iptables(&format!("-t {table} -F"));
            stage.iptables(&format!("-t {table} -X"));
        }
        assert!(stage.dataplane.is_flushed().expect("an answer"), "{which:?}");
        assert!(!stage.dataplane.drift(&stage.plan).expect("a reading").is_empty());
        stage.dataplane.sync(&stage.plan, None).expect("a sync");
        assert_eq!(stage.save(), before, "{which:?}");
        assert!(!stage.dataplane.is_flushed().expect("an answer"));
    }
}

#[test]
fn damage_is_named_and_a_failed_change_is_followed_by_everything() {
    for which in VARIANTS {
        let mut stage = Stage::synced(which);
        let before = stage.save();
        let rule =
            before.lines().find(|line| line.contains("default/web cluster IP")).expect("a rule").to_owned();
        stage.restore(&format!("*nat\n{}\nCOMMIT\n", rule.replacen("-A", "-D", 1)));
        stage.iptables("-t nat -D PREROUTING 1");
        let drift = stage.dataplane.drift(&stage.plan).expect("a reading");
        assert_eq!(drift.len(), 2, "{which:?} {drift:?}");
        assert!(
            drift[0].starts_with("table nat: chain KUBE-SERVICES gets the rule -d 10.96.0.20/32 "),
            "{drift:?}"
        );
        // The last endpoint goes, and with it that rule, which is gone already.
        stage.web(&[]).expect_err("there is nothing to delete");
        assert!(stage.web(&["10.244.0.6", "10.244.1.6", "10.244.2.6"]).expect("a sync") > 0);
        assert_eq!(stage.dataplane.drift(&stage.plan).expect("a reading"), Vec::<String>::new());
        let sorted = |text: &str| text.lines().map(str::to_owned).collect::<BTreeSet<_>>();
        assert_eq!(sorted(&stage.save()), sorted(&before), "{which:?}");
    }
}

#[test]
fn cleanup_leaves_what_is_not_ours() {
    for which in VARIANTS {
        let mut stage = Stage::new(which);
        let foreign = "*mangle\n:KUBE-KUBELET-CANARY - [0:0]\nCOMMIT\n*filter\n:KUBE-FIREWALL - [0:0]\n:MINE - [0:0]\n\
                       -A KUBE-FIREWALL -m mark --mark 0x8000/0x8000 -j DROP\n-A INPUT -j KUBE-FIREWALL\n-A FORWARD -j MINE\nCOMMIT\n";
        stage.restore(foreign);
        stage.dataplane.sync(&stage.plan, None).expect("a sync");
        stage.restore("*nat\n:CNI-SETMARK - [0:0]\n-A CNI-SETMARK -j KUBE-MARK-MASQ\nCOMMIT\n");
        stage.dataplane.cleanup().expect("a cleanup");
        let expected = "*filter\n:KUBE-FIREWALL\n-A FORWARD -j MINE\n-A INPUT -j KUBE-FIREWALL\n\
            -A KUBE-FIREWALL -m mark --mark 0x8000/0x8000 -j DROP\n\
            -A KUBE-FIREWALL ! -s 127.0.0.0/8 -d 127.0.0.0/8 -m comment --comment \"block incoming localnet connections\" \
            -m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP\n-A OUTPUT -j KUBE-FIREWALL\n\
            *mangle\n:KUBE-KUBELET-CANARY\n*nat\n:KUBE-MARK-MASQ\n-A CNI-SETMARK -j KUBE-MARK-MASQ\n\
            -A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000\n";
        assert_eq!(stage.save(), expected, "{which:?}");
        stage.dataplane.cleanup().expect("twice is nothing more");
        assert_eq!(stage.save(), expected, "{which:?}");
    }
}

/// As long as loopback is routed the chain that guards it stays, with its two jumps and nothing else.
#[test]
fn the_guard_of_routed_loopback_outlives_a_cleanup() {
    for which in VARIANTS {
        let mut stage = Stage::synced(which);
        let routed =
            |stage: &Stage, value| stage.space.write("/proc/sys/net/ipv4/conf/all/route_localnet", value);
        routed(&stage, "1");
        stage.dataplane.cleanup().expect("a cleanup");
        let saved = stage.save();
        let ours: Vec<&str> = saved.lines().filter(|line| line.contains("KUBE")).collect();
        let [chain, input, guard, output] = ours[..] else { panic!("{which:?}: {saved}") };
        assert_eq!(chain, ":KUBE-FIREWALL", "{which:?}");
        assert_eq!([input, output], ["-A INPUT -j KUBE-FIREWALL", "-A OUTPUT -j KUBE-FIREWALL"], "{which:?}");
        assert!(guard.contains("-d 127.0.0.0/8") && guard.ends_with("-j DROP"), "{which:?}: {guard}");
        routed(&stage, "0");
        stage.dataplane.cleanup().expect("a cleanup");
        assert!(!stage.save().contains("KUBE"), "{which:?}: {}", stage.save());
    }
}

#[test]
fn many_services_at_once_are_a_chain_rewritten() {
    for which in VARIANTS {
        let mut stage = Stage::synced(which);
        let before = stage.save();
        let names: BTreeSet<ServiceName> =
            (0..40).map(|n| ServiceName::new("many", &format!("service-{n}"))).collect();
        for (n, name) in names.iter().enumerate() {
            let sketch = Sketch::new("many", &name.name, &format!("10.96.1.{n}"));
            let sketch = sketch.port("http", Protocol::Tcp, (80, 0), 8080);
            sketch.endpoints(&[&format!("10.244.3.{n}")]).enter(&mut stage.snapshot);
        }
        let touched = stage.plan.update(&stage.snapshot, &names);
        stage.dataplane.sync(&stage.plan, Some(&touched)).expect("a sync");
        assert_eq!(stage.dataplane.drift(&stage.plan).expect("a reading"), Vec::<String>::new());
        names.iter().for_each(|name| {
            stage.snapshot.remove_service(name);
        });
        let touched = stage.plan.update(&stage.snapshot, &names);
        let report = stage.dataplane.sync(&stage.plan, Some(&touched)).expect("a sync");
        assert_eq!(report.requests, 80 + 1 + 8, "chains that go, and KUBE-SERVICES with its rules");
        assert_eq!(stage.save(), before, "{which:?}");
    }
}

/// As with kube-proxy: a large cluster's rules about single endpoints are bare, and those of frontends are not.
#[test]
fn more_than_a_thousand_endpoints_have_no_comments() {
    let mut stage = Stage::synced(VARIANTS[0]);
    let counts = |stage: &Stage| stage.dataplane.rule_counts();
    let (saved, before) = (stage.save(), counts(&stage));
    assert!(saved.contains(" -> 10."), "{saved}");
    let of_table =
        |table: &str| saved.split('*').find(|part| part.starts_with(table)).unwrap_or_default().to_owned();
    for count in &before {
        let rules = of_table(count.table).lines().filter(|line| line.starts_with("-A ")).count();
        assert_eq!(count.total, rules, "rules of table {}", count.table);
        assert_eq!(count.last, rules, "all of them were written");
    }
    let names: BTreeSet<ServiceName> = (0..4).map(|n| ServiceName::new("many", &format!("s{n}"))).collect();
    for (n, name) in names.iter().enumerate() {
        let sketch = Sketch::new("many", &name.name, &format!("10.96.1.{n}"));
        let ips: Vec<String> = (0..251).map(|at| format!("10.250.{n}.{at}")).collect();
        let ips: Vec<&str> = ips.iter().map(String::as_str).collect();
        sketch.port("http", Protocol::Tcp, (80, 0), 8080).endpoints(&ips).enter(&mut stage.snapshot);
    }
    stage.plan.update(&stage.snapshot, &names);
    stage.dataplane.cleanup().expect("a cleanup");
    stage.dataplane.sync(&stage.plan, None).expect("a sync");
    let saved = stage.save();
    assert!(!saved.contains(" -> "), "no endpoint is named in a comment");
    assert!(saved.contains("\"many/s3:http cluster IP\""), "frontends are");
    // A Service that goes takes its rules out of the count.
    let nat = |stage: &Stage| {
        counts(stage).into_iter().find(|count| count.table == "nat").map_or(0, |nat| nat.total)
    };
    let all = nat(&stage);
    let gone = ServiceName::new("many", "s3");
    stage.snapshot.remove_service(&gone);
    let touched = stage.plan.update(&stage.snapshot, &BTreeSet::from([gone]));
    stage.dataplane.sync(&stage.plan, Some(&touched)).expect("a sync");
    assert_eq!(
        nat(&stage),
        all - 251 * 3 - 2,
        "a choice, a mark and a translation for each, a mark and the frontend"
    );
    let written = counts(&stage).into_iter().map(|count| count.last).collect::<Vec<_>>();
    assert_eq!(written, [0, 0]);
}

#[test]
fn health_check_node_ports_follow_their_service() {
    for which in VARIANTS {
        let mut stage = Stage::synced(which);
        let name = ServiceName::new("prod", "shop");
        for port in [31501, 0, 31500] {
            let mut shop = (**stage.snapshot.service(&name).expect("a Service")).clone();
            shop.health_check_node_port = port;
            stage.snapshot.set_service(shop);
            let touched = stage.plan.update(&stage.snapshot, &BTreeSet::from([name.clone()]));
            stage.dataplane.sync(&stage.plan, Some(&touched)).expect("a sync");
            assert_eq!(stage.dataplane.drift(&stage.plan).expect("a reading"), Vec::<String>::new());
            let accepts = stage.save().contains(&format!("--dport {port} -j ACCEPT"));
            assert_eq!(accepts, port != 0, "{which:?} {port}");
        }
    }
}

#[test]
fn connections_to_localhost_are_counted() {
    use kernel::netlink::{Protocol, Socket};
    use support::lab::{Outcome, World, connect};
    use support::row::Row;
    let row = Row::with_options("addresses=all");
    let plan = ServicePlan::new(&support::snapshot(&row), &support::settings(&row), Family::V4);
    for (backend, _) in VARIANTS {
        let world = World::new();
        let mut dataplane = backend.open(&world.node, Family::V4);
        let mut socket = world.node.run(|| Socket::open(Protocol::Netfilter)).expect("a socket");
        let mut counters = || proxy::iptables::Counters::read(&mut socket).expect("counters");
        assert_eq!(counters(), proxy::iptables::Counters::default(), "nothing counts yet");
        dataplane.sync(&plan, None).expect("a sync");
        assert_eq!(counters().localhost_accepted, Some(0));
        let to = support::destination(Family::V4, "loopback");
        let outcome = connect(&world.node, to, lab::wait::patience());
        assert!(matches!(outcome, Outcome::Answer { .. }), "{outcome:?}");
        let counted = counters();
        assert!(counted.localhost_accepted.is_some_and(|n| n > 0), "{backend:?} {counted:?}");
        assert_eq!(counted.invalid_dropped, Some(0));
        dataplane.cleanup().expect("a cleanup");
        assert_eq!(counters(), proxy::iptables::Counters::default(), "no trace");
    }
}

#[test]
fn rules_go_without_the_program_that_made_them() {
    let stage = Stage::synced(VARIANTS[0]);
    let [nowhere, programs] = ["/run/nothing", "/usr/sbin"].map(std::path::Path::new);
    stage.space.sh("mkdir /run/nothing");
    stage.space.bind_directory(nowhere, programs).expect("programs can be hidden");
    let mut dataplane = stage.backend.open(&stage.space, Family::V4);
    let refusal = dataplane.sync(&stage.plan, None).expect_err("a sync needs the program");
    assert!(refusal.to_string().contains("is not installed"), "{refusal}");
    dataplane.cleanup().expect("a cleanup needs none");
    stage.space.unmount(programs).expect("programs can be shown");
    let left: Vec<String> =
        stage.save().lines().filter(|l| !l.contains("KUBE-FIREWALL")).map(str::to_owned).collect();
    assert_eq!(left, ["*filter"]);
}

#[test]
fn the_variant_is_the_kubelets() {
    use kernel::iptables::{Family as ProgramFamily, Iptables, Variant};
    use kernel::netlink::{Protocol, Socket};
    let chosen = |script: &[(&str, &str)]| {
        let space = Space::new_node().expect("a namespace needs root");
        for (program, text) in script {
            let output = space.output(program, &["--noflush"], text.as_bytes());
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
        space.run(|| {
            let mut socket = Socket::open(Protocol::Netfilter).expect("a socket");
            Iptables::in_use(&mut socket, ProgramFamily::V4).expect("a choice").variant
        })
    };
    const RULE: &str = "*filter\n-A INPUT -s 192.0.2.1/32 -j ACCEPT\nCOMMIT\n";
    const HINT: &str = "*mangle\n:KUBE-IPTABLES-HINT - [0:0]\nCOMMIT\n";
    const CANARY: &str = "*mangle\n:KUBE-KUBELET-CANARY - [0:0]\nCOMMIT\n";
    let (nft, legacy) = ("iptables-nft-restore", "iptables-legacy-restore");
    assert_eq!(chosen(&[]), Variant::Nft);
    assert_eq!(chosen(&[(legacy, RULE)]), Variant::Legacy);
    assert_eq!(chosen(&[(legacy, RULE), (nft, RULE)]), Variant::Nft);
    assert_eq!(chosen(&[(nft, HINT), (legacy, RULE)]), Variant::Nft);
    assert_eq!(chosen(&[("ip6tables-legacy-restore", CANARY), (nft, RULE)]), Variant::Legacy);
}
