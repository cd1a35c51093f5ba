//! macspoofchk: a guarded bridge port passes only frames with its pod's MAC address.
//!
//! ```text
//! table bridge bowline_spoof {
//!     set guarded { type ifname; elements = { "veth1" comment "<owner>" } }
//!     set allowed { type ifname . ether_addr; elements = { "veth1" . 02:00:00:00:00:01 comment "<owner>" } }
//!     chain prerouting {
//!         type filter hook prerouting priority -300; policy accept;
//!         iifname @guarded iifname . ether saddr != @allowed drop
//!     }
//! }
//! ```
//! The table goes with its last element. What the reference made (chains `cni-br-iface-..` in table `bridge nat`) is
//! recognised by CHECK and removed by DEL.

use cni::{Attachment, Result};
use kernel::mac::Mac;
use kernel::netlink::Socket;
use kernel::nft::{
    self, Base, Batch, Chain, ChainKind, Element, Family, Field, Hook, Rule, Set, Table, Type, Value,
};

use crate::error::{gather, kernel_error};
use crate::owner::{Keep, Owner};
use crate::tagged;

const TABLE: Table<'_> = Table::new(Family::Bridge, "bowline_spoof");
const GUARDED: Set<'_> = Set::new("guarded", &[Type::IfName]);
const ALLOWED: Set<'_> = Set::new("allowed", &[Type::IfName, Type::Mac]);
const PREROUTING: Chain<'_> = Chain::base("prerouting", Base::new(ChainKind::Filter, Hook::Prerouting, -300));

const REFERENCE: Table<'_> = Table::new(Family::Bridge, "nat");
const REFERENCE_BASE: &str = "PREROUTING";

/// A bridge port and the only source address it may use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guard {
    /// The host end's name.
    pub port: String,
    /// The container end's address, 6 bytes.
    pub mac: Mac,
}

impl Guard {
    fn guarded(&self) -> Element {
        Element::new(&[Value::IfName(&self.port)])
    }

    fn allowed(&self) -> kernel::Result<Element> {
        let bytes = <[u8; 6]>::try_from(self.mac.bytes())
            .map_err(|_| kernel::Error::Invalid { what: format!("{} is no Ethernet address", self.mac) })?;
        Ok(Element::new(&[Value::IfName(&self.port), Value::Mac(bytes)]))
    }
}

/// Guards a port. Repeatable; a name that another owner has not given back is taken over. `host` is a netfilter
/// socket in the host's namespace.
pub fn ensure(host: &mut Socket, owner: &Owner, guard: &Guard) -> Result<()> {
    let comment = owner.comment();
    nft::converge(host, |host| {
        let mut batch = Batch::new();
        if !nft::chain_exists(host, &TABLE, PREROUTING.name)? {
            declare(&mut batch);
        }
        tagged::claim(host, &mut batch, &TABLE, GUARDED.name, guard.guarded().comment(&comment))?;
        tagged::claim(host, &mut batch, &TABLE, ALLOWED.name, guard.allowed()?.comment(&comment))?;
        Ok(batch)
    })
    .map_err(failed)
}

fn declare(batch: &mut Batch) {
    let spoofed = Rule::new()
        .in_set(&[Field::Iifname], GUARDED.name)
        .not_in_set(&[Field::Iifname, Field::EtherSaddr], ALLOWED.name);
    batch.add_table(&TABLE).add_set(&TABLE, &GUARDED).add_set(&TABLE, &ALLOWED);
    batch.add_chain(&TABLE, &PREROUTING).add_rule(&TABLE, PREROUTING.name, &spoofed.drop());
}

/// Removes the owner's guard, whoever made it. Without `guard`, or where it does not fit, the tables are searched;
/// nothing there is success.
///
/// # Errors
/// The first with the others as details, after everything was tried.
pub fn remove(host: &mut Socket, owner: &Owner, guard: Option<&Guard>) -> Result<()> {
    let ours = remove_ours(host, owner, guard).map_err(failed);
    let reference = remove_reference(host, &owner.attachment).map_err(failed);
    gather([ours, reference])
}

