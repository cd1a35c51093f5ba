//! Bridge ports and VLAN filtering.

use std::collections::BTreeMap;
use std::fmt;

use crate::Result;
use crate::link::{
    IFLA_BRPORT_ISOLATED, IFLA_BRPORT_LEARNING, IFLA_BRPORT_MODE, LinkId, Switch, family_header,
};
use crate::netlink::attr::{attrs, u16_ne, u32_ne};
use crate::netlink::{Attrs, Message, Op, Reply, Socket};

const IFLA_BRIDGE_FLAGS: u16 = 0;
const IFLA_BRIDGE_VLAN_INFO: u16 = 2;
const BRIDGE_FLAGS_SELF: u16 = 2;
const BRIDGE_VLAN_INFO_PVID: u16 = 1 << 1;
const BRIDGE_VLAN_INFO_UNTAGGED: u16 = 1 << 2;
const BRIDGE_VLAN_INFO_RANGE_BEGIN: u16 = 1 << 3;
const BRIDGE_VLAN_INFO_RANGE_END: u16 = 1 << 4;
const RTM_NEWVLAN: u16 = 112;
const RTM_GETVLAN: u16 = 114;
const BRIDGE_VLANDB_ENTRY: u16 = 1;
const BRIDGE_VLANDB_ENTRY_INFO: u16 = 1;
const BRIDGE_VLANDB_ENTRY_RANGE: u16 = 2;
const AF_BRIDGE: u8 = libc::AF_BRIDGE as u8;

/// What to change of a bridge port; `None` leaves it.
#[derive(Debug, Clone, Copy, Default)]
pub struct PortChange {
    /// Whether frames may leave by the port they came in by.
    pub hairpin: Option<Switch>,
    /// Whether it only talks to ports that are not isolated (Linux 4.18).
    pub isolated: Option<Switch>,
    /// Whether it learns addresses.
    pub learning: Option<Switch>,
}

/// Changes a bridge port.
pub fn set_port(port: &LinkId, to: PortChange) -> Op {
    let mut message = Message::new(libc::RTM_SETLINK, 0, &family_header(AF_BRIDGE, port.index, 0, 0));
    message.nested(libc::IFLA_PROTINFO, |m| {
        for (kind, switch) in [
            (IFLA_BRPORT_MODE, to.hairpin),
            (IFLA_BRPORT_ISOLATED, to.isolated),
            (IFLA_BRPORT_LEARNING, to.learning),
        ] {
            if let Some(switch) = switch {
                m.u8(kind, u8::from(switch == Switch::On));
            }
        }
    });
    Op::new(format!("set bridge port options of {port}"), message)
}

/// Which VLAN table of a link: as a port of its bridge, or as the bridge itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VlanSide {
    /// The link is a port.
    Port,
    /// The link is a bridge: its own traffic.
    Bridge,
}

/// How frames of a VLAN enter and leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct VlanFlags {
    /// Untagged frames that come in belong to it.
    pub pvid: bool,
    /// Its frames go out untagged.
    pub untagged: bool,
}

/// VLAN ids, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VlanRange {
    /// First.
    pub first: u16,
    /// Last.
    pub last: u16,
}

impl VlanRange {
    /// One VLAN.
    pub fn one(id: u16) -> Self {
        VlanRange { first: id, last: id }
    }
}

impl fmt::Display for VlanRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            write!(f, "{}", self.first)
        } else {
            write!(f, "{}-{}", self.first, self.last)
        }
    }
}

/// A link's VLANs by id.
pub type VlanTable = BTreeMap<u16, VlanFlags>;

/// Admits VLANs on a link. Of a range the kernel takes no PVID.
pub fn add_vlans(link: &LinkId, side: VlanSide, vlans: VlanRange, flags: VlanFlags) -> Op {
    let mut bits = 0;
    if flags.pvid {
        bits |= BRIDGE_VLAN_INFO_PVID;
    }
    if flags.untagged {
        bits |= BRIDGE_VLAN_INFO_UNTAGGED;
    }
    Op::new(format!("add VLAN {vlans} to {link}"), vlan_message(libc::RTM_SETLINK, link, side, (vlans, bits)))
}

/// Removes VLANs from a link; absent ones are no error.
pub fn delete_vlans(link: &LinkId, side: VlanSide, vlans: VlanRange) -> Op {
    let message = vlan_message(libc::RTM_DELLINK, link, side, (vlans, 0));
    Op::new(format!("delete VLAN {vlans} of {link}"), message).or_absent()
}

fn vlan_message(kind: u16, link: &LinkId, side: VlanSide, (vlans, bits): (VlanRange, u16)) -> Message {
    let mut message = Message::new(kind, 0, &family_header(AF_BRIDGE, link.index, 0, 0));
    let info = |bits: u16, id: u16| {
        let mut bytes = [0; 4];
        bytes[..2].copy_from_slice(&bits.to_ne_bytes());
        bytes[2..].copy_from_slice(&id.to_ne_bytes());
        bytes
    };
    message.nested(libc::IFLA_AF_SPEC, |m| {
        if side == VlanSide::Bridge {
            m.u16(IFLA_BRIDGE_FLAGS, BRIDGE_FLAGS_SELF);
        }
        if vlans.first == vlans.last {
            m.raw(IFLA_BRIDGE_VLAN_INFO, &info(bits, vlans.first));
        } else {
            m.raw(IFLA_BRIDGE_VLAN_INFO, &info(bits | BRIDGE_VLAN_INFO_RANGE_BEGIN, vlans.first));
            m.raw(IFLA_BRIDGE_VLAN_INFO, &info(bits | BRIDGE_VLAN_INFO_RANGE_END, vlans.last));
        }
    });
    message
}

