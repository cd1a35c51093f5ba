//! A suite on a node of its own: sandboxes, attachments that stay, attachments that are measured.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use lab::network::Request;
use lab::{Network, Node, Pod, Subject};
use serde_json::{Map, Value, json};

use crate::call::Verb;

/// What is measured: plug-ins in order, and whether they start from an attachment that another chain made.
pub struct Course {
    /// The row's name.
    pub name: &'static str,
    /// The configuration list.
    list: Value,
    /// What the reference runs, where it has no such plug-in: that which comes closest.
    reference: Option<Value>,
    /// Whether the first plug-in is a chained one and needs a prevResult.
    chained: bool,
}

/// Host ports are handed out from here, one to an attachment.
const FIRST_PORT: usize = 20_000;

impl Course {
    /// The chain, then each plug-in alone.
    pub fn all() -> Vec<Course> {
        let local = json!({"type": "host-local", "ranges": [[{"subnet": "10.99.0.0/16"}], [{"subnet": "fd00:99::/64"}]],
            "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]});
        let bare = json!({"type": "host-local", "ranges": [[{"subnet": "10.96.0.0/16"}], [{"subnet": "fd00:96::/64"}]]});
        let fixed =
            json!({"type": "static", "addresses": [{"address": "10.98.0.2/16", "gateway": "10.98.0.1"}]});
        let alone = |name: &'static str, chained: bool, plugin: Value| {
            let list = json!({"cniVersion": "1.0.0", "name": "alone", "plugins": [plugin]});
            Course { name, list, reference: None, chained }
        };
        // Pods of a cluster; the reference's pods reach their own node only.
        let of_cluster = |name: &'static str, mut plugin: Value, closest: Value| {
            plugin["mtu"] = json!(1450);
            plugin["ipam"] = bare.clone();
            Course { reference: Some(alone(name, false, closest).list), ..alone(name, false, plugin) }
        };
        vec![
            Course { name: CHAIN, list: chain(), reference: None, chained: false },
            alone("loopback", false, json!({"type": "loopback"})),
            alone(
                "bridge + host-local",
                false,
                json!({"type": "bridge", "bridge": "alone0", "isGateway": true,
                "ipMasq": true, "ipam": local}),
            ),
            alone("ptp + host-local", false, json!({"type": "ptp", "ipMasq": true, "ipam": local})),
            of_cluster(
                "vxlan (reference: bridge)",
                json!({"type": "vxlan", "bridge": "cluster0"}),
                json!({"type": "bridge", "bridge": "cluster0", "isDefaultGateway": true, "hairpinMode": true,
                "mtu": 1450, "ipam": bare}),
            ),
            of_cluster(
                "routed (reference: ptp)",
                json!({"type": "routed"}),
                json!({"type": "ptp", "mtu": 1450, "ipam": bare}),
            ),
            alone("host-local", false, json!({"type": "host-local", "ipam": local})),
            alone("static", false, json!({"type": "static", "ipam": fixed})),
            alone("portmap", true, json!({"type": "portmap", "capabilities": {"portMappings": true}})),
            alone("bandwidth", true, json!({"type": "bandwidth", "capabilities": {"bandwidth": true}})),
            alone(
                "tuning",
                true,
                json!({"type": "tuning", "mtu": 1400, "sysctl": {"net.core.somaxconn": "500"}}),
            ),
            alone("firewall", true, json!({"type": "firewall"})),
        ]
    }
}

/// The chain's row.
pub const CHAIN: &str = "bridge + host-local + portmap + bandwidth";

/// conf/bridge.conflist with room for more pods than a /24 holds, at the newest version that both suites speak.
fn chain() -> Value {
    let mut list: Value =
        serde_json::from_str(include_str!("../../../conf/bridge.conflist")).expect("a test parses conf/");
    list["cniVersion"] = json!("1.0.0");
    list["plugins"][0]["ipam"]["ranges"] =
        json!([[{"subnet": "10.77.0.0/16"}], [{"subnet": "fd00:77::/64"}]]);
    list
}

/// A suite on its node.
pub struct Contestant {
    /// Its name in tables.
    pub name: &'static str,
    /// Where its programs are.
    pub directory: PathBuf,
    subject: Subject,
    node: Node,
    /// Sandboxes with an attachment that stays.
    present: Vec<Pod>,
    /// An empty sandbox, used again and again.
    measured: Pod,
    next: AtomicUsize,
}

impl Contestant {
    /// A fresh node for `subject`.
    pub fn new(name: &'static str, subject: Subject) -> Contestant {
        let node = Node::new(name).expect("a node can be made (as root, or with user namespaces)");
        let measured = node.pod("measured");
        let directory = subject.directory.clone();
        Contestant {
            name,
            directory,
            subject,
            node,
            present: Vec::new(),
            measured,
            next: AtomicUsize::new(0),
        }
    }

