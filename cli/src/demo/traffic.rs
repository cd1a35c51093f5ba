//! Real packets, each with the sentence that says what must happen.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use lab::traffic::{Server, ask_tcp, throughput};
use lab::{Node, Space};

use super::attach::Joined;
use super::screen::Screen;
use super::{HOST_PORT, LIMIT, POD_PORT};

/// Who takes part.
pub struct Scene<'a> {
    /// The node.
    pub node: &'a Node,
    /// A pod behind a node port.
    pub web: &'a Joined,
    /// A pod that talks.
    pub client: &'a Joined,
    /// A pod with a rate limit.
    pub slow: &'a Joined,
}

/// How long a rate is measured.
const WHILE: Duration = Duration::from_secs(2);

/// Answers on both families for as long as the servers live.
pub fn serve(pod: &Joined, port: u16) -> Vec<Server> {
    pod.ips.iter().map(|ip| Server::tcp(&pod.sandbox, SocketAddr::new(*ip, port), &pod.name)).collect()
}

/// Every way a packet can take, one verdict each.
pub fn prove(scene: &Scene<'_>, screen: &mut Screen) {
    let Scene { node, web, client, .. } = scene;
    let _pods = serve(web, POD_PORT);
    let outside_ips: [IpAddr; 2] = [Node::OUTSIDE4.into(), Node::OUTSIDE6.into()];
    let _outside =
        outside_ips.map(|ip| Server::tcp(node.outside(), SocketAddr::new(ip, POD_PORT), "outside"));
    let mut ask = |what: &str, from: (&str, &Space), to: SocketAddr, who: &str, seen: Option<IpAddr>| {
        answer(screen, what, from, to, &Expected { who, seen });
    };
    for ip in &web.ips {
        let own = client.like(*ip);
        ask("pod to pod", ("client", &client.sandbox), SocketAddr::new(*ip, POD_PORT), "web", own);
    }
    for outside in outside_ips {
        let port = SocketAddr::new(Node::ip_like(outside), HOST_PORT);
        ask("to the node's port", ("outside", node.outside()), port, "web", Some(outside));
    }
    let local = SocketAddr::from((Ipv4Addr::LOCALHOST, HOST_PORT));
    ask("from the node itself", ("node", node), local, "web", None);
    for ip in &web.ips {
        let port = SocketAddr::new(Node::ip_like(*ip), HOST_PORT);
        ask("hairpin", ("web", &web.sandbox), port, "web", None);
    }
    for outside in outside_ips {
        let node_ip = Node::ip_like(outside);
        let there = SocketAddr::new(outside, POD_PORT);
        ask("masquerade", ("client", &client.sandbox), there, "outside", Some(node_ip));
    }
    rates(scene, screen);
}

/// Who must answer, and whom it must have seen.
struct Expected<'a> {
    who: &'a str,
    seen: Option<IpAddr>,
}

fn answer(screen: &mut Screen, what: &str, from: (&str, &Space), to: SocketAddr, expected: &Expected<'_>) {
    let started = Instant::now();
    let answer = ask_tcp(from.1, to);
    let took = started.elapsed();
    let what = format!("{what}, {}", if to.is_ipv4() { "IPv4" } else { "IPv6" });
    let asked = format!("{} → {to}", from.0);
    let Some(answer) = answer else {
        return screen.verdict(false, &what, &format!("{asked}: no answer"), took);
    };
    let (who, seen) = answer.split_once(' ').unwrap_or((&answer, ""));
    let good = who == expected.who && expected.seen.is_none_or(|ip| seen.parse() == Ok(ip));
    let mut sentence = format!("{asked}: {who} answers, has seen {seen}");
    if !good {
        let wanted = expected.seen.map_or(String::new(), |ip| format!(" seeing {ip}"));
        sentence.push_str(&format!("; should be {}{wanted}", expected.who));
    }
    screen.verdict(good, &what, &sentence, took);
}

/// The unlimited pair first, so that the limit is seen to be one.
fn rates(scene: &Scene<'_>, screen: &mut Screen) {
    let Scene { web, client, slow, .. } = scene;
    let mut measure = |what: &str, from: &Joined, to: &Joined, limit: Option<u64>| {
        let started = Instant::now();
        let rate = throughput(&from.sandbox, &to.sandbox, SocketAddr::new(to.ips[0], 0), WHILE);
        let (good, wanted) = match limit {
            None => (rate > 2 * LIMIT, "no limit".to_owned()),
            Some(limit) => (within(rate, limit), format!("limit {}", megabits(limit))),
        };
        let sentence = format!("{} → {}: {} ({wanted})", from.name, to.name, megabits(rate));
        screen.verdict(good, what, &sentence, started.elapsed());
    };
    measure("bandwidth, unlimited", client, web, None);
    measure("bandwidth, ingress", client, slow, Some(LIMIT));
    measure("bandwidth, egress", slow, client, Some(LIMIT));
}

/// The burst lets a little more through at first; headers and the start let a little less.
fn within(rate: u64, limit: u64) -> bool {
    (limit * 7 / 10..=limit * 12 / 10).contains(&rate)
}

fn megabits(rate: u64) -> String {
    format!("{:.1} Mbit/s", rate as f64 / 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_judged_within_its_burst() {
        for (rate, good) in [(19_000_000, true), (21_500_000, true), (13_000_000, false), (25_000_000, false)]
        {
            assert_eq!(within(rate, 20_000_000), good, "{rate}");
        }
    }
}
