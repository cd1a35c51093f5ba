//! Fifty nodes come and go and change while pods talk: nobody notices.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use lab::cluster::{Families, HEALTHZ, Shape, pod_cidrs};
use lab::manifests::Entry;
use lab::wait::until_nothing;
use lab::{Chance, Cluster, Conversation, Tables, daemon};

/// Nodes that exist as manifests only.
const PAPER: u64 = 47;
const STEPS: usize = 250;

/// The nodes that are there, real and paper ones, and how they are written.
struct Register<'a> {
    cluster: &'a Cluster,
    present: BTreeMap<String, Entry>,
    chance: Chance,
    births: u32,
}

impl Register<'_> {
    /// Something happens to one paper node.
    fn step(&mut self) {
        let name = format!("paper-{}", self.chance.below(PAPER));
        let Some(mut entry) = self.present.remove(&name) else {
            let (ips, pod_cidrs) = (self.free_ips(), self.free_pod_cidrs());
            let (uid, created) = (format!("uid-of-{name}"), "2026-01-02T00:00:00Z".to_owned());
            return self.write(Entry { name, uid, created, ips, pod_cidrs });
        };
        self.births += 1;
        match self.chance.below(5) {
            0 | 1 => return self.cluster.manifests().remove(&name),
            2 => entry.ips = self.free_ips(),
            3 => {
                // A pod CIDR never changes under one uid: the node was deleted and made anew.
                entry = entry.reborn(self.births);
                entry.pod_cidrs = self.free_pod_cidrs();
            }
            _ => {
                entry = entry.reborn(self.births);
                (entry.ips, entry.pod_cidrs) = (self.free_ips(), self.free_pod_cidrs());
            }
        }
        self.write(entry);
    }

    fn write(&mut self, entry: Entry) {
        self.cluster.manifests().write(&entry);
        self.present.insert(entry.name.clone(), entry);
    }

    /// Addresses that no node has; those of nodes that left are soon another's.
    fn free_ips(&mut self) -> Vec<IpAddr> {
        loop {
            let host = 100 + self.chance.below(100) as u8;
            let ip4 = Ipv4Addr::new(172, 16, 0, host).into();
            let ip6 = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, host.into()).into();
            if self.present.values().all(|entry| !entry.ips.contains(&ip4)) {
                return vec![ip4, ip6];
            }
        }
    }

    fn free_pod_cidrs(&mut self) -> Vec<String> {
        loop {
            let cidrs = pod_cidrs(100 + self.chance.below(100) as u8, Families::Dual);
            if self.present.values().all(|entry| entry.pod_cidrs != cidrs) {
                return cidrs;
            }
        }
    }

    /// Waits until the kernel of every real node holds what the present nodes need and nothing else.
    fn has_settled(&self) {
        for member in self.cluster.nodes() {
            let peers = self.present.values().filter(|entry| entry.name != member.entry().name);
            let wanted = Tables::of_vxlan(peers);
            until_nothing(&format!("{} to hold what the nodes need", member.name()), || {
                Tables::of(member).difference(&wanted)
            });
        }
    }
}

#[test]
fn nodes_come_and_go_while_pods_talk() {
    let cluster = Cluster::new(&Shape::flat(3, Families::Dual)).unwrap();
    let daemons = cluster.start_all(&["--mode", "vxlan"]);
    let pods: Vec<_> = (0..3).map(|node| cluster.pod(node, &format!("pod-{node}"))).collect();
    let present = cluster.nodes().iter().map(|node| (node.name().to_owned(), node.entry().clone())).collect();
    let mut register = Register { cluster: &cluster, present, chance: Chance::new(3), births: 0 };
    register.has_settled();
    let mut talks = Vec::new();
    for (from, to) in [(0, 1), (1, 2), (2, 0)] {
        for ip in pods[to].ips() {
            talks.push(Conversation::start(&pods[from].pod, &pods[to].pod, ip));
        }
        let node = cluster.node(to);
        for ip in &node.entry().ips {
            talks.push(Conversation::start(&pods[from].pod, node, *ip));
        }
    }
    for step in 1..=STEPS {
        register.step();
        if register.chance.below(25) == 0 || step == STEPS {
            register.has_settled();
            talks.iter().for_each(Conversation::goes_on);
        }
    }
    // Everything that was only paper leaves at once.
    let paper: Vec<String> =
        register.present.keys().filter(|name| name.starts_with("paper")).cloned().collect();
    assert!(paper.len() > 10, "{paper:?}");
    for name in paper {
        register.present.remove(&name);
        cluster.manifests().remove(&name);
    }
    register.has_settled();
    for talk in talks {
        let longest = talk.end();
        assert!(longest < std::time::Duration::from_secs(2), "an answer took {longest:?}");
    }
    for (node, daemon) in cluster.nodes().iter().zip(&daemons) {
        assert_eq!(
            daemon::http(node, HEALTHZ, "/readyz").map(|(status, _)| status),
            Some(200),
            "{}",
            daemon.log()
        );
    }
}

/// A real node leaves and comes back under its name: as another machine with another pod CIDR, and as it was.
#[test]
fn a_node_comes_back_under_its_name() {
    let cluster = Cluster::new(&Shape::flat(3, Families::Dual)).unwrap();
    let mut daemons = cluster.start_all(&["--mode", "vxlan"]);
    let pods: Vec<_> = (0..3).map(|node| cluster.pod(node, &format!("pod-{node}"))).collect();
    let survivors = Conversation::start(&pods[0].pod, &pods[1].pod, pods[1].ips()[0]);
    let left = cluster.node(2);
    let wanted = |others: &[&Entry]| Tables::of_vxlan(others.iter().copied());
    let settled = |node: usize, others: &[&Entry]| {
        until_nothing(&format!("node {node} to know {} peers", others.len()), || {
            Tables::of(cluster.node(node)).difference(&wanted(others))
        });
    };
    let entries: Vec<&Entry> = cluster.nodes().iter().map(|node| node.entry()).collect();
    for round in 1..4 {
        cluster.manifests().remove(left.name());
        settled(0, &[entries[1]]);
        settled(1, &[entries[0]]);
        let mut reborn = entries[2].reborn(round);
        if round == 1 {
            reborn.pod_cidrs = pod_cidrs(77, Families::Dual);
        }
        cluster.manifests().write(&reborn);
        settled(0, &[entries[1], &reborn]);
        settled(1, &[entries[0], &reborn]);
        survivors.goes_on();
    }
    // With its old pod CIDR its old pod is reached again.
    let old = daemons.pop().expect("three daemons run");
    old.kill();
    daemons.push(cluster.start(2, &["--mode", "vxlan"]));
    left.until_ready(&daemons[2]);
    let again = Conversation::start(&pods[0].pod, &pods[2].pod, pods[2].ips()[0]);
    again.goes_on();
    again.end();
    survivors.end();
}
