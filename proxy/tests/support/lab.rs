//! The world in network namespaces.
//!
//! ```text
//!  outside 192.0.2.2 ── eth0  node  cali0 ── pod 10.1.0.5
//!  remote endpoint 10.2.0.6 ── eth1  cali1 ── local endpoint 10.1.0.6
//! ```

use std::io::{ErrorKind, Read};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use lab::Space;
use lab::traffic::Server;
use proxy::Family;

use super::row::Expected;
use super::{Place, TARGET_PORT, ip};

/// The namespaces and the servers in them.
pub struct World {
    pub node: Space,
    pub pod: Space,
    pub local: Space,
    pub remote: Space,
    pub outside: Space,
    _servers: Vec<Server>,
}

impl World {
    pub fn new() -> World {
        let node = Space::new_node().expect("a namespace needs root");
        let [pod, local, remote, outside] = [(); 4].map(|()| node.new_net().expect("a namespace"));
        let neighbours = [
            (&pod, "cali0", Place::NodeToPods, Place::Pod),
            (&local, "cali1", Place::NodeToPods, Place::LocalEndpoint),
            (&remote, "eth1", Place::NodeSecond, Place::RemoteEndpoint),
            (&outside, "eth0", Place::Node, Place::Outside),
        ];
        node.sh("ip link set lo up");
        for (space, link, here, there) in neighbours {
            cable(&node, space, link, (here, there));
        }
        // What is nobody's goes outside, with the primary address as the source.
        for family in Family::BOTH {
            let flag = if family == Family::V4 { "-4" } else { "-6" };
            let (out, own) = (ip(family, Place::Outside), ip(family, Place::Node));
            node.sh(&format!("ip {flag} route add default via {out} dev eth0 src {own}"));
        }
        node.write("/proc/sys/net/ipv4/ip_forward", "1");
        // What the iptables dataplane needs for node ports on loopback.
        node.write("/proc/sys/net/ipv4/conf/all/route_localnet", "1");
        node.write("/proc/sys/net/ipv6/conf/all/forwarding", "1");
        // One rejection per second is what the kernel allows otherwise.
        node.write("/proc/sys/net/ipv6/icmp/ratelimit", "0");
        node.write("/proc/sys/net/ipv4/icmp_ratelimit", "0");
        let any: IpAddr = "::".parse().expect("an address");
        let server = |space, name| {
            let at = SocketAddr::new(any, TARGET_PORT);
            [Server::tcp(space, at, name), Server::udp(space, at, name)]
        };
        let servers = server(&local, "local").into_iter().chain(server(&remote, "remote")).collect();
        World { node, pod, local, remote, outside, _servers: servers }
    }

    pub fn space(&self, sender: &str) -> &Space {
        match sender {
            "pod" => &self.pod,
            "node" => &self.node,
            "outside" => &self.outside,
            "endpoint" => &self.local,
            other => panic!("sender {other}"),
        }
    }
}

/// A link between the node and one neighbour, in both families.
fn cable(node: &Space, space: &Space, link: &str, (here, there): (Place, Place)) {
    space.sh("ip link set lo up");
    let path = format!("/run/netns/{link}");
    space.bind_net(Path::new(&path)).expect("a namespace can be named");
    node.sh(&format!("ip link add {link} type veth peer name eth0 netns {link}"));
    for space in [node, space] {
        for file in
            ["all/rp_filter", &format!("{}/rp_filter", if std::ptr::eq(space, node) { link } else { "eth0" })]
        {
            space.write(format!("/proc/sys/net/ipv4/conf/{file}"), "0");
        }
    }
    node.sh(&format!("ip link set {link} up"));
    space.sh("ip link set eth0 up");
    for family in Family::BOTH {
        let bits = family.bits();
        let (flag, nodad) = if family == Family::V4 { ("-4", "") } else { ("-6", "nodad") };
        let (here, there) = (ip(family, here), ip(family, there));
        node.sh(&format!("ip {flag} addr replace {here}/{bits} dev {link} {nodad}"));
        node.sh(&format!("ip {flag} route add {there}/{bits} dev {link} src {here}"));
        space.sh(&format!("ip {flag} addr add {there}/{bits} dev eth0 {nodad}"));
        space.sh(&format!("ip {flag} route add {here}/{bits} dev eth0"));
        space.sh(&format!("ip {flag} route add default via {here} dev eth0"));
    }
}

