//! The API stopped, slow, forgetful, talking nonsense: pods keep talking, metrics tell, everything converges afterwards.

use std::time::Duration;

use lab::apiserver::{ApiServer, Misbehaviour, Target};
use lab::cluster::{Families, Member, Shape, pod_cidrs};
use lab::manifests::Entry;
use lab::wait::{until, until_nothing};
use lab::{Cluster, Conversation, Daemon, Tables};

/// Two nodes that read a server beyond their router, with pods that talk.
struct Served {
    // In this order they end.
    talks: Vec<Conversation>,
    daemons: Vec<Daemon>,
    server: ApiServer,
    source: Vec<String>,
    cluster: Cluster,
}

impl Served {
    fn new() -> Served {
        let cluster = Cluster::new(&Shape::flat(2, Families::Dual)).unwrap();
        let (server, source) = cluster.serve();
        let daemons = cluster.start_all_with(&source, &["--mode", "vxlan"]);
        let (a, b) = (cluster.pod(0, "a"), cluster.pod(1, "b"));
        let talks = b.ips().into_iter().map(|ip| Conversation::start(&a.pod, &b.pod, ip)).collect();
        Served { cluster, server, source, daemons, talks }
    }

    fn node(&self) -> &Member {
        self.cluster.node(0)
    }

    /// The kernel of node 0 holds what these peers need, and nothing else.
    fn knows(&self, peers: &[&Entry]) {
        let wanted = Tables::of_vxlan(peers.iter().copied());
        until_nothing("the kernel to hold what the nodes need", || {
            Tables::of(self.node()).difference(&wanted)
        });
    }

    fn restarts(&self) -> f64 {
        self.node().metric("bowline_source_restarts_total", "").unwrap_or(0.0)
    }

    fn is_connected(&self) -> bool {
        self.node().metric("bowline_source_connected", "") == Some(1.0)
    }
}

fn paper(number: u8) -> Entry {
    Entry {
        name: format!("paper-{number}"),
        uid: format!("uid-of-paper-{number}"),
        created: "2026-01-02T00:00:00Z".into(),
        ips: vec![[172, 16, 0, number].into(), format!("2001:db8::{number:x}").parse().unwrap()],
        pod_cidrs: pod_cidrs(number, Families::Dual),
    }
}

/// Trouble comes while a node leaves and another joins; then it ends. Each on a cluster of its own, whose first pause
/// before another try is short.
fn survived(trouble: impl Fn(&ApiServer)) {
    let served = Served::new();
    let other = served.cluster.node(1).entry().clone();
    let before = paper(50);
    served.server.put(before.object());
    served.knows(&[&other, &before]);
    let restarts = served.restarts();
    trouble(&served.server);
    let after = paper(51);
    served.server.delete(&before.name);
    served.server.put(after.object());
    until("the trouble to be counted", || (served.restarts() > restarts).then_some(()));
    served.talks.iter().for_each(Conversation::goes_on);
    served.server.behave();
    served.knows(&[&other, &after]);
    until("the source to be well again", || served.is_connected().then_some(()));
    for talk in served.talks {
        talk.end();
    }
}

macro_rules! troubles {
    ($($name:ident: $trouble:expr;)*) => {$(
        #[test]
        fn $name() {
            survived($trouble);
        }
    )*};
}

troubles! {
    it_forgets_history: |server| {
        server.compact();
        server.expire_watches();
    };
    it_talks_nonsense: |server| befall(server, Misbehaviour::Garbage);
    it_sends_half_a_response: |server| befall(server, Misbehaviour::Half);
    it_is_slow: |server| befall(server, Misbehaviour::Slow(Duration::from_secs(2)));
    it_has_too_many_requests: |server| befall(server, Misbehaviour::Status(429, Some(1)));
    it_hangs_up: |server| befall(server, Misbehaviour::Drop);
}

/// All watches end, and so do the next few requests, in a bad way.
fn befall(server: &ApiServer, what: Misbehaviour) {
    server.misbehave(Target::Any, what, 2);
    server.tear_watches();
}

/// The server dies; the daemon is killed and comes back before it does. Nothing is taken from the kernel meanwhile.
#[test]
fn a_dead_server_costs_nothing() {
    let mut served = Served::new();
    let other = served.cluster.node(1).entry().clone();
    served.server.stop();
    until("the loss to be told", || (!served.is_connected()).then_some(()));
    served.talks.iter().for_each(Conversation::goes_on);
    let old = served.daemons.remove(0);
    old.kill();
    served.daemons.insert(0, served.cluster.start_with(0, &served.source, &["--mode", "vxlan"]));
    until("the daemon to tell that it has no source", || {
        served.node().metric("bowline_source_connected", "")
    });
    served.talks.iter().for_each(Conversation::goes_on);
    served.knows(&[&other]);
    let port = served.server.address().port();
    served.server.resume(served.cluster.listener(port));
    let fresh = paper(60);
    served.server.put(fresh.object());
    served.knows(&[&other, &fresh]);
    served.node().until_ready(&served.daemons[0]);
    for talk in served.talks {
        talk.end();
    }
}
