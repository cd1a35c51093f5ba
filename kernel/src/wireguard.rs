//! WireGuard devices by generic netlink.
//!
//! ```text
//! Family + LinkId --set_device, set_peer, remove_peer--> Op     get --parse--> Device
//! ```

use std::net::{IpAddr, SocketAddr};

use ipnetwork::IpNetwork;

use crate::Result;
use crate::addr::family as address_family;
use crate::link::LinkId;
use crate::netlink::attr::{attrs, ip, u16_ne, u32_ne};
use crate::netlink::{Attrs, Message, Op, Reply, Socket, generic};

const CMD_GET_DEVICE: u8 = 0;
const CMD_SET_DEVICE: u8 = 1;
const VERSION: u8 = 1;
const DEVICE_IFINDEX: u16 = 1;
const DEVICE_PRIVATE_KEY: u16 = 3;
const DEVICE_PUBLIC_KEY: u16 = 4;
const DEVICE_LISTEN_PORT: u16 = 6;
const DEVICE_FWMARK: u16 = 7;
const DEVICE_PEERS: u16 = 8;
const PEER_PUBLIC_KEY: u16 = 1;
const PEER_FLAGS: u16 = 3;
const PEER_ENDPOINT: u16 = 4;
const PEER_ALLOWEDIPS: u16 = 9;
const PEER_REMOVE_ME: u32 = 1;
const PEER_REPLACE_ALLOWEDIPS: u32 = 2;
const ALLOWEDIP_FAMILY: u16 = 1;
const ALLOWEDIP_IPADDR: u16 = 2;
const ALLOWEDIP_CIDR_MASK: u16 = 3;

/// A key, private or public.
pub type Key = [u8; 32];

/// The number that this kernel gave to WireGuard's netlink family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Family(u16);

/// A device as observed.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Device {
    /// Its private key, where it has one and the caller may know.
    pub private_key: Option<Key>,
    /// Its public key, where it has one.
    pub public_key: Option<Key>,
    /// UDP port.
    pub port: u16,
    /// Mark of its packets; 0 is none.
    pub mark: u32,
    /// Its peers.
    pub peers: Vec<Peer>,
}

/// A peer, wanted or observed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Public key.
    pub key: Key,
    /// Where its packets go.
    pub endpoint: Option<SocketAddr>,
    /// Which addresses are behind it, in the kernel's order.
    pub allowed: Vec<IpNetwork>,
}

impl std::fmt::Debug for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Device { private_key: _, public_key, port, mark, peers } = self;
        let mut shown = f.debug_struct("Device");
        shown.field("public_key", public_key).field("port", port).field("mark", mark).field("peers", peers);
        shown.finish_non_exhaustive()
    }
}

impl Family {
    /// Asks for it; `None` when this kernel has no WireGuard, or has made no device of it yet.
    pub fn find(socket: &mut Socket) -> Result<Option<Self>> {
        Ok(generic::family(socket, "wireguard")?.map(Family))
    }

    /// The family with this number, for messages that are only looked at.
    pub fn numbered(number: u16) -> Self {
        Family(number)
    }

    /// Gives a device its private key and port, and no mark.
    pub fn set_device(self, link: &LinkId, private_key: &Key, port: u16) -> Op {
        let mut m = self.message(CMD_SET_DEVICE, link);
        m.raw(DEVICE_PRIVATE_KEY, private_key).u16(DEVICE_LISTEN_PORT, port).u32(DEVICE_FWMARK, 0);
        Op::new(format!("set key and port {port} of {link}"), m)
    }

    /// Makes a peer, or changes the one with the same key; its allowed addresses become exactly these.
    pub fn set_peer(self, link: &LinkId, peer: &Peer) -> Op {
        let mut m = self.message(CMD_SET_DEVICE, link);
        write_peer(&mut m, &peer.key, PEER_REPLACE_ALLOWEDIPS, |m| {
            if let Some(endpoint) = peer.endpoint {
                m.raw(PEER_ENDPOINT, &socket_address(endpoint));
            }
            m.nested(PEER_ALLOWEDIPS, |m| {
                for network in &peer.allowed {
                    m.nested(0, |m| {
                        m.u16(ALLOWEDIP_FAMILY, address_family(network.ip()).into());
                        m.ip(ALLOWEDIP_IPADDR, network.network());
                        m.u8(ALLOWEDIP_CIDR_MASK, network.prefix());
                    });
                }
            });
        });
        let to = peer.endpoint.map(|endpoint| format!(" at {endpoint}")).unwrap_or_default();
        Op::new(format!("set the peer{to} of {link}"), m)
    }

