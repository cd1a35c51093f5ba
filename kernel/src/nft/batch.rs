//! Batches: a printable list of changes that the kernel makes all at once or not at all.

use super::object::{Chain, ChainKind, Element, End, Family, Hook, MapData, Policy, Set, Table};
use super::rule::Rule;
use super::value::describe;
use super::{encode, wire};
use crate::Result;
use crate::netlink::{Message, Op, Socket};

const NLM_F_APPEND: i32 = libc::NLM_F_APPEND;
const NLM_F_CREATE: i32 = libc::NLM_F_CREATE;
const NLM_F_EXCL: i32 = libc::NLM_F_EXCL;
/// Elements of one message: their list must stay under 64 KiB, and one element under 500 bytes.
const ELEMENTS_PER_MESSAGE: usize = 100;

/// Changes to be made in one transaction, in order.
///
/// "add" is fine with an object that exists already, "create" refuses it, "delete" refuses one that is absent. A
/// refusal undoes the whole batch, and takes the kernel 5 to 20 ms (it waits for all CPUs): so look first, and
/// guard with the generation, rather than try and see.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    ops: Vec<Op>,
    sets: u32,
}

/// Where in its chain a rule comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    First,
    Last,
    /// Behind the rule with this handle.
    Behind(u64),
}

impl Batch {
    /// An empty batch.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }

    /// What will be done, one sentence each.
    pub fn sentences(&self) -> impl Iterator<Item = &str> {
        self.ops.iter().map(|op| op.doing.as_str())
    }

    /// Carries everything out.
    ///
    /// # Errors
    /// The first refusal; nothing was changed then.
    pub fn commit(&self, socket: &mut Socket) -> Result<()> {
        socket.transaction(wire::SUBSYSTEM, None, &self.ops)
    }

    /// Carries everything out if no other change was made since `generation` was read, see [`super::generation`].
    ///
    /// # Errors
    /// As [`Batch::commit`]; when the generation has passed, an error for which [`super::is_outdated`] is true.
    pub fn commit_at(&self, socket: &mut Socket, generation: u32) -> Result<()> {
        socket.transaction(wire::SUBSYSTEM, Some(generation), &self.ops)
    }

    /// Adds a table.
    pub fn add_table(&mut self, table: &Table<'_>) -> &mut Self {
        self.table(table, NLM_F_CREATE, "add")
    }

    /// Adds a table that must be new.
    pub fn create_table(&mut self, table: &Table<'_>) -> &mut Self {
        self.table(table, NLM_F_CREATE | NLM_F_EXCL, "create")
    }

    fn table(&mut self, table: &Table<'_>, flags: i32, verb: &str) -> &mut Self {
        let mut message = request(wire::MSG_NEWTABLE, flags, table.family);
        message.text(wire::TABLE_NAME, table.name).u32_be(wire::TABLE_FLAGS, 0);
        userdata(&mut message, wire::TABLE_USERDATA, wire::UDATA_COMMENT, table.comment);
        self.push(format!("{verb} table {table}"), message)
    }

    /// Deletes a table with all that is in it.
    pub fn delete_table(&mut self, table: &Table<'_>) -> &mut Self {
        let mut message = request(wire::MSG_DELTABLE, 0, table.family);
        message.text(wire::TABLE_NAME, table.name);
        self.push(format!("delete table {table}"), message)
    }

    /// Removes a table whether or not it exists: adds and deletes it.
    pub fn destroy_table(&mut self, table: &Table<'_>) -> &mut Self {
        self.add_table(table).delete_table(table)
    }

    /// Deletes all rules of a table; chains, sets and elements stay.
    pub fn flush_table(&mut self, table: &Table<'_>) -> &mut Self {
        let mut message = request(wire::MSG_DELRULE, 0, table.family);
        message.text(wire::RULE_TABLE, table.name);
        self.push(format!("flush table {table}"), message)
    }

    /// Adds a chain.
    pub fn add_chain(&mut self, table: &Table<'_>, chain: &Chain<'_>) -> &mut Self {
        self.chain(table, chain, NLM_F_CREATE, "add")
    }

    /// Adds a chain that must be new.
    pub fn create_chain(&mut self, table: &Table<'_>, chain: &Chain<'_>) -> &mut Self {
        self.chain(table, chain, NLM_F_CREATE | NLM_F_EXCL, "create")
    }

