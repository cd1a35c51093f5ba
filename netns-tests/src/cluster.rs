//! A cluster: nodes on switches, a router between these and the world, a daemon on each node.
//!
//! ```text
//!                      outside 203.0.113.1, 2001:db8:113::1
//!                         |
//!                      router  (knows the nodes' subnets, no pods)
//!    172.16.0.1, 2001:db8:0::1 |                       | 172.16.1.1, 2001:db8:1::1
//!                  switch-0                           switch-1            (bridges in namespaces of their own)
//!                 |        |                             |
//!     node-0 eth0 .10   node-1 .11                 node-2 eth0 .12        (each with mounts of its own)
//!     10.244.0.0/24     10.244.1.0/24              10.244.2.0/24          pods
//!     fd00:244:0::/64   fd00:244:1::/64            fd00:244:2::/64
//! ```
//! All nodes read one directory of manifests, in which each has its Node.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::ops::Deref;
use std::path::{Path, PathBuf};

use kernel::{Error, Result};
use serde_json::json;

use crate::apiserver::ApiServer;
use crate::manifests::{Entry, Manifests};
use crate::network::Request;
use crate::{Attachment, Capture, Daemon, Network, Node, Pod, Space, Subject, daemon, wait};

/// Which address families a cluster has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Families {
    /// IPv4 alone.
    V4,
    /// IPv6 alone.
    V6,
    /// Both, IPv4 first.
    Dual,
}

impl Families {
    /// Every choice.
    pub const ALL: [Families; 3] = [Families::V4, Families::V6, Families::Dual];

    fn have(self, ip: IpAddr) -> bool {
        match self {
            Families::V4 => ip.is_ipv4(),
            Families::V6 => ip.is_ipv6(),
            Families::Dual => true,
        }
    }
}

/// What a cluster is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shape {
    /// How many nodes each subnet has.
    pub subnets: Vec<u8>,
    /// Its address families.
    pub families: Families,
    /// MTU of the network between nodes, in bytes.
    pub mtu: u32,
}

impl Shape {
    /// `nodes` nodes in one subnet.
    pub fn flat(nodes: u8, families: Families) -> Shape {
        Shape { subnets: vec![nodes], families, mtu: 1500 }
    }

    /// One subnet for each of `nodes`, with that many nodes.
    pub fn routed(nodes: &[u8], families: Families) -> Shape {
        Shape { subnets: nodes.to_vec(), families, mtu: 1500 }
    }
}

/// A cluster of nodes. Everything in it ends with it.
#[derive(Debug)]
pub struct Cluster {
    members: Vec<Member>,
    router: Space,
    outside: Space,
    /// Where the namespaces have their names.
    world: Space,
    manifests: Manifests,
    families: Families,
}

/// A node of a cluster. Dereferences to its [`Node`].
#[derive(Debug)]
pub struct Member {
    node: Node,
    entry: Entry,
    log: PathBuf,
}

/// A pod of a cluster, attached by the configuration list that its node's daemon wrote. Dereferences to its [`Pod`].
#[derive(Debug)]
pub struct Joined {
    /// The sandbox.
    pub pod: Pod,
    /// What ADD made of it.
    pub attachment: Attachment,
}

/// Where a daemon answers probes, on its node.
pub const HEALTHZ: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 10256);
/// Where a daemon tells metrics, on its node.
pub const METRICS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 10249);
/// Where runtimes look for a node's network.
pub const CONFLIST: &str = "/etc/cni/net.d/10-bowline.conflist";
/// Where runtimes look for a node's plug-ins.
pub const PLUGINS: &str = "/opt/cni/bin";

