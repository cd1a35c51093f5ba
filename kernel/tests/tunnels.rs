//! Tunnel links and what they need, against the kernel; and as bytes where the kernel that runs the tests lacks them.

mod support;

use kernel::addr::{self, Dad};
use kernel::link::{self, IpTunnel, Kind, Link, LinkId, NewEnd, TunnelState, Vxlan};
use kernel::netlink::{Reply, Socket};
use kernel::route::{Encapsulation, Route};
use kernel::rule::{self, Rule};
use kernel::wireguard::{Device, Family, Peer};
use kernel::{Mac, fdb, route};
use support::{in_new_netns, socket};

fn vxlan() -> Vxlan {
    Vxlan {
        vni: 77,
        port: 4789,
        local: Some("127.0.0.1".parse().unwrap()),
        underlay: None,
        learning: false,
        udp_checksum: false,
        ttl: 9,
        tos: 1,
        external: false,
    }
}

fn make(socket: &mut Socket, name: &str, kind: &Kind<'_>) -> Link {
    let end = NewEnd { name, up: true, ..NewEnd::default() };
    socket.apply(&[link::create(&end, kind)]).expect("create");
    link::find(socket, name).expect("look up").expect("it exists")
}

#[test]
fn a_vxlan_is_observed_as_it_was_made() {
    in_new_netns(|| {
        let mut s = socket();
        let veth = make(&mut s, "under0", &Kind::Veth { peer: NewEnd { name: "far0", ..NewEnd::default() } });
        for (n, change) in [
            Vxlan { underlay: Some(veth.id.index), ..vxlan() },
            Vxlan { learning: true, udp_checksum: true, ttl: 0, tos: 0, ..vxlan() },
            Vxlan { local: Some("::1".parse().unwrap()), vni: 0x00ff_ffff, udp_checksum: true, ..vxlan() },
        ]
        .into_iter()
        .enumerate()
        {
            let name = format!("vx{n}");
            let made = make(&mut s, &name, &Kind::Vxlan(change.clone()));
            assert_eq!(made.kind, "vxlan");
            assert_eq!(made.tunnel, Some(TunnelState::Vxlan(change)));
            s.apply(&[link::delete(&made.id)]).expect("delete");
        }
    });
}

#[test]
fn forwarding_entries_are_set_replaced_listed_and_removed() {
    in_new_netns(|| {
        let mut s = socket();
        let link = make(&mut s, "vx0", &Kind::Vxlan(vxlan())).id;
        let other = make(&mut s, "vx1", &Kind::Vxlan(Vxlan { vni: 78, ..vxlan() })).id;
        let mac: Mac = "02:00:00:00:00:05".parse().unwrap();
        let (first, second) = ("192.0.2.5".parse().unwrap(), "192.0.2.6".parse().unwrap());
        s.apply(&[fdb::set_permanent(&link, &mac, first), fdb::set_permanent(&other, &mac, second)])
            .expect("set");
        let listed = |s: &mut Socket, link: &LinkId| fdb::list(s, link.index).expect("list");
        let there = listed(&mut s, &link);
        assert_eq!(there.iter().map(|f| (f.to, f.is_permanent())).collect::<Vec<_>>(), [(first, true)]);
        s.apply(&[fdb::set_permanent(&link, &mac, second)]).expect("replace");
        assert_eq!(listed(&mut s, &link).iter().map(|f| f.to).collect::<Vec<_>>(), [second]);
        s.apply(&[fdb::delete(&link, &mac, second)]).expect("delete");
        assert_eq!(listed(&mut s, &link), []);
        assert!(s.apply(&[fdb::delete(&link, &mac, second)]).expect_err("gone").is_absent());
        assert_eq!(listed(&mut s, &other).len(), 1, "another link's entries are its own");
    });
}

#[test]
fn a_kind_that_the_kernel_lacks_is_known_and_asking_makes_nothing() {
    in_new_netns(|| {
        let mut s = socket();
        let before = link::list(&mut s).expect("list").len();
        assert!(link::is_kind_known(&mut s, &Kind::Vxlan(vxlan())).expect("asked"));
        let dummy = link::is_kind_known(&mut s, &Kind::Dummy).expect("asked");
        assert_eq!(link::list(&mut s).expect("list").len(), before);
        let end = NewEnd { name: "d0", ..NewEnd::default() };
        assert_eq!(s.apply(&[link::create(&end, &Kind::Dummy)]).is_ok(), dummy);
    });
}

#[test]
fn rules_say_who_made_them() {
    in_new_netns(|| {
        let mut s = socket();
        let rule = Rule {
            priority: Some(500),
            protocol: 98,
            ..Rule::from_source("10.9.0.0/24".parse().unwrap(), 9800)
        };
        s.apply(&[rule::add(&rule)]).expect("add");
        assert!(rule::list(&mut s).expect("list").contains(&rule));
        let foreign = Rule { protocol: 4, ..rule.clone() };
        assert!(s.apply(&[rule::delete(&foreign)]).expect_err("another's").is_absent());
        s.apply(&[rule::delete(&rule)]).expect("delete");
    });
}

