//! Rules in iptables-nft's own words: what `iptables` would have made of the same rule, so that `iptables-save` shows
//! it and `iptables -D` finds it. Anything else in its tables makes `iptables` refuse to list them.

use std::net::IpAddr;

use ipnetwork::IpNetwork;

use super::batch::request;
use super::expr::{Expr, Header};
use super::object::{Family, Table};
use super::rule::{Field, Rule};
use super::value::Verdict;
use super::wire;
use crate::Result;
use crate::netlink::attr::{ip, text, u32_be, u64_be};
use crate::netlink::{Message, Op, Socket, attrs};

/// NF_INET_FORWARD.
const HOOK_FORWARD: u32 = 2;
const FAMILY_HEADER: usize = 4;
/// `sizeof(struct xt_comment_info)`.
const COMMENT_SIZE: usize = 256;
/// `sizeof(struct xt_conntrack_mtinfo3)`, aligned as xtables wants it.
const CONNTRACK_SIZE: usize = 168;
const DREG_VERDICT: u32 = 0;
/// Tables without a forward chain of an administrator's, which may hold many thousand others.
const KNOWN: [&str; 8] = [
    "nat",
    "mangle",
    "raw",
    "security",
    "kube-proxy",
    "bowline_hostport",
    "bowline_firewall",
    "bowline_node",
];

/// `-s ip -j ACCEPT`
pub fn accept_from(source: IpAddr) -> Rule {
    let family = Family::of_ip(source);
    Rule::in_family(family).is(Field::Saddr(family), source.into()).counter().accept()
}

/// `-d ip -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT`
pub fn accept_answers_to(destination: IpAddr) -> Rule {
    let family = Family::of_ip(destination);
    let rule = Rule::in_family(family).is(Field::Daddr(family), destination.into());
    rule.expr(conntrack_established_or_related()).counter().accept()
}

/// `-s network -m comment --comment "comment" -j ACCEPT`
pub fn accept_from_network(source: IpNetwork, comment: &str) -> Rule {
    let family = Family::of_ip(source.ip());
    Rule::in_family(family).within(Field::Saddr(family), source).counter().accept().comment(comment)
}

/// `-d network -m comment --comment "comment" -j ACCEPT`
pub fn accept_to_network(destination: IpNetwork, comment: &str) -> Rule {
    let family = Family::of_ip(destination.ip());
    Rule::in_family(family).within(Field::Daddr(family), destination).counter().accept().comment(comment)
}

/// `-m comment --comment "comment" -j chain`
pub fn jump(chain: &str, comment: &str) -> Rule {
    let mut bytes = comment.as_bytes()[..comment.len().min(COMMENT_SIZE - 1)].to_vec();
    bytes.resize(COMMENT_SIZE, 0);
    Rule::new().expr(Expr::Xt { name: "comment", revision: 0, bytes }).counter().jump(chain)
}

/// The match's struct is all zero but for the flag that says which test is meant, and the states of that test.
fn conntrack_established_or_related() -> Expr {
    const MATCH_FLAGS_AT: usize = 146;
    const STATE_MASK_AT: usize = 150;
    const TEST_STATE: u16 = 1;
    const ESTABLISHED: u16 = 1 << 1;
    const RELATED: u16 = 1 << 2;
    let mut bytes = vec![0; CONNTRACK_SIZE];
    bytes[MATCH_FLAGS_AT..MATCH_FLAGS_AT + 2].copy_from_slice(&TEST_STATE.to_ne_bytes());
    bytes[STATE_MASK_AT..STATE_MASK_AT + 2].copy_from_slice(&(ESTABLISHED | RELATED).to_ne_bytes());
    Expr::Xt { name: "conntrack", revision: 3, bytes }
}

/// What a rule of iptables-nft, or a plain one of nft, asks for; as much as is needed to know one's own again.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reading {
    /// For [`super::Batch::delete_rule`].
    pub handle: u64,
    /// `-s`, a single address.
    pub source: Option<IpAddr>,
    /// `-d`, a single address.
    pub destination: Option<IpAddr>,
    /// The names of its matches, and of expressions that aren't understood.
    pub matches: Vec<String>,
    /// Its end, if it is a verdict.
    pub verdict: Option<Verdict>,
}

impl Reading {
    /// Whether it is [`accept_from`] this address.
    pub fn accepts_from(&self, ip: IpAddr) -> bool {
        self.source == Some(ip)
            && self.destination.is_none()
            && self.matches.is_empty()
            && self.verdict == Some(Verdict::Accept)
    }

    /// Whether it is [`accept_answers_to`] this address.
    pub fn accepts_answers_to(&self, ip: IpAddr) -> bool {
        self.destination == Some(ip)
            && self.source.is_none()
            && self.matches == ["conntrack"]
            && self.verdict == Some(Verdict::Accept)
    }

