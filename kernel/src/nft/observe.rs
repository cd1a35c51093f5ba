//! Reading what the kernel holds. Bytes from the kernel are never trusted to be well formed.

use std::collections::HashSet;

use super::batch::{element_request, request, write_element};
use super::object::{Data, Element, End, Family, Table};
use super::value::Verdict;
use super::wire;
use crate::netlink::attr::{text, u32_be, u64_be};
use crate::netlink::{Message, Op, Reply, Socket, attrs};
use crate::{Error, Result};

/// Bytes of the nfgenmsg before the attributes of a reply.
const FAMILY_HEADER: usize = 4;
/// How often a set is listed at most, if each listing has an element twice.
const LISTINGS: usize = 10;

/// A rule as the kernel lists it: what is needed to recognise and to delete it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleInfo {
    /// Its handle, for [`super::Batch::delete_rule`].
    pub handle: u64,
    /// Its chain.
    pub chain: String,
    /// Its comment, empty when it has none.
    pub comment: String,
    /// The chain it jumps or goes to.
    pub target: Option<String>,
}

/// Says whether nf_tables can be used at all, with one clear sentence if not.
///
/// # Errors
/// When the kernel has no nf_tables or the process lacks CAP_NET_ADMIN.
pub fn probe(socket: &mut Socket) -> Result<()> {
    match generation(socket) {
        Ok(_) => Ok(()),
        Err(Error::Kernel { errno, hint, .. }) => {
            Err(Error::Kernel { doing: "use nf_tables of this kernel".into(), errno, hint })
        }
        Err(other) => Err(other),
    }
}

/// Whether this kernel has nf_tables at all.
///
/// # Errors
/// When that can't be found out, for lack of privilege for instance.
pub fn is_supported(socket: &mut Socket) -> Result<bool> {
    match generation(socket) {
        Ok(_) => Ok(true),
        Err(Error::Kernel { errno, .. })
            if matches!(errno.0, libc::EINVAL | libc::EOPNOTSUPP | libc::EPROTONOSUPPORT) =>
        {
            Ok(false)
        }
        Err(other) => Err(other),
    }
}

/// The ruleset's generation: it changes with every committed batch of anybody in this network namespace.
pub fn generation(socket: &mut Socket) -> Result<u32> {
    let op = Op::new("read the nf_tables generation", request(wire::MSG_GETGEN, 0, Family::Inet));
    let replies = socket.request(&op)?;
    replies
        .iter()
        .find_map(|reply| attrs(body(reply)).find_attr(wire::GEN_ID).and_then(u32_be))
        .ok_or(Error::Malformed { doing: op.doing, why: "no generation in the answer" })
}

/// Whether a batch was refused because the ruleset changed since the generation it was guarded with: look again.
pub fn is_outdated(error: &Error) -> bool {
    error.errno().is_some_and(|errno| errno.0 == libc::ERESTART)
}

/// Whether the table exists.
pub fn table_exists(socket: &mut Socket, table: &Table<'_>) -> Result<bool> {
    let mut message = request(wire::MSG_GETTABLE, 0, table.family);
    message.text(wire::TABLE_NAME, table.name);
    exists(socket, format!("look for table {table}"), message)
}

/// Whether the chain exists.
pub fn chain_exists(socket: &mut Socket, table: &Table<'_>, chain: &str) -> Result<bool> {
    let mut message = request(wire::MSG_GETCHAIN, 0, table.family);
    message.text(wire::CHAIN_TABLE, table.name).text(wire::CHAIN_NAME, chain);
    exists(socket, format!("look for chain {table} {chain}"), message)
}

/// Whether the set or map exists.
pub fn set_exists(socket: &mut Socket, table: &Table<'_>, set: &str) -> Result<bool> {
    let mut message = request(wire::MSG_GETSET, 0, table.family);
    message.text(wire::SET_TABLE, table.name).text(wire::SET_NAME, set);
    exists(socket, format!("look for set {table} {set}"), message)
}

fn exists(socket: &mut Socket, doing: String, message: Message) -> Result<bool> {
    match socket.request(&Op::new(doing, message)) {
        Ok(_) => Ok(true),
        Err(error) if error.is_absent() => Ok(false),
        Err(error) => Err(error),
    }
}

/// The names of all tables, of one family.
pub fn list_tables(socket: &mut Socket, family: Family) -> Result<Vec<String>> {
    let op = Op::new(format!("list {family} tables"), request(wire::MSG_GETTABLE, 0, family));
    let replies = socket.dump(&op)?;
    Ok(replies.iter().filter_map(|r| attrs(body(r)).find_attr(wire::TABLE_NAME).map(text)).collect())
}

