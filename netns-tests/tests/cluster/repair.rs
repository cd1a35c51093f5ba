//! What somebody removes is put back, what kills the daemon disturbs nobody.

use std::time::Duration;

use lab::cluster::{Families, Shape};
use lab::traffic::throughput;
use lab::wait::{until, until_nothing};
use lab::{Chance, Cluster, Conversation, Daemon, Snapshot, Space, Tables, daemon};

/// Everything of ours in the kernel, without what counts or ages.
pub fn state(node: &Space) -> String {
    let commands = [
        "ip -o -d link show type vxlan",
        "ip -o addr show",
        "ip -4 route show table all proto 98",
        "ip -6 route show table all proto 98",
        "ip -4 rule",
        "ip -6 rule",
        "nft -s list table inet bowline_node",
        "nft -s list table netdev bowline_divert",
        "sysctl -a --pattern net.ipv4.conf.veth.*proxy_arp$",
        "sysctl net.ipv4.ip_forward net.ipv6.conf.all.forwarding",
    ];
    let mut text = String::new();
    for command in commands {
        let said = node.try_sh(command).unwrap_or_else(|e| e.to_string());
        // A link that was made again has another number.
        let mut lines: Vec<&str> = said.lines().map(without_number).collect();
        lines.sort_unstable();
        text.push_str(&format!("{command}\n{}\n", lines.join("\n")));
    }
    text.push_str(&format!("{:#?}", Tables::of(node)));
    text
}

/// A line of ip(8) without the number of the link that it begins with, a rule without the comment that has such numbers.
fn without_number(line: &str) -> &str {
    let line = line.split(" comment \"pods ").next().unwrap_or_default();
    match line.split_once(": ") {
        Some((number, rest)) if number.parse::<u32>().is_ok() => rest,
        _ => line,
    }
}

/// The lines of one text that the other lacks, both ways.
pub fn difference(before: &str, after: &str) -> String {
    let missing = |from: &str, other: &str, sign: char| -> String {
        from.lines()
            .filter(|line| !other.lines().any(|o| o == *line))
            .map(|line| format!("{sign} {line}\n"))
            .collect()
    };
    missing(before, after, '-') + &missing(after, before, '+')
}

/// Node 0 of two with its daemons, and pods that talk over both families.
struct Pair {
    // In this order they end.
    talks: Vec<Conversation>,
    daemons: Vec<Daemon>,
    cluster: Cluster,
    mode: &'static str,
}

impl Pair {
    fn new(mode: &'static str) -> Pair {
        let cluster = Cluster::new(&Shape::flat(2, Families::Dual)).unwrap();
        let daemons = cluster.start_all(&["--mode", mode]);
        let (a, b) = (cluster.pod(0, "a"), cluster.pod(1, "b"));
        let talks = b.ips().into_iter().map(|ip| Conversation::start(&a.pod, &b.pod, ip)).collect();
        Pair { cluster, daemons, talks, mode }
    }

    fn talk_goes_on(&self) {
        self.talks.iter().for_each(Conversation::goes_on);
    }

    fn restart(&mut self) {
        let old = self.daemons.remove(0);
        old.kill();
        self.daemons.insert(0, self.cluster.start(0, &["--mode", self.mode]));
    }

    fn until_ready(&self) {
        self.cluster.node(0).until_ready(&self.daemons[0]);
    }

    fn repaired(&self) -> f64 {
        self.cluster.node(0).metric("bowline_drift_repaired_total", "").unwrap_or(0.0)
    }

    /// Damage by hand is undone and counted, and the pods' connections live on.
    fn repairs(&self, damages: &[&str]) {
        let node = self.cluster.node(0);
        let before = state(node);
        for damage in damages {
            let counted = self.repaired();
            node.sh(damage);
            until_nothing(&format!("`{damage}` to be undone"), || difference(&before, &state(node)));
            until(&format!("`{damage}` to be counted"), || (self.repaired() > counted).then_some(()));
            self.talk_goes_on();
        }
    }
}

