//! IPVS by generic netlink: virtual services, their destinations, time-outs.
//!
//! ```text
//! Family + Service, Destination --add, set, delete--> Op     list_services, list_destinations --parse--> Service, Served
//! ```
//! A module of its own, as small as the part of the family that is needed: the crates for it bring an async runtime and
//! a netlink stack beside ours, and would not let many requests share a write.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use crate::Result;
use crate::addr::family as address_family;
use crate::dual;
use crate::netlink::{Message, Op, Socket, generic};

mod observe;
mod scheduler;
mod wire;

pub use observe::{parse_destination, parse_service};
pub use scheduler::Scheduler;

/// The number that this kernel gave to IPVS' netlink family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Family(u16);

/// What makes a virtual service one of its kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    /// Packets to an address and port, by the IP protocol of this number (TCP, UDP or SCTP).
    Address {
        /// Where packets go.
        address: SocketAddr,
        /// The IP protocol's number.
        protocol: u8,
    },
    /// Packets with exactly this mark.
    Mark {
        /// Of which family.
        family: dual::Family,
        /// The mark, not 0.
        mark: u32,
    },
}

/// How long clients stay with their destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Persistence {
    /// After the last connection; whole seconds, at least one.
    pub timeout: Duration,
    /// Clients that agree in so many bits are one client: 1 to 32 or 128.
    pub prefix: u8,
}

/// A virtual service, wanted or observed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// Which packets.
    pub key: Key,
    /// The scheduler's name.
    pub scheduler: String,
    /// The scheduler's own three flags, [`Scheduler::FALLBACK`] and [`Scheduler::PORT`].
    pub scheduler_flags: u32,
    /// Whether clients stay with their destination.
    pub persistence: Option<Persistence>,
    /// Whether each packet is scheduled on its own (UDP).
    pub one_packet: bool,
}

/// How packets reach a destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs, reason = "IPVS' own words")]
pub enum Forward {
    Masquerade = 0,
    Local = 1,
    Tunnel = 2,
    Route = 3,
    Bypass = 4,
}

/// A destination of a virtual service, wanted or observed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Destination {
    /// Its address.
    pub address: SocketAddr,
    /// How packets get there.
    pub forward: Forward,
    /// Its share; 0 takes no new connections. At most 2^31 - 1.
    pub weight: u32,
    /// No new connections above so many; 0 is no limit.
    pub upper: u32,
    /// New ones again below so many; 0 is three quarters of `upper`.
    pub lower: u32,
}

/// Connections of a destination right now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Connections {
    /// Established.
    pub active: u32,
    /// Opening, closing, or without state (UDP).
    pub inactive: u32,
    /// Clients that stay with it.
    pub persistent: u32,
}

/// What has passed so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[allow(missing_docs, reason = "self-explaining")]
pub struct Stats {
    pub connections: u64,
    pub packets_in: u64,
    pub packets_out: u64,
    pub bytes_in: u64,
    pub bytes_out: u64,
}

/// A destination as observed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Served {
    /// What it is set to.
    pub destination: Destination,
    /// Its connections.
    pub connections: Connections,
    /// What it has served.
    pub stats: Stats,
}

/// How long connections without packets are remembered. In requests none leaves one as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Timeouts {
    /// Of established TCP connections; whole seconds.
    pub tcp: Option<Duration>,
    /// Of TCP connections after a FIN.
    pub tcp_fin: Option<Duration>,
    /// Of UDP.
    pub udp: Option<Duration>,
}

/// The kernel's IPVS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Version {
    /// Major, minor, patch.
    pub version: (u8, u8, u8),
    /// Buckets of the table of connections.
    pub connection_table: u32,
}

impl Family {
    /// Asks for it, which loads the module where the process may; `None` when this kernel has no IPVS.
    pub fn find(socket: &mut Socket) -> Result<Option<Self>> {
        Ok(generic::family(socket, wire::FAMILY)?.map(Family))
    }

    /// The family with this number, for messages that are only looked at.
    pub fn numbered(number: u16) -> Self {
        Family(number)
    }

    /// Makes a virtual service; EEXIST when there is one with its key, ENOENT when the kernel lacks its scheduler.
    pub fn add_service(self, service: &Service) -> Op {
        self.service(wire::CMD_NEW_SERVICE, "add", service)
    }