impl Cluster {
    /// The outside host's addresses.
    pub const OUTSIDE: [IpAddr; 2] = [
        IpAddr::V4(Ipv4Addr::new(203, 0, 113, 1)),
        IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0x113, 0, 0, 0, 0, 1)),
    ];

    /// Makes switches, router, outside and nodes, and writes the nodes' manifests. No daemon runs yet.
    ///
    /// # Errors
    /// Where namespaces can't be made: without root, call [`crate::own_user_namespace`] first in `main`.
    pub fn new(shape: &Shape) -> Result<Cluster> {
        let world = Space::new_node()?;
        let named = |name: &str| {
            let space = world.new_net()?;
            space.bind_net(&Path::new("/run/netns").join(name)).map(|()| space)
        };
        let (router, outside) = (named("router")?, named("outside")?);
        let manifests = Manifests::new().map_err(|e| Error::io("make a directory for manifests", e))?;
        let families = shape.families;
        let mut cluster = Cluster { members: Vec::new(), router, outside, world, manifests, families };
        cluster.connect_outside()?;
        for (subnet, nodes) in (0..).zip(&shape.subnets) {
            cluster.connect_switch(subnet, shape.mtu)?;
            for _ in 0..*nodes {
                cluster.connect_node(subnet, shape.mtu)?;
            }
        }
        cluster.settle();
        Ok(cluster)
    }

    fn connect_outside(&self) -> Result<()> {
        self.world.try_sh("ip link add to-outside netns router type veth peer name eth0 netns outside")?;
        let [ip4, ip6] = Self::OUTSIDE;
        let [gateway4, gateway6] = self.outside_gateways();
        configure(&self.router, "to-outside", &[gateway4, gateway6])?;
        configure(&self.outside, "eth0", &[ip4, ip6])?;
        // What is not the cluster's network between nodes cannot be reached from there: pods least of all.
        self.outside.ip_batch(&format!(
            "route add 172.16.0.0/16 via {gateway4}\nroute add 2001:db8::/40 via {gateway6}\n"
        ))?;
        self.router.write("/proc/sys/net/ipv4/ip_forward", "1");
        self.router.write("/proc/sys/net/ipv6/conf/all/forwarding", "1");
        Ok(())
    }

    fn outside_gateways(&self) -> [IpAddr; 2] {
        [Ipv4Addr::new(203, 0, 113, 254).into(), Ipv6Addr::new(0x2001, 0xdb8, 0x113, 0, 0, 0, 0, 0xfe).into()]
    }

    fn connect_switch(&self, subnet: u8, mtu: u32) -> Result<()> {
        let name = format!("switch-{subnet}");
        let switch = self.world.new_net()?;
        switch.bind_net(&Path::new("/run/netns").join(&name))?;
        // A switch of its own has no addresses, and passes every frame.
        switch.write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1");
        switch.ip_batch(&format!(
            "link add switch mtu {mtu} type bridge forward_delay 0 mcast_snooping 0\nlink set switch up\n"
        ))?;
        self.plug(subnet, "router", &format!("to-{name}"), mtu)?;
        configure(&self.router, &format!("to-{name}"), &addresses(subnet, 1, self.families))
    }

    /// A cable from `link` of the space named `to` into the switch of a subnet.
    fn plug(&self, subnet: u8, to: &str, link: &str, mtu: u32) -> Result<()> {
        let (switch, port) = (format!("switch-{subnet}"), format!("to-{to}"));
        self.world.ip_batch(&format!(
            "link add {link} mtu {mtu} netns {to} type veth peer name {port} mtu {mtu} netns {switch}\n"
        ))?;
        self.world.try_sh(&format!("ip -n {switch} link set {port} master switch up")).map(drop)
    }

    fn connect_node(&mut self, subnet: u8, mtu: u32) -> Result<()> {
        let index = self.members.len() as u8;
        let name = format!("node-{index}");
        let node = Node::of_cluster(&name, &self.outside)?;
        node.with_mounts_of(&self.world).bind_net(&Path::new("/run/netns").join(&name))?;
        self.plug(subnet, &name, "eth0", mtu)?;
        let ips = addresses(subnet, 10 + index, self.families);
        configure(&node, "eth0", &ips)?;
        let default = addresses(subnet, 1, self.families);
        node.ip_batch(&default.iter().map(|ip| format!("route add default via {ip}\n")).collect::<String>())?;
        let pod_cidrs = pod_cidrs(index, self.families);
        let (uid, created) = (format!("uid-of-{name}"), "2026-01-01T00:00:00Z".to_owned());
        let entry = Entry { name: name.clone(), uid, created, ips, pod_cidrs };
        self.manifests.write(&entry);
        let log = self.manifests.aside().join(format!("{name}.log"));
        self.members.push(Member { node, entry, log });
        Ok(())
    }

    /// Waits until the kernel has finished all addresses: what is compared later must not be half-way now.
    fn settle(&self) {
        let spaces = self.members.iter().map(|member| member.node.deref());
        for space in spaces.chain([&self.router, &self.outside]) {
            wait::until("the links' addresses", || {
                let addresses = space.try_sh("ip -6 -o addr show scope link").ok()?;
                let links = space.try_sh("ip -o link show up type veth").ok()?;
                let is_up = links.lines().all(|link| link.contains("state UP"));
                let is_linked = addresses.lines().count() == links.lines().count();
                (is_up && is_linked && !addresses.contains("tentative")).then_some(())
            });
        }
    }

    /// Its nodes, in the order of their subnets.
    pub fn nodes(&self) -> &[Member] {
        &self.members
    }

    /// The node of that number.
    ///
    /// # Panics
    /// When there are fewer.
    pub fn node(&self, index: usize) -> &Member {
        &self.members[index]
    }

    /// The host beyond the router.
    pub fn outside(&self) -> &Space {
        &self.outside
    }

    /// The router between subnets and to the outside; it has a leg `to-switch-<n>` in each.
    pub fn router(&self) -> &Space {
        &self.router
    }

    /// The outside host's addresses in the cluster's families.
    pub fn outside_ips(&self) -> Vec<IpAddr> {
        Self::OUTSIDE.into_iter().filter(|ip| self.families.have(*ip)).collect()
    }

    /// The directory that all daemons read.
    pub fn manifests(&self) -> &Manifests {
        &self.manifests
    }

    /// The cluster CIDRs that hold all pods.
    pub fn cluster_cidrs(&self) -> Vec<String> {
        let both = [("10.244.0.0/16", Families::V6), ("fd00:244::/32", Families::V4)];
        both.iter()
            .filter(|(_, without)| self.families != *without)
            .map(|(cidr, _)| cidr.to_string())
            .collect()
    }

    /// Listens on a node's uplink.
    pub fn capture(&self, index: usize) -> Capture {
        Capture::start(&self.members[index].node, "eth0")
    }

    /// The flags by which a daemon reads the cluster's manifests.
    pub fn source(&self) -> Vec<String> {
        vec![format!("--manifests={}", self.manifests.path().display())]
    }

    /// Starts the daemon of a node on the cluster's manifests, with more flags behind the lab's own. Does not wait.
    ///
    /// # Panics
    /// When there is no daemon to start.
    pub fn start(&self, index: usize, more: &[&str]) -> Daemon {
        self.start_with(index, &self.source(), more)
    }

    /// [`Cluster::start`] with another source of objects.
    ///
    /// # Panics
    /// When there is no daemon to start.
    pub fn start_with(&self, index: usize, source: &[String], more: &[&str]) -> Daemon {
        let member = &self.members[index];
        let mut args: Vec<String> = vec![
            format!("--node-name={}", member.entry.name),
            format!("--healthz-address={HEALTHZ}"),
            format!("--metrics-address={METRICS}"),
        ];
        args.extend(source.iter().cloned());
        args.extend(more.iter().map(|flag| (*flag).to_owned()));
        Daemon::start(&member.node, &daemon::program("bowlined"), &args, &member.log)
    }

    /// Starts the daemon of a node with flags that it must refuse, and gives what it said.
    ///
    /// # Panics
    /// When it runs all the same, or ends as if all were well.
    pub fn refusal(&self, index: usize, flags: &[&str]) -> String {
        let _ = std::fs::remove_file(&self.members[index].log);
        let mut daemon = self.start(index, flags);
        let code = daemon.exit_code(&format!("to refuse {flags:?}"));
        assert!((1..128).contains(&code), "{flags:?} ended with {code}: {}", daemon.log());
        daemon.log()
    }

    /// Starts the daemons of all nodes on the cluster's manifests and waits until each can carry pods.
    ///
    /// # Panics
    /// When one cannot in time.
    pub fn start_all(&self, flags: &[&str]) -> Vec<Daemon> {
        self.start_all_with(&self.source(), flags)
    }

    /// [`Cluster::start_all`] with another source of objects.
    ///
    /// # Panics
    /// When one cannot in time.
    pub fn start_all_with(&self, source: &[String], flags: &[&str]) -> Vec<Daemon> {
        let start = |index| self.start_with(index, source, flags);
        let daemons: Vec<Daemon> = (0..self.members.len()).map(start).collect();
        for (member, daemon) in self.members.iter().zip(&daemons) {
            member.until_ready(daemon);
        }
        daemons
    }

    /// A stand-in for the API on the router's address among the nodes, with all Nodes, and the flags by which a daemon
    /// reads it.
    ///
    /// # Panics
    /// When the address is taken.
    pub fn serve(&self) -> (ApiServer, Vec<String>) {
        let server = ApiServer::start(self.listener(0));
        self.members.iter().for_each(|member| server.put(member.entry.object()));
        let kubeconfig = self.manifests.aside().join("kubeconfig");
        let text = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "lab",
            "clusters": [{"name": "lab", "cluster": {"server": server.url(), "insecure-skip-tls-verify": true}}],
            "users": [{"name": "lab", "user": {}}],
            "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "lab"}}],
        });
        std::fs::write(&kubeconfig, text.to_string()).expect("a temporary file can be written");
        (server, vec![format!("--kubeconfig={}", kubeconfig.display())])
    }

    /// A listener on the router's address among the nodes, as soon as it is free.
    pub fn listener(&self, port: u16) -> TcpListener {
        let address = SocketAddr::new(addresses(0, 1, self.families)[0], port);
        wait::until("the API's address to be free", || self.router.run(|| TcpListener::bind(address)).ok())
    }

    /// A pod on a node, attached by the configuration list that the node's daemon wrote.
    ///
    /// # Panics
    /// When there is no such list or a plug-in refuses.
    pub fn pod(&self, index: usize, name: &str) -> Joined {
        let member = &self.members[index];
        let pod = member.node.pod(name);
        let attachment = member.network().add(&member.node, &pod, Request::default());
        let attachment = attachment.unwrap_or_else(|e| panic!("ADD of {name} on {}: {e}", member.entry.name));
        Joined { pod, attachment }
    }
}

