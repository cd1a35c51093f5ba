//! Forgetting flows: the kernel's conntrack entries that would keep sending packets where they no longer belong.
//!
//! An address translation is decided once per flow. A UDP flow never ends while packets come, so after a mapped port
//! changes hands the old translation must be forgotten, or the new owner hears nothing.
//!
//! Looking for entries means a walk through the whole hash table, 6 ms for 262,144 buckets however few entries
//! there are, so one flush is one walk where possible, and none in a namespace without entries.

use std::net::{IpAddr, SocketAddr};

use crate::netlink::attr::{ip, u32_be};
use crate::netlink::{Message, Op, Reply, Socket, attrs};
use crate::{Error, Result};

const SUBSYSTEM: u16 = 1;
const MSG_GET: u16 = 1;
const MSG_DELETE: u16 = 2;
const MSG_GET_STATS: u16 = 5;
const STATS_ENTRIES: u16 = 1;
const TUPLE_ORIG: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const ID: u16 = 12;
const ZONE: u16 = 18;
const FILTER: u16 = 25;
const FILTER_ORIG_FLAGS: u16 = 1;
const FILTER_REPLY_FLAGS: u16 = 2;
const FLAG_PROTO: u32 = 1 << 3;
const FLAG_DST_PORT: u32 = 1 << 5;
const TUPLE_IP: u16 = 1;
const TUPLE_PROTO: u16 = 2;
const PROTO_NUM: u16 = 1;
const PROTO_SRC_PORT: u16 = 2;
const PROTO_DST_PORT: u16 = 3;
/// Bytes of the nfgenmsg before the attributes of a reply.
const FAMILY_HEADER: usize = 4;
/// So many entries are listed in the time of one walk through an empty table.
const ENTRIES_PER_WALK: u32 = 3000;

/// Which entries: those that fulfil all conditions. An empty list is no condition.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// Any of these IP protocol numbers.
    pub protocols: Vec<u8>,
    /// Sent to any of these ports, as the sender saw it: before DNAT.
    pub ports: Vec<u16>,
    /// With any of these addresses as source or destination, of either direction: before or after NAT.
    pub addresses: Vec<IpAddr>,
}

/// Removes the entries that `filter` describes and returns how many there were. `socket` is a netfilter socket in
/// the namespace concerned.
///
/// # Errors
/// When the kernel has no conntrack by netlink, or refuses.
pub fn flush(socket: &mut Socket, filter: &Filter) -> Result<usize> {
    let entries = count(socket)?;
    let mut flushed = 0;
    for query in queries(filter, entries) {
        let removals: Vec<Op> =
            list(socket, &query)?.iter().filter_map(|reply| removal(&reply.payload, filter)).collect();
        flushed += removals.len();
        socket.apply(&removals)?;
    }
    Ok(flushed)
}

/// One direction of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tuple {
    /// From where.
    pub source: SocketAddr,
    /// Where to.
    pub destination: SocketAddr,
}

/// Both directions of a flow: with a translation, the answers come from elsewhere than what was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flow {
    /// IP protocol number.
    pub protocol: u8,
    /// As the sender saw it.
    pub original: Tuple,
    /// As answers come.
    pub reply: Tuple,
}

/// Removes the entries of one family and protocol for which `is_stale` is true, and returns how many there were.
/// Entries of protocols without ports are never asked about.
///
/// # Errors
/// As [`flush`].
pub fn flush_where(
    socket: &mut Socket,
    (is_ipv4, protocol): (bool, u8),
    mut is_stale: impl FnMut(&Flow) -> bool,
) -> Result<usize> {
    if count(socket)? == 0 {
        return Ok(0);
    }
    let family = if is_ipv4 { libc::AF_INET } else { libc::AF_INET6 };
    let query = Query { family: u8::try_from(family).unwrap_or(0), protocol, port: 0 };
    let replies = list(socket, &query)?;
    let stale = replies.iter().filter(|reply| {
        flow(&reply.payload).is_some_and(|flow| flow.protocol == protocol && is_stale(&flow))
    });
    let removals: Vec<Op> = stale.filter_map(|reply| removal(&reply.payload, &Filter::default())).collect();
    socket.apply(&removals)?;
    Ok(removals.len())
}

fn flow(payload: &[u8]) -> Option<Flow> {
    let entry = attrs(payload.get(FAMILY_HEADER..)?);
    let original = entry.find_attr(TUPLE_ORIG)?;
    let protocol = *attrs(attrs(original).find_attr(TUPLE_PROTO)?).find_attr(PROTO_NUM)?.first()?;
    Some(Flow { protocol, original: tuple(original)?, reply: tuple(entry.find_attr(TUPLE_REPLY)?)? })
}

