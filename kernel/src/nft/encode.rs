//! Expressions as netlink attributes.

use super::expr::{Ct, Expr, Reject};
use super::object::{Data, Family};
use super::value::Verdict;
use super::wire;
use crate::netlink::Message;

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
            Expr::Forward { .. } => "fwd",
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
                m.u32_be(1, *kind as u32).u32_be(2, protocol(*family)).u32_be(3, addr.number());
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
            Expr::Forward { device, next, family } => {
                m.u32_be(1, device.number()).u32_be(2, next.number()).u32_be(3, protocol(*family));
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

/// NFPROTO_* of an address.
fn protocol(family: Family) -> u32 {
    if family == Family::Ip6 { NFPROTO_IPV6 } else { NFPROTO_IPV4 }
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
    use super::super::expr::Reg;
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
}