#[test]
fn drift_of_vxlan_is_repaired() {
    let pair = Pair::new("vxlan");
    pair.repairs(&[
        "ip route del 10.244.1.0/24",
        "ip -6 route del fd00:244:1::/64",
        "ip -6 route del 2001:db8::b from fd00:244::/64",
        "bridge fdb del 62:6c:ac:10:00:0b dev bowline.1 dst 172.16.0.11",
        "ip neigh del 10.244.1.0 dev bowline.1",
        "nft delete table netdev bowline_divert",
        "nft flush map netdev bowline_divert nodes",
        "ip link del bowline.1",
        "ip link del bowline6.1",
        "ip link set bowline.1 down",
        "ip link set bowline.1 mtu 1300",
        "ip addr flush dev bowline.1",
        "nft delete table inet bowline_node",
        "nft flush ruleset",
        "ip route del unreachable 10.244.0.0/24 proto 98",
        "sysctl -q net.ipv4.ip_forward=0",
    ]);
}

/// What a pod needs of its node is a plug-in's work, and the daemon's to keep.
#[test]
fn drift_of_pods_is_repaired() {
    let mut pair = Pair::new("routed");
    let node = pair.cluster.node(0);
    let of_pod = |family: &str| {
        let routes = node.sh(&format!("ip {family} route show proto 98"));
        let words = routes.lines().map(|line| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>());
        let [ip, _, veth, ..] = &words.into_iter().find(|words| words[2].starts_with("veth")).unwrap()[..]
        else {
            unreachable!("a route has a link")
        };
        (ip.clone(), veth.clone())
    };
    let ((ip, veth), (ip6, _)) = (of_pod("-4"), of_pod("-6"));
    let damages = [
        format!("ip route del {ip} dev {veth}"),
        format!("ip -6 route del {ip6} dev {veth}"),
        format!("ip addr del fe80::1/64 dev {veth}"),
        format!("sysctl -qw net.ipv4.conf.{veth}.proxy_arp=0"),
    ];
    pair.repairs(&damages.each_ref().map(String::as_str));
    // While nobody looks.
    let before = state(pair.cluster.node(0));
    pair.daemons.remove(0).kill();
    pair.cluster.node(0).sh(&damages[0]);
    pair.daemons.insert(0, pair.cluster.start(0, &["--mode", "routed"]));
    until_nothing("the pod's route to come back", || difference(&before, &state(pair.cluster.node(0))));
    pair.talk_goes_on();
}

#[test]
fn drift_of_routed_is_repaired() {
    let pair = Pair::new("routed");
    pair.repairs(&[
        "ip route del 10.244.1.0/24",
        "ip -6 route del fd00:244:1::/64",
        "nft delete table inet bowline_node",
    ]);
    // Another's route is not bowline's to remove: it is told, and once it is gone ours comes back.
    let node = pair.cluster.node(0);
    let before = state(node);
    node.sh("ip route replace 10.244.1.0/24 via 172.16.0.1");
    until("the clash to be told", || (node.metric("bowline_peers", "problem") == Some(1.0)).then_some(()));
    node.sh("ip route del 10.244.1.0/24 via 172.16.0.1");
    until_nothing("our route to come back", || difference(&before, &state(node)));
    pair.talk_goes_on();
    // The kernel flushes the routes of a link that goes down; the node's own come back by its administrator.
    node.ip_batch(
        "link set eth0 down\nlink set eth0 up\n\
         route replace default via 172.16.0.1\naddr replace 2001:db8::a/64 dev eth0 nodad\nroute replace default via 2001:db8::1\n",
    )
    .unwrap();
    until_nothing("the uplink's routes to come back", || difference(&before, &state(node)));
    pair.talk_goes_on();
}