/// Source comes before destination in a tuple's addresses, in either family.
fn tuple(bytes: &[u8]) -> Option<Tuple> {
    let mut ips = addresses(bytes);
    let proto = attrs(attrs(bytes).find_attr(TUPLE_PROTO)?);
    let port = |attribute| Some(u16::from_be_bytes(proto.find_attr(attribute)?.try_into().ok()?));
    Some(Tuple {
        source: SocketAddr::new(ips.next()?, port(PROTO_SRC_PORT)?),
        destination: SocketAddr::new(ips.next()?, port(PROTO_DST_PORT)?),
    })
}

/// How many entries the namespace has.
pub fn count(socket: &mut Socket) -> Result<u32> {
    let op = Op::new("count conntrack entries", request(MSG_GET_STATS, 0));
    let replies = socket.request(&op)?;
    replies
        .iter()
        .find_map(|reply| {
            attrs(reply.payload.get(FAMILY_HEADER..)?).find_attr(STATS_ENTRIES).and_then(u32_be)
        })
        .ok_or(Error::Malformed { doing: op.doing, why: "no number in the answer" })
}

/// One walk through the table, and what the kernel leaves out by itself. 0 is any.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Query {
    family: u8,
    protocol: u8,
    port: u16,
}

/// The walks that show what `filter` wants at the least cost: one coarse walk among few entries; narrow walks, a
/// family and protocol each, when listing foreign entries would cost more than walking again.
fn queries(filter: &Filter, entries: u32) -> Vec<Query> {
    const INET: u8 = libc::AF_INET as u8;
    const INET6: u8 = libc::AF_INET6 as u8;
    if entries == 0 {
        return Vec::new();
    }
    let wanted = |family: u8| {
        filter.addresses.is_empty() || filter.addresses.iter().any(|ip| ip.is_ipv4() == (family == INET))
    };
    let families: Vec<u8> = [INET, INET6].into_iter().filter(|family| wanted(*family)).collect();
    let port = if let [port] = filter.ports[..] { port } else { 0 };
    let narrow: Vec<Query> = families
        .iter()
        .flat_map(|family| filter.protocols.iter().map(move |protocol| (*family, *protocol)))
        .map(|(family, protocol)| Query { family, protocol, port })
        .collect();
    let walks = u32::try_from(narrow.len()).unwrap_or(u32::MAX);
    if walks == 1 || (walks > 1 && entries > walks.saturating_mul(ENTRIES_PER_WALK)) {
        return narrow;
    }
    let family = if let [family] = families[..] { family } else { 0 };
    vec![Query { family, protocol: 0, port: 0 }]
}

fn list(socket: &mut Socket, query: &Query) -> Result<Vec<Reply>> {
    let doing = "list conntrack entries";
    let narrow = socket.dump(&Op::new(doing, query_message(query)));
    match narrow {
        // Before Linux 5.8 (and without the filter's module parts): everything is listed, and sorted out here.
        Err(_) if query.protocol != 0 => {
            socket.dump(&Op::new(doing, query_message(&Query { protocol: 0, port: 0, ..*query })))
        }
        outcome => outcome,
    }
}

fn query_message(query: &Query) -> Message {
    let mut message = request(MSG_GET, query.family);
    if query.protocol != 0 {
        message.nested(TUPLE_ORIG, |m| {
            m.nested(TUPLE_PROTO, |m| {
                m.u8(PROTO_NUM, query.protocol);
                if query.port != 0 {
                    m.u16_be(PROTO_DST_PORT, query.port);
                }
            });
        });
        let flags = if query.port == 0 { FLAG_PROTO } else { FLAG_PROTO | FLAG_DST_PORT };
        message.nested(FILTER, |m| {
            m.u32(FILTER_ORIG_FLAGS, flags).u32(FILTER_REPLY_FLAGS, 0);
        });
    }
    message
}

fn request(kind: u16, family: u8) -> Message {
    Message::new(SUBSYSTEM << 8 | kind, 0, &[family, 0, 0, 0])
}

/// The request that removes the entry in `payload` (nfgenmsg and attributes) if it is one of `filter`'s.
fn removal(payload: &[u8], filter: &Filter) -> Option<Op> {
    let family = *payload.first()?;
    let entry = attrs(payload.get(FAMILY_HEADER..)?);
    let (original, reply) = (entry.find_attr(TUPLE_ORIG)?, entry.find_attr(TUPLE_REPLY)?);
    let proto = attrs(attrs(original).find_attr(TUPLE_PROTO)?);
    let protocol = *proto.find_attr(PROTO_NUM)?.first()?;
    let port = proto.find_attr(PROTO_DST_PORT).and_then(|b| Some(u16::from_be_bytes(b.try_into().ok()?)));
    let mut addresses = addresses(original).chain(addresses(reply));

    let wanted = (filter.protocols.is_empty() || filter.protocols.contains(&protocol))
        && (filter.ports.is_empty() || port.is_some_and(|port| filter.ports.contains(&port)))
        && (filter.addresses.is_empty() || addresses.any(|ip| filter.addresses.contains(&ip)));
    wanted.then_some(())?;

    let mut message = request(MSG_DELETE, family);
    message.nested(TUPLE_ORIG, |m| {
        m.bare(original);
    });
    for attribute in [ID, ZONE] {
        if let Some(value) = entry.find_attr(attribute) {
            message.raw(attribute, value);
        }
    }
    Some(Op::new("remove a conntrack entry", message).or_absent())
}

