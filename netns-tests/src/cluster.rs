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

mod daemons;
mod making;
mod member;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

use kernel::{Error, Result};

use crate::manifests::Manifests;
use crate::network::Request;
use crate::{Capture, Space};

pub use making::pod_cidrs;
pub use member::{Joined, Member};

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
        cluster.connect(shape)?;
        Ok(cluster)
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