/// Killed whenever it pleases, also while it starts: pods don't notice, and the next one finds everything in place.
#[test]
fn killed_at_any_moment_it_converges() {
    let mut pair = Pair::new("vxlan");
    let mut chance = Chance::new(9);
    let before = state(pair.cluster.node(0));
    for round in 0..15 {
        let node = pair.cluster.node(0);
        if round % 3 == 0 {
            // Something to do for the next one.
            let damages = [
                "ip link del bowline.1",
                "nft delete table inet bowline_node",
                "nft delete table netdev bowline_divert",
                "ip route del 10.244.1.0/24",
            ];
            // Whether it is there depends on where the last one was killed.
            let damage: &&str = chance.one_of(&damages);
            let _ = node.try_sh(damage);
        }
        pair.restart();
        // The moment itself is what is drawn by lot, so there is no condition to wait for.
        std::thread::sleep(std::time::Duration::from_millis(chance.below(40)));
    }
    pair.restart();
    pair.until_ready();
    let node = pair.cluster.node(0);
    until_nothing("everything to be as before", || difference(&before, &state(node)));
    for talk in pair.talks {
        talk.end();
    }
}

/// While no daemon runs, and while it is replaced by the next, not an answer is late.
#[test]
fn an_upgrade_is_not_noticed() {
    for mode in ["vxlan", "routed"] {
        let mut pair = Pair::new(mode);
        let node = pair.cluster.node(0);
        let before = Snapshot::of(node);
        let old = pair.daemons.remove(0);
        assert_eq!(old.terminate(), 0);
        pair.talk_goes_on();
        let difference = before.difference(pair.cluster.node(0));
        // Its socket is gone with it, and nothing else.
        assert!(!difference.contains("ip "), "{mode}: {difference}");
        pair.daemons.insert(0, pair.cluster.start(0, &["--mode", mode]));
        pair.until_ready();
        pair.talk_goes_on();
        for talk in pair.talks {
            let longest = talk.end();
            assert!(longest < std::time::Duration::from_millis(500), "{mode}: an answer took {longest:?}");
        }
    }
}

/// A second daemon on a node refuses with a sentence, and the first goes on.
#[test]
fn two_daemons_on_one_node_refuse_politely() {
    let cluster = Cluster::new(&Shape::flat(1, Families::V4)).unwrap();
    let daemons = cluster.start_all(&["--mode", "routed"]);
    let before = state(cluster.node(0));
    let said_before = daemons[0].log().len();
    let mut second = cluster.start(0, &["--mode", "vxlan"]);
    assert_ne!(second.exit_code("to refuse"), 0);
    let said = second.log()[said_before..].to_owned();
    assert!(said.contains("bowlined"), "{said}");
    assert_eq!(difference(&before, &state(cluster.node(0))), "");
    assert!(daemons[0].is_running());
}

/// `bowline cleanup` refuses nothing and leaves nothing, in every mode, and also where there is nothing.
#[test]
fn cleanup_leaves_no_trace() {
    for mode in ["vxlan", "routed", "cross-subnet"] {
        let cluster = Cluster::new(&Shape::flat(2, Families::Dual)).unwrap();
        let node = cluster.node(0);
        let before = Snapshot::of(node);
        let daemons = cluster.start_all(&["--mode", mode]);
        daemons.into_iter().for_each(Daemon::kill);
        for _ in 0..2 {
            node.sh(&format!("{} cleanup", daemon::program("bowline").display()));
            lab::scenario::no_trace(node, &before, lab::scenario::Leftovers::Nothing);
        }
    }
}

/// Between these nodes packets come merged, as a card brings them: a tunnel that gets many need not try once more.
#[test]
fn a_tunnel_that_gets_merged_packets_merges_no_more() {
    let cluster = Cluster::new(&Shape::flat(2, Families::V4)).unwrap();
    let _daemons = cluster.start_all(&["--mode", "vxlan"]);
    let (a, b) = (cluster.pod(0, "a"), cluster.pod(1, "b"));
    let merges = |node| {
        let features = cluster.node(node).sh("ethtool -k bowline.1");
        features.contains("generic-receive-offload: on")
    };
    assert!(merges(0) && merges(1));
    until("the receiving tunnel to pass on what it gets", || {
        let carried = throughput(&a.pod, &b.pod, (b.ips()[0], 0), Duration::from_millis(300));
        assert!(carried > 0);
        (!merges(1)).then_some(())
    });
    assert!(merges(0), "it has got acknowledgements, one by one");
}