/// The names of a table's chains; empty when there is no such table. The kernel lists the chains of all tables of
/// the family for it.
pub fn list_chains(socket: &mut Socket, table: &Table<'_>) -> Result<Vec<String>> {
    let op = Op::new(format!("list the chains of {table}"), request(wire::MSG_GETCHAIN, 0, table.family));
    let replies = socket.dump(&op)?;
    Ok(named_in(&replies, table, wire::CHAIN_TABLE, wire::CHAIN_NAME))
}

/// The names of a table's sets and maps; empty when there is no such table.
pub fn list_sets(socket: &mut Socket, table: &Table<'_>) -> Result<Vec<String>> {
    let mut message = request(wire::MSG_GETSET, 0, table.family);
    message.text(wire::SET_TABLE, table.name);
    let op = Op::new(format!("list the sets of {table}"), message).or_absent();
    let replies = socket.dump(&op)?;
    Ok(named_in(&replies, table, wire::SET_TABLE, wire::SET_NAME))
}

fn named_in(replies: &[Reply], table: &Table<'_>, of_table: u16, name: u16) -> Vec<String> {
    replies
        .iter()
        .map(|reply| attrs(body(reply)))
        .filter(|a| a.find_attr(of_table).map(text).as_deref() == Some(table.name))
        .filter_map(|a| a.find_attr(name).map(text))
        .collect()
}

/// The rules of a chain, or of all chains of a table, in order; empty when there is no such chain.
pub fn list_rules(socket: &mut Socket, table: &Table<'_>, chain: Option<&str>) -> Result<Vec<RuleInfo>> {
    let mut message = request(wire::MSG_GETRULE, 0, table.family);
    message.text(wire::RULE_TABLE, table.name);
    if let Some(chain) = chain {
        message.text(wire::RULE_CHAIN, chain);
    }
    let op = Op::new(format!("list the rules of {table}"), message).or_absent();
    let replies = socket.dump(&op)?;
    let in_chain = |rule: &RuleInfo| chain.is_none_or(|chain| chain == rule.chain);
    Ok(replies.iter().filter_map(|r| read_rule(body(r), table)).filter(in_chain).collect())
}

/// The element with exactly this key (and interval), with data and comment; none when the element, its set or its
/// table is absent.
pub fn get_element(
    socket: &mut Socket,
    table: &Table<'_>,
    set: &str,
    wanted: &Element,
) -> Result<Option<Element>> {
    let mut message = element_request(wire::MSG_GETSETELEM, 0, table, set);
    message.nested(wire::ELEM_LIST_ELEMENTS, |m| write_element(m, wanted, false));
    let replies =
        socket.request(&Op::new(format!("look up an element of set {table} {set}"), message).or_absent())?;
    Ok(replies.iter().flat_map(|reply| read_elements(body(reply))).next())
}

/// All elements of a set or map; empty when there is no such set. Costs time in proportion to the set: only for
/// garbage collection and for removal without a key.
///
/// After a large batch the kernel regrows its hash table in the background. A listing of several pages that meets this
/// has elements twice and others not at all, and nothing in it says so: one with a key twice is taken again.
pub fn list_elements(socket: &mut Socket, table: &Table<'_>, set: &str) -> Result<Vec<Element>> {
    let mut elements: Vec<Element> = Vec::new();
    for _ in 0..LISTINGS {
        let replies = socket.dump(&listing(table, set))?;
        elements = replies.iter().flat_map(|reply| read_elements(body(reply))).collect();
        let mut seen = HashSet::with_capacity(elements.len());
        if replies.len() < 2 || elements.iter().all(|element| seen.insert((&element.key, &element.end))) {
            break;
        }
    }
    Ok(elements)
}

/// Shows every element of a set or map to `visit`, one after the other: for sets that are better not held in memory as
/// [`Element`]s, all of them at once. Nothing is shown when there is no such set.
///
/// Returns whether the kernel was undisturbed. If not, something may have been left out, and it is for the caller to
/// look again, as it is where an element comes twice: see [`list_elements`].
///
/// # Errors
/// The kernel's refusal.
pub fn visit_elements(
    socket: &mut Socket,
    table: &Table<'_>,
    set: &str,
    mut visit: impl FnMut(Element),
) -> Result<bool> {
    socket
        .dump_each(&listing(table, set), |reply| read_elements(body(&reply)).into_iter().for_each(&mut visit))
}

