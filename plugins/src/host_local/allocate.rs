//! Which addresses an attachment gets: policy only, no files.
//!
//! Addresses freed lately come last: the search starts behind the last address handed out and goes round. A lease
//! left over from before a reboot is kept for its attachment as long as the pool has free addresses.

use std::net::IpAddr;

use cni::{Code, Error, Result};

use super::range::{RangeSet, RangeSets};

/// What is known about one address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Occupancy {
    /// Nobody holds it.
    Free,
    /// An attachment of before the last boot holds it; its netns can't exist any more.
    Stale,
    /// It is leased.
    Held,
}

/// The leases as the policy sees them.
pub trait Leases {
    /// Who holds `address`. Called with rising addresses for the most part.
    fn occupancy(&self, address: IpAddr) -> Occupancy;
    /// What the attachment asked for holds already.
    fn own(&self) -> &[(IpAddr, Occupancy)];
    /// The last address handed out from the set with this index.
    fn last_reserved(&self, set: usize) -> Option<IpAddr>;
}

/// How an address comes to its new holder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// It was free.
    Free,
    /// It was its own before the reboot.
    Own,
    /// It was held by another attachment of before the reboot.
    Reclaimed,
}

/// One address of the answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pick {
    /// Index of its set.
    pub set: usize,
    /// The address.
    pub address: IpAddr,
    /// Where it comes from.
    pub origin: Origin,
}

/// Picks one address from every set: a requested one where the set contains it, else the next free one.
///
/// # Errors
/// The attachment has a live lease in a set already; a requested address is taken, reserved or in no set; a set is
/// exhausted (code 11).
pub fn plan(sets: &RangeSets, requested: &[IpAddr], leases: &impl Leases) -> Result<Vec<Pick>> {
    let mut left: Vec<IpAddr> = requested.to_vec();
    let mut picks = Vec::new();
    for (index, set) in sets.iter().enumerate() {
        let wanted = left.iter().position(|address| set.range_of(*address).is_some());
        let (address, origin) = match wanted.map(|at| left.remove(at)) {
            Some(wanted) => (wanted, take(set, wanted, leases)?),
            None => next(set, index, leases)?,
        };
        picks.push(Pick { set: index, address, origin });
    }
    if left.is_empty() {
        return Ok(picks);
    }
    let (list, also): (Vec<String>, Vec<String>) =
        (left.iter().map(ToString::to_string).collect(), sets.iter().map(ToString::to_string).collect());
    Err(Error::config(format!(
        "requested addresses left over: {}; each range set gives one address, the sets are {}",
        list.join(", "),
        also.join("; ")
    )))
}

fn take(set: &RangeSet, wanted: IpAddr, leases: &impl Leases) -> Result<Origin> {
    if set.is_gateway(wanted) {
        return Err(Error::config(format!("requested address {wanted} is the gateway of range set {set}")));
    }
    if !set.is_usable(wanted) {
        return Err(Error::config(format!(
            "requested address {wanted} is the network or broadcast address in range set {set}"
        )));
    }
    match leases.occupancy(wanted) {
        Occupancy::Free => Ok(Origin::Free),
        Occupancy::Stale if leases.own().iter().any(|(own, _)| *own == wanted) => Ok(Origin::Own),
        Occupancy::Stale => Ok(Origin::Reclaimed),
        Occupancy::Held => Err(Error::new(
            Code::TRY_AGAIN,
            format!("requested address {wanted} is taken: it is not available in range set {set}"),
        )),
    }
}

fn next(set: &RangeSet, index: usize, leases: &impl Leases) -> Result<(IpAddr, Origin)> {
    for (address, occupancy) in leases.own().iter().filter(|(own, _)| set.range_of(*own).is_some()) {
        if *occupancy == Occupancy::Held {
            return Err(Error::internal(format!(
                "duplicate allocation: the attachment holds {address} of range set {set} already; DEL it first"
            )));
        }
        if set.is_usable(*address) {
            return Ok((*address, Origin::Own));
        }
    }
    let mut stale = None;
    for (_, address) in set.walk(leases.last_reserved(index)) {
        match leases.occupancy(address) {
            Occupancy::Free => return Ok((address, Origin::Free)),
            Occupancy::Stale => stale = stale.or(Some((address, Origin::Reclaimed))),
            Occupancy::Held => {}
        }
    }
    stale.ok_or_else(|| exhausted(set))
}

/// Whether a set has an address to give.
///
/// # Errors
/// When it has none.
pub fn ensure_available(sets: &RangeSets, leases: &impl Leases) -> Result<()> {
    for (index, set) in sets.iter().enumerate() {
        let mut walk = set.walk(leases.last_reserved(index));
        if !walk.any(|(_, address)| leases.occupancy(address) != Occupancy::Held) {
            return Err(exhausted(set));
        }
    }
    Ok(())
}

fn exhausted(set: &RangeSet) -> Error {
    Error::new(Code::TRY_AGAIN, format!("no IP addresses available in range set: {set}"))
}