    fn chain(&mut self, table: &Table<'_>, chain: &Chain<'_>, flags: i32, verb: &str) -> &mut Self {
        let mut message = request(wire::MSG_NEWCHAIN, flags, table.family);
        message.text(wire::CHAIN_TABLE, table.name).text(wire::CHAIN_NAME, chain.name);
        if let Some(base) = chain.base {
            message.nested(wire::CHAIN_HOOK, |m| {
                m.u32_be(wire::HOOK_HOOKNUM, hook_number(base.hook));
                m.u32_be(wire::HOOK_PRIORITY, base.priority.cast_unsigned());
                if !chain.device.is_empty() {
                    m.text(wire::HOOK_DEV, chain.device);
                }
            });
            message.u32_be(wire::CHAIN_POLICY, u32::from(base.policy == Policy::Accept));
            message.text(wire::CHAIN_TYPE, kind_name(base.kind));
        }
        userdata(&mut message, wire::CHAIN_USERDATA, wire::UDATA_COMMENT, chain.comment);
        self.push(format!("{verb} chain {table} {}", chain.name), message)
    }

    /// Deletes a chain and its rules; refused (EBUSY) while something jumps to it.
    pub fn delete_chain(&mut self, table: &Table<'_>, chain: &str) -> &mut Self {
        let mut message = request(wire::MSG_DELCHAIN, 0, table.family);
        message.text(wire::CHAIN_TABLE, table.name).text(wire::CHAIN_NAME, chain);
        self.push(format!("delete chain {table} {chain}"), message)
    }

    /// Deletes all rules of a chain.
    pub fn flush_chain(&mut self, table: &Table<'_>, chain: &str) -> &mut Self {
        let mut message = request(wire::MSG_DELRULE, 0, table.family);
        message.text(wire::RULE_TABLE, table.name).text(wire::RULE_CHAIN, chain);
        self.push(format!("flush chain {table} {chain}"), message)
    }

    /// Appends a rule.
    pub fn add_rule(&mut self, table: &Table<'_>, chain: &str, rule: &Rule) -> &mut Self {
        self.rule(table, chain, rule, Place::Last)
    }

    /// Puts a rule behind the one with this handle.
    pub fn add_rule_behind(&mut self, table: &Table<'_>, chain: &str, handle: u64, rule: &Rule) -> &mut Self {
        self.rule(table, chain, rule, Place::Behind(handle))
    }

    /// Puts a rule first.
    pub fn insert_rule(&mut self, table: &Table<'_>, chain: &str, rule: &Rule) -> &mut Self {
        self.rule(table, chain, rule, Place::First)
    }

    fn rule(&mut self, table: &Table<'_>, chain: &str, rule: &Rule, place: Place) -> &mut Self {
        let flags = if place == Place::First { 0 } else { NLM_F_APPEND };
        let mut message = request(wire::MSG_NEWRULE, NLM_F_CREATE | flags, table.family);
        message.text(wire::RULE_TABLE, table.name).text(wire::RULE_CHAIN, chain);
        if let Place::Behind(handle) = place {
            message.u64_be(wire::RULE_POSITION, handle);
        }
        message.nested(wire::RULE_EXPRESSIONS, |m| rule.exprs.iter().for_each(|expr| expr.write(m)));
        userdata(&mut message, wire::RULE_USERDATA, wire::UDATA_COMMENT, &rule.comment);
        self.push(format!("add a rule to chain {table} {chain}"), message)
    }

    /// Deletes the rule with this handle.
    pub fn delete_rule(&mut self, table: &Table<'_>, chain: &str, handle: u64) -> &mut Self {
        let mut message = request(wire::MSG_DELRULE, 0, table.family);
        message.text(wire::RULE_TABLE, table.name).text(wire::RULE_CHAIN, chain);
        message.u64_be(wire::RULE_HANDLE, handle);
        self.push(format!("delete rule {handle} of chain {table} {chain}"), message)
    }

    /// Adds a set or map.
    pub fn add_set(&mut self, table: &Table<'_>, set: &Set<'_>) -> &mut Self {
        self.set(table, set, NLM_F_CREATE, "add")
    }

    /// Adds a set or map that must be new.
    pub fn create_set(&mut self, table: &Table<'_>, set: &Set<'_>) -> &mut Self {
        self.set(table, set, NLM_F_CREATE | NLM_F_EXCL, "create")
    }

