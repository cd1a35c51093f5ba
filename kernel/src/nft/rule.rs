//! Rules, written the way they read: `Rule::new().in_set(&[Field::Saddr(Family::Ip)], "pods").masquerade()`.

use std::net::IpAddr;

use ipnetwork::IpNetwork;

use super::expr::{Cmp, Ct, Expr, Header, Meta, Nat, Reg, Reject};
use super::object::Family;
use super::value::{Type, Value, Verdict, key};

pub(super) const RTN_LOCAL: u32 = 2;

/// Something a packet has, that a rule can match or use as (part of) a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Field {
    /// `iifname`
    Iifname,
    /// `oifname`
    Oifname,
    /// `meta mark`
    Mark,
    /// `meta priority`
    Priority,
    /// `meta l4proto`
    L4proto,
    /// `ip saddr` or `ip6 saddr`
    Saddr(Family),
    /// `ip daddr` or `ip6 daddr`
    Daddr(Family),
    /// `ether saddr`
    EtherSaddr,
    /// `th sport`; needs a match on the protocol beside it.
    Sport,
    /// `th dport`; needs a match on the protocol beside it.
    Dport,
    /// `ct original proto-dst`: the destination port before any translation.
    OriginalDport,
}

impl Field {
    /// The type of set keys it is compared with.
    pub fn kind(self) -> Type {
        match self {
            Field::Iifname | Field::Oifname => Type::IfName,
            Field::Mark => Type::Mark,
            Field::Priority => Type::ClassId,
            Field::L4proto => Type::Proto,
            Field::Saddr(Family::Ip6) | Field::Daddr(Family::Ip6) => Type::Ipv6,
            Field::Saddr(_) | Field::Daddr(_) => Type::Ipv4,
            Field::EtherSaddr => Type::Mac,
            Field::Sport | Field::Dport | Field::OriginalDport => Type::Port,
        }
    }

    /// Whether it lies in an IP header of one family: `inet` and `bridge` rules must ask for the family first.
    pub(super) fn family(self) -> Option<Family> {
        match self {
            Field::Saddr(family) | Field::Daddr(family) => Some(family),
            _ => None,
        }
    }

    pub(super) fn load(self, to: Reg) -> Expr {
        let payload = |header, offset, length| Expr::Payload { header, offset, length, to };
        match self {
            Field::Iifname => Expr::Meta { key: Meta::Iifname, to },
            Field::Oifname => Expr::Meta { key: Meta::Oifname, to },
            Field::Mark => Expr::Meta { key: Meta::Mark, to },
            Field::Priority => Expr::Meta { key: Meta::Priority, to },
            Field::L4proto => Expr::Meta { key: Meta::L4proto, to },
            Field::Saddr(Family::Ip6) => payload(Header::Network, 8, 16),
            Field::Daddr(Family::Ip6) => payload(Header::Network, 24, 16),
            Field::Saddr(_) => payload(Header::Network, 12, 4),
            Field::Daddr(_) => payload(Header::Network, 16, 4),
            Field::EtherSaddr => payload(Header::Link, 6, 6),
            Field::Sport => payload(Header::Transport, 0, 2),
            Field::Dport => payload(Header::Transport, 2, 2),
            Field::OriginalDport => Expr::Ct { key: Ct::OriginalDport, to },
        }
    }
}

/// A rule under construction; each method adds one statement and returns the rule.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Rule {
    /// The instructions.
    pub exprs: Vec<Expr>,
    /// Empty for none. At most 128 bytes reach the kernel.
    pub comment: String,
    pub(super) asked_family: Option<Family>,
}

impl Rule {
    /// An empty rule.
    pub fn new() -> Self {
        Self::default()
    }

    /// A rule for a table of family `ip` or `ip6`, where asking for the address family would be idle.
    pub fn in_family(family: Family) -> Self {
        Rule { asked_family: Some(family), ..Self::default() }
    }

    /// Any instruction.
    #[must_use]
    pub fn expr(mut self, expr: Expr) -> Self {
        self.exprs.push(expr);
        self
    }

    /// The owner's words.
    #[must_use]
    pub fn comment(mut self, comment: impl Into<String>) -> Self {
        self.comment = comment.into();
        self
    }