/// The VLANs of one link, a port's or a bridge's own. Where the kernel cannot list one link (before 5.6), all are
/// listed and the rest dropped.
pub fn vlans(socket: &mut Socket, link: &LinkId) -> Result<VlanTable> {
    // struct br_vlan_msg: family, 3 reserved bytes, index.
    let mut header = [0; 8];
    header[0] = AF_BRIDGE;
    header[4..].copy_from_slice(&link.index.to_ne_bytes());
    let doing = || format!("list VLANs of {link}");
    let replies = match socket.dump(&Op::new(doing(), Message::new(RTM_GETVLAN, 0, &header))) {
        Err(error) if error.errno().is_some_and(|e| e.0 == libc::EOPNOTSUPP) => {
            let mut all = Message::new(libc::RTM_GETLINK, 0, &family_header(AF_BRIDGE, 0, 0, 0));
            all.u32(libc::IFLA_EXT_MASK, libc::RTEXT_FILTER_BRVLAN_COMPRESSED.cast_unsigned());
            socket.dump(&Op::new(doing(), all))?
        }
        other => other?,
    };
    Ok(parse_vlans(&replies, link.index))
}

/// The VLANs of every port of a bridge, by the port's index. Costs as much as the host has bridge ports.
pub fn port_vlans(socket: &mut Socket, bridge: &LinkId) -> Result<BTreeMap<u32, VlanTable>> {
    let mut message = Message::new(libc::RTM_GETLINK, 0, &family_header(AF_BRIDGE, 0, 0, 0));
    message.u32(libc::IFLA_EXT_MASK, libc::RTEXT_FILTER_BRVLAN_COMPRESSED.cast_unsigned());
    let replies = socket.dump(&Op::new(format!("list VLANs of the ports of {bridge}"), message))?;
    let of_bridge = replies.into_iter().filter_map(|reply| {
        let port = u32_ne(reply.payload.get(4..8)?)?;
        let master = attrs(reply.payload.get(16..)?).find_attr(libc::IFLA_MASTER).and_then(u32_ne)?;
        (master == bridge.index && port != bridge.index).then_some((port, reply))
    });
    Ok(of_bridge.map(|(port, reply)| (port, parse_vlans(&[reply], port))).collect())
}

/// Reads both shapes of VLAN lists: RTM_NEWVLAN, and RTM_NEWLINK of family AF_BRIDGE.
pub fn parse_vlans(replies: &[Reply], link: u32) -> VlanTable {
    let mut table = VlanTable::new();
    for reply in replies {
        let of_link = reply.payload.get(4..8).and_then(u32_ne) == Some(link);
        match reply.kind {
            RTM_NEWVLAN if of_link => read_vlandb(attrs(reply.payload.get(8..).unwrap_or(&[])), &mut table),
            libc::RTM_NEWLINK if of_link => {
                let of = attrs(reply.payload.get(16..).unwrap_or(&[]));
                read_af_spec(attrs(of.find_attr(libc::IFLA_AF_SPEC).unwrap_or(&[])), &mut table);
            }
            _ => {}
        }
    }
    table
}

fn read_vlandb(entries: Attrs<'_>, table: &mut VlanTable) {
    for (_, entry) in entries.filter(|(kind, _)| *kind == BRIDGE_VLANDB_ENTRY) {
        let of = attrs(entry);
        let Some((bits, id)) = of.find_attr(BRIDGE_VLANDB_ENTRY_INFO).and_then(vlan_info) else { continue };
        let last = of.find_attr(BRIDGE_VLANDB_ENTRY_RANGE).and_then(u16_ne).unwrap_or(id);
        admit(table, id, last, bits);
    }
}

fn read_af_spec(entries: Attrs<'_>, table: &mut VlanTable) {
    let mut begin = None;
    for (_, entry) in entries.filter(|(kind, _)| *kind == IFLA_BRIDGE_VLAN_INFO) {
        let Some((bits, id)) = vlan_info(entry) else { continue };
        if bits & BRIDGE_VLAN_INFO_RANGE_BEGIN != 0 {
            begin = Some(id);
        } else {
            admit(table, begin.take().unwrap_or(id), id, bits);
        }
    }
}

fn vlan_info(bytes: &[u8]) -> Option<(u16, u16)> {
    Some((u16_ne(bytes)?, u16_ne(bytes.get(2..)?)?))
}

fn admit(table: &mut VlanTable, first: u16, last: u16, bits: u16) {
    let flags = VlanFlags {
        pvid: bits & BRIDGE_VLAN_INFO_PVID != 0,
        untagged: bits & BRIDGE_VLAN_INFO_UNTAGGED != 0,
    };
    table.extend((first..=last.min(4095)).map(|id| (id, flags)));
}