/// What one connection came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Answer { endpoint: String, peer: IpAddr },
    Refused,
    Silent,
    Other(String),
}

/// Connects once.
pub fn connect(from: &Space, to: SocketAddr, limit: Duration) -> Outcome {
    from.run(|| {
        let stream = match TcpStream::connect_timeout(&to, limit) {
            Ok(stream) => stream,
            Err(e) if e.kind() == ErrorKind::ConnectionRefused => return Outcome::Refused,
            Err(e) if matches!(e.kind(), ErrorKind::TimedOut | ErrorKind::WouldBlock) => {
                return Outcome::Silent;
            }
            Err(e) => return Outcome::Other(e.to_string()),
        };
        let mut answer = String::new();
        let mut stream = stream;
        stream.set_read_timeout(Some(limit)).expect("a time-out can be set");
        match stream.read_to_string(&mut answer) {
            Ok(_) => match answer.split_once(' ').map(|(name, peer)| (name.to_owned(), peer.parse())) {
                Some((endpoint, Ok(peer))) => Outcome::Answer { endpoint, peer },
                _ => Outcome::Other(format!("answer {answer:?}")),
            },
            Err(e) => Outcome::Other(e.to_string()),
        }
    })
}

/// Connects until everything that is expected was seen, and some times more; says what is wrong, if anything.
pub fn judge(
    world: &World,
    sender: &str,
    family: Family,
    to: SocketAddr,
    expected: &Expected,
) -> Option<String> {
    let space = world.space(sender);
    let patience = Duration::from_secs(5);
    let soon = Duration::from_millis(250);
    let Expected::Endpoints(wanted) = expected else {
        let limit = if *expected == Expected::Reject { patience } else { soon };
        let outcome = connect(space, to, limit);
        let fine = match expected {
            Expected::Reject => outcome == Outcome::Refused,
            Expected::Drop => outcome == Outcome::Silent,
            _ => !matches!(outcome, Outcome::Answer { .. }),
        };
        return (!fine).then(|| format!("{outcome:?}"));
    };
    let mut seen = std::collections::BTreeSet::new();
    // An emulated machine has IPVS, which takes endpoints in turn.
    let enough = if std::env::var_os("LAB_LAYERED").is_some() { wanted.len() } else { 5 };
    for attempt in 0..100 {
        match connect(space, to, patience) {
            Outcome::Answer { endpoint, peer } => {
                let masqueraded = match masqueraded(sender, family, &endpoint, peer) {
                    Some(masqueraded) => masqueraded,
                    None => return Some(format!("{endpoint} saw {peer}")),
                };
                seen.insert((endpoint, masqueraded));
            }
            other => return Some(format!("{other:?}")),
        }
        if !seen.is_subset(wanted) {
            return Some(format!("{seen:?}"));
        }
        if attempt >= enough && seen == *wanted {
            return None;
        }
    }
    Some(format!("in 100 connections only {seen:?}"))
}

/// Whether the peer's address is not the sender's own; none when it is neither that nor the node's on the way.
fn masqueraded(sender: &str, family: Family, endpoint: &str, peer: IpAddr) -> Option<bool> {
    let own = match sender {
        "pod" => Place::Pod,
        "node" => Place::Node,
        "outside" => Place::Outside,
        _ => Place::LocalEndpoint,
    };
    let nodes = if endpoint == "local" { Place::NodeToPods } else { Place::NodeSecond };
    if peer == ip(family, own) {
        Some(false)
    } else if peer == ip(family, nodes) {
        Some(true)
    } else {
        None
    }
}
