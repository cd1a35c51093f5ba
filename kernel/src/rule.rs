//! Routing policy rules.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;

use crate::Result;
use crate::addr::family;
use crate::netlink::attr::{attrs, ip, text, u32_ne};
use crate::netlink::{Message, Op, Reply, Socket};

const FRA_DST: u16 = 1;
const FRA_SRC: u16 = 2;
const FRA_IIFNAME: u16 = 3;
const FRA_PRIORITY: u16 = 6;
const FRA_FWMARK: u16 = 10;
const FRA_TABLE: u16 = 15;
const FRA_FWMASK: u16 = 16;
const FRA_PROTOCOL: u16 = 21;
const FR_ACT_TO_TBL: u8 = 1;

/// A rule that sends what it matches to a table, wanted or observed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// AF_INET or AF_INET6.
    pub family: u8,
    /// Source; `None` matches all.
    pub src: Option<IpNetwork>,
    /// Destination; `None` matches all.
    pub dst: Option<IpNetwork>,
    /// Incoming link; empty matches all.
    pub iif: String,
    /// Mark and mask.
    pub mark: Option<(u32, u32)>,
    /// Preference; `None` lets the kernel choose one below the lowest.
    pub priority: Option<u32>,
    /// Table looked up.
    pub table: u32,
    /// FR_ACT_* number.
    pub action: u8,
    /// RTPROT_* number: who made it; 0 is nobody in particular.
    pub protocol: u8,
}

impl Rule {
    /// `from <src> lookup <table>`.
    pub fn from_source(src: IpNetwork, table: u32) -> Self {
        Rule {
            family: family(src.ip()),
            src: Some(src),
            dst: None,
            iif: String::new(),
            mark: None,
            priority: None,
            table,
            action: FR_ACT_TO_TBL,
            protocol: libc::RTPROT_UNSPEC,
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.src {
            Some(src) => write!(f, "from {src} lookup {}", self.table),
            None => write!(f, "from all lookup {}", self.table),
        }
    }
}

/// Adds a rule; EEXIST when it is there.
pub fn add(rule: &Rule) -> Op {
    let flags = libc::NLM_F_CREATE | libc::NLM_F_EXCL;
    Op::new(format!("add rule {rule}"), message(libc::RTM_NEWRULE, flags, rule))
}

/// Deletes the first rule that matches.
pub fn delete(rule: &Rule) -> Op {
    Op::new(format!("delete rule {rule}"), message(libc::RTM_DELRULE, 0, rule))
}

/// Every rule of both families.
pub fn list(socket: &mut Socket) -> Result<Vec<Rule>> {
    let mut rules = Vec::new();
    for family in [libc::AF_INET, libc::AF_INET6] {
        let mut header = [0; 12];
        header[0] = u8::try_from(family).unwrap_or(0);
        let message = Message::new(libc::RTM_GETRULE, 0, &header);
        match socket.dump(&Op::new("list rules", message)) {
            Ok(replies) => rules.extend(replies.iter().filter_map(Rule::parse)),
            Err(error) if error.errno().is_some_and(|e| e.0 == libc::EAFNOSUPPORT) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(rules)
}

/// struct fib_rule_hdr.
fn message(kind: u16, flags: i32, rule: &Rule) -> Message {
    let mut header = [0; 12];
    header[0] = rule.family;
    header[1] = rule.dst.map_or(0, |dst| dst.prefix());
    header[2] = rule.src.map_or(0, |src| src.prefix());
    header[4] = u8::try_from(rule.table).unwrap_or(libc::RT_TABLE_UNSPEC);
    header[7] = rule.action;
    let mut m = Message::new(kind, flags, &header);
    if let Some(src) = rule.src {
        m.ip(FRA_SRC, src.network());
    }
    if let Some(dst) = rule.dst {
        m.ip(FRA_DST, dst.network());
    }
    if !rule.iif.is_empty() {
        m.text(FRA_IIFNAME, &rule.iif);
    }
    if let Some((mark, mask)) = rule.mark {
        m.u32(FRA_FWMARK, mark).u32(FRA_FWMASK, mask);
    }
    if let Some(priority) = rule.priority {
        m.u32(FRA_PRIORITY, priority);
    }
    m.u32(FRA_TABLE, rule.table);
    if rule.protocol != libc::RTPROT_UNSPEC {
        m.u8(FRA_PROTOCOL, rule.protocol);
    }
    m
}

impl Rule {
    /// Reads an RTM_NEWRULE or RTM_DELRULE message; `None` for any other, and for crooked ones.
    pub fn parse(reply: &Reply) -> Option<Rule> {
        if reply.kind != libc::RTM_NEWRULE && reply.kind != libc::RTM_DELRULE {
            return None;
        }
        let head = reply.payload.get(..12)?;
        let of = attrs(reply.payload.get(12..)?);
        let any = match i32::from(head[0]) {
            libc::AF_INET => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            libc::AF_INET6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
            _ => return None,
        };
        let network = |kind, prefix: u8| match (of.find_attr(kind).and_then(ip), prefix) {
            (None, 0) => None,
            (address, prefix) => IpNetwork::new(address.unwrap_or(any), prefix).ok(),
        };
        let number = |kind| of.find_attr(kind).and_then(u32_ne);
        Some(Rule {
            family: head[0],
            src: network(FRA_SRC, head[2]),
            dst: network(FRA_DST, head[1]),
            iif: of.find_attr(FRA_IIFNAME).map(text).unwrap_or_default(),
            mark: number(FRA_FWMARK).map(|mark| (mark, number(FRA_FWMASK).unwrap_or(u32::MAX))),
            priority: number(FRA_PRIORITY),
            table: number(FRA_TABLE).unwrap_or(u32::from(head[4])),
            action: head[7],
            protocol: of.find_attr(FRA_PROTOCOL).and_then(|b| b.first().copied()).unwrap_or(0),
        })
    }
}