#[test]
fn routes_are_listed_by_who_made_them_and_never_replace_anothers() {
    in_new_netns(|| {
        let mut s = socket();
        let link = make(&mut s, "vx0", &Kind::Vxlan(vxlan())).id;
        // Without any address in the namespace no IPv4 next hop is good enough for the kernel.
        s.apply(&[addr::add(&link, "10.1.0.0/32".parse().unwrap(), Dad::Skip)]).expect("an address");
        for (dst, gw) in [("10.5.0.0/24", "10.5.0.0"), ("fd00:5::/64", "fe80::5")] {
            let gw: std::net::IpAddr = gw.parse().unwrap();
            let ours = Route {
                gw: Some(gw),
                onlink: gw.is_ipv4(),
                protocol: 98,
                ..Route::new(dst.parse().unwrap(), link.index)
            };
            let theirs =
                Route { gw: None, onlink: false, protocol: 4, scope: route::SCOPE_LINK, ..ours.clone() };
            s.apply(&[route::create(&theirs)]).expect("theirs");
            let refusal = s.apply(&[route::create(&ours)]).expect_err("taken");
            assert!(refusal.is_present(), "{refusal}");
            s.apply(&[route::delete(&theirs), route::create(&ours)]).expect("ours");
            let filter = route::Filter { protocol: Some(98), ..route::Filter::default() };
            let listed = route::list(&mut s, filter).expect("list");
            assert!(listed.iter().any(|r| r.dst == ours.dst && r.gw == ours.gw && r.onlink == ours.onlink));
            assert!(listed.iter().all(|r| r.protocol == 98));
        }
        let nowhere = Route {
            kind: route::UNREACHABLE,
            link: None,
            priority: Some(65535),
            protocol: 98,
            ..Route::new("fd00:6::/64".parse().unwrap(), 0)
        };
        s.apply(&[route::create(&nowhere)]).expect("nowhere");
        s.apply(&[route::delete(&nowhere)]).expect("and back");
    });
}

/// Bytes written as pairs of digits, with blanks as one likes.
fn bytes(text: &[&str]) -> Vec<u8> {
    let digits: String = text.concat().split_whitespace().collect();
    let pair = |at| u8::from_str_radix(&digits[at..at + 2], 16).expect("digits");
    (0..digits.len()).step_by(2).map(pair).collect()
}

fn wireguard() -> (Family, LinkId) {
    (Family::numbered(0x23), LinkId { index: 7, name: "bowline-wg".to_owned() })
}

/// linux/uapi/linux/wireguard.h: WG_CMD_SET_DEVICE is 1, the version 1.
#[test]
fn wireguard_is_told_key_and_port() {
    let (family, link) = wireguard();
    let set = family.set_device(&link, &[0xaa; 32], 51820);
    let expected = bytes(&[
        "01 01 0000",
        "0800 0100 07000000", // WGDEVICE_A_IFINDEX
        "2400 0300",
        &"aa".repeat(32),      // WGDEVICE_A_PRIVATE_KEY
        "0600 0600 6cca 0000", // WGDEVICE_A_LISTEN_PORT
        "0800 0700 00000000",  // WGDEVICE_A_FWMARK
    ]);
    assert_eq!((set.message.kind(), set.message.payload()), (0x23, expected.as_slice()));
    assert_eq!(set.doing, "set key and port 51820 of bowline-wg");
}

#[test]
fn wireguard_is_told_peers() {
    let (family, link) = wireguard();
    let peer = Peer {
        key: [0xbb; 32],
        endpoint: Some("192.0.2.2:51820".parse().unwrap()),
        allowed: vec!["10.2.0.0/24".parse().unwrap(), "fd00::/64".parse().unwrap()],
    };
    let set = family.set_peer(&link, &peer);
    let expected = bytes(&[
        "01 01 0000",
        "0800 0100 07000000",  // WGDEVICE_A_IFINDEX
        "9000 0880 8c00 0080", // WGDEVICE_A_PEERS, the first
        "2400 0100",
        &"bb".repeat(32),     // WGPEER_A_PUBLIC_KEY
        "0800 0300 02000000", // WGPEER_A_FLAGS: replace allowed addresses
        "1400 0400 0200 ca6c c0000202",
        &"00".repeat(8), // WGPEER_A_ENDPOINT: sockaddr_in
        "4800 0980",     // WGPEER_A_ALLOWEDIPS
        "1c00 0080 0600 0100 0200 0000 0800 0200 0a020000 0500 0300 18 000000",
        "2800 0080 0600 0100 0a00 0000 1400 0200 fd00",
        &"00".repeat(14),
        "0500 0300 40 000000",
    ]);
    assert_eq!(set.message.payload(), expected);
    assert_eq!(set.doing, "set the peer at 192.0.2.2:51820 of bowline-wg");
    let remove = family.remove_peer(&link, &[0xbb; 32]);
    let expected = bytes(&[
        "01 01 0000",
        "0800 0100 07000000",
        "3400 0880 3000 0080",
        "2400 0100",
        &"bb".repeat(32),
        "0800 0300 01000000", // remove me
    ]);
    assert_eq!(remove.message.payload(), expected);
}

