//! Rules whose values pass through registers one after the other: a map's data is the next map's key.
//!
//! Two limits shape what can be written. The kernel (6.16 and later) refuses a rule that reads a register which the
//! same rule has not written. And `nft` (1.0.6) dies when it lists a rule that uses a map's data as (part of) another
//! map's key: so data that is to be a key is put into the packet's priority first, and read back from there.

use std::time::Duration;

use super::expr::{Change, Cmp, Expr, Meta, Nat, Reg};
use super::object::Family;
use super::rule::{Field, RTN_LOCAL, Rule};

impl Rule {
    /// Loads fields one after the other, as a concatenation that begins at `to`.
    #[must_use]
    pub fn load_at(mut self, to: Reg, fields: &[Field]) -> Self {
        if let Some(family) = fields.iter().find_map(|f| f.family()) {
            self = self.ask_family(family);
        }
        let mut to = to;
        for field in fields {
            self = self.expr(field.load(to));
            to = to.after(field.kind().width());
        }
        self
    }

    /// Looks up the key at `key` and puts the map's data to `to`; the rule ends where there is none.
    #[must_use]
    pub fn map_at(self, map: &str, key: Reg, to: Reg) -> Self {
        self.expr(Expr::Lookup { set: map.to_owned(), key, to: Some(to), invert: false })
    }

    /// Carries out the verdict that the map holds for the key at `key`.
    #[must_use]
    pub fn verdict_map_at(self, map: &str, key: Reg) -> Self {
        self.expr(Expr::VerdictMap { map: map.to_owned(), key })
    }

    /// `meta protocol ip` or `ip6`: which family a frame carries, in a table of family `netdev`.
    #[must_use]
    pub fn carries(mut self, family: Family) -> Self {
        let ethertype: u16 = if family == Family::Ip6 { 0x86dd } else { 0x0800 };
        self.asked_family = Some(family);
        self.expr(Expr::Meta { key: Meta::Protocol, to: Reg(0) }).expr(Expr::Compare {
            reg: Reg(0),
            op: Cmp::Equal,
            with: ethertype.to_be_bytes().to_vec(),
        })
    }

    /// `fwd ip to field map @map device link`: sends the packet out of the link with that index, to the next hop that
    /// the map holds; where it holds none, the rule ends. In a table of family `netdev`.
    #[must_use]
    pub fn forward_by_map(self, family: Family, field: Field, map: &str, link: u32) -> Self {
        let (device, next) = (Reg(0), Reg(4));
        self.expr(Expr::Load { bytes: link.to_ne_bytes().to_vec(), to: device })
            .load_at(next, &[field])
            .map_at(map, next, next)
            .expr(Expr::Forward { device, next, family })
    }

    /// `reg & mask ^ xor`, a 32 bit number in host order.
    #[must_use]
    pub fn bits_at(self, reg: Reg, mask: u32, xor: u32) -> Self {
        let (mask, xor) = (mask.to_ne_bytes().to_vec(), xor.to_ne_bytes().to_vec());
        self.expr(Expr::Bitwise { reg, mask, xor })
    }

    /// `meta priority set fields map @map`; the rule ends where there is no such element. 32 bits that travel with
    /// the packet from rule to rule: to be set back to 0 by [`Rule::set_priority`] when they have served.
    #[must_use]
    pub fn set_priority_by(self, fields: &[Field], map: &str) -> Self {
        self.load_at(Reg(0), fields).map_at(map, Reg(0), Reg(0)).priority_from(Reg(0))
    }

    /// `meta priority set` to what a register holds.
    #[must_use]
    pub fn priority_from(self, reg: Reg) -> Self {
        self.expr(Expr::SetMeta { key: Meta::Priority, from: reg })
    }

    /// `meta priority set number`
    #[must_use]
    pub fn set_priority(self, number: u32) -> Self {
        let to = Reg(15);
        self.expr(Expr::Load { bytes: number.to_ne_bytes().to_vec(), to }).priority_from(to)
    }

    /// `numgen random mod modulus`
    #[must_use]
    pub fn random_at(self, to: Reg, modulus: u32) -> Self {
        self.expr(Expr::Random { modulus, to })
    }

    /// `add @map { key : value timeout ... }`, or update.
    #[must_use]
    pub fn remember(self, change: Change, map: &str, (key, value): (Reg, Reg), timeout: Duration) -> Self {
        let (set, timeout) = (map.to_owned(), Some(timeout));
        self.expr(Expr::Dynamic { change, set, key, value: Some(value), timeout })
    }

    /// `delete @map { key }`, where `value` holds anything: the kernel asks for a map's data even then.
    #[must_use]
    pub fn forget(self, map: &str, (key, value): (Reg, Reg)) -> Self {
        let set = map.to_owned();
        self.expr(Expr::Dynamic { change: Change::Delete, set, key, value: Some(value), timeout: None })
    }

    /// `dnat to` the address at `addr` and the port behind it.
    #[must_use]
    pub fn dnat_at(self, family: Family, addr: Reg) -> Self {
        let width = if family == Family::Ip6 { 16 } else { 4 };
        self.expr(Expr::Nat { kind: Nat::Dnat, family, addr, port: Some(addr.after(width)) })
    }

    /// `fib saddr type local`: the source is one of this host's addresses.
    #[must_use]
    pub fn from_this_host(self) -> Self {
        self.expr(Expr::FibSaddrType { to: Reg(0) }).expr(Expr::Compare {
            reg: Reg(0),
            op: Cmp::Equal,
            with: RTN_LOCAL.to_ne_bytes().to_vec(),
        })
    }

    /// `iifname "prefix*"`, or `!=`. A packet of a process of this host has no such interface.
    #[must_use]
    pub fn iifname_starts(self, op: Cmp, prefix: &str) -> Self {
        let with = prefix.as_bytes()[..prefix.len().min(15)].to_vec();
        self.expr(Expr::Meta { key: Meta::Iifname, to: Reg(0) }).expr(Expr::Compare { reg: Reg(0), op, with })
    }

    /// `meta mark set meta mark & ~bits`
    #[must_use]
    pub fn clear_mark_bits(self, bits: u32) -> Self {
        self.expr(Field::Mark.load(Reg(0)))
            .bits_at(Reg(0), !bits, 0)
            .expr(Expr::SetMeta { key: Meta::Mark, from: Reg(0) })
    }

    /// `masquerade fully-random`
    #[must_use]
    pub fn masquerade_fully_random(self) -> Self {
        self.expr(Expr::MasqueradeFullyRandom)
    }
}