    /// `field == value`
    #[must_use]
    pub fn is(self, field: Field, value: Value<'_>) -> Self {
        self.compare(field, Cmp::Equal, value)
    }

    /// `field != value`
    #[must_use]
    pub fn is_not(self, field: Field, value: Value<'_>) -> Self {
        self.compare(field, Cmp::NotEqual, value)
    }

    /// `field` lies in `prefix`: `ip daddr 10.1.0.0/16`.
    #[must_use]
    pub fn within(self, field: Field, prefix: IpNetwork) -> Self {
        self.compare_prefix(field, Cmp::Equal, prefix)
    }

    /// `field` lies outside `prefix`: `ip daddr != 10.1.0.0/16`.
    #[must_use]
    pub fn outside(self, field: Field, prefix: IpNetwork) -> Self {
        self.compare_prefix(field, Cmp::NotEqual, prefix)
    }

    /// The concatenated fields are an element of `set`.
    #[must_use]
    pub fn in_set(self, fields: &[Field], set: &str) -> Self {
        self.lookup(fields, set, None, false)
    }

    /// The concatenated fields are no element of `set`.
    #[must_use]
    pub fn not_in_set(self, fields: &[Field], set: &str) -> Self {
        self.lookup(fields, set, None, true)
    }

    /// `fields vmap @map`: carries out the map's verdict, goes on where there is none.
    #[must_use]
    pub fn verdict_map(self, fields: &[Field], map: &str) -> Self {
        self.load(fields).expr(Expr::VerdictMap { map: map.to_owned(), key: Reg(0) })
    }

    /// `dnat to fields map @map`, the map holding an address, and a port after it unless `Ports::Kept`.
    #[must_use]
    pub fn dnat_by_map(self, family: Family, fields: &[Field], map: &str, ports: Ports) -> Self {
        let width = if family == Family::Ip6 { 16 } else { 4 };
        let port = (ports == Ports::Mapped).then(|| Reg(0).after(width));
        self.lookup(fields, map, Some(Reg(0)), false).expr(Expr::Nat {
            kind: Nat::Dnat,
            family,
            addr: Reg(0),
            port,
        })
    }

    /// `dnat to address:port`
    #[must_use]
    pub fn dnat(self, address: IpAddr, port: Option<u16>) -> Self {
        let to = Reg(0).after(key(&[address.into()]).len());
        let rule = self
            .ask_family(Family::of_ip(address))
            .expr(Expr::Load { bytes: key(&[address.into()]), to: Reg(0) });
        let rule = match port {
            Some(port) => rule.expr(Expr::Load { bytes: port.to_be_bytes().to_vec(), to }),
            None => rule,
        };
        rule.expr(Expr::Nat {
            kind: Nat::Dnat,
            family: Family::of_ip(address),
            addr: Reg(0),
            port: port.map(|_| to),
        })
    }

    /// `meta mark & bits == bits`
    #[must_use]
    pub fn has_mark_bits(self, bits: u32) -> Self {
        let bytes = bits.to_ne_bytes().to_vec();
        self.expr(Field::Mark.load(Reg(0)))
            .expr(Expr::Bitwise { reg: Reg(0), mask: bytes.clone(), xor: vec![0; 4] })
            .expr(Expr::Compare { reg: Reg(0), op: Cmp::Equal, with: bytes })
    }

    /// `meta mark set meta mark | bits`
    #[must_use]
    pub fn set_mark_bits(self, bits: u32) -> Self {
        self.expr(Field::Mark.load(Reg(0)))
            .expr(Expr::Bitwise {
                reg: Reg(0),
                mask: (!bits).to_ne_bytes().to_vec(),
                xor: bits.to_ne_bytes().to_vec(),
            })
            .expr(Expr::SetMeta { key: Meta::Mark, from: Reg(0) })
    }

    /// `ct state established,related`
    #[must_use]
    pub fn ct_established_or_related(self) -> Self {
        const ESTABLISHED_OR_RELATED: u32 = 2 | 4;
        self.ct_bits(Ct::State, ESTABLISHED_OR_RELATED)
    }

    /// `ct state invalid`
    #[must_use]
    pub fn ct_invalid(self) -> Self {
        self.ct_bits(Ct::State, 1)
    }