    /// Whether packets may end at it, refused.
    pub fn refuses(&self) -> bool {
        let rejects = |name: &String| matches!(name.as_str(), "reject" | "REJECT" | "DROP");
        self.verdict == Some(Verdict::Drop) || self.matches.iter().any(rejects)
    }

    /// The chain that it jumps to; none when it does something else.
    pub fn target(&self) -> Option<&str> {
        match &self.verdict {
            Some(Verdict::Jump(target)) => Some(target),
            _ => None,
        }
    }

    /// Whether it jumps to `chain`.
    pub fn jumps_to(&self, chain: &str) -> bool {
        self.target() == Some(chain)
    }
}

/// The rules of a chain, in order; empty when there is no such chain.
pub fn read_rules(socket: &mut Socket, table: &Table<'_>, chain: &str) -> Result<Vec<Reading>> {
    let mut message = request(wire::MSG_GETRULE, 0, table.family);
    message.text(wire::RULE_TABLE, table.name).text(wire::RULE_CHAIN, chain);
    let op = Op::new(format!("list the rules of {table} {chain}"), message).or_absent();
    let replies = socket.dump(&op)?;
    let of_chain = |bytes: &[u8]| {
        let a = attrs(bytes);
        a.find_attr(wire::RULE_TABLE).map(text).as_deref() == Some(table.name)
            && a.find_attr(wire::RULE_CHAIN).map(text).as_deref() == Some(chain)
    };
    let bodies = replies.iter().filter_map(|reply| reply.payload.get(FAMILY_HEADER..));
    Ok(bodies.filter(|body| of_chain(body)).filter_map(read_rule).collect())
}

fn read_rule(bytes: &[u8]) -> Option<Reading> {
    let a = attrs(bytes);
    let mut reading =
        Reading { handle: a.find_attr(wire::RULE_HANDLE).and_then(u64_be)?, ..Reading::default() };
    let mut loaded = None;
    for (_, item) in attrs(a.find_attr(wire::RULE_EXPRESSIONS).unwrap_or(&[])) {
        let expr = attrs(item);
        let name = expr.find_attr(wire::EXPR_NAME).map(text).unwrap_or_default();
        let data = attrs(expr.find_attr(wire::EXPR_DATA).unwrap_or(&[]));
        match name.as_str() {
            "counter" => {}
            "payload" => {
                let of_network = data.find_attr(2).and_then(u32_be) == Some(Header::Network as u32);
                loaded = data.find_attr(3).and_then(u32_be).filter(|_| of_network);
            }
            "cmp" => {
                let value = data.find_attr(3).and_then(|d| attrs(d).find_attr(wire::DATA_VALUE)).and_then(ip);
                let equal = data.find_attr(2).and_then(u32_be) == Some(0);
                match (loaded.take(), value, equal) {
                    (Some(12 | 8), Some(ip), true) => reading.source = Some(ip),
                    (Some(16 | 24), Some(ip), true) => reading.destination = Some(ip),
                    _ => reading.matches.push(name),
                }
            }
            "immediate" if data.find_attr(1).and_then(u32_be) == Some(DREG_VERDICT) => {
                reading.verdict = data.find_attr(2).and_then(super::observe::read_verdict);
            }
            "match" | "target" => reading.matches.push(data.find_attr(1).map(text).unwrap_or_default()),
            _ => reading.matches.push(name),
        }
    }
    // A comment is no condition.
    reading.matches.retain(|name| name != "comment");
    Some(reading)
}

/// A base chain that filters forwarded packets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForwardChain {
    /// Its table's family.
    pub family: Family,
    /// Its table.
    pub table: String,
    /// Its name.
    pub chain: String,
    /// Whether its policy is to drop.
    pub drops_by_policy: bool,
}

impl ForwardChain {
    /// Whether forwarded packets may end here: by its policy, or by a rule of its table that drops or rejects.
    pub fn may_drop(&self, socket: &mut Socket) -> Result<bool> {
        if self.drops_by_policy {
            return Ok(true);
        }
        let mut message = request(wire::MSG_GETRULE, 0, self.family);
        message.text(wire::RULE_TABLE, &self.table);
        let table = Table::new(self.family, &self.table);
        let replies = socket.dump(&Op::new(format!("list the rules of {table}"), message).or_absent())?;
        let of_table = |bytes: &[u8]| {
            attrs(bytes).find_attr(wire::RULE_TABLE).map(text).as_deref() == Some(self.table.as_str())
        };
        let bodies = replies.iter().filter_map(|reply| reply.payload.get(FAMILY_HEADER..));
        Ok(bodies.filter(|body| of_table(body)).filter_map(read_rule).any(|rule| rule.refuses()))
    }
}

