//! What this node has for each of its pods, put back when somebody removes it: the route to each of its addresses, the
//! gateway's address on the pod's link, the switches by which the link answers for the gateway.
//!
//! Which pods there are is read where the plug-in `routed` has written it: each lease names an attachment, and the link of
//! that attachment bears its tag as alias. The plug-in makes all this itself when a pod comes, so what is missing of a pod
//! that was never seen whole may be about to come: it is looked at again after [`DOUBT`].

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use ipnetwork::IpNetwork;
use kernel::addr::{self, Dad};
use kernel::link::{self, Link};
use kernel::netlink::{Op, Socket};
use kernel::route;
use kernel::{Result, sysctl};
use overlay::attachment::{GATEWAY_6, SWITCHES_4, gateway_network, route_to};
use overlay::{ROUTE_PROTOCOL, owner};

use super::Outcome;
use crate::log::chain_of;

/// How long a pod may be unfinished before it is taken for damaged.
const DOUBT: Duration = Duration::from_secs(1);
const VETH: &str = "veth";

/// What is known of pods from one look to the next.
#[derive(Debug, Default)]
pub struct Memory {
    /// Tags of those that were seen whole.
    whole: BTreeSet<String>,
    /// Since when others are unfinished.
    doubted: BTreeMap<String, Instant>,
}

impl Memory {
    /// When to look again, where something is in doubt.
    pub fn due(&self) -> Option<Duration> {
        (!self.doubted.is_empty()).then_some(DOUBT)
    }

    /// Whether what is missing of a pod is to be put back by now.
    fn is_damage(&mut self, tag: &str) -> bool {
        self.whole.contains(tag)
            || self.doubted.entry(tag.to_owned()).or_insert_with(Instant::now).elapsed() >= DOUBT
    }

    fn forget_others(&mut self, there: &BTreeSet<String>) {
        self.whole.retain(|tag| there.contains(tag));
        self.doubted.retain(|tag, _| there.contains(tag));
    }
}

/// Whether `ip`, gone from some link, may have been a pod's gateway.
pub fn is_gateway(ip: IpNetwork) -> bool {
    ip.ip() == GATEWAY_6
}

/// Puts back what is missing of the pods that have a lease in the directory `leases` of the network called `network`.
///
/// # Errors
/// The kernel can't be asked; what it refuses is a problem of the outcome.
pub fn restore(socket: &mut Socket, leases: &Path, network: &str, memory: &mut Memory) -> Result<Outcome> {
    let pods = pods(leases, network);
    let mut outcome = Outcome::default();
    if pods.is_empty() {
        memory.forget_others(&BTreeSet::new());
        return Ok(outcome);
    }
    let links = attached(link::list(socket)?, &pods);
    memory.forget_others(&links.keys().cloned().collect());
    let filter = route::Filter { table: Some(route::MAIN), protocol: Some(ROUTE_PROTOCOL), link: None };
    let routes: BTreeSet<(IpNetwork, u32)> =
        route::list(socket, filter)?.iter().filter_map(|route| Some((route.dst, route.link?))).collect();
    let gateways: BTreeSet<u32> = addr::list(socket, None)?
        .iter()
        .filter(|address| is_gateway(address.ip))
        .map(|address| address.link)
        .collect();
    for (tag, link) in &links {
        let ips = &pods[tag];
        let (ops, switches) = missing(link, ips, &routes, &gateways);
        if ops.is_empty() && switches.is_empty() {
            memory.doubted.remove(tag);
            memory.whole.insert(tag.clone());
        } else if memory.is_damage(tag) {
            put_back(socket, link, &ops, switches, &mut outcome)?;
        }
    }
    Ok(outcome)
}

/// The addresses of each attachment, by its tag. What can't be read is a lease that comes or goes.
fn pods(leases: &Path, network: &str) -> BTreeMap<String, Vec<IpAddr>> {
    let mut pods: BTreeMap<String, Vec<IpAddr>> = BTreeMap::new();
    for entry in std::fs::read_dir(leases).into_iter().flatten().flatten() {
        let Some(ip) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let Ok(text) = std::fs::read_to_string(entry.path()) else { continue };
        if let Some(tag) = tag(&text, network) {
            pods.entry(tag).or_default().push(ip);
        }
    }
    pods
}