    /// Changes scheduler, flags and persistence of a virtual service; its destinations and connections stay.
    pub fn set_service(self, service: &Service) -> Op {
        self.service(wire::CMD_SET_SERVICE, "set", service)
    }

    /// Deletes a virtual service and its destinations.
    pub fn delete_service(self, key: Key) -> Op {
        let mut m = self.message(wire::CMD_DEL_SERVICE);
        m.nested(wire::ATTR_SERVICE, |m| write_key(m, key));
        Op::new(format!("delete virtual service {key}"), m)
    }

    /// Adds a destination; EEXIST when there is one with its address.
    pub fn add_destination(self, to: Key, destination: &Destination) -> Op {
        self.destination(wire::CMD_NEW_DEST, "add", to, destination)
    }

    /// Changes a destination's weight, limits and forwarding.
    pub fn set_destination(self, of: Key, destination: &Destination) -> Op {
        self.destination(wire::CMD_SET_DEST, "set", of, destination)
    }

    /// Deletes a destination. Its connections end with their next packet where the sysctl `expire_nodest_conn` is 1.
    pub fn delete_destination(self, of: Key, address: SocketAddr) -> Op {
        let mut m = self.message(wire::CMD_DEL_DEST);
        m.nested(wire::ATTR_SERVICE, |m| write_key(m, of));
        m.nested(wire::ATTR_DEST, |m| write_address(m, address));
        Op::new(format!("delete destination {address} of virtual service {of}"), m)
    }

    /// Sets time-outs, of all virtual services of the network namespace.
    pub fn set_timeouts(self, timeouts: Timeouts) -> Op {
        let mut m = self.message(wire::CMD_SET_CONFIG);
        let all = [
            (wire::ATTR_TIMEOUT_TCP, timeouts.tcp),
            (wire::ATTR_TIMEOUT_TCP_FIN, timeouts.tcp_fin),
            (wire::ATTR_TIMEOUT_UDP, timeouts.udp),
        ];
        for (kind, timeout) in all {
            if let Some(timeout) = timeout {
                m.u32(kind, seconds(timeout));
            }
        }
        Op::new("set IPVS' time-outs", m)
    }

    /// All virtual services with what they have served, in no particular order.
    pub fn list_services(self, socket: &mut Socket) -> Result<Vec<(Service, Stats)>> {
        let replies = socket.dump(&Op::new("list virtual services", self.message(wire::CMD_GET_SERVICE)))?;
        Ok(replies.iter().filter_map(parse_service).collect())
    }

    /// One virtual service.
    pub fn get_service(self, socket: &mut Socket, key: Key) -> Result<Option<(Service, Stats)>> {
        let mut m = self.message(wire::CMD_GET_SERVICE);
        m.nested(wire::ATTR_SERVICE, |m| write_key(m, key));
        let op = Op::new(format!("look up virtual service {key}"), m).or_absent();
        Ok(socket.request(&op)?.iter().find_map(parse_service))
    }

    /// The destinations of a virtual service; none when there is no such service.
    pub fn list_destinations(self, socket: &mut Socket, of: Key) -> Result<Vec<Served>> {
        let mut m = self.message(wire::CMD_GET_DEST);
        m.nested(wire::ATTR_SERVICE, |m| write_key(m, of));
        let op = Op::new(format!("list the destinations of virtual service {of}"), m).or_absent();
        let family = of.family();
        Ok(socket.dump(&op)?.iter().filter_map(|reply| parse_destination(reply, family)).collect())
    }

    /// The time-outs in force.
    pub fn timeouts(self, socket: &mut Socket) -> Result<Timeouts> {
        let replies = socket.request(&Op::new("read IPVS' time-outs", self.message(wire::CMD_GET_CONFIG)))?;
        Ok(replies.last().map(observe::timeouts).unwrap_or_default())
    }

    /// The kernel's IPVS.
    pub fn version(self, socket: &mut Socket) -> Result<Option<Version>> {
        let replies = socket.request(&Op::new("read IPVS' version", self.message(wire::CMD_GET_INFO)))?;
        Ok(replies.iter().find_map(observe::version))
    }

    fn message(self, command: u8) -> Message {
        Message::new(self.0, 0, &generic::header(command, wire::VERSION))
    }

