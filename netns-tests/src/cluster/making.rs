//! How a cluster is made: cables, switches, router, addresses.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Deref;
use std::path::Path;

use kernel::Result;

use super::{Cluster, Families, Member, Shape};
use crate::manifests::Entry;
use crate::{Node, Space, wait};

impl Cluster {
    /// Connects everything, once router and outside are there.
    pub(super) fn connect(&mut self, shape: &Shape) -> Result<()> {
        self.connect_outside()?;
        for (subnet, nodes) in (0..).zip(&shape.subnets) {
            self.connect_switch(subnet, shape.mtu)?;
            for _ in 0..*nodes {
                self.connect_node(subnet, shape.mtu)?;
            }
        }
        self.settle();
        Ok(())
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
}

/// The addresses of host `host` in the network between nodes.
pub(super) fn addresses(subnet: u8, host: u8, families: Families) -> Vec<IpAddr> {
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