/// The chain called `chain`, if it filters forwarded packets.
pub fn forward_chain(socket: &mut Socket, table: &Table<'_>, chain: &str) -> Result<Option<ForwardChain>> {
    let mut message = request(wire::MSG_GETCHAIN, 0, table.family);
    message.text(wire::CHAIN_TABLE, table.name).text(wire::CHAIN_NAME, chain);
    let op = Op::new(format!("look at chain {table} {chain}"), message).or_absent();
    let replies = socket.request(&op)?;
    let mut bodies = replies.iter().filter_map(|reply| reply.payload.get(FAMILY_HEADER..));
    Ok(bodies.find_map(|body| read_forward_chain(table.family, body)))
}

/// All chains of `family` that filter forwarded packets. Lists all chains of the family.
pub fn list_forward_chains(socket: &mut Socket, family: Family) -> Result<Vec<ForwardChain>> {
    let message: Message = request(wire::MSG_GETCHAIN, 0, family);
    let replies = socket.dump(&Op::new(format!("list {family} chains"), message))?;
    let bodies = replies.iter().filter_map(|reply| reply.payload.get(FAMILY_HEADER..));
    Ok(bodies.filter_map(|body| read_forward_chain(family, body)).collect())
}

/// The chains that filter forwarded packets in tables that are neither iptables' nor known to have none of an
/// administrator's, nor `spared`.
pub fn list_other_forward_chains(socket: &mut Socket, spared: &[&str]) -> Result<Vec<ForwardChain>> {
    let mut chains = Vec::new();
    for family in [Family::Inet, Family::Ip, Family::Ip6] {
        let is_other = |name: &String| {
            !KNOWN.contains(&name.as_str())
                && !spared.contains(&name.as_str())
                && (family == Family::Inet || name != "filter")
        };
        if super::observe::list_tables(socket, family)?.iter().any(is_other) {
            let all = list_forward_chains(socket, family)?;
            chains.extend(all.into_iter().filter(|chain| is_other(&chain.table)));
        }
    }
    Ok(chains)
}

fn read_forward_chain(family: Family, bytes: &[u8]) -> Option<ForwardChain> {
    const NF_DROP: u32 = 0;
    let a = attrs(bytes);
    let hook = attrs(a.find_attr(wire::CHAIN_HOOK)?).find_attr(wire::HOOK_HOOKNUM).and_then(u32_be)?;
    let policy = a.find_attr(wire::CHAIN_POLICY).and_then(u32_be)?;
    let is_filter = a.find_attr(wire::CHAIN_TYPE).map(text).as_deref() == Some("filter");
    (hook == HOOK_FORWARD && is_filter).then_some(())?;
    Some(ForwardChain {
        family,
        table: a.find_attr(wire::CHAIN_TABLE).map(text)?,
        chain: a.find_attr(wire::CHAIN_NAME).map(text)?,
        drops_by_policy: policy == NF_DROP,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn message_of(rule: &Rule) -> Vec<u8> {
        let mut message = Message::new(0, 0, &[]);
        message.u64_be(wire::RULE_HANDLE, 7);
        message.nested(wire::RULE_EXPRESSIONS, |m| rule.exprs.iter().for_each(|expr| expr.write(m)));
        message.bytes[16..].to_vec()
    }

    #[test]
    fn a_rule_is_known_again() {
        for ip in ["10.1.0.2", "fd00::2"].map(|text| text.parse().expect("an address")) {
            let from = read_rule(&message_of(&accept_from(ip))).expect("a rule");
            assert!(from.accepts_from(ip) && !from.accepts_answers_to(ip), "{from:?}");
            let to = read_rule(&message_of(&accept_answers_to(ip))).expect("a rule");
            assert!(to.accepts_answers_to(ip) && !to.accepts_from(ip), "{to:?}");
            let entry = read_rule(&message_of(&jump("CNI-FORWARD", "why"))).expect("a rule");
            assert!(entry.jumps_to("CNI-FORWARD") && !entry.jumps_to("CNI"), "{entry:?}");
            let other = accept_from(ip).expr(Expr::Masquerade);
            assert!(!read_rule(&message_of(&other)).expect("a rule").accepts_from(ip));
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_from_the_kernel_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            read_rule(&bytes);
            read_forward_chain(Family::Ip, &bytes);
        }

        #[test]
        fn a_crooked_rule_never_panics(at in 0usize..400, byte in any::<u8>(), cut in 0usize..600) {
            let mut bytes = message_of(&accept_answers_to("fd00::2".parse().expect("an address")));
            let at = at % bytes.len();
            bytes[at] = byte;
            bytes.truncate(cut);
            read_rule(&bytes);
        }
    }
}
