//! Packets of pods to nodes beyond a tunnel, taken on their way out of the uplink.
//!
//! ```text
//! table netdev bowline_divert {
//!     map nodes { type ipv4_addr : ipv4_addr; elements = { 192.0.2.2 : 10.1.2.0 } }
//!     chain out {
//!         type filter hook egress device "eth0" priority filter
//!         ip saddr 10.1.1.0/24 fwd ip to ip daddr map @nodes device "bowline.1"
//!     }
//! }
//! ```
//! What leaves for pods of other nodes is encapsulated by then and bears the node's address, so it fails the first
//! comparison: that is all it costs. Answers come by the tunnel, from an address that the main table has on the uplink;
//! a strict reverse path filter would drop them, so the tunnel's is made a loose one (RFC 3704, 2.4). Nothing but nodes'
//! packets comes out of a tunnel.

use std::collections::BTreeMap;

use kernel::Result;
use kernel::netlink::{Protocol, Socket};
use kernel::nft::{
    self, Base, Batch, Chain, ChainKind, Element, Family, Field, Hook, Rule, Set, Table, Type,
};
use kernel::sysctl;

use super::links::Links;
use super::{Dataplane, Report, Sweep};
use crate::plan::{Diversion, Plan};

/// The table, all ours.
pub const TABLE: Table<'static> = Table::new(Family::Netdev, "bowline_divert");
/// A table that never comes to be.
const PROBE: Table<'static> = Table::new(Family::Netdev, "bowline_probe");
const CHAIN: &str = "out";
const MAP: &str = "nodes";
/// Values of rp_filter.
const STRICT: u8 = 1;
const LOOSE: &str = "2";
/// The loopback device, which every namespace has.
const LOOPBACK: (&str, u32) = ("lo", 1);

/// A diversion whose links are there.
struct Wanted<'a> {
    diversion: &'a Diversion,
    /// Index of the tunnel, which the kernel wants in the rule.
    device: u32,
    /// How the rule is recognised: it says everything that the rule and its chain are made of.
    comment: String,
}

impl<'a> Wanted<'a> {
    /// `None` when a link is missing; that is told elsewhere.
    fn of(diversion: &'a Diversion, links: &Links) -> Option<Self> {
        let (uplink, device) = (links.index_of(&diversion.uplink)?, links.tunnel(&diversion.device)?);
        let (from, name) = (diversion.from, &diversion.uplink);
        let comment = format!("pods {from} to nodes: {name} ({uplink}) to {device} ({})", device.index);
        Some(Wanted { diversion, device: device.index, comment })
    }
}