impl Member {
    /// Its Node as the manifests have it.
    pub fn entry(&self) -> &Entry {
        &self.entry
    }

    /// Its address of the family of `peer`.
    ///
    /// # Panics
    /// When it has none.
    pub fn ip_like(&self, peer: IpAddr) -> IpAddr {
        like(&self.entry.ips, peer)
    }

    /// Waits until its daemon says that it is ready, and the network is there.
    ///
    /// # Panics
    /// When it is not in time, or the daemon has ended.
    pub fn until_ready(&self, daemon: &Daemon) {
        wait::until(&format!("the daemon of {} to be ready", self.entry.name), || {
            assert!(daemon.is_running(), "the daemon of {} has ended:\n{}", self.entry.name, daemon.log());
            let (status, _) = daemon::http(&self.node, HEALTHZ, "/readyz")?;
            (status == 200 && !self.node.read(CONFLIST).is_empty()).then_some(())
        });
    }

    /// Its network, as the daemon wrote it, run by the plug-ins that the daemon installed.
    ///
    /// # Panics
    /// When the daemon wrote none.
    pub fn network(&self) -> Network {
        let text = self.node.read(CONFLIST);
        let list = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{CONFLIST}: {e} in {text:?}"));
        Network::new(&Subject::mixed(Path::new(PLUGINS)), list)
    }