    /// `ct status dnat`
    #[must_use]
    pub fn ct_dnat(self) -> Self {
        const STATUS_DNAT: u32 = 1 << 5;
        self.ct_bits(Ct::Status, STATUS_DNAT)
    }

    /// `fib daddr type local`: the destination is one of this host's addresses.
    #[must_use]
    pub fn to_this_host(self) -> Self {
        self.expr(Expr::FibDaddrType { to: Reg(0) }).expr(Expr::Compare {
            reg: Reg(0),
            op: Cmp::Equal,
            with: RTN_LOCAL.to_ne_bytes().to_vec(),
        })
    }

    /// Ends with a verdict.
    #[must_use]
    pub fn verdict(self, verdict: Verdict) -> Self {
        self.expr(Expr::Verdict(verdict))
    }

    /// `accept`
    #[must_use]
    pub fn accept(self) -> Self {
        self.verdict(Verdict::Accept)
    }

    /// `drop`
    #[must_use]
    pub fn drop(self) -> Self {
        self.verdict(Verdict::Drop)
    }

    /// `return`
    #[must_use]
    pub fn returns(self) -> Self {
        self.verdict(Verdict::Return)
    }

    /// `jump chain`
    #[must_use]
    pub fn jump(self, chain: &str) -> Self {
        self.verdict(Verdict::Jump(chain.to_owned()))
    }

    /// `goto chain`
    #[must_use]
    pub fn goto(self, chain: &str) -> Self {
        self.verdict(Verdict::Goto(chain.to_owned()))
    }

    /// `masquerade`
    #[must_use]
    pub fn masquerade(self) -> Self {
        self.expr(Expr::Masquerade)
    }

    /// `counter`
    #[must_use]
    pub fn counter(self) -> Self {
        self.expr(Expr::Counter)
    }

    /// `reject`
    #[must_use]
    pub fn reject(self, how: Reject) -> Self {
        self.expr(Expr::Reject(how))
    }

    /// `meta nfproto ipv4` or `ipv6`, once per rule; needed in `inet` before anything of that family.
    #[must_use]
    pub fn ask_family(mut self, family: Family) -> Self {
        if self.asked_family == Some(family) {
            return self;
        }
        self.asked_family = Some(family);
        self.expr(Expr::Meta { key: Meta::Nfproto, to: Reg(0) }).expr(Expr::Compare {
            reg: Reg(0),
            op: Cmp::Equal,
            with: vec![if family == Family::Ip6 { 10 } else { 2 }],
        })
    }

    fn load(self, fields: &[Field]) -> Self {
        self.load_at(Reg(0), fields)
    }

    fn lookup(self, fields: &[Field], set: &str, to: Option<Reg>, invert: bool) -> Self {
        self.load(fields).expr(Expr::Lookup { set: set.to_owned(), key: Reg(0), to, invert })
    }

    fn compare(self, field: Field, op: Cmp, value: Value<'_>) -> Self {
        self.load(&[field]).expr(Expr::Compare { reg: Reg(0), op, with: value.bytes() })
    }

    fn compare_prefix(self, field: Field, op: Cmp, prefix: IpNetwork) -> Self {
        let network = key(&[prefix.network().into()]);
        if usize::from(prefix.prefix()) == network.len() * 8 {
            return self.compare(field, op, prefix.ip().into());
        }
        let mask = key(&[prefix.mask().into()]);
        let xor = vec![0; mask.len()];
        self.load(&[field]).expr(Expr::Bitwise { reg: Reg(0), mask, xor }).expr(Expr::Compare {
            reg: Reg(0),
            op,
            with: network,
        })
    }

    fn ct_bits(self, what: Ct, bits: u32) -> Self {
        self.expr(Expr::Ct { key: what, to: Reg(0) })
            .expr(Expr::Bitwise { reg: Reg(0), mask: bits.to_ne_bytes().to_vec(), xor: vec![0; 4] })
            .expr(Expr::Compare { reg: Reg(0), op: Cmp::NotEqual, with: vec![0; 4] })
    }
}

/// Whether a DNAT map changes the port too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Ports {
    /// The map's data is address and port.
    Mapped,
    /// The map's data is an address.
    Kept,
}
