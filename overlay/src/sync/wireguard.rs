//! WireGuard devices' keys and peers.

use std::collections::BTreeMap;

use ipnetwork::IpNetwork;
use kernel::link::LinkId;
use kernel::wireguard::{self, Device, Family, Peer};

use super::apply::{self, Change};
use super::links::{self, Links};
use super::{Dataplane, Report, Sweep};
use crate::plan::{Plan, TunnelKind, WireguardPeer};

impl Dataplane {
    pub(super) fn sync_wireguard(
        &mut self,
        plan: &Plan,
        links: &Links,
        sweep: Sweep,
        report: &mut Report,
    ) -> kernel::Result<()> {
        for tunnel in &plan.tunnels {
            let (TunnelKind::Wireguard { port }, Some(link)) = (&tunnel.kind, links.tunnel(&tunnel.name))
            else {
                continue;
            };
            match Family::find(&mut self.generic)? {
                Some(family) => self.sync_device(plan, (family, link, *port), sweep, report)?,
                None => report.fail("", format!("{}: {}", tunnel.name, links::lacking("wireguard"))),
            }
        }
        Ok(())
    }

    fn sync_device(
        &mut self,
        plan: &Plan,
        (family, link, port): (Family, &LinkId, u16),
        sweep: Sweep,
        report: &mut Report,
    ) -> kernel::Result<()> {
        let Some(key) = self.wireguard_key.as_ref().map(|key| wireguard::clamped(key.0)) else {
            report.fail("", format!("{link}: no private key was given"));
            return Ok(());
        };
        let mut device = family.get(&mut self.generic, link)?;
        if device.private_key != Some(key) || device.port != port || device.mark != 0 {
            let change = Change::adds(family.set_device(link, &key, port), None);
            apply::apply(&mut self.generic, vec![change], plan, report)?;
            device = family.get(&mut self.generic, link)?;
        }
        report.wireguard_key = device.public_key.or(report.wireguard_key);
        let changes = peers(plan, family, link, &device, sweep);
        apply::apply(&mut self.generic, changes, plan, report)
    }
}

/// Stale peers go first: the kernel would move an address from them to its new owner anyway.
fn peers(plan: &Plan, family: Family, link: &LinkId, device: &Device, sweep: Sweep) -> Vec<Change> {
    let mut present: BTreeMap<wireguard::Key, &Peer> =
        device.peers.iter().map(|peer| (peer.key, peer)).collect();
    let mut wanted = Vec::new();
    for planned in plan.wireguard.iter().filter(|peer| peer.device == link.name) {
        if !present.remove(&planned.key).is_some_and(|there| is_same(there, planned)) {
            let peer =
                Peer { key: planned.key, endpoint: Some(planned.endpoint), allowed: planned.allowed.clone() };
            wanted.push(Change::adds(family.set_peer(link, &peer), planned.endpoint.ip()));
        }
    }
    let stale = present.into_keys().filter(|_| sweep == Sweep::Ours);
    let mut changes: Vec<_> =
        stale.map(|key| Change::removes(family.remove_peer(link, &key), None)).collect();
    changes.append(&mut wanted);
    changes
}

fn is_same(there: &Peer, planned: &WireguardPeer) -> bool {
    let mut allowed: Vec<IpNetwork> = there.allowed.clone();
    allowed.sort();
    there.endpoint == Some(planned.endpoint) && allowed == planned.allowed
}
