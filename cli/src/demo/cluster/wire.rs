//! What travels between nodes, as captured on an uplink.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use lab::Packet;
use lab::capture::Tunnel;
use lab::traffic::ping;

use super::super::ClusterMode;
use super::super::screen::Screen;
use super::{Place, Scene};

/// How long a packet may take from a ping's answer until the capture has it.
const PATIENCE: Duration = Duration::from_secs(5);

/// A ping from the first pod to those of other nodes: to the nearest, and to one beyond the router where there is one.
pub fn show(scene: &Scene<'_>, screen: &mut Screen) {
    screen.title("On the wire: a ping as it leaves node-0 by eth0");
    let Some(last) = scene.places.len().checked_sub(1).filter(|last| *last > 0) else { return };
    let mut targets = vec![1];
    if scene.mode == ClusterMode::CrossSubnet && last > 1 {
        targets.push(last);
    }
    for target in targets {
        for ip in &scene.places[target].pod.ips {
            capture(scene, target, *ip, screen);
        }
    }
}

fn capture(scene: &Scene<'_>, target: usize, ip: IpAddr, screen: &mut Screen) {
    let (from, to): (&Place, &Place) = (&scene.places[0], &scene.places[target]);
    let Some(own) = from.pod.like(ip) else { return };
    let (started, capture) = (Instant::now(), scene.cluster.capture(0));
    let _ = ping(&from.pod.sandbox, ip);
    let packet = loop {
        let is_ours = |packet: &Packet| packet.is_outgoing && packet.is_between(own, ip);
        let found = capture.packets().into_iter().find(is_ours);
        if found.is_some() || started.elapsed() > PATIENCE {
            break found;
        }
        // The pause between two looks.
        std::thread::sleep(Duration::from_millis(1));
    };
    let what = format!("{} → {}", from.pod.name, to.pod.name);
    let Some(packet) = packet else {
        return screen.verdict(false, &what, "no such packet has left", started.elapsed());
    };
    let is_direct = match scene.mode {
        ClusterMode::Vxlan => false,
        ClusterMode::Routed => true,
        ClusterMode::CrossSubnet => same_subnet(scene, target, ip),
    };
    let good = packet.inside.is_none() == is_direct && !packet.is_fragment;
    let sentence = match (&packet.inside, is_direct) {
        (None, true) => "as it is, for the other node is on the same link",
        (Some(_), false) => "wrapped, for the network between knows no pods",
        (None, false) => "as it is, but should be wrapped",
        (Some(_), true) => "wrapped, but should be as it is",
    };
    screen.verdict(good, &what, sentence, started.elapsed());
    screen.block(layers(&packet, 0).trim_end_matches('\n'));
}

fn same_subnet(scene: &Scene<'_>, target: usize, ip: IpAddr) -> bool {
    match (scene.cluster.node(0).ip_like(ip), scene.cluster.node(target).ip_like(ip)) {
        (IpAddr::V4(a), IpAddr::V4(b)) => a.octets()[..3] == b.octets()[..3],
        (IpAddr::V6(a), IpAddr::V6(b)) => a.segments()[..4] == b.segments()[..4],
        _ => false,
    }
}

/// A line for each header, outermost first.
fn layers(packet: &Packet, depth: usize) -> String {
    let indent = " ".repeat(14 + 2 * depth);
    let version = if packet.from.is_ipv4() { "IPv4" } else { "IPv6" };
    let mut text = format!("{indent}{version:<6} {} → {}, {} bytes\n", packet.from, packet.to, packet.length);
    match (&packet.inside, packet.ports) {
        (Some((tunnel, inner)), ports) => {
            if let Some((from, to)) = ports {
                let _ = writeln!(text, "{indent}UDP    {from} → {to}");
            }
            if let Tunnel::Vxlan(vni) = tunnel {
                let _ = writeln!(text, "{indent}VXLAN  network {vni}");
            }
            text.push_str(&layers(inner, depth + 1));
        }
        (None, Some((from, to))) => {
            let _ = writeln!(text, "{indent}ports  {from} → {to}");
        }
        (None, None) => {
            let what = match packet.icmp {
                Some(8 | 128) => "echo request".to_owned(),
                Some(0 | 129) => "echo reply".to_owned(),
                other => other.map_or(format!("protocol {}", packet.protocol), |kind| format!("type {kind}")),
            };
            let _ = writeln!(text, "{indent}ICMP   {what}");
        }
    }
    text
}
