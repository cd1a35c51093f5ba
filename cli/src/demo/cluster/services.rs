//! A Service with endpoints on two nodes: who reaches it and as whom, what stays, what goes, and what the node says.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use lab::Space;
use lab::traffic::{Server, ask_tcp};
use serde_json::{Value, json};

use super::super::POD_PORT;
use super::super::screen::Screen;
use super::super::traffic::serve;
use super::{Place, Scene};

/// Where ClusterIPs come from, as the daemons are told.
pub const SERVICE_CIDRS: &str = "10.96.0.0/16,fd00:96::/112";
const NODE_PORT: u16 = 30080;
/// How long a change may take until packets follow it.
const PATIENCE: Duration = Duration::from_secs(10);
/// Connections that show how load is spread.
const SAMPLE: usize = 40;
/// Connections under which an endpoint leaves, at least.
const LOAD: usize = 1000;

/// A Service of the demo.
struct Offer {
    name: &'static str,
    ips: [&'static str; 2],
    node_port: u16,
    affinity: &'static str,
}

const WEB: Offer =
    Offer { name: "web", ips: ["10.96.0.10", "fd00:96::10"], node_port: NODE_PORT, affinity: "None" };
const STICKY: Offer =
    Offer { name: "sticky", ips: ["10.96.0.11", "fd00:96::11"], node_port: 0, affinity: "ClientIP" };

/// How an endpoint is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Ready,
    Terminating,
}

/// Shows Services, one verdict each.
pub fn prove(scene: &Scene<'_>, screen: &mut Screen) {
    let (Some(first), Some(last)) = (scene.places.first(), scene.places.last()) else { return };
    screen.title("Services, by two more manifests: endpoints on two nodes, no other program");
    let stage = Stage { scene, first, last };
    let _here = serve(&first.pod, POD_PORT);
    let there = serve(&last.pod, POD_PORT);
    let started = Instant::now();
    stage.write(&WEB);
    stage.write(&STICKY);
    for offer in [&WEB, &STICKY] {
        stage.endpoints(offer, &[(first, State::Ready), (last, State::Ready)]);
    }
    let is_served = stage.until(|| offered(&WEB).chain(offered(&STICKY)).all(|to| stage.asked(to).is_some()));
    let sentence = format!("web at {}, sticky at {}", WEB.ips.join(", "), STICKY.ips[0]);
    screen.verdict(is_served, "Services", &sentence, started.elapsed());
    stage.spread(screen);
    stage.stays(screen);
    stage.told(screen);
    stage.leaves(there, screen);
    stage.is_as_planned(screen);
}

/// The ClusterIPs with the port.
fn offered(offer: &Offer) -> impl Iterator<Item = SocketAddr> {
    offer.ips.iter().filter_map(|ip| Some(SocketAddr::new(ip.parse().ok()?, POD_PORT)))
}

struct Stage<'a> {
    scene: &'a Scene<'a>,
    first: &'a Place,
    last: &'a Place,
}