    /// Adds pods by the chain, two at a time, until `count` are there.
    ///
    /// Ours fills both nodes. On the reference's it does so by its iptables backend, which writes the reference's own
    /// chains, rules and leases (the swap scenarios hold it to that); the reference itself would take a quarter of an
    /// hour for a thousand pods.
    pub fn fill(&mut self, count: usize) {
        let from = self.present.len();
        let fresh: Vec<Pod> = (from..count).map(|n| self.node.pod(&format!("pod-{n}"))).collect();
        let next = AtomicUsize::new(0);
        let mut list = chain();
        if self.subject.is_reference {
            list["plugins"][0]["ipMasqBackend"] = json!("iptables");
            list["plugins"][1]["backend"] = json!("iptables");
        }
        let filler = Subject::bowline();
        let network = Network::new(&filler, list);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while let Some(pod) = fresh.get(next.fetch_add(1, Ordering::Relaxed)) {
                        self.run(&network, pod, ("ADD", &self.request()), Value::Null);
                    }
                });
            }
        });
        self.present.extend(fresh);
    }

    fn network(&self, course: &Course) -> Network {
        let reference = course.reference.as_ref().filter(|_| self.subject.is_reference);
        Network::new(&self.subject, reference.unwrap_or(&course.list).clone())
    }

    /// One ADD and one DEL of `course`: how long each took, all plug-ins together.
    pub fn sample(&self, course: &Course) -> (Duration, Duration) {
        let network = self.network(course);
        let base = course.chained.then(|| self.base());
        let asked = self.request();
        let (result, add) =
            self.run(&network, &self.measured, ("ADD", &asked), base.clone().unwrap_or_default());
        let (_, del) = self.run(&network, &self.measured, ("DEL", &asked), result);
        if let Some(base) = base {
            self.run(&self.foundation(), &self.measured, ("DEL", &asked), base);
        }
        (add, del)
    }

    /// The attachment that a chained plug-in is measured on: a plain bridge.
    fn base(&self) -> Value {
        self.run(&self.foundation(), &self.measured, ("ADD", &Request::default()), Value::Null).0
    }

    fn foundation(&self) -> Network {
        let list = json!({"cniVersion": "1.0.0", "name": "foundation", "plugins": [{"type": "bridge",
            "bridge": "base0", "isGateway": true, "ipam": {"type": "host-local", "subnet": "10.97.0.0/16"}}]});
        Network::new(&self.subject, list)
    }

    /// The peak in KiB of the largest process of one ADD of `course`.
    pub fn weigh(&self, course: &Course) -> u64 {
        let network = self.network(course);
        let base = course.chained.then(|| self.base());
        let request = self.request();
        let mut result = base.clone().unwrap_or_default();
        let mut peak = 0;
        for (index, kind) in network.kinds().iter().enumerate() {
            let conf = network.request(index, Some(&result).filter(|r| !r.is_null()), &request);
            let (answer, size) = self
                .node
                .run(|| verb("ADD", &self.measured, |verb| verb.weigh(&self.directory, kind, &conf)));
            result = answer;
            peak = peak.max(size);
        }
        self.run(&network, &self.measured, ("DEL", &request), result);
        if let Some(base) = base {
            self.run(&self.foundation(), &self.measured, ("DEL", &request), base);
        }
        peak
    }

    /// Every plug-in of `network` in the verb's order; the last result and the time of all together. A runtime asks
    /// the same of DEL as of ADD.
    fn run(
        &self,
        network: &Network,
        pod: &Pod,
        (command, request): (&str, &Request),
        mut result: Value,
    ) -> (Value, Duration) {
        let kinds = network.kinds();
        let adding = command == "ADD";
        let directory = &network.subject.directory;
        let order: Vec<usize> =
            if adding { (0..kinds.len()).collect() } else { (0..kinds.len()).rev().collect() };
        self.node.run(|| {
            let mut total = Duration::ZERO;
            for index in order {
                let conf = network.request(index, Some(&result).filter(|r| !r.is_null()), request);
                let (answer, took) = verb(command, pod, |verb| verb.run(directory, &kinds[index], &conf));
                if adding {
                    result = answer;
                }
                total += took;
            }
            (result, total)
        })
    }

    /// A host port of its own and a rate limit.
    fn request(&self) -> Request {
        let port = FIRST_PORT + self.next.fetch_add(1, Ordering::Relaxed) % 40_000;
        let rates = json!({"ingressRate": 100_000_000, "ingressBurst": 1_000_000,
            "egressRate": 100_000_000, "egressBurst": 1_000_000});
        let ports = json!([{"hostPort": port, "containerPort": 80, "protocol": "tcp"}]);
        let capabilities = Map::from_iter([("portMappings".into(), ports), ("bandwidth".into(), rates)]);
        Request { capabilities, ..Request::default() }
    }
}

fn verb<T>(command: &str, pod: &Pod, run: impl FnOnce(Verb<'_>) -> T) -> T {
    let container_id = pod.container_id();
    let netns = pod.netns_path();
    run(Verb { command, container_id: &container_id, netns: &netns })
}

/// Bytes on disk of the plug-ins `kinds` in `directory`, each file once however many names it has.
pub fn size_on_disk(directory: &Path, kinds: &[&str]) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let mut seen = std::collections::BTreeSet::new();
    let files = kinds.iter().filter_map(|kind| std::fs::metadata(directory.join(kind)).ok());
    files.filter(|file| seen.insert(file.ino())).map(|file| file.len()).sum()
}