    /// The sum of all samples of a metric whose labels contain `labels`; `None` when there is none.
    pub fn metric(&self, name: &str, labels: &str) -> Option<f64> {
        let (_, body) = daemon::http(&self.node, METRICS, "/metrics")?;
        let of_metric = |line: &&str| {
            let rest = line.strip_prefix(name)?;
            (rest.starts_with(['{', ' ']) && rest.contains(labels)).then_some(())
        };
        let samples = body.lines().filter(|line| of_metric(line).is_some());
        samples.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).reduce(|a, b| a + b)
    }
}

impl Deref for Member {
    type Target = Node;
    fn deref(&self) -> &Node {
        &self.node
    }
}

impl Joined {
    /// Its addresses.
    pub fn ips(&self) -> Vec<IpAddr> {
        self.attachment.ips()
    }

    /// Its address of the family of `peer`.
    ///
    /// # Panics
    /// When it has none.
    pub fn ip_like(&self, peer: IpAddr) -> IpAddr {
        like(&self.ips(), peer)
    }
}

impl Deref for Joined {
    type Target = Pod;
    fn deref(&self) -> &Pod {
        &self.pod
    }
}

fn like(ips: &[IpAddr], peer: IpAddr) -> IpAddr {
    let found = ips.iter().find(|ip| ip.is_ipv4() == peer.is_ipv4());
    *found.unwrap_or_else(|| panic!("no address of the family of {peer} among {ips:?}"))
}

