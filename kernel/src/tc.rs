//! Traffic control: a token bucket to limit, an ingress hook to redirect.

use crate::Result;
use crate::link::LinkId;
use crate::netlink::attr::{attrs, text, u32_ne, u64_ne};
use crate::netlink::{Message, Op, Reply, Socket};

const TC_H_ROOT: u32 = 0xffff_ffff;
const TC_H_INGRESS: u32 = 0xffff_fff1;
/// Handle of the ingress and clsact qdiscs.
pub const INGRESS_HANDLE: u32 = 0xffff_0000;
/// Parent of the filters on what arrives. An ingress qdisc would take its handle too, clsact only this.
const TC_H_CLSACT_INGRESS: u32 = 0xffff_fff2;
const TCA_TBF_PARMS: u16 = 1;
const TCA_TBF_RATE64: u16 = 4;
const TCA_U32_SEL: u16 = 5;
const TCA_U32_ACT: u16 = 7;
const TC_U32_TERMINAL: u8 = 1;
const TCA_ACT_KIND: u16 = 1;
const TCA_ACT_OPTIONS: u16 = 2;
const TCA_MIRRED_PARMS: u16 = 2;
const TCA_EGRESS_REDIR: u32 = 1;
const TC_ACT_STOLEN: u32 = 4;
const ETH_P_ALL: u16 = 3;
const TC_LINKLAYER_ETHERNET: u8 = 1;
/// Nanoseconds per packet scheduler tick: 1 << PSCHED_SHIFT, the same on every kernel since 2.6.31.
const TICK: u128 = 64;

/// A token bucket filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tbf {
    /// Bytes per second.
    pub rate: u64,
    /// The bucket's size in scheduler ticks: the time that the burst takes at `rate`. See [`ticks`].
    pub buffer: u32,
    /// Bytes that may wait.
    pub limit: u32,
}

/// The time that `bytes` take at `rate` bytes per second, in scheduler ticks, saturating.
pub fn ticks(bytes: u64, rate: u64) -> u32 {
    let nanoseconds = u128::from(bytes) * 1_000_000_000 / u128::from(rate.max(1));
    u32::try_from(nanoseconds / TICK).unwrap_or(u32::MAX)
}

/// The bytes that pass in `ticks` at `rate`: what a bucket holds.
pub fn bytes_of(ticks: u32, rate: u64) -> u64 {
    u64::try_from(u128::from(ticks) * TICK * u128::from(rate) / 1_000_000_000).unwrap_or(u64::MAX)
}

/// Puts a token bucket on a link's root, handle 1:, in the place of what is there.
pub fn set_tbf(link: &LinkId, tbf: &Tbf) -> Op {
    let flags = libc::NLM_F_CREATE | libc::NLM_F_REPLACE;
    let mut message = Message::new(libc::RTM_NEWQDISC, flags, &header(link.index, 1 << 16, TC_H_ROOT, 0));
    write_tbf(&mut message, tbf);
    Op::new(format!("limit {link} to {} bytes per second", tbf.rate), message)
}

fn write_tbf(message: &mut Message, tbf: &Tbf) {
    message.text(libc::TCA_KIND, "tbf");
    message.nested(libc::TCA_OPTIONS, |m| {
        // struct tc_tbf_qopt: rate and peak rate (struct tc_ratespec, 12 bytes each), limit, buffer, mtu.
        let mut parameters = [0; 36];
        parameters[1] = TC_LINKLAYER_ETHERNET;
        let narrow = u32::try_from(tbf.rate).unwrap_or(u32::MAX);
        parameters[8..12].copy_from_slice(&narrow.to_ne_bytes());
        parameters[24..28].copy_from_slice(&tbf.limit.to_ne_bytes());
        parameters[28..32].copy_from_slice(&tbf.buffer.to_ne_bytes());
        if tbf.rate > u64::from(u32::MAX) {
            m.u64(TCA_TBF_RATE64, tbf.rate);
        }
        m.raw(TCA_TBF_PARMS, &parameters);
    });
}

/// Removes the root qdisc; the link's default comes back.
pub fn delete_root(link: &LinkId) -> Op {
    let message = Message::new(libc::RTM_DELQDISC, 0, &header(link.index, 0, TC_H_ROOT, 0));
    Op::new(format!("delete the root qdisc of {link}"), message)
}