    fn set(&mut self, table: &Table<'_>, set: &Set<'_>, flags: i32, verb: &str) -> &mut Self {
        self.sets += 1;
        let message = set_message(table, set, flags, self.sets);
        self.push(format!("{verb} set {table} {}", set.name), message)
    }

    /// Deletes a set or map with its elements; refused (EBUSY) while a rule uses it.
    pub fn delete_set(&mut self, table: &Table<'_>, set: &str) -> &mut Self {
        let mut message = request(wire::MSG_DELSET, 0, table.family);
        message.text(wire::SET_TABLE, table.name).text(wire::SET_NAME, set);
        self.push(format!("delete set {table} {set}"), message)
    }

    /// Deletes all elements of a set or map.
    pub fn flush_set(&mut self, table: &Table<'_>, set: &str) -> &mut Self {
        let mut message = request(wire::MSG_DELSETELEM, 0, table.family);
        message.text(wire::ELEM_LIST_TABLE, table.name).text(wire::ELEM_LIST_SET, set);
        self.push(format!("flush set {table} {set}"), message)
    }

    /// Adds elements. One that exists with the same data is left as it is, comment included; one that exists with
    /// other data is an error (EEXIST).
    pub fn add_elements<'e>(
        &mut self,
        table: &Table<'_>,
        set: &str,
        elements: impl IntoIterator<Item = &'e Element>,
    ) -> &mut Self {
        self.elements(wire::MSG_NEWSETELEM, NLM_F_CREATE, ("add", table, set), elements)
    }

    /// Adds elements that must be new.
    pub fn create_elements<'e>(
        &mut self,
        table: &Table<'_>,
        set: &str,
        elements: impl IntoIterator<Item = &'e Element>,
    ) -> &mut Self {
        self.elements(wire::MSG_NEWSETELEM, NLM_F_CREATE | NLM_F_EXCL, ("create", table, set), elements)
    }

    /// Deletes elements by their keys.
    pub fn delete_elements<'e>(
        &mut self,
        table: &Table<'_>,
        set: &str,
        elements: impl IntoIterator<Item = &'e Element>,
    ) -> &mut Self {
        self.elements(wire::MSG_DELSETELEM, 0, ("delete", table, set), elements)
    }

    fn elements<'e>(
        &mut self,
        kind: u16,
        flags: i32,
        (verb, table, set): (&str, &Table<'_>, &str),
        elements: impl IntoIterator<Item = &'e Element>,
    ) -> &mut Self {
        let elements: Vec<&Element> = elements.into_iter().collect();
        for part in elements.chunks(ELEMENTS_PER_MESSAGE) {
            let mut message = element_request(kind, flags, table, set);
            message.nested(wire::ELEM_LIST_ELEMENTS, |m| {
                for element in part {
                    write_element(m, element, kind == wire::MSG_NEWSETELEM);
                }
            });
            let what =
                if part.len() == 1 { "an element".to_owned() } else { format!("{} elements", part.len()) };
            self.push(format!("{verb} {what} of set {table} {set}"), message);
        }
        self
    }

    fn push(&mut self, doing: String, message: Message) -> &mut Self {
        self.ops.push(Op::new(doing, message));
        self
    }
}

/// An nf_tables request with its family header.
pub(super) fn request(kind: u16, flags: i32, family: Family) -> Message {
    Message::new(wire::SUBSYSTEM << 8 | kind, flags, &[family.number(), 0, 0, 0])
}

/// A request about elements of one set.
pub(super) fn element_request(kind: u16, flags: i32, table: &Table<'_>, set: &str) -> Message {
    let mut message = request(kind, flags, table.family);
    message.text(wire::ELEM_LIST_TABLE, table.name).text(wire::ELEM_LIST_SET, set);
    message
}

/// One element as a list element; an interval of single values as two, its begin and its end.
pub(super) fn write_element(m: &mut Message, element: &Element, whole: bool) {
    m.nested(wire::LIST_ELEM, |m| {
        m.nested(wire::ELEM_KEY, |m| encode::value(m, &element.key));
        if let End::Last(last) = &element.end {
            m.nested(wire::ELEM_KEY_END, |m| encode::value(m, last));
        }
        if !whole {
            return;
        }
        if let Some(data) = &element.data {
            m.nested(wire::ELEM_DATA, |m| encode::data(m, data));
        }
        userdata(m, wire::ELEM_USERDATA, wire::UDATA_COMMENT, &element.comment);
    });
    if let End::Before(next) = &element.end {
        m.nested(wire::LIST_ELEM, |m| {
            m.nested(wire::ELEM_KEY, |m| encode::value(m, next));
            m.u32_be(wire::ELEM_FLAGS, wire::ELEM_INTERVAL_END);
        });
    }
}

