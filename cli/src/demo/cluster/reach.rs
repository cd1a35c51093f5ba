//! Who reaches whom, and as whom they are seen.

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use lab::Space;
use lab::traffic::{Fate, Server, ask_tcp, ping, ping_of_size};

use super::super::POD_PORT;
use super::super::attach::Joined;
use super::super::screen::Screen;
use super::super::traffic::serve;
use super::{Place, Scene};

/// With more nodes than this, each pod's talks with all others share a line.
const PAIRS_SHOWN: usize = 3;

/// Every way a packet can take between the places, one verdict each.
pub fn prove(scene: &Scene<'_>, screen: &mut Screen) {
    let _servers: Vec<Vec<Server>> = scene.places.iter().map(|place| serve(&place.pod, POD_PORT)).collect();
    let each_shown = scene.places.len() <= PAIRS_SHOWN;
    for from in scene.places {
        let others = scene.places.iter().filter(|to| to.pod.name != from.pod.name);
        if each_shown {
            others.for_each(|to| between(from, to, screen));
        } else {
            all_others(from, &others.collect::<Vec<_>>(), screen);
        }
    }
    nodes_and_outside(scene, screen);
    largest(scene, screen);
}

/// One talk: an echo, then a fetch by TCP whose server tells whom it has seen.
fn talk(from: &Joined, to: &Joined, ip: IpAddr) -> Result<String, String> {
    let (name, peer) = (&from.name, &to.name);
    if !ping(&from.sandbox, ip) {
        return Err(format!("{name} → {ip}: {peer} does not answer a ping"));
    }
    let own = from.like(ip).map(|ip| ip.to_string()).unwrap_or_default();
    match ask_tcp(&from.sandbox, SocketAddr::new(ip, POD_PORT)) {
        Some(answer) if answer == format!("{peer} {own}") => {
            Ok(format!("ping, fetch from {ip}: it has seen {own}"))
        }
        Some(answer) => Err(format!("{name} → {ip}: answered `{answer}`; should be `{peer} {own}`")),
        None => Err(format!("{name} → {ip}: {peer} does not answer on port {POD_PORT}")),
    }
}

fn family(ip: IpAddr) -> &'static str {
    if ip.is_ipv4() { "IPv4" } else { "IPv6" }
}

fn between(from: &Place, to: &Place, screen: &mut Screen) {
    for ip in &to.pod.ips {
        let (what, started) =
            (format!("{} → {}, {}", from.pod.name, to.pod.name, family(*ip)), Instant::now());
        let outcome = talk(&from.pod, &to.pod, *ip);
        let sentence = outcome.as_ref().map_or_else(Clone::clone, Clone::clone);
        screen.verdict(outcome.is_ok(), &what, &sentence, started.elapsed());
    }
}

fn all_others(from: &Place, others: &[&Place], screen: &mut Screen) {
    let started = Instant::now();
    let talks = others.iter().flat_map(|to| to.pod.ips.iter().map(|ip| talk(&from.pod, &to.pod, *ip)));
    let failures: Vec<String> = talks.filter_map(Result::err).collect();
    let sentence = match failures.first() {
        None => format!("ping, fetch: {} pods of other nodes see its address", others.len()),
        Some(first) => format!("{} talks failed; {first}", failures.len()),
    };
    screen.verdict(failures.is_empty(), &format!("{} → all", from.pod.name), &sentence, started.elapsed());
}

/// The first pod towards the last node and the outside, and the first node towards the last pod.
fn nodes_and_outside(scene: &Scene<'_>, screen: &mut Screen) {
    let (Some(first), Some(last)) = (scene.places.first(), scene.places.last()) else { return };
    let (near, far) = (scene.cluster.node(0), scene.cluster.node(scene.places.len() - 1));
    for ip in &first.pod.ips {
        let node = far.ip_like(*ip);
        let server = (&***far, SocketAddr::new(node, POD_PORT), "node");
        seen(screen, &format!("pod to node, {}", family(*ip)), &first.pod.sandbox, server, Some(*ip));
    }
    for ip in &last.pod.ips {
        let started = Instant::now();
        let answer = ask_tcp(near, SocketAddr::new(*ip, POD_PORT));
        let good = answer.as_ref().is_some_and(|answer| answer.starts_with(&last.pod.name));
        let seen = answer.as_ref().and_then(|answer| answer.split(' ').nth(1));
        let sentence = match seen {
            Some(seen) => format!("{} → {ip}: {} has seen {seen}", near.entry().name, last.pod.name),
            None => format!("{} → {ip}: no answer", near.entry().name),
        };
        screen.verdict(good, &format!("node to pod, {}", family(*ip)), &sentence, started.elapsed());
    }
    for outside in scene.cluster.outside_ips() {
        let server = (scene.cluster.outside(), SocketAddr::new(outside, POD_PORT), "outside");
        let what = format!("masquerade, {}", family(outside));
        seen(screen, &what, &first.pod.sandbox, server, Some(near.ip_like(outside)));
    }
}

/// A fetch from a server made for it, which must have seen `wanted`.
fn seen(
    screen: &mut Screen,
    what: &str,
    from: &Space,
    (space, to, name): (&Space, SocketAddr, &str),
    wanted: Option<IpAddr>,
) {
    let started = Instant::now();
    let _server = Server::tcp(space, to, name);
    let answer = ask_tcp(from, to).unwrap_or_default();
    let seen = answer.strip_prefix(name).unwrap_or_default().trim().parse().ok();
    let sentence = match (seen, wanted) {
        (None, _) => format!("{to}: no answer"),
        (Some(seen), wanted) if wanted == Some(seen) => format!("{to} has seen {seen}"),
        (Some(seen), wanted) => {
            format!("{to} has seen {seen}; should be {}", wanted.map(|ip| ip.to_string()).unwrap_or_default())
        }
    };
    screen.verdict(seen.is_some() && seen == wanted, what, &sentence, started.elapsed());
}

/// A packet of exactly the pods' MTU crosses; one byte more is refused where it is sent.
fn largest(scene: &Scene<'_>, screen: &mut Screen) {
    let (Some(first), Some(last)) = (scene.places.first(), scene.places.last()) else { return };
    let link = first.pod.sandbox.sh("ip -o link show dev eth0");
    let mtu = link.split(' ').skip_while(|word| *word != "mtu").nth(1);
    let mtu: usize = mtu.and_then(|mtu| mtu.parse().ok()).unwrap_or(1500);
    for ip in &last.pod.ips {
        let started = Instant::now();
        let fates = [mtu, mtu + 1].map(|bytes| ping_of_size(&first.pod.sandbox, *ip, bytes));
        let good = fates == [Fate::Answered, Fate::TooBig];
        let sentence = if good {
            format!("{mtu} bytes cross in one piece, the pod refuses {}", mtu + 1)
        } else {
            format!("{mtu} bytes: {:?}, {}: {:?}", fates[0], mtu + 1, fates[1])
        };
        screen.verdict(good, &format!("MTU, {}", family(*ip)), &sentence, started.elapsed());
    }
}

/// CHECK of every pod.
pub fn check_all(scene: &Scene<'_>, screen: &mut Screen) {
    let started = Instant::now();
    let checks = scene.cluster.nodes().iter().zip(scene.places);
    let checks = checks.map(|(member, place)| place.network.check(member, &place.pod));
    let found: Vec<String> = checks.filter_map(Result::err).map(|error| error.to_string()).collect();
    let sentence = if found.is_empty() { "every pod is as its ADD left it".into() } else { found.join("; ") };
    screen.verdict(found.is_empty(), "CHECK", &sentence, started.elapsed());
}