/// The addresses of host `host` in the network between nodes.
fn addresses(subnet: u8, host: u8, families: Families) -> Vec<IpAddr> {
    let ip4 = Ipv4Addr::new(172, 16, subnet, host).into();
    let ip6 = Ipv6Addr::new(0x2001, 0xdb8, u16::from(subnet), 0, 0, 0, 0, u16::from(host)).into();
    [ip4, ip6].into_iter().filter(|ip| families.have(*ip)).collect()
}

/// The pod CIDRs of the node of that number.
pub fn pod_cidrs(index: u8, families: Families) -> Vec<String> {
    let ip4 = Ipv4Addr::new(10, 244, index, 0).into();
    let ip6 = Ipv6Addr::new(0xfd00, 0x244, u16::from(index), 0, 0, 0, 0, 0).into();
    let both: [(IpAddr, u8); 2] = [(ip4, 24), (ip6, 64)];
    let kept = both.into_iter().filter(|(ip, _)| families.have(*ip));
    kept.map(|(ip, length)| format!("{ip}/{length}")).collect()
}

/// Gives `link` its addresses and sets it up. Without duplicate detection and router solicitations nothing about it
/// changes by itself once it is up.
fn configure(space: &Space, link: &str, ips: &[IpAddr]) -> Result<()> {
    for (key, value) in [("accept_dad", "0"), ("accept_ra", "0"), ("router_solicitations", "0")] {
        space.write(format!("/proc/sys/net/ipv6/conf/{link}/{key}"), value);
    }
    // What the lab's own pings need.
    space.write("/proc/sys/net/ipv4/ping_group_range", "0 0");
    let mut commands = format!("link set lo up\nlink set {link} up\n");
    for ip in ips {
        let (length, nodad) = if ip.is_ipv4() { (24, "") } else { (64, " nodad") };
        commands.push_str(&format!("addr add {ip}/{length} dev {link}{nodad}\n"));
    }
    space.ip_batch(&commands)
}
