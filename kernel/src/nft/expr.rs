//! Expressions: the instructions a rule is made of.

use std::time::Duration;

use super::object::{Data, Family};
use super::value::Verdict;
use super::wire;
use crate::netlink::Message;

/// One of the sixteen registers of four bytes; wider values continue in the next ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Reg(pub u8);

impl Reg {
    /// The register `bytes` further on.
    #[must_use]
    pub fn after(self, bytes: usize) -> Self {
        Reg(self.0.saturating_add(u8::try_from(bytes.div_ceil(4)).unwrap_or(u8::MAX)))
    }

    /// NFT_REG32_00 is 8.
    fn number(self) -> u32 {
        8 + u32::from(self.0)
    }
}

/// What `meta` reads or sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "nft's own words")]
pub enum Meta {
    Priority = 2,
    Mark = 3,
    Iifname = 6,
    Oifname = 7,
    Nfproto = 15,
    L4proto = 16,
}

/// What `ct` reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "nft's own words")]
pub enum Ct {
    State = 0,
    Direction = 1,
    Status = 2,
    Mark = 3,
    /// `ct original proto-dst`: the destination port before any translation.
    OriginalDport = 12,
}

/// Where a payload's offset counts from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the kernel's own words")]
pub enum Header {
    Link = 0,
    Network = 1,
    Transport = 2,
}

/// Equal or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "self-explaining")]
pub enum Cmp {
    Equal = 0,
    NotEqual = 1,
}

/// Which address a `nat` expression changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "nft's own words")]
pub enum Nat {
    Snat = 0,
    Dnat = 1,
}

/// How the packet path changes a dynamic set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Change {
    /// Adds the element if it is absent; one that is there keeps its value and its time.
    Add = 0,
    /// Adds the element if it is absent; one that is there keeps its value and its time begins anew.
    Update = 1,
    /// Deletes the element if it is there.
    Delete = 2,
}

/// How a packet is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reject {
    /// ICMP or ICMPv6 "port unreachable", in a table of family `inet` or `bridge`.
    PortUnreachable,
    /// The same in a table of family `ip`.
    PortUnreachableV4,
    /// The same in a table of family `ip6`.
    PortUnreachableV6,
    /// ICMP or ICMPv6 "administratively prohibited".
    AdminProhibited,
    /// A TCP reset.
    TcpReset,
}

/// One instruction.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Expr {
    /// Loads packet metadata.
    Meta {
        /// What.
        key: Meta,
        /// Where to.
        to: Reg,
    },
    /// Sets packet metadata.
    SetMeta {
        /// What.
        key: Meta,
        /// Where from.
        from: Reg,
    },
    /// Loads bytes of the packet.
    Payload {
        /// What `offset` counts from.
        header: Header,
        /// In bytes.
        offset: u32,
        /// In bytes.
        length: u32,
        /// Where to.
        to: Reg,
    },
    /// Loads a conntrack entry's fact.
    Ct {
        /// What.
        key: Ct,
        /// Where to.
        to: Reg,
    },
    /// Loads the route type (RTN_*) of the packet's destination.
    FibDaddrType {
        /// Where to.
        to: Reg,
    },
    /// Loads the route type (RTN_*) of the packet's source.
    FibSaddrType {
        /// Where to.
        to: Reg,
    },
    /// `numgen random mod modulus`: 0 to `modulus - 1`, each as likely, as a 32 bit number in host order.
    Random {
        /// How many numbers; not 0.
        modulus: u32,
        /// Where to.
        to: Reg,
    },
    /// Changes a dynamic set or map from the packet path.
    Dynamic {
        /// How.
        change: Change,
        /// The set or map.
        set: String,
        /// Where the key begins.
        key: Reg,
        /// Where a map's data begins.
        value: Option<Reg>,
        /// How long the element stays.
        timeout: Option<Duration>,
    },
    /// Goes on only if the comparison holds.
    Compare {
        /// What is compared.
        reg: Reg,
        /// How.
        op: Cmp,
        /// With what.
        with: Vec<u8>,
    },
    /// `(reg & mask) ^ xor`, in place.
    Bitwise {
        /// What is changed.
        reg: Reg,
        /// Bits to keep.
        mask: Vec<u8>,
        /// Bits to flip then; as long as `mask`.
        xor: Vec<u8>,
    },
    /// Goes on only if the key is in the set (or, inverted, not in it); a map's data lands in `to`.
    Lookup {
        /// The set or map.
        set: String,
        /// Where the key begins.
        key: Reg,
        /// Where a map's values go.
        to: Option<Reg>,
        /// Go on when it is absent.
        invert: bool,
    },
    /// Carries out the verdict that the map holds for the key, if any.
    VerdictMap {
        /// The verdict map.
        map: String,
        /// Where the key begins.
        key: Reg,
    },
    /// Loads constant bytes.
    Load {
        /// The bytes.
        bytes: Vec<u8>,
        /// Where to.
        to: Reg,
    },
    /// Ends the rule with a verdict.
    Verdict(Verdict),
    /// Translates an address to what the registers hold.
    Nat {
        /// Which.
        kind: Nat,
        /// `Ip` or `Ip6`.
        family: Family,
        /// The new address.
        addr: Reg,
        /// The new port.
        port: Option<Reg>,
    },
    /// Translates the source to the outgoing interface's address.
    Masquerade,
    /// The same, with source ports that can't be foreseen and are chosen without contention.
    MasqueradeFullyRandom,
    /// Counts packets and bytes.
    Counter,
    /// Refuses the packet.
    Reject(Reject),
    /// A match of iptables, for rules that iptables-nft must be able to read; see [`super::dialect`].
    Xt {
        /// The match's name.
        name: &'static str,
        /// Its revision.
        revision: u32,
        /// Its struct.
        bytes: Vec<u8>,
    },
}