/// The elements of an interval set of single values, from the least to the greatest, without comments: the kernel
/// lists where intervals begin and where they end, and this puts both together.
pub fn list_intervals(socket: &mut Socket, table: &Table<'_>, set: &str) -> Result<Vec<Element>> {
    let replies = socket.dump(&listing(table, set))?;
    Ok(join_edges(replies.iter().flat_map(|reply| read_edges(body(reply))).collect()))
}

/// The key at which an interval begins (false) or before which one ended (true).
fn read_edges(bytes: &[u8]) -> Vec<(Vec<u8>, bool)> {
    let list = attrs(bytes).find_attr(wire::ELEM_LIST_ELEMENTS).unwrap_or(&[]);
    let items = attrs(list).filter(|(kind, _)| *kind == wire::LIST_ELEM);
    let edge = |item: &[u8]| {
        let a = attrs(item);
        let key = attrs(a.find_attr(wire::ELEM_KEY)?).find_attr(wire::DATA_VALUE)?.to_vec();
        let flags = a.find_attr(wire::ELEM_FLAGS).and_then(u32_be).unwrap_or(0);
        Some((key, flags & wire::ELEM_INTERVAL_END != 0))
    };
    items.filter_map(|(_, item)| edge(item)).collect()
}

fn join_edges(mut edges: Vec<(Vec<u8>, bool)>) -> Vec<Element> {
    // Where one interval ends another may begin: the end comes first.
    edges.sort_by(|(one, one_ends), (other, other_ends)| one.cmp(other).then(other_ends.cmp(one_ends)));
    let mut intervals: Vec<Element> = Vec::new();
    for (key, ends) in edges {
        match intervals.last_mut() {
            Some(last) if ends && last.end == End::Open => last.end = End::Before(key),
            _ if ends => {}
            _ => intervals.push(Element { end: End::Open, ..Element::raw(key) }),
        }
    }
    intervals
}

/// Shows elements to `visit` until it answers false.
pub fn list_elements_until(
    socket: &mut Socket,
    table: &Table<'_>,
    set: &str,
    mut visit: impl FnMut(Element) -> bool,
) -> Result<()> {
    socket.dump_until(&listing(table, set), |reply| read_elements(body(&reply)).into_iter().all(&mut visit))
}

/// Whether a set has no elements, or is absent. Reads at most one page of a listing, however large the set.
pub fn is_empty(socket: &mut Socket, table: &Table<'_>, set: &str) -> Result<bool> {
    let mut empty = true;
    list_elements_until(socket, table, set, |_| {
        empty = false;
        false
    })?;
    Ok(empty)
}

fn listing(table: &Table<'_>, set: &str) -> Op {
    Op::new(format!("list set {table} {set}"), element_request(wire::MSG_GETSETELEM, 0, table, set))
        .or_absent()
}

fn body(reply: &Reply) -> &[u8] {
    reply.payload.get(FAMILY_HEADER..).unwrap_or(&[])
}

fn read_rule(bytes: &[u8], table: &Table<'_>) -> Option<RuleInfo> {
    let a = attrs(bytes);
    (text(a.find_attr(wire::RULE_TABLE)?) == table.name).then_some(())?;
    Some(RuleInfo {
        handle: a.find_attr(wire::RULE_HANDLE).and_then(u64_be)?,
        chain: a.find_attr(wire::RULE_CHAIN).map(text)?,
        comment: a.find_attr(wire::RULE_USERDATA).map(comment).unwrap_or_default(),
        target: a.find_attr(wire::RULE_EXPRESSIONS).and_then(target),
    })
}

/// The chain that a rule's expressions lead to, as far as they name it.
fn target(expressions: &[u8]) -> Option<String> {
    let list = attrs(expressions).filter(|(kind, _)| *kind == wire::LIST_ELEM);
    list.filter_map(|(_, expression)| {
        let of_expression = attrs(expression);
        let name = of_expression.find_attr(wire::EXPR_NAME).map(text)?;
        let immediate = attrs(of_expression.find_attr(wire::EXPR_DATA).filter(|_| name == "immediate")?);
        let data = attrs(immediate.find_attr(wire::IMMEDIATE_DATA)?);
        attrs(data.find_attr(wire::DATA_VERDICT)?).find_attr(wire::VERDICT_CHAIN).map(text)
    })
    .next()
}

/// The elements of one NEWSETELEM message, crooked ones left out.
pub(super) fn read_elements(bytes: &[u8]) -> Vec<Element> {
    let list = attrs(bytes).find_attr(wire::ELEM_LIST_ELEMENTS).unwrap_or(&[]);
    let items = attrs(list).filter(|(kind, _)| *kind == wire::LIST_ELEM);
    items.filter_map(|(_, item)| read_element(item)).collect()
}