impl Stage<'_> {
    fn put(&self, file: &str, object: &Value) {
        self.scene.cluster.manifests().write_text(file, &object.to_string());
    }

    fn write(&self, offer: &Offer) {
        let kind = if offer.node_port == 0 { "ClusterIP" } else { "NodePort" };
        let object = json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"namespace": "default", "name": offer.name},
            "spec": {
                "type": kind, "clusterIP": offer.ips[0], "clusterIPs": offer.ips, "ipFamilies": ["IPv4", "IPv6"],
                "sessionAffinity": offer.affinity,
                "ports": [{"name": "http", "protocol": "TCP", "port": POD_PORT, "nodePort": offer.node_port}],
            },
        });
        self.put(&format!("service-{}.json", offer.name), &object);
    }

    fn endpoints(&self, offer: &Offer, of: &[(&Place, State)]) {
        for (family, is_v4) in [("IPv4", true), ("IPv6", false)] {
            let endpoint = |(place, state): &(&Place, State)| {
                let ip = place.pod.ips.iter().find(|ip| ip.is_ipv4() == is_v4)?;
                let is_ready = *state == State::Ready;
                Some(json!({
                    "addresses": [ip],
                    "conditions": {"ready": is_ready, "serving": true, "terminating": !is_ready},
                    "nodeName": self.node_of(place),
                }))
            };
            let name = format!("{}-{}", offer.name, family.to_lowercase());
            let object = json!({
                "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
                "metadata": {
                    "namespace": "default", "name": name, "labels": {"kubernetes.io/service-name": offer.name},
                },
                "addressType": family,
                "ports": [{"name": "http", "protocol": "TCP", "port": POD_PORT}],
                "endpoints": of.iter().filter_map(endpoint).collect::<Vec<_>>(),
            });
            self.put(&format!("slice-{name}.json"), &object);
        }
    }

    fn node_of(&self, place: &Place) -> String {
        let mut places = self.scene.cluster.nodes().iter().zip(self.scene.places);
        places
            .find(|(_, it)| it.pod.name == place.pod.name)
            .map(|(node, _)| node.entry().name.clone())
            .unwrap_or_default()
    }

    /// The answer to the first pod.
    fn asked(&self, to: SocketAddr) -> Option<String> {
        ask_tcp(&self.first.pod.sandbox, to)
    }

    /// Whether a condition is met in time.
    fn until(&self, is_met: impl Fn() -> bool) -> bool {
        let deadline = Instant::now() + PATIENCE;
        while !is_met() {
            if Instant::now() > deadline {
                return false;
            }
            // The pause between two looks.
            std::thread::sleep(Duration::from_millis(5));
        }
        true
    }

    /// By ClusterIP from a pod and from a node, by NodePort from outside: both endpoints answer.
    fn spread(&self, screen: &mut Screen) {
        let near = self.scene.cluster.node(0);
        for to in offered(&WEB) {
            let family = if to.is_ipv4() { "IPv4" } else { "IPv6" };
            self.sample(
                screen,
                &format!("pod to ClusterIP, {family}"),
                (&self.first.pod.name, &self.first.pod.sandbox),
                to,
            );
            self.sample(screen, &format!("node to ClusterIP, {family}"), (&near.entry().name, near), to);
            let node_port = SocketAddr::new(near.ip_like(to.ip()), NODE_PORT);
            let what = format!("outside to NodePort, {family}");
            self.sample(screen, &what, ("outside", self.scene.cluster.outside()), node_port);
        }
    }

    fn sample(&self, screen: &mut Screen, what: &str, (name, from): (&str, &Space), to: SocketAddr) {
        let started = Instant::now();
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        for _ in 0..SAMPLE {
            let answer = ask_tcp(from, to).unwrap_or_else(|| "nobody".into());
            *counts.entry(answer.split(' ').next().unwrap_or_default().to_owned()).or_default() += 1;
        }
        let wanted = [&self.first.pod.name, &self.last.pod.name];
        let good = counts.len() == 2 && wanted.iter().all(|name| counts.contains_key(*name));
        let counted: Vec<String> = counts.iter().map(|(name, count)| format!("{name} {count}")).collect();
        let sentence = format!("{name} → {to}: {} times", counted.join(", "));
        screen.verdict(good, what, &sentence, started.elapsed());
    }

    /// With affinity one client has one endpoint.
    fn stays(&self, screen: &mut Screen) {
        let Some(to) = offered(&STICKY).next() else { return };
        let started = Instant::now();
        let answers: std::collections::BTreeSet<_> =
            (0..SAMPLE).map(|_| self.asked(to).unwrap_or_default()).collect();
        let good = answers.len() == 1 && !answers.contains("");
        let who: Vec<&str> =
            answers.iter().map(|answer| answer.split(' ').next().unwrap_or("nobody")).collect();
        let sentence = format!("{} → {to}: {SAMPLE} times {}", self.first.pod.name, who.join(", "));
        screen.verdict(good, "affinity", &sentence, started.elapsed());
    }

    /// An endpoint goes under load, as in a rolling update: terminating first, then away, then its server ends.
    fn leaves(&self, there: Vec<Server>, screen: &mut Screen) {
        let Some(to) = offered(&WEB).next() else { return };
        let started = Instant::now();
        let stop = AtomicBool::new(false);
        let only_first =
            || (0..SAMPLE / 2).all(|_| self.asked(to).is_some_and(|it| it.starts_with(&self.first.pod.name)));
        let (sent, lost, is_gone) = std::thread::scope(|scope| {
            let load = scope.spawn(|| {
                let (mut sent, mut lost) = (0, 0);
                while sent < LOAD || !stop.load(Ordering::Relaxed) {
                    sent += 1;
                    lost += usize::from(self.asked(to).is_none());
                }
                (sent, lost)
            });
            self.endpoints(&WEB, &[(self.first, State::Ready), (self.last, State::Terminating)]);
            let is_gone = self.until(only_first);
            self.endpoints(&WEB, &[(self.first, State::Ready)]);
            drop(there);
            stop.store(true, Ordering::Relaxed);
            let (sent, lost) = load.join().unwrap_or((0, 1));
            (sent, lost, is_gone)
        });
        let sentence = format!("{} leaves under load: {sent} connections, {lost} lost", self.last.pod.name);
        screen.verdict(is_gone && lost == 0, "an endpoint leaves", &sentence, started.elapsed());
    }

    /// What people see on the node.
    fn told(&self, screen: &mut Screen) {
        let node = self.scene.cluster.node(0);
        let run = Path::new("/run/bowline");
        let pod: Option<&IpAddr> = self.first.pod.ips.first();
        let from = pod.map(ToString::to_string).unwrap_or_default();
        let to = format!("{}:{POD_PORT}", WEB.ips[0]);
        let name = &node.entry().name;
        for (command, told) in [
            ("bowline services".to_owned(), node.run(|| crate::services::told(run))),
            (format!("bowline trace {from} {to}"), node.run(|| crate::trace::told(run, &from, &to))),
        ] {
            match told {
                Ok(text) => screen.block(&format!("\n{name}$ {command}\n{}", text.trim_end())),
                Err(error) => screen.verdict(false, &command, &error, Duration::ZERO),
            }
        }
        screen.note("");
    }

    /// Plan and kernel agree on every node in the end.
    fn is_as_planned(&self, screen: &mut Screen) {
        let started = Instant::now();
        let is_well = |node: &Space| {
            let told = node.run(|| crate::services::told(Path::new("/run/bowline")));
            told.is_ok_and(|text| !text.contains("DIFFERS") && text.contains("as planned"))
        };
        let good = self.until(|| self.scene.cluster.nodes().iter().all(|node| is_well(node)));
        screen.verdict(good, "drift", "every node's kernel is as planned", started.elapsed());
    }
}
