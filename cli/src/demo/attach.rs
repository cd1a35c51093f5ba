//! The runtime's part: pods join a network by its configuration list, through [`cni::runtime`] as any runtime would.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cni::list::NetworkList;
use cni::runtime::{Runtime, RuntimeArgs};
use cni::{AddResult, Result};
use kernel::netlink::{Protocol, Socket};
use kernel::nft;
use lab::{Node, Pod};
use serde_json::Value;

use super::drawing::NodeView;

/// A network with the plug-ins that run it.
pub struct Network {
    list: NetworkList,
    runtime: Runtime,
    steps: Arc<Mutex<Vec<Step>>>,
}

/// One plug-in's part in a verb.
#[derive(Debug, Clone)]
pub struct Step {
    /// Its type.
    pub plugin: String,
    /// From before its program was started until it had ended.
    pub took: Duration,
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
    /// What the runtime asked for on its behalf.
    pub wish: Value,
    /// ADD, plug-in by plug-in.
    pub steps: Vec<Step>,
    args: RuntimeArgs,
}

impl Joined {
    /// The address of the family of `peer`.
    pub fn like(&self, peer: IpAddr) -> Option<IpAddr> {
        self.ips.iter().copied().find(|ip| ip.is_ipv4() == peer.is_ipv4())
    }

    /// How long ADD took, all plug-ins together.
    pub fn took(&self) -> Duration {
        total(&self.steps)
    }
}

/// The time of all steps together.
pub fn total(steps: &[Step]) -> Duration {
    steps.iter().map(|step| step.took).sum()
}

impl Network {
    /// The network of `conflist`, run by the plug-ins in `plugins`.
    pub fn new(conflist: &str, plugins: PathBuf) -> Result<Network> {
        let list = NetworkList::parse(conflist.as_bytes(), None)?;
        let steps = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&steps);
        let runtime = Runtime::new([plugins]).with_observer(move |step| {
            let step = Step { plugin: step.plugin_type.to_owned(), took: step.elapsed };
            if let Ok(mut steps) = seen.lock() {
                steps.push(step);
            }
        });
        Ok(Network { list, runtime, steps })
    }

    /// STATUS of every plug-in.
    pub fn status(&self, node: &Node) -> Result<Vec<Step>> {
        node.run(|| self.runtime.status(&self.list))?;
        Ok(self.taken())
    }

    /// A new pod `name`, attached with what the runtime hands in.
    pub fn add(&self, node: &Node, name: &str, wish: Value) -> Result<Joined> {
        let sandbox = node.pod(name);
        let mut args = RuntimeArgs::new(name, sandbox.netns_path(), "eth0")?;
        args.capabilities = wish.as_object().cloned().unwrap_or_default();
        let (result, _) = node.run(|| self.runtime.add(&self.list, &args))?;
        let (name, steps) = (name.to_owned(), self.taken());
        let ips = result.ips.iter().map(|ip| ip.address.ip()).collect();
        Ok(Joined { name, sandbox, ips, host_end: host_end(&result), wish, steps, args })
    }

    /// CHECK of one pod.
    pub fn check(&self, node: &Node, pod: &Joined) -> Result<()> {
        node.run(|| self.runtime.check(&self.list, &pod.args))
    }

    /// DEL of one pod.
    pub fn del(&self, node: &Node, pod: &Joined) -> Result<Vec<Step>> {
        self.taken();
        node.run(|| self.runtime.del(&self.list, &pod.args))?;
        Ok(self.taken())
    }

    /// What the observer saw since the last call.
    fn taken(&self) -> Vec<Step> {
        self.steps.lock().map(|mut steps| std::mem::take(&mut *steps)).unwrap_or_default()
    }

    /// The bridge's name.
    pub fn bridge(&self) -> &str {
        self.list.plugins[0].object["bridge"].as_str().unwrap_or("cni0")
    }

    /// The node's side, for the drawing.
    pub fn view(&self, node: &Node) -> NodeView {
        let bridge = self.bridge().to_owned();
        let addresses = node.sh(&format!("ip -o addr show dev {bridge} scope global"));
        let gateways = addresses.lines().filter_map(|line| line.split_whitespace().nth(3)).map(str::to_owned);
        let ranges = self.list.plugins[0].object["ipam"]["ranges"].as_array().into_iter().flatten();
        NodeView {
            uplink: vec![Node::IP4.to_string(), Node::IP6.to_string()],
            outside: vec![Node::OUTSIDE4.to_string(), Node::OUTSIDE6.to_string()],
            gateways: gateways.collect(),
            subnets: ranges.filter_map(|set| set[0]["subnet"].as_str()).map(str::to_owned).collect(),
            bridge,
        }
    }

    /// Leases and results that are still there.
    pub fn records(&self, node: &Node) -> Vec<String> {
        let mut left = node.list(Path::new("/var/lib/cni/networks").join(&self.list.name));
        left.retain(|name| name != "lock" && !name.starts_with("last_reserved_ip."));
        left.extend(node.list("/var/lib/cni/results"));
        left
    }

    /// Links, nftables tables, leases and results that are still there, besides the node's own and the bridge.
    pub fn leftovers(&self, node: &Node) -> Result<Vec<String>> {
        let own = ["all", "default", "lo", "eth0", self.bridge()];
        let links = node.list("/proc/sys/net/ipv4/conf").into_iter();
        let mut left: Vec<String> = links.filter(|link| !own.contains(&link.as_str())).collect();
        left.extend(self.records(node));
        left.extend(node.run(tables).map_err(|e| cni::Error::from_chain(&e))?);
        Ok(left)
    }
}

/// Every nftables table of the calling thread's namespace.
fn tables() -> kernel::Result<Vec<String>> {
    let mut socket = Socket::open(Protocol::Netfilter)?;
    let mut tables = Vec::new();
    for family in [nft::Family::Inet, nft::Family::Ip, nft::Family::Ip6, nft::Family::Bridge] {
        let listed = nft::list_tables(&mut socket, family)?;
        tables.extend(listed.into_iter().map(|table| format!("table {table}")));
    }
    Ok(tables)
}

/// The veth on the node: the interface of the result without a sandbox that is not the bridge.
fn host_end(result: &AddResult) -> String {
    let on_node = result.interfaces.iter().filter(|link| link.sandbox.is_empty());
    on_node.map(|link| link.name.clone()).find(|name| name.starts_with("veth")).unwrap_or_default()
}
