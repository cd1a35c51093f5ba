//! Real packets between nodes that were synced, and nothing else: no daemon, pods attached with ip(8).

mod tunnels;

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use kernel::netlink::{Protocol, Socket};
use lab::cluster::{Families, Member, Shape};
use lab::traffic::{Fate, Server, ask_tcp, ping_of_size};
use lab::{Cluster, Pod};
use overlay::plan::{self, Plan};
use overlay::uplink::{self, Choice};
use overlay::wireguard::PrivateKey;
use overlay::{Dataplane, DualStack, Local, Mode, Peer, Settings};

const PORT: u16 = 8080;

/// Everybody reaches everybody with their own address, and packets as large as the plan says pass whole.
fn story(mode: Mode, families: Families) {
    // In routed mode nothing but the nodes knows the way, so all are on one link.
    let shape =
        if mode == Mode::Routed { Shape::flat(3, families) } else { Shape::routed(&[2, 1], families) };
    let cluster = Cluster::new(&shape).expect("namespaces need root");
    let mtu = connect(&cluster, mode);
    let pods: Vec<(Pod, Vec<IpAddr>)> = cluster.nodes().iter().map(|node| pod(node, mtu)).collect();
    let known = |at: usize| cluster.node(at).entry().ips.clone();
    for to in 0..3 {
        for from in (0..3).filter(|from| *from != to) {
            for (family, ip) in pods[to].1.iter().enumerate() {
                let (source, me) = (pods[from].1[family], format!("{mode} {families:?} {from} to {to}"));
                let server = Server::tcp(&pods[to].0, (*ip, PORT), "pod");
                let seen = ask_tcp(&pods[from].0, server.address).expect("pod to pod");
                assert_eq!(seen, format!("pod {source}"), "{me}: pod to pod");
                let seen = ask_tcp(cluster.node(from), server.address).expect("node to pod");
                let cidr: IpNetwork =
                    cluster.node(from).entry().pod_cidrs[family].parse().expect("a network");
                let own = [known(from)[family], plan::tunnel_ip(cidr)];
                assert!(own.iter().any(|ip| seen == format!("pod {ip}")), "{me}: node to pod: {seen}");
                let server = Server::tcp(cluster.node(to), (known(to)[family], PORT), "node");
                let seen = ask_tcp(&pods[from].0, server.address).expect("pod to node");
                assert_eq!(seen, format!("node {source}"), "{me}: pod to node");
                let size = usize::try_from(mtu).expect("an MTU");
                assert_eq!(ping_of_size(&pods[from].0, *ip, size), Fate::Answered, "{me}: {size} bytes");
            }
        }
    }
}

/// Syncs every node twice, as what the others published demands. The MTU of pods.
fn connect(cluster: &Cluster, mode: Mode) -> u32 {
    let settings = Settings { mode, ..Settings::default() };
    let mut peers: Vec<Peer> = cluster.nodes().iter().map(peer).collect();
    let mut mtu = 0;
    let mut settled = 0;
    while settled < peers.len() {
        settled = 0;
        for (at, node) in cluster.nodes().iter().enumerate() {
            harden(node);
            let mut others = peers.clone();
            others.remove(at);
            // A WireGuard node is known by its key only once its device has one.
            others.retain(|peer| mode != Mode::Wireguard || peer.wireguard_key.is_some());
            let plan = plan::plan(&settings, &local(node), &others);
            assert_eq!(plan.problems, []);
            let [first, second] = node.run(|| [sync(&plan, at), sync(&plan, at)]);
            assert_eq!((first.failures.as_slice(), second.failures.as_slice()), (&[][..], &[][..]), "{plan}");
            assert_eq!(second.requests, 0, "{plan}");
            settled += usize::from(peers[at].wireguard_key == first.wireguard_key && first.requests == 0);
            peers[at].wireguard_key = first.wireguard_key;
            mtu = plan.mtu;
        }
    }
    mtu
}

fn sync(plan: &Plan, at: usize) -> overlay::sync::Report {
    let mut dataplane = Dataplane::open().expect("sockets");
    dataplane.set_wireguard_key(key(at));
    dataplane.sync(plan).expect("the kernel can be talked to")
}