fn set_message(table: &Table<'_>, set: &Set<'_>, flags: i32, id: u32) -> Message {
    let (key_type, key_length, key_order) = describe(set.key);
    let concat_intervals = set.interval && set.key.len() > 1;
    let mut set_flags = if set.interval { wire::SET_INTERVAL } else { 0 };
    set_flags |= if concat_intervals { wire::SET_CONCAT } else { 0 };
    set_flags |= if set.data.is_some() { wire::SET_MAP } else { 0 };
    set_flags |= if set.dynamic.is_some() { wire::SET_DYNAMIC | wire::SET_HAS_TIMEOUTS } else { 0 };
    let mut tlvs = tlv(wire::UDATA_SET_KEYBYTEORDER, &key_order.to_ne_bytes());

    let mut message = request(wire::MSG_NEWSET, flags, table.family);
    message.text(wire::SET_TABLE, table.name).text(wire::SET_NAME, set.name);
    message.u32_be(wire::SET_FLAGS, set_flags);
    message.u32_be(wire::SET_KEY_TYPE, key_type).u32_be(wire::SET_KEY_LEN, length(key_length));
    if let Some(data) = set.data {
        let (data_type, data_length, data_order) = match data {
            MapData::Types(types) => describe(types),
            MapData::Verdict => (wire::DATA_TYPE_VERDICT, 0, 0),
        };
        message.u32_be(wire::SET_DATA_TYPE, data_type).u32_be(wire::SET_DATA_LEN, length(data_length));
        tlvs.extend(tlv(wire::UDATA_SET_DATABYTEORDER, &data_order.to_ne_bytes()));
        tlvs.extend(tlv(wire::UDATA_SET_DATA_INTERVAL, &[0; 4]));
    }
    message.u32_be(wire::SET_ID, id);
    if let Some(size) = set.dynamic {
        message.nested(wire::SET_DESC, |m| {
            m.u32_be(wire::SET_DESC_SIZE, size);
        });
    }
    if concat_intervals {
        message.nested(wire::SET_DESC, |m| {
            m.nested(wire::SET_DESC_CONCAT, |m| {
                for field in set.key {
                    m.nested(wire::LIST_ELEM, |m| {
                        m.u32_be(wire::SET_FIELD_LEN, length(field.width()));
                    });
                }
            });
        });
    }
    if !set.comment.is_empty() {
        tlvs.extend(tlv(wire::UDATA_SET_COMMENT, &comment_bytes(set.comment)));
    }
    message.raw(wire::SET_USERDATA, &tlvs);
    message
}

fn length(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

/// Appends a comment as the `nft` program stores it; nothing for an empty one.
fn userdata(message: &mut Message, attribute: u16, kind: u8, comment: &str) {
    if !comment.is_empty() {
        message.raw(attribute, &tlv(kind, &comment_bytes(comment)));
    }
}

fn comment_bytes(comment: &str) -> Vec<u8> {
    let mut end = comment.len().min(wire::COMMENT_MAX);
    while !comment.is_char_boundary(end) {
        end -= 1;
    }
    let mut bytes = comment.as_bytes()[..end].to_vec();
    bytes.push(0);
    bytes
}

fn tlv(kind: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![kind, u8::try_from(payload.len()).unwrap_or(u8::MAX)];
    bytes.extend_from_slice(payload);
    bytes
}

fn hook_number(hook: Hook) -> u32 {
    match hook {
        Hook::Prerouting => 0,
        Hook::Input => 1,
        Hook::Forward => 2,
        Hook::Output => 3,
        Hook::Postrouting => 4,
        // Numbers of family `netdev` count anew.
        Hook::Egress => 1,
    }
}

fn kind_name(kind: ChainKind) -> &'static str {
    match kind {
        ChainKind::Filter => "filter",
        ChainKind::Nat => "nat",
        ChainKind::Route => "route",
    }
}