/// Source and destination of a tuple.
fn addresses(tuple: &[u8]) -> impl Iterator<Item = IpAddr> + '_ {
    let inner = attrs(tuple).find_attr(TUPLE_IP).unwrap_or(&[]);
    attrs(inner).filter_map(|(_, address)| ip(address))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const UDP: u8 = 17;
    const SCTP: u8 = 132;

    fn entry(protocol: u8, port: u16, reply_source: [u8; 4]) -> Vec<u8> {
        let mut message = request(0, 2);
        for (tuple, source) in [(TUPLE_ORIG, [192, 0, 2, 1]), (TUPLE_REPLY, reply_source)] {
            message.nested(tuple, |m| {
                m.nested(TUPLE_IP, |m| {
                    m.raw(1, &source).raw(2, &[192, 0, 2, 2]);
                });
                m.nested(TUPLE_PROTO, |m| {
                    m.u8(PROTO_NUM, protocol).u16_be(2, 4000).u16_be(PROTO_DST_PORT, port);
                });
            });
        }
        message.u32_be(ID, 7);
        message.bytes[16..].to_vec()
    }

    #[test]
    fn an_entry_is_removed_when_all_conditions_hold() {
        let entry = entry(SCTP, 53, [10, 1, 0, 5]);
        let removed = |protocols: &[u8], ports: &[u16], addresses: &[&str]| {
            let addresses = addresses.iter().map(|ip| ip.parse().unwrap()).collect();
            let filter = Filter { protocols: protocols.into(), ports: ports.into(), addresses };
            removal(&entry, &filter).is_some()
        };
        assert!(removed(&[], &[], &[]));
        assert!(removed(&[UDP, SCTP], &[52, 53], &["10.1.0.5"]));
        assert!(removed(&[], &[], &["192.0.2.1"]));
        assert!(!removed(&[UDP], &[], &[]));
        assert!(!removed(&[], &[54], &[]));
        assert!(!removed(&[SCTP], &[53], &["10.1.0.6"]));
    }

    #[test]
    fn a_flow_is_read_in_both_directions() {
        let read = flow(&entry(UDP, 53, [10, 1, 0, 5])).expect("an entry");
        let at = |ip: [u8; 4], port| SocketAddr::from((ip, port));
        assert_eq!(read.protocol, UDP);
        assert_eq!(read.original.source, at([192, 0, 2, 1], 4000));
        assert_eq!(read.original.destination, at([192, 0, 2, 2], 53));
        assert_eq!(read.reply.source, at([10, 1, 0, 5], 4000));
    }

    #[test]
    fn walks_are_few() {
        let filter = |protocols: &[u8], ports: &[u16], addresses: &[&str]| Filter {
            protocols: protocols.into(),
            ports: ports.into(),
            addresses: addresses.iter().map(|ip| ip.parse().unwrap()).collect(),
        };
        let coarse = |family| Query { family, protocol: 0, port: 0 };
        let dns = filter(&[UDP], &[53], &[]);
        assert_eq!(queries(&dns, 0), [], "nothing to walk for");
        assert_eq!(queries(&dns, 100), [coarse(0)]);
        let narrow = |family| Query { family, protocol: UDP, port: 53 };
        assert_eq!(queries(&dns, 1_000_000), [narrow(2), narrow(10)]);
        assert_eq!(queries(&filter(&[UDP], &[53], &["10.1.0.5"]), 1), [narrow(2)]);
        assert_eq!(queries(&filter(&[UDP, SCTP], &[], &["10.1.0.5"]), 1), [coarse(2)]);
        assert_eq!(queries(&filter(&[], &[], &["10.1.0.5"]), 1_000_000), [coarse(2)]);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_from_the_kernel_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            removal(&bytes, &Filter::default());
            flow(&bytes);
        }

        #[test]
        fn a_crooked_entry_never_panics(at in 0usize..100, byte in any::<u8>(), cut in 0usize..120) {
            let mut bytes = entry(UDP, 53, [10, 1, 0, 5]);
            let at = at % bytes.len();
            bytes[at] = byte;
            bytes.truncate(cut);
            removal(&bytes, &Filter::default());
            flow(&bytes);
        }
    }
}