    /// Removes a peer.
    pub fn remove_peer(self, link: &LinkId, key: &Key) -> Op {
        let mut m = self.message(CMD_SET_DEVICE, link);
        write_peer(&mut m, key, PEER_REMOVE_ME, |_| {});
        Op::new(format!("remove a peer of {link}"), m)
    }

    /// What a device is set to.
    pub fn get(self, socket: &mut Socket, link: &LinkId) -> Result<Device> {
        let message = self.message(CMD_GET_DEVICE, link);
        let replies = socket.dump(&Op::new(format!("read WireGuard's state of {link}"), message))?;
        Ok(Device::parse(&replies))
    }

    fn message(self, command: u8, link: &LinkId) -> Message {
        let mut m = Message::new(self.0, 0, &generic::header(command, VERSION));
        m.u32(DEVICE_IFINDEX, link.index);
        m
    }
}

fn write_peer(m: &mut Message, key: &Key, flags: u32, rest: impl FnOnce(&mut Message)) {
    m.nested(DEVICE_PEERS, |m| {
        m.nested(0, |m| {
            m.raw(PEER_PUBLIC_KEY, key).u32(PEER_FLAGS, flags);
            rest(m);
        });
    });
}

/// struct sockaddr_in or sockaddr_in6.
fn socket_address(address: SocketAddr) -> Vec<u8> {
    let mut bytes = u16::from(address_family(address.ip())).to_ne_bytes().to_vec();
    bytes.extend(address.port().to_be_bytes());
    match address {
        SocketAddr::V4(v4) => {
            bytes.extend(v4.ip().octets());
            bytes.extend([0; 8]);
        }
        SocketAddr::V6(v6) => {
            bytes.extend(v6.flowinfo().to_be_bytes());
            bytes.extend(v6.ip().octets());
            bytes.extend(v6.scope_id().to_ne_bytes());
        }
    }
    bytes
}

fn parse_socket_address(bytes: &[u8]) -> Option<SocketAddr> {
    let port = u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?);
    let ip: IpAddr = match i32::from(u16_ne(bytes)?) {
        libc::AF_INET => ip(bytes.get(4..8)?)?,
        libc::AF_INET6 => ip(bytes.get(8..24)?)?,
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

impl Device {
    /// Reads the answers to a get: a long list of peers comes in several, and a peer's addresses may be cut in two.
    pub fn parse(replies: &[Reply]) -> Self {
        let mut device = Device::default();
        for reply in replies {
            let of = attrs(reply.payload.get(4..).unwrap_or(&[]));
            let key = |kind| of.find_attr(kind).and_then(key_of);
            device.private_key = key(DEVICE_PRIVATE_KEY).filter(|k| *k != [0; 32]).or(device.private_key);
            device.public_key = key(DEVICE_PUBLIC_KEY).filter(|k| *k != [0; 32]).or(device.public_key);
            device.port = of.find_attr(DEVICE_LISTEN_PORT).and_then(u16_ne).unwrap_or(device.port);
            device.mark = of.find_attr(DEVICE_FWMARK).and_then(u32_ne).unwrap_or(device.mark);
            for (_, peer) in attrs(of.find_attr(DEVICE_PEERS).unwrap_or(&[])) {
                device.add(&attrs(peer));
            }
        }
        device
    }

    fn add(&mut self, of: &Attrs<'_>) {
        let Some(key) = of.find_attr(PEER_PUBLIC_KEY).and_then(key_of) else { return };
        let allowed = attrs(of.find_attr(PEER_ALLOWEDIPS).unwrap_or(&[])).filter_map(|(_, network)| {
            let of = attrs(network);
            let prefix = *of.find_attr(ALLOWEDIP_CIDR_MASK)?.first()?;
            IpNetwork::new(of.find_attr(ALLOWEDIP_IPADDR).and_then(ip)?, prefix).ok()
        });
        match self.peers.last_mut().filter(|last| last.key == key) {
            Some(last) => last.allowed.extend(allowed),
            None => {
                let endpoint = of.find_attr(PEER_ENDPOINT).and_then(parse_socket_address);
                self.peers.push(Peer { key, endpoint, allowed: allowed.collect() });
            }
        }
    }
}

fn key_of(bytes: &[u8]) -> Option<Key> {
    bytes.try_into().ok()
}

/// A private key as the kernel keeps it (RFC 7748: some bits are fixed).
pub fn clamped(mut key: Key) -> Key {
    key[0] &= 248;
    key[31] = (key[31] & 127) | 64;
    key
}
