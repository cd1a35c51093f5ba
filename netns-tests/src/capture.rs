//! What really travels on a link: packets as an AF_PACKET socket sees them, down to what is inside of a tunnel.

use std::collections::VecDeque;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use crate::{Space, sys, wait};

/// Packets that are kept at most; a capture is for looking, not for measuring.
const KEPT: usize = 50_000;
/// Bytes of a frame that are looked at: every header of a tunnelled packet fits.
const SEEN: usize = 256;

/// An IP packet, outermost header first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    /// Source address.
    pub from: IpAddr,
    /// Destination address.
    pub to: IpAddr,
    /// Protocol number behind the IP header (and IPv6's fragment header).
    pub protocol: u8,
    /// Source and destination port of TCP and UDP.
    pub ports: Option<(u16, u16)>,
    /// Type of an ICMP or ICMPv6 message.
    pub icmp: Option<u8>,
    /// Bytes from this IP header to the packet's end, as the header tells.
    pub length: usize,
    /// Whether it is a fragment of something larger.
    pub is_fragment: bool,
    /// What it carries, when it is a tunnel's.
    pub inside: Option<(Tunnel, Box<Packet>)>,
    /// Whether this machine sent it (and not received it).
    pub is_outgoing: bool,
}

/// How one packet carries another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tunnel {
    /// VXLAN with its network identifier.
    Vxlan(u32),
    /// IP in IP.
    Ip,
}

impl Packet {
    /// Reads an Ethernet frame; `None` when it carries no IP.
    pub fn of_frame(frame: &[u8]) -> Option<Packet> {
        match frame.get(12..14)? {
            [0x08, 0x00] | [0x86, 0xdd] => Self::of_ip(frame.get(14..)?),
            _ => None,
        }
    }

    /// Reads an IP packet of either version.
    pub fn of_ip(bytes: &[u8]) -> Option<Packet> {
        let (mut packet, payload) = match bytes.first()? >> 4 {
            4 => header_v4(bytes)?,
            6 => header_v6(bytes)?,
            _ => return None,
        };
        // Ports stand in the first fragment only; where a fragment goes on, none are looked for.
        let Some(payload) = payload else { return Some(packet) };
        match i32::from(packet.protocol) {
            libc::IPPROTO_TCP | libc::IPPROTO_UDP => {
                packet.ports = number(payload, 0).zip(number(payload, 2))
            }
            libc::IPPROTO_ICMP | libc::IPPROTO_ICMPV6 => packet.icmp = payload.first().copied(),
            libc::IPPROTO_IPIP | libc::IPPROTO_IPV6 => {
                packet.inside = Self::of_ip(payload).map(|inner| (Tunnel::Ip, Box::new(inner)));
            }
            _ => {}
        }
        if i32::from(packet.protocol) == libc::IPPROTO_UDP {
            packet.inside = of_vxlan(payload);
        }
        Some(packet)
    }

    /// The innermost packet: what the pods sent.
    pub fn innermost(&self) -> &Packet {
        self.inside.as_ref().map_or(self, |(_, inner)| inner.innermost())
    }

    /// Whether the innermost packet goes from `from` to `to`.
    pub fn is_between(&self, from: IpAddr, to: IpAddr) -> bool {
        let inner = self.innermost();
        inner.from == from && inner.to == to
    }
}

impl fmt::Display for Packet {
    /// `172.16.0.10 > 172.16.0.11 udp 40123 > 8472, vxlan 1 [10.244.1.2 > 10.244.2.2 icmp echo request]`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} > {} ", self.from, self.to)?;
        match (i32::from(self.protocol), self.ports, self.icmp) {
            (libc::IPPROTO_TCP, Some((from, to)), _) => write!(f, "tcp {from} > {to}")?,
            (libc::IPPROTO_UDP, Some((from, to)), _) => write!(f, "udp {from} > {to}")?,
            (libc::IPPROTO_ICMP, _, Some(8)) | (libc::IPPROTO_ICMPV6, _, Some(128)) => {
                f.write_str("icmp echo request")?;
            }
            (libc::IPPROTO_ICMP, _, Some(0)) | (libc::IPPROTO_ICMPV6, _, Some(129)) => {
                f.write_str("icmp echo reply")?;
            }
            (libc::IPPROTO_ICMP | libc::IPPROTO_ICMPV6, _, Some(kind)) => write!(f, "icmp type {kind}")?,
            (libc::IPPROTO_IPIP | libc::IPPROTO_IPV6, ..) => f.write_str("ip in ip")?,
            (protocol, ..) => write!(f, "protocol {protocol}")?,
        }
        if self.is_fragment {
            f.write_str(" (fragment)")?;
        }
        match &self.inside {
            Some((Tunnel::Vxlan(vni), inner)) => write!(f, ", vxlan {vni} [{inner}]"),
            Some((Tunnel::Ip, inner)) => write!(f, " [{inner}]"),
            None => write!(f, ", {} bytes", self.length),
        }
    }
}

