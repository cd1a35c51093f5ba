//! Clusters to plan for.
#![allow(dead_code, reason = "each test program uses some of it")]

use ipnetwork::IpNetwork;
use kernel::link::LinkId;
use overlay::{Abilities, DualStack, Local, Mode, Peer, Settings, Uplink};
use proptest::prelude::*;

pub fn network(text: &str) -> IpNetwork {
    text.parse().expect("a network")
}

pub fn settings(mode: Mode) -> Settings {
    Settings { mode, ..Settings::default() }
}

fn pod_cidrs(n: u16) -> DualStack<Option<IpNetwork>> {
    let v4 = format!("10.{}.{}.0/24", n % 250, n / 250);
    DualStack { v4: Some(network(&v4)), v6: Some(network(&format!("fd00:10:{n}::/64"))) }
}

/// Node `n` as itself, on eth0 with 192.0.2.n and 2001:db8::n.
pub fn local(n: u16) -> Local {
    let link = LinkId { index: 2, name: "eth0".to_owned() };
    let uplink = |ip: &str, prefix| {
        Some(Uplink { link: link.clone(), ip: ip.parse().expect("an address"), prefix, mtu: 1500 })
    };
    Local {
        name: format!("node-{n}"),
        uplinks: DualStack {
            v4: uplink(&format!("192.0.2.{n}"), 24),
            v6: uplink(&format!("2001:db8::{n}"), 64),
        },
        pod_cidrs: pod_cidrs(n),
        abilities: Abilities::default(),
    }
}

fn at(n: u16, v4: &str, v6: &str) -> Peer {
    Peer {
        name: format!("node-{n}"),
        ips: DualStack { v4: v4.parse().ok(), v6: v6.parse().ok() },
        pod_cidrs: pod_cidrs(n),
        wireguard_key: Some([u8::try_from(n % 256).expect("a byte"); 32]),
    }
}

/// Node `n` as a peer on the same link.
pub fn node(n: u16) -> Peer {
    at(n, &format!("192.0.2.{n}"), &format!("2001:db8::{n}"))
}

/// Node `n` as a peer beyond a router.
pub fn beyond(n: u16) -> Peer {
    at(n, &format!("198.51.{}.{}", n / 250, n % 250), &format!("2001:db8:1::{n}"))
}

/// Peers of all sorts, some of which lack or share something.
pub fn peers() -> impl Strategy<Value = Vec<Peer>> {
    let peer = (2u16..60, any::<bool>(), 0u8..12, 2u16..60).prop_map(|(n, near, flaw, other)| {
        let mut peer = if near { node(n) } else { beyond(n) };
        match flaw {
            0 => peer.ips.v6 = None,
            1 => peer.ips.v4 = None,
            2 => peer.pod_cidrs.v6 = None,
            3 => peer.pod_cidrs = node(other).pod_cidrs,
            4 => peer.ips = node(other).ips,
            5 => peer.wireguard_key = node(other).wireguard_key,
            6 => peer.wireguard_key = None,
            7 => peer.pod_cidrs = node(1).pod_cidrs,
            _ => {}
        }
        peer
    });
    proptest::collection::vec(peer, 0..20).prop_map(|mut peers| {
        peers.sort_by(|a, b| a.name.cmp(&b.name));
        peers.dedup_by(|a, b| a.name == b.name);
        peers
    })
}

/// Those whose two families mirror each other.
pub fn mirrors(peers: &[Peer]) -> Vec<Peer> {
    let mirrors = |peer: &&Peer| {
        peer.ips.v4.is_some() == peer.ips.v6.is_some()
            && peer.pod_cidrs.v4.is_some() == peer.pod_cidrs.v6.is_some()
    };
    peers.iter().filter(mirrors).cloned().collect()
}
