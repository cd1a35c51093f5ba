//! Tunnel devices: made, adopted, mended, swept.

use std::collections::BTreeMap;

use kernel::addr::{self, Dad};
use kernel::link::{self, IpTunnel, Kind, Link, LinkId, NewEnd, Switch, TunnelState, Vxlan};
use kernel::sysctl;

use super::apply::{self, Change};
use super::{Dataplane, Report, Sweep};
use crate::ALIAS;
use crate::plan::{Plan, Tunnel, TunnelKind};

/// Hops that an outer IP in IP packet may make: an inner TTL of 1 must not end between nodes.
const OUTER_TTL: u8 = 64;

/// The links there are, and which of them are tunnels of ours.
#[derive(Debug, Default)]
pub(super) struct Links {
    all: BTreeMap<String, LinkId>,
    tunnels: BTreeMap<String, Link>,
}

impl Links {
    fn of(links: Vec<Link>) -> Self {
        let mut found = Links::default();
        for link in links {
            found.all.insert(link.id.name.clone(), link.id.clone());
            if link.alias == ALIAS && is_tunnel_kind(&link.kind) {
                found.tunnels.insert(link.id.name.clone(), link);
            }
        }
        found
    }

    /// The tunnel of ours called `name`.
    pub(super) fn tunnel(&self, name: &str) -> Option<&LinkId> {
        self.tunnels.get(name).map(|link| &link.id)
    }

    /// The index of any link.
    pub(super) fn index_of(&self, name: &str) -> Option<u32> {
        self.all.get(name).map(|link| link.index)
    }

    pub(super) fn is_tunnel(&self, index: u32) -> bool {
        self.tunnels.values().any(|link| link.id.index == index)
    }

    /// The tunnels that have neighbours and forwarding entries.
    pub(super) fn vxlans(&self) -> impl Iterator<Item = &LinkId> {
        self.tunnels.values().filter(|link| link.kind == "vxlan").map(|link| &link.id)
    }

    /// The tunnel with this index.
    pub(super) fn named(&self, index: u32) -> LinkId {
        let known = self.tunnels.values().find(|link| link.id.index == index);
        known.map_or_else(|| LinkId { index, name: format!("link {index}") }, |link| link.id.clone())
    }
}

fn is_tunnel_kind(kind: &str) -> bool {
    matches!(kind, "vxlan" | "ipip" | "ip6tnl" | "wireguard")
}

/// The kernel's words for a kind of tunnel.
pub(super) fn kind_of(kind: &TunnelKind, links: Option<&Links>) -> Kind<'static> {
    let index_of = |name: &str| links.and_then(|links| links.index_of(name));
    match kind {
        TunnelKind::Vxlan { vni, port, local, underlay, .. } => Kind::Vxlan(Vxlan {
            vni: *vni,
            port: *port,
            local: Some(*local),
            underlay: index_of(underlay),
            learning: false,
            // RFC 7348 wants none over IPv4, and cards that cut large packets cannot always make it; RFC 8200 wants one.
            udp_checksum: local.is_ipv6(),
            ttl: 0,
            tos: 0,
            external: false,
        }),
        TunnelKind::Ipip { local, .. } if local.is_ipv6() => Kind::IpTunnel(IpTunnel {
            v6: true,
            external: true,
            local: None,
            remote: None,
            underlay: None,
            ttl: 0,
        }),
        TunnelKind::Ipip { local, underlay } => Kind::IpTunnel(IpTunnel {
            v6: false,
            external: false,
            local: Some(*local),
            remote: None,
            underlay: index_of(underlay),
            ttl: OUTER_TTL,
        }),
        TunnelKind::Wireguard { .. } => Kind::Wireguard,
    }
}

/// What to say where the kernel lacks a kind of link.
pub(super) fn lacking(kind: &str) -> String {
    format!(
        "this kernel has no {kind}: load or build the module `{}`",
        match kind {
            "ip6tnl" => "ip6_tunnel",
            other => other,
        }
    )
}