    fn service(self, command: u8, verb: &str, service: &Service) -> Op {
        let mut m = self.message(command);
        let all_bits = if service.key.family() == dual::Family::V4 { 32 } else { 128 };
        let (timeout, prefix) =
            service.persistence.map_or((0, all_bits), |p| (seconds(p.timeout).max(1), p.prefix));
        m.nested(wire::ATTR_SERVICE, |m| {
            write_key(m, service.key);
            m.text(wire::SVC_SCHED_NAME, &service.scheduler);
            m.raw(wire::SVC_FLAGS, &wire::flags(service.flags()));
            m.u32(wire::SVC_TIMEOUT, timeout);
            match service.key.family() {
                dual::Family::V4 => m.u32_be(wire::SVC_NETMASK, mask(prefix)),
                dual::Family::V6 => m.u32(wire::SVC_NETMASK, prefix.into()),
            };
        });
        Op::new(format!("{verb} virtual service {}", service.key), m)
    }

    fn destination(self, command: u8, verb: &str, of: Key, destination: &Destination) -> Op {
        let mut m = self.message(command);
        m.nested(wire::ATTR_SERVICE, |m| write_key(m, of));
        m.nested(wire::ATTR_DEST, |m| {
            write_address(m, destination.address);
            m.u32(wire::DEST_FWD_METHOD, destination.forward as u32);
            m.u32(wire::DEST_WEIGHT, destination.weight);
            m.u32(wire::DEST_U_THRESH, destination.upper).u32(wire::DEST_L_THRESH, destination.lower);
        });
        let to = destination.address;
        Op::new(format!("{verb} destination {to} of virtual service {of}"), m)
    }
}

impl Key {
    /// Of which family.
    pub fn family(self) -> dual::Family {
        match self {
            Key::Address { address, .. } => dual::Family::of(address.ip()),
            Key::Mark { family, .. } => family,
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Key::Address { address, protocol } => match protocol {
                6 => write!(f, "TCP {address}"),
                17 => write!(f, "UDP {address}"),
                132 => write!(f, "SCTP {address}"),
                other => write!(f, "protocol {other} {address}"),
            },
            Key::Mark { family, mark } => write!(f, "mark {mark} of {family}"),
        }
    }
}

impl Service {
    fn flags(&self) -> u32 {
        let persistent = if self.persistence.is_some() { wire::F_PERSISTENT } else { 0 };
        let one_packet = if self.one_packet { wire::F_ONEPACKET } else { 0 };
        persistent | one_packet | self.scheduler_flags & wire::F_SCHED
    }
}

fn seconds(timeout: Duration) -> u32 {
    u32::try_from(timeout.as_secs()).unwrap_or(u32::MAX)
}

/// The mask of an IPv4 prefix.
fn mask(prefix: u8) -> u32 {
    u32::MAX.checked_shl(32_u32.saturating_sub(prefix.into())).unwrap_or(0)
}

fn write_key(m: &mut Message, key: Key) {
    match key {
        Key::Address { address, protocol } => {
            m.u16(wire::SVC_AF, address_family(address.ip()).into());
            m.u16(wire::SVC_PROTOCOL, protocol.into());
            m.raw(wire::SVC_ADDR, &union(address.ip())).u16_be(wire::SVC_PORT, address.port());
        }
        Key::Mark { family, mark } => {
            let of_family: IpAddr = match family {
                dual::Family::V4 => Ipv4Addr::UNSPECIFIED.into(),
                dual::Family::V6 => Ipv6Addr::UNSPECIFIED.into(),
            };
            m.u16(wire::SVC_AF, address_family(of_family).into()).u32(wire::SVC_FWMARK, mark);
        }
    }
}

fn write_address(m: &mut Message, address: SocketAddr) {
    m.raw(wire::DEST_ADDR, &union(address.ip())).u16_be(wire::DEST_PORT, address.port());
    m.u16(wire::DEST_ADDR_FAMILY, address_family(address.ip()).into());
}

/// union nf_inet_addr.
fn union(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(v4) => {
            let mut bytes = [0; 16];
            bytes[..4].copy_from_slice(&v4.octets());
            bytes
        }
        IpAddr::V6(v6) => v6.octets(),
    }
}