const NFPROTO_IPV4: u32 = 2;
const NFPROTO_IPV6: u32 = 10;
const DREG_VERDICT: u32 = 0;
/// NFT_FIB_RESULT_ADDRTYPE.
const FIB_ADDRTYPE: u32 = 3;
const FIB_SADDR: u32 = 1;
const FIB_DADDR: u32 = 2;

impl Expr {
    /// Appends the expression as a list element.
    pub(super) fn write(&self, message: &mut Message) {
        message.nested(wire::LIST_ELEM, |m| {
            m.text(wire::EXPR_NAME, self.name());
            m.nested(wire::EXPR_DATA, |m| match self {
                Expr::Meta { .. }
                | Expr::Payload { .. }
                | Expr::Ct { .. }
                | Expr::FibDaddrType { .. }
                | Expr::FibSaddrType { .. }
                | Expr::Random { .. }
                | Expr::Load { .. } => {
                    self.write_load(m);
                }
                Expr::Compare { .. }
                | Expr::Bitwise { .. }
                | Expr::Lookup { .. }
                | Expr::VerdictMap { .. } => {
                    self.write_test(m);
                }
                _ => self.write_action(m),
            });
        });
    }

    fn name(&self) -> &'static str {
        match self {
            Expr::Meta { .. } | Expr::SetMeta { .. } => "meta",
            Expr::Payload { .. } => "payload",
            Expr::Ct { .. } => "ct",
            Expr::FibDaddrType { .. } | Expr::FibSaddrType { .. } => "fib",
            Expr::Random { .. } => "numgen",
            Expr::Dynamic { .. } => "dynset",
            Expr::Compare { .. } => "cmp",
            Expr::Bitwise { .. } => "bitwise",
            Expr::Lookup { .. } | Expr::VerdictMap { .. } => "lookup",
            Expr::Load { .. } | Expr::Verdict(_) => "immediate",
            Expr::Nat { .. } => "nat",
            Expr::Masquerade | Expr::MasqueradeFullyRandom => "masq",
            Expr::Counter => "counter",
            Expr::Reject(_) => "reject",
            Expr::Xt { .. } => "match",
        }
    }

    /// Attributes of what fills registers.
    fn write_load(&self, m: &mut Message) {
        match self {
            Expr::Meta { key, to } => {
                m.u32_be(1, to.number()).u32_be(2, *key as u32);
            }
            Expr::Payload { header, offset, length, to } => {
                m.u32_be(1, to.number()).u32_be(2, *header as u32).u32_be(3, *offset).u32_be(4, *length);
            }
            Expr::Ct { key, to } => {
                const DIRECTION_ORIGINAL: u8 = 0;
                m.u32_be(1, to.number()).u32_be(2, *key as u32);
                if *key == Ct::OriginalDport {
                    m.u8(3, DIRECTION_ORIGINAL);
                }
            }
            Expr::FibDaddrType { to } => {
                m.u32_be(1, to.number()).u32_be(2, FIB_ADDRTYPE).u32_be(3, FIB_DADDR);
            }
            Expr::FibSaddrType { to } => {
                m.u32_be(1, to.number()).u32_be(2, FIB_ADDRTYPE).u32_be(3, FIB_SADDR);
            }
            Expr::Random { modulus, to } => {
                const RANDOM: u32 = 1;
                m.u32_be(1, to.number()).u32_be(2, *modulus).u32_be(3, RANDOM).u32_be(4, 0);
            }
            Expr::Load { bytes, to } => {
                m.u32_be(1, to.number()).nested(2, |m| value(m, bytes));
            }
            _ => {}
        }
    }

    /// Attributes of what reads registers and decides.
    fn write_test(&self, m: &mut Message) {
        match self {
            Expr::Compare { reg, op, with } => {
                m.u32_be(1, reg.number()).u32_be(2, *op as u32).nested(3, |m| value(m, with));
            }
            Expr::Bitwise { reg, mask, xor } => {
                let length = u32::try_from(mask.len()).unwrap_or(0);
                m.u32_be(1, reg.number()).u32_be(2, reg.number()).u32_be(3, length);
                m.nested(4, |m| value(m, mask)).nested(5, |m| value(m, xor));
            }
            Expr::Lookup { set, key, to, invert } => {
                m.text(1, set).u32_be(2, key.number());
                if let Some(to) = to {
                    m.u32_be(3, to.number());
                }
                if *invert {
                    m.u32_be(5, 1);
                }
            }
            Expr::VerdictMap { map, key } => {
                m.text(1, map).u32_be(2, key.number()).u32_be(3, DREG_VERDICT);
            }
            _ => {}
        }
    }

    /// Attributes of what acts on the packet.
    fn write_action(&self, m: &mut Message) {
        match self {
            Expr::SetMeta { key, from } => {
                m.u32_be(2, *key as u32).u32_be(3, from.number());
            }
            Expr::Verdict(v) => {
                m.u32_be(1, DREG_VERDICT).nested(2, |m| verdict(m, v));
            }
            Expr::Nat { kind, family, addr, port } => {
                let family = if *family == Family::Ip6 { NFPROTO_IPV6 } else { NFPROTO_IPV4 };
                m.u32_be(1, *kind as u32).u32_be(2, family).u32_be(3, addr.number());
                if let Some(port) = port {
                    m.u32_be(5, port.number());
                }
            }
            Expr::Dynamic { change, set, key, value, timeout } => {
                m.text(1, set).u32_be(3, *change as u32).u32_be(4, key.number());
                if let Some(value) = value {
                    m.u32_be(5, value.number());
                }
                if let Some(timeout) = timeout {
                    m.u64_be(6, u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX));
                }
            }
            Expr::MasqueradeFullyRandom => {
                const RANDOM_FULLY: u32 = 1 << 4;
                m.u32_be(1, RANDOM_FULLY);
            }
            Expr::Counter => {
                m.u64_be(1, 0).u64_be(2, 0);
            }
            Expr::Reject(how) => {
                let (kind, code) = match how {
                    Reject::PortUnreachable => (2, 1),
                    Reject::PortUnreachableV4 => (0, 3),
                    Reject::PortUnreachableV6 => (0, 4),
                    Reject::AdminProhibited => (2, 3),
                    Reject::TcpReset => (1, 0),
                };
                m.u32_be(1, kind).u8(2, code);
            }
            Expr::Xt { name, revision, bytes } => {
                m.text(1, name).u32_be(2, *revision).raw(3, bytes);
            }
            _ => {}
        }
    }
}