impl Dataplane {
    /// Makes the links be as planned as far as possible, and says which there are then.
    pub(super) fn bring_links(
        &mut self,
        plan: &Plan,
        sweep: Sweep,
        report: &mut Report,
    ) -> kernel::Result<Links> {
        let before = link::list(&mut self.route)?;
        let links = Links::of(before.clone());
        let (missing, unfit) = judge(plan, &before, &links, report);
        let planned = |link: &Link| plan.tunnels.iter().any(|tunnel| tunnel.name == link.id.name);
        let stale = links.tunnels.values().filter(|link| sweep == Sweep::Ours && !planned(link));
        let doomed: Vec<_> = stale.map(|link| &link.id).chain(&unfit).collect();
        let deletions =
            doomed.into_iter().map(|id| Change::removes(link::delete(id), None)).collect::<Vec<_>>();
        let unchanged = deletions.is_empty() && missing.is_empty();
        apply::apply(&mut self.route, deletions, plan, report)?;
        for tunnel in missing {
            self.make(tunnel, &links, report)?;
        }
        let mut links = if unchanged { links } else { Links::of(link::list(&mut self.route)?) };
        for tunnel in &plan.tunnels {
            if let Some(link) = links.tunnels.remove(&tunnel.name)
                && self.settle(tunnel, &link, plan, report)?
            {
                links.tunnels.insert(tunnel.name.clone(), link);
            }
        }
        Ok(links)
    }

    /// Makes a device and marks it as ours, in one go: never the one without the other.
    fn make(&mut self, tunnel: &Tunnel, links: &Links, report: &mut Report) -> kernel::Result<()> {
        let kind = kind_of(&tunnel.kind, Some(links));
        let end = NewEnd {
            name: &tunnel.name,
            mtu: Some(tunnel.mtu),
            mac: tunnel.mac.as_ref(),
            ..NewEnd::default()
        };
        let ops = [link::create(&end, &kind), link::set_alias_named(&tunnel.name, ALIAS)];
        report.requests += ops.len();
        // The alias of a link that was not made fails too; the first refusal tells why.
        match self.route.apply_each(&ops)?.into_iter().collect::<kernel::Result<()>>() {
            Ok(()) => report.added += 1,
            Err(error) => {
                let what = self.explain(tunnel, &kind, &error)?;
                report.fail("", what);
            }
        }
        Ok(())
    }

    /// What can be changed while packets flow: MTU, hardware address, up, sysctls, addresses, offload. Whether the
    /// device can be used then: one that does not come up is one failure, and not another for each of its routes.
    fn settle(
        &mut self,
        tunnel: &Tunnel,
        link: &Link,
        plan: &Plan,
        report: &mut Report,
    ) -> kernel::Result<bool> {
        let id = &link.id;
        if tunnel.address.is_ipv6() {
            for (key, value) in [("disable_ipv6", "0"), ("accept_ra", "0")] {
                let key = format!("net/ipv6/conf/{}/{key}", id.name);
                if let Err(error) = sysctl::ensure_if_known(&key, value) {
                    report.fail("", error.to_string());
                }
            }
        }
        let failed_before = report.failures.len();
        apply::apply(&mut self.route, unsettled(tunnel, link), plan, report)?;
        if let (false, Some(failure)) =
            (link.is_up(), report.failures.get_mut(failed_before..).and_then(<[_]>::last_mut))
        {
            if let TunnelKind::Vxlan { port, .. } = tunnel.kind {
                failure.what +=
                    &format!(" (is UDP port {port} another's? `ss -uanp` tells, `vxlanPort` sets ours)");
            }
            return Ok(false);
        }
        let addresses = self.unsettled_addresses(tunnel, id)?;
        apply::apply(&mut self.route, addresses, plan, report)?;
        self.settle_checksums(tunnel, report);
        Ok(true)
    }

    /// A link whose MTU was once too small for IPv6 forgets that it is to have no link-local address.
    fn unsettled_addresses(&mut self, tunnel: &Tunnel, id: &LinkId) -> kernel::Result<Vec<Change>> {
        let there = addr::list(&mut self.route, Some(id.index))?;
        let (kept, strays): (Vec<_>, Vec<_>) =
            there.into_iter().partition(|address| address.ip == tunnel.address);
        let mut changes = Vec::new();
        if strays.iter().any(|stray| stray.ip.is_ipv6() && !stray.is_global()) {
            changes.push(Change::adds(link::set_no_link_local(id), None));
        }
        changes.extend(strays.iter().map(|stray| Change::removes(addr::delete(id, stray.ip), None)));
        if kept.is_empty() {
            changes.push(Change::adds(addr::add(id, tunnel.address, Dad::Skip), None));
        }
        Ok(changes)
    }