fn number(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn header_v4(bytes: &[u8]) -> Option<(Packet, Option<&[u8]>)> {
    let header = usize::from(bytes[0] & 15) * 4;
    let address = |at: usize| {
        let octets: [u8; 4] = bytes.get(at..at + 4)?.try_into().ok()?;
        Some(IpAddr::V4(Ipv4Addr::from(octets)))
    };
    let fragment = number(bytes, 6)?;
    let packet = Packet {
        from: address(12)?,
        to: address(16)?,
        protocol: *bytes.get(9)?,
        ports: None,
        icmp: None,
        length: usize::from(number(bytes, 2)?),
        is_fragment: fragment & 0x3fff != 0,
        inside: None,
        is_outgoing: false,
    };
    let is_first = fragment & 0x1fff == 0;
    Some((packet, bytes.get(header..).filter(|_| is_first)))
}

fn header_v6(bytes: &[u8]) -> Option<(Packet, Option<&[u8]>)> {
    const FRAGMENT: u8 = 44;
    let address = |at: usize| {
        let octets: [u8; 16] = bytes.get(at..at + 16)?.try_into().ok()?;
        Some(IpAddr::V6(Ipv6Addr::from(octets)))
    };
    let (mut protocol, mut payload, mut is_first) = (*bytes.get(6)?, bytes.get(40..)?, true);
    let is_fragment = protocol == FRAGMENT;
    if is_fragment {
        protocol = *payload.first()?;
        is_first = number(payload, 2)? & 0xfff8 == 0;
        payload = payload.get(8..)?;
    }
    let packet = Packet {
        from: address(8)?,
        to: address(24)?,
        protocol,
        ports: None,
        icmp: None,
        length: usize::from(number(bytes, 4)?) + 40,
        is_fragment,
        inside: None,
        is_outgoing: false,
    };
    Some((packet, Some(payload).filter(|_| is_first)))
}

/// The packet in a VXLAN header behind this UDP header, to whatever port: a header with nothing but the flag "the
/// network identifier is valid" and zeros where the RFC wants them, and IP in the frame behind it.
fn of_vxlan(udp: &[u8]) -> Option<(Tunnel, Box<Packet>)> {
    let header = udp.get(8..16)?;
    if header[..4] != [8, 0, 0, 0] || header[7] != 0 {
        return None;
    }
    let vni = u32::from_be_bytes([0, header[4], header[5], header[6]]);
    Some((Tunnel::Vxlan(vni), Box::new(Packet::of_frame(udp.get(16..)?)?)))
}

/// Packets that pass a link, from [`Capture::start`] on.
#[derive(Debug)]
pub struct Capture {
    packets: Arc<Mutex<VecDeque<Packet>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Capture {
    /// Begins to listen on `link` of `space`, in both directions.
    ///
    /// # Panics
    /// When there is no such link.
    pub fn start(space: &Space, link: &str) -> Capture {
        let socket = space.run(|| sys::packet_socket(link)).unwrap_or_else(|e| panic!("{e}"));
        let (packets, stop) = (Arc::new(Mutex::new(VecDeque::new())), Arc::new(AtomicBool::new(false)));
        let (seen, stopped) = (Arc::clone(&packets), Arc::clone(&stop));
        let thread = std::thread::spawn(move || listen(&socket, &seen, &stopped));
        Capture { packets, stop, thread: Some(thread) }
    }

    /// Everything so far; what had passed the link before this call is in it.
    ///
    /// # Panics
    /// When the listening thread panicked.
    pub fn packets(&self) -> Vec<Packet> {
        self.packets.lock().expect("no panic while packets are kept").iter().cloned().collect()
    }

    /// The first packet for which `wanted` holds, as soon as there is one.
    ///
    /// # Panics
    /// When none comes in time, naming `what` and what came instead.
    pub fn until(&self, what: &str, wanted: impl Fn(&Packet) -> bool) -> Packet {
        let deadline = std::time::Instant::now() + wait::patience();
        loop {
            let packets = self.packets();
            if let Some(found) = packets.iter().find(|packet| wanted(packet)) {
                return found.clone();
            }
            let shown: Vec<String> =
                packets.iter().rev().take(20).map(|packet| format!("  {packet}\n")).collect();
            assert!(
                std::time::Instant::now() < deadline,
                "no {what} among (newest first)\n{}",
                shown.concat()
            );
            // The pause between two looks.
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
    }

    /// Ends the capture and gives all packets that passed before this call.
    ///
    /// # Panics
    /// When the listening thread panicked.
    pub fn stop(mut self) -> Vec<Packet> {
        self.end();
        self.packets()
    }

    fn end(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.end();
    }
}

/// Reads until told to stop and nothing is left.
fn listen(socket: &OwnedFd, seen: &Mutex<VecDeque<Packet>>, stopped: &AtomicBool) {
    let mut frame = [0; SEEN];
    loop {
        let is_last = stopped.load(Ordering::Acquire);
        while let Some((length, is_outgoing)) = sys::receive_frame(socket, &mut frame) {
            let Some(packet) = Packet::of_frame(&frame[..length.min(SEEN)]) else { continue };
            let Ok(mut seen) = seen.lock() else { return };
            if seen.len() == KEPT {
                seen.pop_front();
            }
            seen.push_back(Packet { is_outgoing, ..packet });
        }
        if is_last {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An IPv4 header of 20 bytes before `payload`.
    fn v4(protocol: u8, fragment: u16, from: u8, to: u8, payload: &[u8]) -> Vec<u8> {
        let length = (20 + payload.len() as u16).to_be_bytes();
        let fragment = fragment.to_be_bytes();
        let mut bytes =
            vec![0x45, 0, length[0], length[1], 0, 0, fragment[0], fragment[1], 64, protocol, 0, 0];
        bytes.extend([10, 0, 0, from, 10, 0, 0, to]);
        bytes.extend(payload);
        bytes
    }

    #[test]
    fn vxlan_is_opened() {
        let echo = v4(1, 0x4000, 3, 4, &[8, 0, 0, 0]);
        let mut udp = vec![0x9c, 0xbb, 0x21, 0x18, 0, 0, 0, 0, 8, 0, 0, 0, 0, 0, 1, 0];
        udp.extend([0; 12]);
        udp.extend([8, 0]);
        udp.extend(&echo);
        let packet = Packet::of_ip(&v4(17, 0, 1, 2, &udp)).unwrap();
        let text =
            "10.0.0.1 > 10.0.0.2 udp 40123 > 8472, vxlan 1 [10.0.0.3 > 10.0.0.4 icmp echo request, 24 bytes]";
        assert_eq!(packet.to_string(), text);
        assert!(packet.is_between("10.0.0.3".parse().unwrap(), "10.0.0.4".parse().unwrap()));
        assert!(!packet.is_fragment && !packet.innermost().is_fragment);
    }

    #[test]
    fn fragments_are_told() {
        assert!(Packet::of_ip(&v4(17, 0x2000, 1, 2, &[0; 8])).unwrap().is_fragment);
        let later = Packet::of_ip(&v4(17, 185, 1, 2, &[0; 8])).unwrap();
        assert!(later.is_fragment && later.ports.is_none());
        assert!(!Packet::of_ip(&v4(17, 0x4000, 1, 2, &[0; 8])).unwrap().is_fragment);
    }

    #[test]
    fn ip_in_ip_is_opened() {
        let packet = Packet::of_ip(&v4(4, 0, 1, 2, &v4(6, 0, 3, 4, &[0, 80, 0, 81]))).unwrap();
        assert_eq!(packet.inside.as_ref().unwrap().0, Tunnel::Ip);
        assert_eq!(packet.innermost().ports, Some((80, 81)));
    }

    /// Every prefix of a packet is read without a panic.
    #[test]
    fn cut_packets_are_no_trouble() {
        let whole = v4(4, 0, 1, 2, &v4(17, 0, 3, 4, &[0; 40]));
        for length in 0..whole.len() {
            let _ = Packet::of_ip(&whole[..length]);
        }
    }
}