/// Adds the ingress qdisc; EEXIST when an ingress or clsact one is there.
pub fn add_ingress(link: &LinkId) -> Op {
    add_hook(link, "ingress")
}

/// Adds the clsact qdisc; EEXIST when an ingress or clsact one is there.
pub fn add_clsact(link: &LinkId) -> Op {
    add_hook(link, "clsact")
}

fn add_hook(link: &LinkId, kind: &str) -> Op {
    let flags = libc::NLM_F_CREATE | libc::NLM_F_EXCL;
    let header = header(link.index, INGRESS_HANDLE, TC_H_INGRESS, 0);
    let mut message = Message::new(libc::RTM_NEWQDISC, flags, &header);
    message.text(libc::TCA_KIND, kind);
    Op::new(format!("add the {kind} qdisc to {link}"), message)
}

/// Removes the ingress or clsact qdisc, its filters with it.
pub fn delete_ingress(link: &LinkId) -> Op {
    let header = header(link.index, INGRESS_HANDLE, TC_H_INGRESS, 0);
    Op::new(format!("delete the ingress qdisc of {link}"), Message::new(libc::RTM_DELQDISC, 0, &header))
}

/// Redirects all that arrives on `from` to `to`, by a filter of priority 1 that matches everything.
pub fn redirect_ingress(from: &LinkId, to: &LinkId) -> Op {
    redirect_ingress_at(from, to, 1)
}

/// Redirects all that arrives on `from`, and that no filter of a lower number took, to `to`. EINVAL when `priority` is
/// taken by filters of another kind.
pub fn redirect_ingress_at(from: &LinkId, to: &LinkId, priority: u16) -> Op {
    let flags = libc::NLM_F_CREATE | libc::NLM_F_EXCL;
    let info = (u32::from(priority) << 16) | u32::from(ETH_P_ALL.to_be());
    let header = header(from.index, 0, TC_H_CLSACT_INGRESS, info);
    let mut message = Message::new(libc::RTM_NEWTFILTER, flags, &header);
    message.text(libc::TCA_KIND, "u32");
    message.nested(libc::TCA_OPTIONS, |m| {
        // struct tc_u32_sel with one struct tc_u32_key whose mask is zero: every packet matches.
        let mut selector = [0; 32];
        selector[0] = TC_U32_TERMINAL;
        selector[2] = 1;
        m.raw(TCA_U32_SEL, &selector);
        m.nested(TCA_U32_ACT, |m| {
            m.nested(1, |m| {
                m.text(TCA_ACT_KIND, "mirred");
                m.nested(TCA_ACT_OPTIONS, |m| {
                    // struct tc_mirred: index, capab, action, refcnt, bindcnt, eaction, ifindex.
                    let words = [0, 0, TC_ACT_STOLEN, 0, 0, TCA_EGRESS_REDIR, to.index];
                    let bytes: Vec<u8> = words.iter().flat_map(|word: &u32| word.to_ne_bytes()).collect();
                    m.raw(TCA_MIRRED_PARMS, &bytes);
                });
            });
        });
    });
    Op::new(format!("redirect what arrives on {from} to {to}"), message)
}

/// struct tcmsg.
fn header(link: u32, handle: u32, parent: u32, info: u32) -> [u8; 20] {
    let mut bytes = [0; 20];
    bytes[4..8].copy_from_slice(&link.to_ne_bytes());
    bytes[8..12].copy_from_slice(&handle.to_ne_bytes());
    bytes[12..16].copy_from_slice(&parent.to_ne_bytes());
    bytes[16..20].copy_from_slice(&info.to_ne_bytes());
    bytes
}

/// One qdisc as observed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Qdisc {
    /// Index of its link.
    pub link: u32,
    /// `tbf`, `ingress`, `clsact`, `noqueue`, ...
    pub kind: String,
    /// Its handle.
    pub handle: u32,
    /// Its parent.
    pub parent: u32,
    /// Its parameters, when it is a token bucket.
    pub tbf: Option<Tbf>,
}

impl Qdisc {
    /// Whether it is the link's root.
    pub fn is_root(&self) -> bool {
        self.parent == TC_H_ROOT
    }

    /// Whether it is an ingress or clsact qdisc.
    pub fn is_ingress(&self) -> bool {
        self.parent == TC_H_INGRESS
    }

