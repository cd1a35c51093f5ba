//! A suite on a node of its own: sandboxes, attachments that stay, attachments that are measured.

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use lab::network::{Attachment, Request};
use lab::{Network, Node, Pod, Subject};
use serde_json::{Map, Value, json};

use crate::runner::Runner;

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
    /// Each starts one plug-in at a time; the first does all that is measured.
    runners: [Mutex<Runner>; 2],
    next: AtomicUsize,
}

impl Contestant {
    /// A fresh node for `subject`.
    pub fn new(name: &'static str, subject: Subject) -> Contestant {
        let node = Node::new(name).expect("a node can be made (as root, or with user namespaces)");
        let measured = node.pod("measured");
        let directory = subject.directory.clone();
        let runners = [(); 2].map(|()| Mutex::new(Runner::start(&node)));
        let next = AtomicUsize::new(0);
        Contestant { name, directory, subject, node, present: Vec::new(), measured, runners, next }
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
            for runner in &self.runners {
                scope.spawn(|| {
                    let mut runner = runner.lock().expect("no panic while a plug-in runs");
                    while let Some(pod) = fresh.get(next.fetch_add(1, Ordering::Relaxed)) {
                        add(&mut network.attachment(pod, self.request()), &mut runner);
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
        self.measure(course, |attachment, runner| (add(attachment, runner), del(attachment, runner)))
    }

    /// The peak in KiB of the largest process of one ADD of `course`.
    pub fn weigh(&self, course: &Course) -> u64 {
        self.measure(course, |attachment, runner| {
            let mut peak = 0;
            for index in 0..attachment.network.kinds().len() {
                let (answer, size) = runner.weigh(&attachment.invocation("ADD", index));
                attachment.result = answer;
                peak = peak.max(size);
            }
            del(attachment, runner);
            peak
        })
    }

    /// Does `work` with an attachment of `course` that nothing was done for yet. For a chained plug-in a plain bridge
    /// comes before it and goes after it.
    fn measure<T>(&self, course: &Course, work: impl FnOnce(&mut Attachment, &mut Runner) -> T) -> T {
        let mut runner = self.runners[0].lock().expect("no panic while a plug-in runs");
        let mut attachment = self.network(course).attachment(&self.measured, self.request());
        let base = course.chained.then(|| {
            let mut base = self.foundation().attachment(&self.measured, Request::default());
            add(&mut base, &mut runner);
            base
        });
        if let Some(base) = &base {
            attachment.result = base.result.clone();
        }
        let outcome = work(&mut attachment, &mut runner);
        if let Some(base) = &base {
            del(base, &mut runner);
        }
        outcome
    }

    fn foundation(&self) -> Network {
        let list = json!({"cniVersion": "1.0.0", "name": "foundation", "plugins": [{"type": "bridge",
            "bridge": "base0", "isGateway": true, "ipam": {"type": "host-local", "subnet": "10.97.0.0/16"}}]});
        Network::new(&self.subject, list)
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

/// ADD by every plug-in in order: the time of all together.
fn add(attachment: &mut Attachment, runner: &mut Runner) -> Duration {
    let mut total = Duration::ZERO;
    for index in 0..attachment.network.kinds().len() {
        let (answer, took) = runner.time(&attachment.invocation("ADD", index));
        attachment.result = answer;
        total += took;
    }
    total
}

/// DEL in reverse. A runtime asks the same of it as of ADD.
fn del(attachment: &Attachment, runner: &mut Runner) -> Duration {
    let indices = (0..attachment.network.kinds().len()).rev();
    indices.map(|index| runner.time(&attachment.invocation("DEL", index)).1).sum()
}

/// Bytes on disk of the plug-ins `kinds` in `directory`, each file once however many names it has.
pub fn size_on_disk(directory: &Path, kinds: &[&str]) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let mut seen = std::collections::BTreeSet::new();
    let files = kinds.iter().filter_map(|kind| std::fs::metadata(directory.join(kind)).ok());
    files.filter(|file| seen.insert(file.ino())).map(|file| file.len()).sum()
}