fn read_element(item: &[u8]) -> Option<Element> {
    let a = attrs(item);
    let value = |attribute| a.find_attr(attribute).and_then(|d| attrs(d).find_attr(wire::DATA_VALUE));
    let data = a.find_attr(wire::ELEM_DATA).and_then(read_data);
    Some(Element {
        key: value(wire::ELEM_KEY)?.to_vec(),
        end: value(wire::ELEM_KEY_END).map_or(End::Single, |last| End::Last(last.to_vec())),
        data,
        comment: a.find_attr(wire::ELEM_USERDATA).map(comment).unwrap_or_default(),
    })
}

fn read_data(bytes: &[u8]) -> Option<Data> {
    match attrs(bytes).find_attr(wire::DATA_VALUE) {
        Some(value) => Some(Data::Value(value.to_vec())),
        None => read_verdict(bytes).map(Data::Verdict),
    }
}

/// The verdict in a NFTA_DATA.
pub(super) fn read_verdict(bytes: &[u8]) -> Option<Verdict> {
    let verdict = attrs(attrs(bytes).find_attr(wire::DATA_VERDICT)?);
    let chain = || verdict.find_attr(wire::VERDICT_CHAIN).map(text);
    Some(match u32_be(verdict.find_attr(wire::VERDICT_CODE)?)?.cast_signed() {
        0 => Verdict::Drop,
        1 => Verdict::Accept,
        -3 => Verdict::Jump(chain()?),
        -4 => Verdict::Goto(chain()?),
        -5 => Verdict::Return,
        _ => return None,
    })
}

/// The comment among userdata TLVs, empty when there is none.
pub(super) fn comment(mut tlvs: &[u8]) -> String {
    while let [kind, length, rest @ ..] = tlvs {
        let length = usize::from(*length);
        let Some(payload) = rest.get(..length) else { break };
        if *kind == wire::UDATA_COMMENT {
            return text(payload);
        }
        tlvs = &rest[length..];
    }
    String::new()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_element_read_is_the_element_written() {
        let element = Element::raw(vec![10, 0, 0, 1])
            .verdict(Verdict::Goto("c".into()))
            .comment("6fd94d501e58f0aa-287fc69eff0574a2, net: a, if: eth0, id: 1");
        let mut message = Message::new(0, 0, &[]);
        message.nested(wire::ELEM_LIST_ELEMENTS, |m| write_element(m, &element, true));
        assert_eq!(read_elements(&message.bytes[16..]), [element]);
    }

    #[test]
    fn intervals_are_put_together_from_their_edges() {
        let edge = |key: u8, ends: bool| (vec![key], ends);
        let edges =
            vec![edge(9, false), edge(5, true), edge(3, false), edge(5, false), edge(7, true), edge(0, true)];
        let interval = |first, end| Element { end, ..Element::raw(vec![first]) };
        let wanted =
            [interval(3, End::Before(vec![5])), interval(5, End::Before(vec![7])), interval(9, End::Open)];
        assert_eq!(join_edges(edges), wanted);
    }

    #[test]
    fn a_comment_is_found_behind_other_userdata() {
        assert_eq!(comment(&[1, 1, 7, 0, 3, b'h', b'i', 0]), "hi");
        assert_eq!(comment(&[0, 200, b'h']), "");
        assert_eq!(comment(&[]), "");
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_from_the_kernel_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let table = Table::new(Family::Inet, "t");
            let reply = Reply { kind: 0, payload: bytes.clone() };
            read_elements(body(&reply));
            read_element(&bytes);
            read_rule(&bytes, &table);
            join_edges(read_edges(&bytes));
            read_data(&bytes);
            comment(&bytes);
            named_in(&[reply], &table, 1, 2);
        }

        #[test]
        fn a_crooked_element_list_never_panics(at in 0usize..200, byte in any::<u8>(), cut in 0usize..200) {
            let element = Element::raw(vec![10, 0, 0, 1]).verdict(Verdict::Jump("c".into())).comment("x");
            let mut message = Message::new(0, 0, &[]);
            message.nested(wire::ELEM_LIST_ELEMENTS, |m| write_element(m, &element, true));
            let mut bytes = message.bytes[16..].to_vec();
            let at = at % bytes.len();
            bytes[at] = byte;
            bytes.truncate(cut);
            read_elements(&bytes);
        }
    }
}