/// NFTA_DATA_VALUE.
pub(super) fn value(m: &mut Message, bytes: &[u8]) {
    m.raw(wire::DATA_VALUE, bytes);
}

/// NFTA_DATA_VERDICT.
pub(super) fn verdict(m: &mut Message, verdict: &Verdict) {
    m.nested(wire::DATA_VERDICT, |m| {
        m.u32_be(wire::VERDICT_CODE, verdict.code().cast_unsigned());
        if let Some(chain) = verdict.chain() {
            m.text(wire::VERDICT_CHAIN, chain);
        }
    });
}

/// A map element's data.
pub(super) fn data(m: &mut Message, data: &Data) {
    match data {
        Data::Value(bytes) => value(m, bytes),
        Data::Verdict(v) => verdict(m, v),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::attrs;

    #[test]
    fn an_expression_is_a_name_and_its_attributes() {
        let mut message = Message::new(0, 0, &[]);
        Expr::Lookup { set: "s".into(), key: Reg(0), to: None, invert: true }.write(&mut message);
        let element = attrs(&message.bytes[16..]).find_attr(wire::LIST_ELEM).unwrap();
        assert_eq!(attrs(element).find_attr(wire::EXPR_NAME), Some(&b"lookup\0"[..]));
        let inner = attrs(element).find_attr(wire::EXPR_DATA).unwrap();
        let all: Vec<(u16, Vec<u8>)> = attrs(inner).map(|(k, v)| (k, v.to_vec())).collect();
        assert_eq!(all, [(1, b"s\0".to_vec()), (2, vec![0, 0, 0, 8]), (5, vec![0, 0, 0, 1])]);
    }

    #[test]
    fn wide_values_take_whole_registers() {
        assert_eq!(Reg(0).after(1), Reg(1));
        assert_eq!(Reg(1).after(4), Reg(2));
        assert_eq!(Reg(2).after(16), Reg(6));
    }
}
