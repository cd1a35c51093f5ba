//! A node with its uplink to the outside world, and the pods on it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use kernel::Result;

use crate::{Space, dump, wait};

/// A node: network namespace, mounts of its own, an uplink `eth0`. Dereferences to its [`Space`].
#[derive(Debug)]
pub struct Node {
    name: String,
    space: Space,
    outside: Space,
    pods: Mutex<Vec<(String, Space)>>,
}

/// A pod's sandbox: an empty network namespace bound to a path on its node. Dereferences to its [`Space`].
#[derive(Debug, Clone)]
pub struct Pod {
    name: String,
    space: Space,
    node: Space,
}

impl Node {
    /// The node's own address on the uplink: what masqueraded packets come from.
    pub const IP4: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 2);
    /// The same for IPv6.
    pub const IP6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x113, 0, 0, 0, 0, 2);
    /// The outside host at the other end of the uplink; it knows no way back to pods.
    pub const OUTSIDE4: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
    /// The same for IPv6.
    pub const OUTSIDE6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x113, 0, 0, 0, 0, 1);

    /// Makes a node and its outside world.
    ///
    /// # Errors
    /// Where namespaces can't be made: without root, call [`crate::own_user_namespace`] first in `main`.
    pub fn new(name: &str) -> Result<Node> {
        let space = Space::new_node()?;
        let outside = space.new_net()?;
        outside.bind_net(Path::new("/run/netns/outside"))?;
        let node = Node { name: name.to_owned(), space, outside, pods: Mutex::default() };
        node.connect_uplink()?;
        Ok(node)
    }

    /// A node of a cluster, which connects its uplink itself.
    pub(crate) fn of_cluster(name: &str, outside: &Space) -> Result<Node> {
        let (space, outside) = (Space::new_node()?, outside.clone());
        Ok(Node { name: name.to_owned(), space, outside, pods: Mutex::default() })
    }

    fn connect_uplink(&self) -> Result<()> {
        self.try_sh("ip link add eth0 type veth peer name eth0 netns outside")?;
        // Without DAD and router solicitations nothing about the uplink changes by itself once it is up.
        let quiet = [("accept_dad", "0"), ("accept_ra", "0"), ("router_solicitations", "0")];
        let up = "link set lo up\nlink set eth0 up\n";
        let addresses = |ip4: Ipv4Addr, ip6: Ipv6Addr| {
            format!("{up}addr add {ip4}/24 dev eth0\naddr add {ip6}/64 dev eth0 nodad\n")
        };
        let routes =
            format!("route add default via {}\nroute add default via {}\n", Self::OUTSIDE4, Self::OUTSIDE6);
        for (space, commands) in [
            (&self.outside, addresses(Self::OUTSIDE4, Self::OUTSIDE6)),
            (&self.space, addresses(Self::IP4, Self::IP6) + &routes),
        ] {
            for (key, value) in quiet {
                space.write(format!("/proc/sys/net/ipv6/conf/eth0/{key}"), value);
            }
            space.ip_batch(&commands)?;
        }
        // The kernel finishes IPv6 addresses by a work queue; snapshots must not see it half-way.
        for (space, address, group) in [
            (&self.space, Self::IP6, "33:33:ff:00:00:02"),
            (&self.outside, Self::OUTSIDE6, "33:33:ff:00:00:01"),
        ] {
            wait::until("the uplink's addresses", || {
                let links = space.try_sh("ip -o addr show dev eth0 scope link").ok()?;
                let routes = space.try_sh("ip -6 route show table local").ok()?;
                let groups = space.try_sh("bridge fdb show dev eth0").ok()?;
                let is_local = routes.contains(&format!("local {address} "));
                let is_linked = links.contains("fe80") && !links.contains("tentative");
                let is_up = space.try_sh("ip link show dev eth0").ok()?.contains("state UP");
                (is_local && is_linked && is_up && groups.contains(group)).then_some(())
            });
        }
        Ok(())
    }

    /// Its name, for people.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The outside host's namespace.
    pub fn outside(&self) -> &Space {
        &self.outside
    }

    /// The node's own address of the family of `peer`.
    pub fn ip_like(peer: IpAddr) -> IpAddr {
        if peer.is_ipv4() { Self::IP4.into() } else { Self::IP6.into() }
    }

    /// A new pod sandbox, empty as a runtime makes it (`lo` is down), bound to `/run/netns/<name>`.
    ///
    /// # Panics
    /// When the namespace cannot be made.
    pub fn pod(&self, name: &str) -> Pod {
        let space = self.space.new_net().expect("a pod's network namespace can be made");
        let pod = Pod { name: name.to_owned(), space: space.clone(), node: self.space.clone() };
        space.bind_net(&pod.netns_path()).expect("a pod's network namespace can be bound to a path");
        self.pods.lock().expect("no panic while pods are listed").push((name.to_owned(), space));
        pod
    }

    /// Deletes a bridge that plug-ins of this network left behind, as the reference's semantics demand: it belongs
    /// to the node, not to an attachment.
    ///
    /// # Panics
    /// When there is none.
    pub fn delete_bridge(&self, name: &str) {
        self.sh(&format!("ip link delete {name} type bridge"));
    }

    /// Switches forwarding off again: plug-ins turn it on for the whole node and nobody may turn it off while any
    /// pod might need it, so this too belongs to the node. The kernel undoes what came with it (anycast addresses,
    /// redirects).
    pub fn switch_off_forwarding(&self) {
        self.write("/proc/sys/net/ipv4/ip_forward", "0");
        self.write("/proc/sys/net/ipv6/conf/all/forwarding", "0");
    }
}

impl Deref for Node {
    type Target = Space;
    fn deref(&self) -> &Space {
        &self.space
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        eprintln!("{}", dump::text(&format!("node {}", self.name), &self.space));
        eprintln!("{}", dump::text("outside", &self.outside));
        if let Ok(pods) = self.pods.lock() {
            for (name, space) in pods.iter() {
                eprintln!("{}", dump::text(&format!("pod {name}"), space));
            }
        }
    }
}

impl Pod {
    /// Its name, which is also the container ID.
    pub fn container_id(&self) -> String {
        self.name.clone()
    }

    /// The path of its network namespace, valid on its node.
    pub fn netns_path(&self) -> PathBuf {
        Path::new("/run/netns").join(&self.name)
    }

    /// Makes the namespace's path go away, as when a runtime has removed the sandbox already. The namespace itself
    /// ends with the last `Pod` of it.
    ///
    /// # Panics
    /// When it is gone already.
    pub fn remove_netns_path(&self) {
        self.node.unbind_net(&self.netns_path()).expect("the path was bound");
    }
}

impl Deref for Pod {
    type Target = Space;
    fn deref(&self) -> &Space {
        &self.space
    }
}