    /// Reads an RTM_NEWQDISC message; `None` for any other, and for crooked ones.
    pub fn parse(reply: &Reply) -> Option<Qdisc> {
        if reply.kind != libc::RTM_NEWQDISC {
            return None;
        }
        let (head, of) = (reply.payload.get(..20)?, attrs(reply.payload.get(20..)?));
        let kind = text(of.find_attr(libc::TCA_KIND)?);
        let tbf = of.find_attr(libc::TCA_OPTIONS).filter(|_| kind == "tbf").and_then(parse_tbf);
        Some(Qdisc {
            link: u32_ne(&head[4..])?,
            handle: u32_ne(&head[8..])?,
            parent: u32_ne(&head[12..])?,
            kind,
            tbf,
        })
    }
}

fn parse_tbf(options: &[u8]) -> Option<Tbf> {
    let of = attrs(options);
    let parameters = of.find_attr(TCA_TBF_PARMS)?;
    let narrow = u64::from(u32_ne(parameters.get(8..)?)?);
    Some(Tbf {
        rate: of.find_attr(TCA_TBF_RATE64).and_then(u64_ne).unwrap_or(narrow),
        limit: u32_ne(parameters.get(24..)?)?,
        buffer: u32_ne(parameters.get(28..)?)?,
    })
}

/// The qdiscs of one link.
pub fn qdiscs(socket: &mut Socket, link: u32) -> Result<Vec<Qdisc>> {
    let message = Message::new(libc::RTM_GETQDISC, 0, &header(link, 0, 0, 0));
    let replies = socket.dump(&Op::new("list qdiscs", message))?;
    Ok(replies.iter().filter_map(Qdisc::parse).filter(|q| q.link == link).collect())
}

/// One filter as observed: the part CHECK needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    /// `u32`, `matchall`, `bpf`, ...
    pub kind: String,
    /// Priority.
    pub priority: u16,
    /// Protocol, in host order.
    pub protocol: u16,
    /// Indices of the links that its mirred actions redirect to.
    pub redirects: Vec<u32>,
}

impl Filter {
    /// Reads an RTM_NEWTFILTER message; `None` for any other, and for crooked ones.
    pub fn parse(reply: &Reply) -> Option<Filter> {
        if reply.kind != libc::RTM_NEWTFILTER {
            return None;
        }
        let info = u32_ne(reply.payload.get(16..20)?)?;
        let of = attrs(reply.payload.get(20..)?);
        let kind = text(of.find_attr(libc::TCA_KIND)?);
        let options = attrs(of.find_attr(libc::TCA_OPTIONS).unwrap_or(&[]));
        let actions = if kind == "u32" { options.find_attr(TCA_U32_ACT) } else { None };
        let redirects = attrs(actions.unwrap_or(&[])).filter_map(|(_, action)| redirect_of(action)).collect();
        let protocol = u16::from_be(u16::try_from(info & 0xffff).ok()?);
        Some(Filter { kind, priority: u16::try_from(info >> 16).ok()?, protocol, redirects })
    }
}

fn redirect_of(action: &[u8]) -> Option<u32> {
    let of = attrs(action);
    if text(of.find_attr(TCA_ACT_KIND)?) != "mirred" {
        return None;
    }
    let parameters = attrs(of.find_attr(TCA_ACT_OPTIONS)?).find_attr(TCA_MIRRED_PARMS)?;
    let redirects = u32_ne(parameters.get(20..)?)? == TCA_EGRESS_REDIR;
    u32_ne(parameters.get(24..)?).filter(|_| redirects)
}

/// The filters on what arrives on a link; none when it has no ingress qdisc.
pub fn ingress_filters(socket: &mut Socket, link: u32) -> Result<Vec<Filter>> {
    let message = Message::new(libc::RTM_GETTFILTER, 0, &header(link, 0, TC_H_CLSACT_INGRESS, 0));
    match socket.dump(&Op::new("list filters", message)) {
        Ok(replies) => Ok(replies.iter().filter_map(Filter::parse).collect()),
        Err(error) if error.is_absent() => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_of_one_byte_at_one_byte_per_second_takes_a_second() {
        assert_eq!(ticks(1, 1), 15_625_000);
        assert_eq!(bytes_of(15_625_000, 1), 1);
    }

    #[test]
    fn a_bucket_longer_than_the_clock_saturates() {
        assert_eq!(ticks(u64::MAX, 1), u32::MAX);
        assert_eq!(ticks(1, 0), 15_625_000);
    }
}
