//! Which peers can be reached, in one family, and what is wrong with the others.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use kernel::Mac;
use kernel::route::masked;

use super::{Path, Problem, Remote, Site};
use crate::topology::{Mode, Peer};
use crate::{dual, mac};

/// The peers that can be reached, sorted by pod CIDR, no two of which overlap.
pub(super) fn reachable<'a>(
    site: &Site<'_>,
    peers: &'a [Peer],
    problems: &mut Vec<Problem>,
) -> Vec<Remote<'a>> {
    let mut complain = |peer: &str, what: String| problems.push(Problem { peer: peer.to_owned(), what });
    let mut remotes = Vec::with_capacity(peers.len());
    for peer in peers {
        match remote(site, peer) {
            Ok(Some(remote)) => remotes.push(remote),
            Ok(None) => {}
            Err(what) => complain(&peer.name, what),
        }
    }
    // A network comes before those within it, and which of two equals comes first depends on nothing but their names.
    remotes.sort_by(|a, b| (a.pods, a.name, a.ip).cmp(&(b.pods, b.name, b.ip)));
    let mut distinct = Distinct::default();
    remotes.retain(|remote| match distinct.admit(remote) {
        Ok(()) => true,
        Err(what) => {
            complain(remote.name, what);
            false
        }
    });
    remotes
}

/// `peer` in the site's family; `None` when it has no pods of it.
fn remote<'a>(site: &Site<'_>, peer: &'a Peer) -> Result<Option<Remote<'a>>, String> {
    let family = site.family;
    let Some(pods) = peer.pod_cidrs.of(family).map(masked) else { return Ok(None) };
    let Some(ip) = *peer.ips.of(family) else {
        return Err(format!("has the {family} pod CIDR {pods}, but no {family} address"));
    };
    if ip == site.uplink.ip {
        return Err(format!("has {ip}, the address of this node"));
    }
    if pods.contains(ip) {
        return Err(format!("has the address {ip} within its own pod CIDR {pods}"));
    }
    if dual::overlap(pods, site.pods) {
        return Err(format!("has the pod CIDR {pods}, which overlaps {} of this node", site.pods));
    }
    if pods.contains(site.uplink.ip) {
        return Err(format!(
            "has the pod CIDR {pods}, which holds {}, the address of this node",
            site.uplink.ip
        ));
    }
    let path = site.path_to(ip);
    if path == Path::Direct && !site.is_on_link(ip) {
        let subnet = site.uplink.subnet().map(|subnet| subnet.to_string()).unwrap_or_default();
        return Err(format!(
            "has the address {ip} outside {subnet}, the subnet of {}: mode routed needs all nodes on one link (mode cross-subnet does not)",
            site.uplink.link
        ));
    }
    if site.settings.mode == Mode::Wireguard && peer.wireguard_key.is_none() {
        return Err("has not published its WireGuard key yet".to_owned());
    }
    let mode = site.settings.mode;
    let key = peer.wireguard_key.filter(|_| mode == Mode::Wireguard);
    let mac = matches!(mode, Mode::Vxlan | Mode::CrossSubnet).then(|| mac::vtep(ip));
    Ok(Some(Remote { name: &peer.name, ip, pods, key, mac, path }))
}

/// What earlier peers have taken. Two names may share an address: a node that registered anew, beside its old self.
#[derive(Default)]
struct Distinct<'a> {
    pods: Option<(IpNetwork, &'a str)>,
    macs: BTreeMap<Mac, (IpAddr, &'a str)>,
    keys: BTreeMap<[u8; 32], (IpAddr, &'a str)>,
    keyed: BTreeMap<IpAddr, [u8; 32]>,
}

impl<'a> Distinct<'a> {
    fn admit(&mut self, remote: &Remote<'a>) -> Result<(), String> {
        let Remote { name, ip, pods, key, .. } = *remote;
        if let Some((taken, owner)) = self.pods
            && dual::overlap(taken, pods)
        {
            return Err(format!("has the pod CIDR {pods}, which overlaps {taken} of {owner}"));
        }
        if let Some(mac) = &remote.mac {
            let (taken, owner) = *self.macs.entry(mac.clone()).or_insert((ip, name));
            if taken != ip {
                return Err(format!(
                    "has the address {ip}, which hashes like {taken} of {owner}: give it another"
                ));
            }
        }
        if let Some(key) = key {
            let (taken, owner) = *self.keys.entry(key).or_insert((ip, name));
            if taken != ip {
                return Err(format!(
                    "has the WireGuard key of {owner}: delete its key file and restart bowlined there"
                ));
            }
            if *self.keyed.entry(ip).or_insert(key) != key {
                return Err(format!("has the address {ip} of another node, with another WireGuard key"));
            }
        }
        self.pods = Some((pods, name));
        Ok(())
    }
}
