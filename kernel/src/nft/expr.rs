//! Expressions: the instructions a rule is made of.

use std::time::Duration;

use super::object::Family;
use super::value::Verdict;

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
    pub(super) fn number(self) -> u32 {
        8 + u32::from(self.0)
    }
}

/// What `meta` reads or sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "nft's own words")]
pub enum Meta {
    Protocol = 1,
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
    /// Sends the packet out of another link, in a table of family `netdev`.
    Forward {
        /// Holds the link's index, as a 32 bit number in host order.
        device: Reg,
        /// Holds the next hop.
        next: Reg,
        /// `Ip` or `Ip6`.
        family: Family,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wide_values_take_whole_registers() {
        assert_eq!(Reg(0).after(1), Reg(1));
        assert_eq!(Reg(1).after(4), Reg(2));
        assert_eq!(Reg(2).after(16), Reg(6));
    }
}