/// The tag of who has the lease with this text: container and interface, a line each.
fn tag(lease: &str, network: &str) -> Option<String> {
    let mut lines = lease.lines().map(str::trim);
    let (container, ifname) = (lines.next()?, lines.next()?);
    let is_whole = !container.is_empty() && !ifname.is_empty();
    is_whole.then(|| owner::network_tag(network) + &owner::attachment_tag(container, ifname))
}

/// The pods' links: cables that are up, on no bridge.
fn attached(links: Vec<Link>, pods: &BTreeMap<String, Vec<IpAddr>>) -> BTreeMap<String, Link> {
    let is_cable = |link: &Link| link.kind == VETH && link.master.is_none() && link.is_up();
    let tagged = links.into_iter().filter(is_cable).filter_map(|link| {
        let tag = link.alias.split(',').next().unwrap_or_default().to_owned();
        pods.contains_key(&tag).then_some((tag, link))
    });
    tagged.collect()
}

/// What a pod lacks: requests, and switches with the value that they should have.
fn missing(
    link: &Link,
    ips: &[IpAddr],
    routes: &BTreeSet<(IpNetwork, u32)>,
    gateways: &BTreeSet<u32>,
) -> (Vec<Op>, Vec<(String, &'static str)>) {
    let (index, name) = (link.id.index, &link.id.name);
    let mut ops = Vec::new();
    let (v4, v6) = (ips.iter().any(IpAddr::is_ipv4), ips.iter().any(IpAddr::is_ipv6));
    if v6 && !gateways.contains(&index) {
        ops.push(addr::add(&link.id, gateway_network(), Dad::Skip));
    }
    let lost = ips.iter().map(|ip| IpNetwork::from(*ip)).filter(|ip| !routes.contains(&(*ip, index)));
    ops.extend(lost.map(|ip| route::create(&route_to(ip, index))));
    let mut switches: Vec<(String, &str)> = Vec::new();
    if v4 {
        let key = |(tree, key, value)| (format!("net/ipv4/{tree}/{name}/{key}"), value);
        switches.extend(SWITCHES_4.into_iter().map(key));
    }
    if v6 {
        switches.push((format!("net/ipv6/conf/{name}/forwarding"), "1"));
    }
    // One that can't be read is of a link that goes.
    switches.retain(|(key, value)| sysctl::read(key).is_ok_and(|there| there.trim() != *value));
    (ops, switches)
}

fn put_back(
    socket: &mut Socket,
    link: &Link,
    ops: &[Op],
    switches: Vec<(String, &'static str)>,
    outcome: &mut Outcome,
) -> Result<()> {
    let doing = |op: &Op| format!("{} on {}", op.doing, link.id.name);
    for (result, op) in socket.apply_each(ops)?.into_iter().zip(ops) {
        match result {
            Ok(()) => outcome.changes.push(doing(op)),
            // The pod has gone meanwhile.
            Err(error) if error.is_absent() => {}
            Err(error) => {
                outcome
                    .problems
                    .push(format!("a pod lacks what it needs of this node: {}", chain_of(&error)));
            }
        }
    }
    for (key, value) in switches {
        match sysctl::ensure(&key, value) {
            Ok(true) => outcome.changes.push(format!("set sysctl {key} to {value}")),
            Ok(false) => {}
            Err(error) if error.is_absent() => {}
            Err(error) => outcome.problems.push(chain_of(&error)),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_tells_whose_link_it_is() {
        assert_eq!(tag("one\r\neth0", "unit-test").as_deref(), Some("6fd94d501e58f0aa-287fc69eff0574a2"));
        assert_eq!(tag("one\neth0\n", "unit-test").as_deref(), Some("6fd94d501e58f0aa-287fc69eff0574a2"));
        for half_written in ["", "one", "one\r\n", "\r\neth0"] {
            assert_eq!(tag(half_written, "unit-test"), None, "{half_written:?}");
        }
    }

    #[test]
    fn what_was_never_whole_is_in_doubt_at_first() {
        let mut memory = Memory::default();
        memory.whole.insert("whole".into());
        assert!(memory.is_damage("whole"));
        assert_eq!(memory.due(), None);
        assert!(!memory.is_damage("new"));
        assert_eq!(memory.due(), Some(DOUBT));
        memory.doubted.insert("old".into(), Instant::now() - DOUBT);
        assert!(memory.is_damage("old"));
        memory.forget_others(&BTreeSet::from(["old".to_owned()]));
        assert!(!memory.is_damage("whole"), "it has gone and come again");
    }
}
