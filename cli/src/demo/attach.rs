//! The runtime's part: pods join a network by its configuration list.

use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use lab::network::Request;
use lab::{Network, Node, Pod, Subject};
use serde_json::{Map, Value};

use super::drawing::NodeView;

/// The network with the plug-ins that run it.
pub struct Networks {
    network: Network,
}

/// A pod on the network.
pub struct Joined {
    /// The pod's name.
    pub name: String,
    /// Its namespace.
    pub sandbox: Pod,
    /// Its addresses.
    pub ips: Vec<IpAddr>,
    /// Its veth's end on the node.
    pub host_end: String,
    /// How long ADD took.
    pub took: Duration,
    attachment: lab::Attachment,
}

/// What STATUS found.
pub struct Ready {
    /// In words.
    pub sentence: String,
    /// How long it took.
    pub took: Duration,
}

impl Joined {
    /// The address of the family of `peer`.
    pub fn like(&self, peer: IpAddr) -> Option<IpAddr> {
        self.ips.iter().copied().find(|ip| ip.is_ipv4() == peer.is_ipv4())
    }

    /// What ADD did.
    pub fn sentence(&self) -> String {
        let ips: Vec<String> = self.ips.iter().map(ToString::to_string).collect();
        format!("eth0 {} by {}", ips.join(", "), self.host_end)
    }
}

impl Networks {
    /// The network of `conflist`, run by the plug-ins in `plugins`.
    pub fn new(conflist: &str, plugins: &Path) -> Result<Networks, cni::Error> {
        let list: Value = serde_json::from_str(conflist).map_err(|e| cni::Error::config(e.to_string()))?;
        let subject =
            Subject { directory: plugins.to_owned(), is_reference: plugins.starts_with("/usr/lib/cni") };
        Ok(Networks { network: Network::new(&subject, list) })
    }

    /// STATUS of every plug-in.
    pub fn status(&self, node: &Node) -> Result<Ready, cni::Error> {
        let started = Instant::now();
        if !self.network.subject.is_reference {
            self.network.status(node).map_err(refused)?;
        }
        let sentence = format!("{} can serve", self.network.kinds().join(", "));
        Ok(Ready { sentence, took: started.elapsed() })
    }

    /// A new pod `name`, attached with what the runtime hands in.
    pub fn add(&self, node: &Node, name: &str, wish: &Value) -> Result<Joined, cni::Error> {
        let sandbox = node.pod(name);
        let capabilities: Map<String, Value> = wish.as_object().cloned().unwrap_or_default();
        let request = Request { capabilities, ..Request::default() };
        let started = Instant::now();
        let attachment = self.network.add(node, &sandbox, request).map_err(refused)?;
        let took = started.elapsed();
        let host_end = attachment.host_end("veth");
        Ok(Joined { name: name.to_owned(), sandbox, ips: attachment.ips(), host_end, took, attachment })
    }

    /// CHECK of one pod.
    pub fn check(&self, node: &Node, pod: &Joined) -> Result<(), cni::Error> {
        pod.attachment.check(node).map_err(refused)
    }

    /// DEL of one pod.
    pub fn del(&self, node: &Node, pod: &Joined) -> Result<(), cni::Error> {
        pod.attachment.del(node).map_err(refused)
    }

    /// The node's side, for the drawing.
    pub fn gateways(&self, node: &Node) -> NodeView {
        let plugin = &self.network.list["plugins"][0];
        let bridge = plugin["bridge"].as_str().unwrap_or("cni0").to_owned();
        let addresses = node.sh(&format!("ip -o addr show dev {bridge} scope global"));
        let gateways = addresses.lines().filter_map(|line| line.split_whitespace().nth(3)).map(str::to_owned);
        let subnets = plugin["ipam"]["ranges"].as_array().into_iter().flatten();
        NodeView {
            uplink: vec![Node::IP4.to_string(), Node::IP6.to_string()],
            outside: vec![Node::OUTSIDE4.to_string(), Node::OUTSIDE6.to_string()],
            gateways: gateways.collect(),
            subnets: subnets.filter_map(|set| set[0]["subnet"].as_str()).map(str::to_owned).collect(),
            bridge,
        }
    }

    /// Links, nftables tables and leases that are still there besides the node's own and the bridge.
    pub fn leftovers(&self, node: &Node) -> Vec<String> {
        let bridge = self.network.list["plugins"][0]["bridge"].as_str().unwrap_or("cni0");
        let links = node.list("/proc/sys/net/ipv4/conf");
        let own = ["all", "default", "lo", "eth0", bridge];
        let mut left: Vec<String> = links.into_iter().filter(|link| !own.contains(&link.as_str())).collect();
        let leases = node.list(format!("/var/lib/cni/networks/{}", self.network.name()));
        left.extend(
            leases.into_iter().filter(|name| name != "lock" && !name.starts_with("last_reserved_ip.")),
        );
        left
    }
}

fn refused(refusal: lab::Refusal) -> cni::Error {
    let code = u32::try_from(refusal.code).unwrap_or(cni::Code::INTERNAL.0);
    cni::Error::new(cni::Code(code), refusal.msg)
}