/// The private key of a node, made once.
fn key(at: usize) -> PrivateKey {
    use std::sync::OnceLock;
    static DIRECTORY: OnceLock<tempfile::TempDir> = OnceLock::new();
    let directory = DIRECTORY.get_or_init(|| tempfile::tempdir().expect("a directory"));
    overlay::wireguard::key(&directory.path().join(at.to_string())).expect("a key")
}

/// A node forwards, and takes only packets whose sender it would answer the same way.
fn harden(node: &Member) {
    for (key, value) in [
        ("ipv4/ip_forward", "1"),
        ("ipv6/conf/all/forwarding", "1"),
        ("ipv4/conf/all/rp_filter", "1"),
        ("ipv4/conf/default/rp_filter", "1"),
        ("ipv4/conf/eth0/rp_filter", "1"),
    ] {
        node.write(format!("/proc/sys/net/{key}"), value);
    }
}

fn local(node: &Member) -> Local {
    let known = DualStack::first_of(node.entry().ips.iter().copied());
    let uplinks = node.run(|| {
        let mut socket = Socket::open(Protocol::Route).expect("a socket");
        uplink::find(&mut socket, &Choice::Auto, &known)
    });
    let uplinks = uplinks.expect("the uplink is found");
    assert!(uplinks.present().all(|(_, uplink)| uplink.link.name == "eth0"));
    Local { name: node.entry().name.clone(), uplinks, pod_cidrs: peer(node).pod_cidrs, ..Local::default() }
}

fn peer(node: &Member) -> Peer {
    let entry = node.entry();
    let cidrs = entry.pod_cidrs.iter().map(|cidr| cidr.parse().expect("a network"));
    Peer {
        name: entry.name.clone(),
        ips: DualStack::first_of(entry.ips.iter().copied()),
        pod_cidrs: DualStack::first_network_of(cidrs),
        wireguard_key: None,
    }
}

/// A pod with the third address of each pod CIDR, on a bridge with the second.
fn pod(node: &Member, mtu: u32) -> (Pod, Vec<IpAddr>) {
    let name = format!("pod-of-{}", node.entry().name);
    let pod = node.pod(&name);
    let mut here = format!(
        "link add pods0 mtu {mtu} type bridge forward_delay 0\nlink set pods0 up\n\
         link add pod0 mtu {mtu} type veth peer name eth0 mtu {mtu} netns {name}\nlink set pod0 master pods0 up\n"
    );
    let mut there = "link set lo up\nlink set eth0 up\n".to_owned();
    let mut ips = Vec::new();
    for cidr in &node.entry().pod_cidrs {
        let cidr: IpNetwork = cidr.parse().expect("a network");
        let nth = |n: u32| -> IpAddr {
            match cidr.network() {
                IpAddr::V4(ip) => IpAddr::from((u32::from(ip) + n).to_be_bytes()),
                IpAddr::V6(ip) => IpAddr::from((u128::from(ip) + u128::from(n)).to_be_bytes()),
            }
        };
        let nodad = if cidr.is_ipv6() { "nodad" } else { "" };
        here.push_str(&format!("addr add {}/{} dev pods0 {nodad}\n", nth(1), cidr.prefix()));
        there.push_str(&format!("addr add {}/{} dev eth0 {nodad}\n", nth(2), cidr.prefix()));
        there.push_str(&format!("route add default via {}\n", nth(1)));
        ips.push(nth(2));
    }
    node.ip_batch(&here).expect("the bridge");
    pod.ip_batch(&there).expect("the pod");
    (pod, ips)
}

#[test]
fn vxlan_carries_packets() {
    [Families::V4, Families::V6, Families::Dual]
        .into_iter()
        .for_each(|families| story(Mode::Vxlan, families));
}

#[test]
fn routes_carry_packets() {
    [Families::V4, Families::V6, Families::Dual]
        .into_iter()
        .for_each(|families| story(Mode::Routed, families));
}

#[test]
fn both_carry_packets_across_subnets() {
    [Families::V4, Families::V6, Families::Dual]
        .into_iter()
        .for_each(|families| story(Mode::CrossSubnet, families));
}