impl Dataplane {
    /// Whether the kernel takes such a chain: asked in one transaction that also removes it.
    pub(super) fn can_divert(&mut self) -> Result<bool> {
        let (name, index) = LOOPBACK;
        let mut batch = Batch::new();
        batch.add_table(&PROBE);
        batch.add_set(&PROBE, &Set::map(MAP, &[Type::Ipv4], &[Type::Ipv4]));
        batch.add_chain(&PROBE, &chain(name));
        batch.add_rule(
            &PROBE,
            CHAIN,
            &Rule::new().carries(Family::Ip).forward_by_map(Family::Ip, Field::Daddr(Family::Ip), MAP, index),
        );
        batch.delete_table(&PROBE);
        match batch.commit(self.netfilter()?) {
            Ok(()) => Ok(true),
            Err(error) if error.errno().is_some() => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn netfilter(&mut self) -> Result<&mut Socket> {
        let socket = match self.netfilter.take() {
            Some(socket) => socket,
            None => Socket::open(Protocol::Netfilter)?,
        };
        Ok(self.netfilter.insert(socket))
    }

    /// Makes the table what `plan` says.
    pub(super) fn sync_diversion(&mut self, plan: &Plan, links: &Links, sweep: Sweep, report: &mut Report) {
        let wanted = plan.diversion.as_ref().map(|diversion| Wanted::of(diversion, links));
        let outcome = match (&wanted, sweep) {
            // A tunnel that could not be made has been reported.
            (Some(None), _) | (None, Sweep::Nothing) => return,
            (Some(Some(wanted)), _) => self.divert(wanted, report),
            (None, Sweep::Ours) => match self.write(None, report) {
                // No nf_tables, no table.
                Err(error) if error.errno().is_some() => Ok(()),
                outcome => outcome,
            },
        };
        if let Err(error) = outcome {
            report.fail("", error.to_string());
        }
    }

    fn divert(&mut self, wanted: &Wanted<'_>, report: &mut Report) -> Result<()> {
        let key = |of: &str| format!("net/ipv4/conf/{of}/rp_filter");
        let device = key(&wanted.diversion.device);
        let filter = |key: &str| Ok::<u8, kernel::Error>(sysctl::read(key)?.trim().parse().unwrap_or(0));
        // The kernel takes the greater of the two.
        if filter(&key("all"))?.max(filter(&device)?) == STRICT {
            report.requests += 1;
            report.added += usize::from(sysctl::ensure(&device, LOOSE)?);
        }
        self.write(Some(wanted), report)
    }

    fn write(&mut self, wanted: Option<&Wanted<'_>>, report: &mut Report) -> Result<()> {
        let mut written = 0;
        nft::converge(self.netfilter()?, |socket| {
            let batch = changes(socket, wanted)?;
            written = batch.sentences().count();
            Ok(batch)
        })?;
        report.requests += written;
        if wanted.is_some() {
            report.added += written;
        } else {
            report.removed += written;
        }
        Ok(())
    }

    /// What [`Dataplane::sync_diversion`] would write, in words.
    pub(super) fn survey_diversion(&mut self, plan: &Plan, links: &Links) -> Result<Vec<String>> {
        let wanted = plan.diversion.as_ref().and_then(|diversion| Wanted::of(diversion, links));
        let Some(wanted) = wanted else { return Ok(Vec::new()) };
        let batch = changes(self.netfilter()?, Some(&wanted))?;
        Ok(batch.sentences().map(str::to_owned).collect())
    }
}

fn chain(device: &str) -> Chain<'_> {
    Chain::base(CHAIN, Base::new(ChainKind::Filter, Hook::Egress, 0)).of_device(device)
}

fn changes(socket: &mut Socket, wanted: Option<&Wanted<'_>>) -> Result<Batch> {
    let mut batch = Batch::new();
    let exists = nft::table_exists(socket, &TABLE)?;
    let Some(wanted) = wanted else {
        if exists {
            batch.delete_table(&TABLE);
        }
        return Ok(batch);
    };
    let elements = elements(wanted.diversion);
    if !exists || !is_whole(socket, wanted)? {
        if exists {
            batch.delete_table(&TABLE);
        }
        declare(&mut batch, wanted, &elements);
        return Ok(batch);
    }
    let present = nft::list_elements(socket, &TABLE, MAP)?;
    let by_key = |elements: &[Element]| -> BTreeMap<Vec<u8>, Element> {
        elements.iter().map(|element| (element.key.clone(), element.clone())).collect()
    };
    let (has, wants) = (by_key(&present), by_key(&elements));
    let is_same = |element: &Element, among: &BTreeMap<Vec<u8>, Element>| {
        among.get(&element.key).is_some_and(|other| other.data == element.data)
    };
    let stale: Vec<Element> = present.into_iter().filter(|it| !is_same(it, &wants)).collect();
    let new: Vec<Element> = elements.into_iter().filter(|it| !is_same(it, &has)).collect();
    if !stale.is_empty() {
        batch.delete_elements(&TABLE, MAP, &stale);
    }
    if !new.is_empty() {
        batch.add_elements(&TABLE, MAP, &new);
    }
    Ok(batch)
}

/// Whether chain, map and rule are those of [`declare`]. The chain goes when the uplink does.
fn is_whole(socket: &mut Socket, wanted: &Wanted<'_>) -> Result<bool> {
    let rules = nft::list_rules(socket, &TABLE, None)?;
    let is_rule = matches!(&rules[..], [rule] if rule.chain == CHAIN && rule.comment == wanted.comment);
    Ok(is_rule && nft::set_exists(socket, &TABLE, MAP)?)
}

fn declare(batch: &mut Batch, wanted: &Wanted<'_>, elements: &[Element]) {
    let Wanted { diversion, device, comment } = wanted;
    batch.add_table(&TABLE);
    batch.add_set(&TABLE, &Set::map(MAP, &[Type::Ipv4], &[Type::Ipv4]));
    batch.add_chain(&TABLE, &chain(&diversion.uplink));
    if !elements.is_empty() {
        batch.add_elements(&TABLE, MAP, elements);
    }
    let rule = Rule::new()
        .carries(Family::Ip)
        .within(Field::Saddr(Family::Ip), diversion.from)
        .forward_by_map(Family::Ip, Field::Daddr(Family::Ip), MAP, *device)
        .comment(comment.clone());
    batch.add_rule(&TABLE, CHAIN, &rule);
}

fn elements(diversion: &Diversion) -> Vec<Element> {
    let element = |(node, next): (&std::net::IpAddr, &std::net::IpAddr)| {
        Element::new(&[(*node).into()]).to(&[(*next).into()])
    };
    diversion.nodes.iter().map(element).collect()
}