    /// What [`Dataplane::bring_links`] would do for `plan`, in words, and the links there are.
    pub(super) fn survey_links(&mut self, plan: &Plan) -> kernel::Result<(Vec<String>, Links)> {
        let before = link::list(&mut self.route)?;
        let links = Links::of(before.clone());
        let mut refused = Report::default();
        let (missing, _) = judge(plan, &before, &links, &mut refused);
        let mut found: Vec<String> = refused.failures.into_iter().map(|problem| problem.what).collect();
        found.extend(missing.iter().map(|tunnel| format!("create link {}", tunnel.name)));
        for tunnel in &plan.tunnels {
            if let Some(link) = links.tunnels.get(&tunnel.name) {
                let addresses = self.unsettled_addresses(tunnel, &link.id)?;
                found.extend(unsettled(tunnel, link).iter().chain(&addresses).map(Change::to_string));
            }
        }
        Ok((found, links))
    }

    /// Why a device could not be made, and what to do.
    fn explain(&mut self, tunnel: &Tunnel, kind: &Kind<'_>, error: &kernel::Error) -> kernel::Result<String> {
        if error.is_unsupported() {
            return Ok(format!("{}: {}", tunnel.name, lacking(kind.name())));
        }
        if let (Kind::Vxlan(wanted), true) = (kind, error.is_present() || error.is_in_use()) {
            let others = link::list(&mut self.route)?;
            if let Some(owner) =
                others.iter().find(|other| other.id.name != tunnel.name && clashes(other, wanted))
            {
                return Ok(format!(
                    "{}: VNI {} on UDP port {} is taken by the link {}: delete that link, or set `vni` or `vxlanPort`",
                    tunnel.name, wanted.vni, wanted.port, owner.id
                ));
            }
        }
        Ok(error.to_string())
    }
}

/// What of a device can be changed while packets flow, and must be.
fn unsettled(tunnel: &Tunnel, link: &Link) -> Vec<Change> {
    let id = &link.id;
    let mut changes = Vec::new();
    if link.mtu != tunnel.mtu {
        changes.push(Change::adds(link::set_mtu(id, tunnel.mtu), None));
    }
    if let Some(mac) = tunnel.mac.as_ref().filter(|mac| link.mac.as_ref() != Some(mac)) {
        changes.push(Change::adds(link::set_mac(id, mac), None));
    }
    if !link.is_up() {
        changes.push(Change::adds(link::set_no_link_local(id), None));
        changes.push(Change::adds(link::set_up(id, Switch::On), None));
    }
    changes
}

/// Which devices of `plan` are to be made, and which of ours are first to be deleted for it.
fn judge<'a>(
    plan: &'a Plan,
    before: &[Link],
    links: &Links,
    report: &mut Report,
) -> (Vec<&'a Tunnel>, Vec<LinkId>) {
    let (mut missing, mut unfit) = (Vec::new(), Vec::new());
    for tunnel in &plan.tunnels {
        match before.iter().find(|link| link.id.name == tunnel.name) {
            None => missing.push(tunnel),
            Some(link) if link.alias != ALIAS => {
                let kind = if link.kind.is_empty() { "physical" } else { &link.kind };
                report.fail("", format!(
                    "{}: there is a {kind} link of that name already, and it is not bowline's (its alias is `{}`): rename or delete it",
                    tunnel.name, link.alias
                ));
            }
            Some(link) if is_fit(link, &kind_of(&tunnel.kind, Some(links))) => {}
            Some(link) => {
                unfit.push(link.id.clone());
                missing.push(tunnel);
            }
        }
    }
    (missing, unfit)
}

/// Whether what cannot be changed of a link is as it must be.
fn is_fit(link: &Link, wanted: &Kind<'_>) -> bool {
    link.kind == wanted.name()
        && match (&link.tunnel, wanted) {
            (Some(TunnelState::Vxlan(there)), Kind::Vxlan(wanted)) => there == wanted,
            (Some(TunnelState::Ip(there)), Kind::IpTunnel(wanted)) => there == wanted,
            (None, Kind::Wireguard) => true,
            _ => false,
        }
}

/// Whether the kernel lets only one of the two be.
fn clashes(other: &Link, wanted: &Vxlan) -> bool {
    let Some(TunnelState::Vxlan(there)) = &other.tunnel else { return false };
    let v6 = |vxlan: &Vxlan| vxlan.local.is_some_and(|ip| ip.is_ipv6());
    there.port == wanted.port && (there.external || (there.vni == wanted.vni && v6(there) == v6(wanted)))
}