/// What was set is what is read back, also when the kernel cuts a peer's addresses in two answers.
#[test]
fn wireguard_tells_what_it_was_told() {
    let (family, link) = wireguard();
    let peer = |key: u8, endpoint: &str, allowed: &[&str]| Peer {
        key: [key; 32],
        endpoint: endpoint.parse().ok(),
        allowed: allowed.iter().map(|network| network.parse().unwrap()).collect(),
    };
    let reply =
        |op: kernel::netlink::Op| Reply { kind: op.message.kind(), payload: op.message.payload().to_vec() };
    let first = peer(1, "[2001:db8::2]:51821", &["10.2.0.0/24"]);
    let device = Device::parse(&[
        reply(family.set_device(&link, &[9; 32], 51820)),
        reply(family.set_peer(&link, &first)),
        reply(family.set_peer(&link, &peer(1, "", &["fd00::/64"]))),
        reply(family.set_peer(&link, &peer(2, "192.0.2.3:1", &[]))),
    ]);
    assert_eq!((device.private_key, device.port, device.mark), (Some([9; 32]), 51820, 0));
    let allowed = vec!["10.2.0.0/24".parse().unwrap(), "fd00::/64".parse().unwrap()];
    assert_eq!(device.peers, [Peer { allowed, ..first }, peer(2, "192.0.2.3:1", &[])]);
    assert!(!format!("{device:?}").contains("private"), "keys are not printed");
}

#[test]
fn ip_in_ip_is_asked_for_without_a_remote_end() {
    let tunnel = IpTunnel {
        v6: false,
        external: false,
        local: Some("192.0.2.1".parse().unwrap()),
        remote: None,
        underlay: Some(2),
        ttl: 64,
    };
    let end = NewEnd { name: "t", ..NewEnd::default() };
    let op = link::create(&end, &Kind::IpTunnel(tunnel.clone()));
    let expected = bytes(&[
        "00 00 0000 00000000 00000000 01000000",
        "0600 0300 7400 0000",                                         // IFLA_IFNAME
        "3c00 1280",                                                   // IFLA_LINKINFO
        "0900 0100 69706970 00 000000",                                // IFLA_INFO_KIND: ipip
        "2c00 0280",                                                   // IFLA_INFO_DATA
        "0800 0100 02000000 0800 0200 c0000201",                       // IFLA_IPTUN_LINK, _LOCAL
        "0500 0400 40 000000 0500 0a00 01 000000 0500 0900 04 000000", // _TTL, _PMTUDISC, _PROTO
    ]);
    assert_eq!(op.message.payload(), expected);
    let external = IpTunnel { v6: true, external: true, local: None, underlay: None, ttl: 0, ..tunnel };
    let op = link::create(&end, &Kind::IpTunnel(external));
    let expected = bytes(&[
        "00 00 0000 00000000 00000000 01000000",
        "0600 0300 7400 0000",
        "2000 1280",
        "0b00 0100 697036746e6c 00 00", // ip6tnl
        "1000 0280",
        "0400 1300", // IFLA_IPTUN_COLLECT_METADATA
        "0500 0900 29 000000",
    ]);
    assert_eq!(op.message.payload(), expected);
}

/// The route is read back as it was written; its device need not be a tunnel for that.
#[test]
fn a_route_may_name_outer_addresses() {
    in_new_netns(|| {
        let mut s = socket();
        let link = make(&mut s, "vx0", &Kind::Vxlan(vxlan())).id;
        let encapsulation =
            Encapsulation { from: "2001:db8::1".parse().unwrap(), to: "2001:db8::2".parse().unwrap() };
        let wanted = Route {
            encapsulation: Some(encapsulation),
            protocol: 98,
            ..Route::new("fd00:7::/64".parse().unwrap(), link.index)
        };
        s.apply(&[route::create(&wanted)]).expect("create");
        let filter = route::Filter { protocol: Some(98), ..route::Filter::default() };
        let listed = route::list(&mut s, filter).expect("list");
        assert_eq!(listed.iter().map(|r| r.encapsulation).collect::<Vec<_>>(), [Some(encapsulation)]);
        s.apply(&[route::delete(&wanted)]).expect("delete");
        assert_eq!(route::list(&mut s, filter).expect("list"), []);
    });
}