fn remove_ours(host: &mut Socket, owner: &Owner, guard: Option<&Guard>) -> kernel::Result<()> {
    nft::converge(host, |host| {
        let mut batch = Batch::new();
        if let Some(guard) = guard {
            let port = tagged::release(host, &mut batch, (&TABLE, GUARDED.name), &guard.guarded(), owner)?;
            let mac = match guard.allowed() {
                Ok(allowed) => tagged::release(host, &mut batch, (&TABLE, ALLOWED.name), &allowed, owner)?,
                Err(_) => false,
            };
            if port && mac {
                return Ok(batch);
            }
        }
        batch = Batch::new();
        tagged::release_all(host, &mut batch, &TABLE, &|comment: &str| owner.owns(comment))?;
        Ok(batch)
    })?;
    // Also when nothing was released: an earlier DEL may have been killed at this very point.
    tagged::drop_unused_table(host, &TABLE)
}

/// Whether the port is guarded on behalf of `owner`, by our rules or by the reference's.
pub fn check(host: &mut Socket, owner: &Owner, guard: &Guard) -> Result<()> {
    let Some(missing) = missing(host, owner, guard).map_err(failed)? else { return Ok(()) };
    let [_, of_mac] = reference_chains(&owner.attachment);
    if nft::list_rules(host, &REFERENCE, Some(&of_mac)).map_err(failed)?.is_empty() {
        return Err(cni::Error::internal(missing));
    }
    Ok(())
}

fn missing(host: &mut Socket, owner: &Owner, guard: &Guard) -> kernel::Result<Option<String>> {
    if nft::list_rules(host, &TABLE, Some(PREROUTING.name))?.is_empty() {
        return Ok(Some(format!("macspoofchk: {}: table {TABLE} has no rule", guard.port)));
    }
    let wanted = [(GUARDED.name, guard.guarded()), (ALLOWED.name, guard.allowed()?)];
    for (set, element) in wanted {
        let present = nft::get_element(host, &TABLE, set, &element)?;
        if !present.is_some_and(|present| owner.owns(&present.comment)) {
            let Guard { port, mac } = guard;
            return Ok(Some(format!("macspoofchk: {port} with {mac}: not in set {TABLE} {set}")));
        }
    }
    Ok(None)
}

/// Removes guards of `network` that belong to none of the `valid` attachments. The reference's chains name no
/// network, so they stay.
pub fn gc(host: &mut Socket, network: &str, valid: &[Attachment]) -> Result<()> {
    let keep = Keep::new(network, valid);
    nft::converge(host, |host| {
        let mut batch = Batch::new();
        tagged::release_all(host, &mut batch, &TABLE, &|comment: &str| keep.is_stale(comment))?;
        Ok(batch)
    })
    .and_then(|()| tagged::drop_unused_table(host, &TABLE))
    .map_err(failed)
}

/// The reference's chains of an attachment: entered by the port, and judging the MAC.
fn reference_chains(Attachment { container_id, ifname }: &Attachment) -> [String; 2] {
    let of_port = format!("cni-br-iface-{container_id}-{ifname}");
    let of_mac = format!("{of_port}-mac");
    [of_port, of_mac]
}

/// Removes the reference's chains and the rule that leads to them; its base chain and table stay, as with itself.
fn remove_reference(host: &mut Socket, attachment: &Attachment) -> kernel::Result<()> {
    let chains = reference_chains(attachment);
    if !nft::table_exists(host, &REFERENCE)? {
        return Ok(());
    }
    let comment = format!("macspoofchk-{}-{}", attachment.container_id, attachment.ifname);
    nft::converge(host, |host| {
        let mut batch = Batch::new();
        for rule in nft::list_rules(host, &REFERENCE, Some(REFERENCE_BASE))? {
            if rule.comment == comment {
                batch.delete_rule(&REFERENCE, REFERENCE_BASE, rule.handle);
            }
        }
        let mut present = Vec::new();
        for chain in &chains {
            if nft::chain_exists(host, &REFERENCE, chain)? {
                batch.flush_chain(&REFERENCE, chain);
                present.push(chain);
            }
        }
        for chain in present {
            batch.delete_chain(&REFERENCE, chain);
        }
        Ok(batch)
    })
}

fn failed(error: kernel::Error) -> cni::Error {
    kernel_error(error).context("macspoofchk")
}
