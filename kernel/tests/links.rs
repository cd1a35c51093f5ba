//! Links, addresses, routes and the rest of rtnetlink, against the kernel.

mod support;

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use kernel::addr::{self, Address, Dad};
use kernel::bridge::{self, PortChange, VlanFlags, VlanRange, VlanSide};
use kernel::link::{self, Kind, Link, LinkId, NewEnd, Switch};
use kernel::netlink::monitor::{GROUP_IPV6_ADDR, GROUP_LINK};
use kernel::netlink::{Monitor, Reply, Socket};
use kernel::rule::{self, Rule};
use kernel::sysctl::{self, Keys};
use kernel::{Mac, neigh, netconf, route, tc};
use support::{in_new_netns, new_netns, socket, socket_in};

fn end(name: &str) -> NewEnd<'_> {
    NewEnd { name, ..NewEnd::default() }
}

fn make(socket: &mut Socket, end: &NewEnd<'_>, kind: &Kind<'_>) -> LinkId {
    socket.apply(&[link::create(end, kind)]).expect("create");
    observed(socket, end.name).id
}

/// A link to try things on, which can carry packets: one end of a veth pair, both up.
fn make_link(socket: &mut Socket, name: &str) -> LinkId {
    let link = make(socket, &NewEnd { up: true, ..end(name) }, &Kind::Veth { peer: end("other0") });
    let other = observed(socket, "other0").id;
    socket.apply(&[link::set_up(&other, Switch::On)]).expect("set up");
    link
}

fn observed(socket: &mut Socket, name: &str) -> Link {
    link::find(socket, name).expect("look up").expect("it exists")
}

#[test]
fn one_request_makes_a_veth_across_namespaces() {
    in_new_netns(|| {
        let (pod, mut host) = (new_netns(), socket());
        let bridge =
            make(&mut host, &NewEnd { up: true, ..end("br0") }, &Kind::Bridge { vlan_filtering: false });
        let mac: Mac = "02:00:00:00:00:07".parse().unwrap();
        let peer = NewEnd { mtu: Some(1400), mac: Some(&mac), netns: Some(pod.as_fd()), ..end("eth0") };
        let near = NewEnd { mtu: Some(1400), master: Some(bridge.index), up: true, ..end("veth0") };
        let near = make(&mut host, &near, &Kind::Veth { peer });

        let mut inside = socket_in(&pod);
        let far = observed(&mut inside, "eth0");
        assert_eq!((far.mtu, far.mac_text().as_str(), far.is_up()), (1400, "02:00:00:00:00:07", false));
        assert_eq!((far.peer, far.kind.as_str()), (Some(near.index), "veth"));
        let near = observed(&mut host, "veth0");
        assert_eq!((near.mtu, near.master, near.is_up()), (1400, Some(bridge.index), true));
        assert_eq!(near.peer, Some(far.id.index));
        assert!(near.peer_netns.is_some(), "the peer is elsewhere");
        assert!(!observed(&mut host, "br0").bridge.expect("a bridge").vlan_filtering);
        assert_eq!(link::find(&mut host, "eth0").expect("look up"), None);
    });
}

#[test]
fn a_link_takes_every_setting() {
    in_new_netns(|| {
        let mut s = socket();
        let kind = Kind::Veth { peer: end("other0") };
        let link0 = make(&mut s, &NewEnd { txqlen: Some(7), ..end("d0") }, &kind);
        let mac: Mac = "02:00:00:00:00:09".parse().unwrap();
        s.apply(&[
            link::set_mtu(&link0, 1300),
            link::set_mac(&link0, &mac),
            link::set_up(&link0, Switch::On),
            link::set_promisc(&link0, Switch::On),
            link::set_allmulti(&link0, Switch::On),
            link::set_alias(&link0, "ours"),
            link::set_arp_notify(&link0, Switch::On),
        ])
        .expect("set");
        let seen = observed(&mut s, "d0");
        assert_eq!((seen.mtu, seen.txqlen, seen.alias.as_str()), (1300, 7, "ours"));
        assert_eq!(seen.mac, Some(mac));
        assert!(seen.is_up() && seen.is_promisc() && seen.is_allmulti());
        assert_eq!(kernel::sysctl::read("net/ipv4/conf/d0/arp_notify").expect("read"), "1");
        s.apply(&[
            link::set_txqlen(&link0, 9),
            link::set_promisc(&link0, Switch::Off),
            link::set_up(&link0, Switch::Off),
            link::set_name(&link0, "d1"),
        ])
        .expect("set back");
        let seen = observed(&mut s, "d1");
        assert_eq!((seen.txqlen, seen.is_promisc(), seen.is_up()), (9, false, false));
        s.apply(&[link::delete_named("d1")]).expect("delete");
        assert_eq!(link::list(&mut s).expect("list").len(), 1, "lo is left");
    });
}

#[test]
fn a_monitor_hears_of_links_and_addresses() {
    in_new_netns(|| {
        let mut s = socket();
        let mut links = Monitor::open(&[GROUP_LINK]).expect("a monitor");
        let mut addresses = Monitor::open(&[GROUP_IPV6_ADDR]).expect("a monitor");
        let soon = Instant::now() + Duration::from_secs(5);
        let link0 = make_link(&mut s, "d0");
        let named = |event: &Reply| Link::parse(event).is_some_and(|l| l.id == link0);
        assert!(links.wait(soon, named).expect("wait"), "the link was announced");
        let address = "fd09::5/64".parse().unwrap();
        s.apply(&[addr::add(&link0, address, Dad::Skip)]).expect("add");
        let added = |event: &Reply| Address::parse(event).is_some_and(|a| a.ip == address);
        assert!(addresses.wait(soon, added).expect("wait"), "the address was announced");
        assert!(!links.wait(Instant::now(), |_| false).expect("wait"), "a deadline that has passed");
    });
}

#[test]
fn del_link_missing_is_known_and_addresses_are_listed() {
    in_new_netns(|| {
        let mut s = socket();
        let refusal = s.apply(&[link::delete_named("absent0")]).expect_err("nothing to delete");
        assert!(refusal.is_absent(), "{refusal}");
        assert!(s.apply(&[link::delete_named("absent0").or_absent()]).is_ok());
        let link0 = make(&mut s, &end("d0"), &Kind::Ifb);
        assert_eq!(addr::list(&mut s, Some(link0.index)).expect("list"), []);
        assert_eq!(addr::list(&mut s, Some(999)).expect("an absent link has none"), []);
    });
}

#[test]
fn addresses_come_and_go() {
    in_new_netns(|| {
        let mut s = socket();
        let link0 = make_link(&mut s, "d0");
        let (v4, v6) = ("10.9.0.5/24".parse().unwrap(), "fd09::5/64".parse().unwrap());
        s.apply(&[addr::add(&link0, v4, Dad::Skip), addr::add(&link0, v6, Dad::Skip)]).expect("add");
        let seen: Vec<_> = addr::list(&mut s, Some(link0.index)).expect("list");
        let global: Vec<_> = seen.iter().filter(|a| a.is_global()).collect();
        assert_eq!(global.iter().map(|a| a.ip).collect::<Vec<_>>(), [v4, v6]);
        assert!(!global[1].is_tentative(), "no duplicate detection was asked for");
        assert!(s.apply(&[addr::add(&link0, v4, Dad::Skip)]).expect_err("twice").is_present());
        s.apply(&[addr::delete(&link0, v4), addr::delete(&link0, v6)]).expect("delete");
        let left = addr::list(&mut s, Some(link0.index)).expect("list");
        assert!(left.iter().all(|a| !a.is_global()));
    });
}

#[test]
fn ip_parse_with_and_without_prefix() {
    for (text, meant) in [
        ("10.1.2.3/24", Some("10.1.2.3/24")),
        ("10.1.2.3", Some("10.1.2.3/32")),
        ("fd00::1", Some("fd00::1/128")),
        ("fd00::1/64", Some("fd00::1/64")),
        ("10.1.2.3/33", None),
        ("10.1.2.300", None),
        ("pear", None),
        ("", None),
    ] {
        let parsed = addr::parse_cidr_or_host(text);
        assert_eq!(parsed.as_ref().ok().map(ToString::to_string).as_deref(), meant, "{text}");
        if let Err(error) = parsed {
            assert!(error.to_string().contains(&format!("`{text}`")), "{error}");
        }
    }
}

#[test]
fn routes_keep_what_they_were_given() {
    in_new_netns(|| {
        let mut s = socket();
        let link0 = make_link(&mut s, "d0");
        let v4 = "10.9.0.5/24".parse().unwrap();
        let v6 = "fd09::5/64".parse().unwrap();
        s.apply(&[addr::add(&link0, v4, Dad::Skip), addr::add(&link0, v6, Dad::Skip)]).expect("add");
        let wanted = route::Route {
            gw: Some("10.9.0.1".parse().unwrap()),
            src: Some("10.9.0.5".parse().unwrap()),
            table: 4242,
            priority: Some(77),
            mtu: Some(1300),
            advmss: Some(1200),
            ..route::Route::new("192.0.2.0/24".parse().unwrap(), link0.index)
        };
        let six = route::Route {
            gw: Some("fd09::1".parse().unwrap()),
            mtu: Some(1290),
            ..route::Route::new(route::default_of("::1".parse().unwrap()), link0.index)
        };
        s.apply(&[route::add(&wanted), route::add(&six)]).expect("add routes");
        let filter = route::Filter { table: Some(4242), link: Some(link0.index), protocol: None };
        assert_eq!(route::list(&mut s, filter).expect("list"), std::slice::from_ref(&wanted));
        let of_link = route::Filter { table: Some(route::MAIN), link: Some(link0.index), protocol: None };
        let seen = route::list(&mut s, of_link).expect("list");
        let seen = seen.iter().find(|r| r.dst == six.dst).expect("the IPv6 default route");
        assert_eq!((seen.gw, seen.mtu), (six.gw, six.mtu));
        assert!(s.apply(&[route::add(&wanted)]).expect_err("an exact duplicate").is_present());
        s.apply(&[route::delete(&wanted), route::delete(&six)]).expect("delete");
        assert_eq!(route::list(&mut s, filter).expect("list"), []);
        let nowhere = route::Filter { table: Some(9999), ..route::Filter::default() };
        assert_eq!(route::list(&mut s, nowhere).expect("an unused table is empty"), []);
    });
}

#[test]
fn another_next_hop_joins_the_first() {
    in_new_netns(|| {
        let mut s = socket();
        let link0 = make_link(&mut s, "d0");
        let networks = ["10.9.0.5/24", "fd09::5/64"].map(|n| n.parse().unwrap());
        s.apply(&networks.map(|n| addr::add(&link0, n, Dad::Skip))).expect("add");
        for (dst, gateways) in
            [("192.0.2.0/24", ["10.9.0.1", "10.9.0.2"]), ("fd99::/64", ["fd09::1", "fd09::2"])]
        {
            let gateways = gateways.map(|gw| gw.parse().unwrap());
            for gw in gateways {
                let one =
                    route::Route { gw: Some(gw), ..route::Route::new(dst.parse().unwrap(), link0.index) };
                s.apply(&[route::add(&one)]).expect("add");
            }
            let seen =
                route::list(&mut s, route::Filter { table: Some(route::MAIN), ..route::Filter::default() })
                    .expect("list");
            for gw in gateways {
                assert!(
                    seen.iter().any(|r| r.dst == dst.parse().unwrap() && r.goes_by(gw)),
                    "{dst} via {gw}"
                );
            }
        }
    });
}

#[test]
fn neighbours_and_rules() {
    in_new_netns(|| {
        let mut s = socket();
        let link0 = make_link(&mut s, "d0");
        let (ip, mac) = ("10.9.0.1".parse().unwrap(), "02:00:00:00:00:01".parse().unwrap());
        s.apply(&[neigh::set_permanent(&link0, ip, &mac)]).expect("set");
        let seen = neigh::list(&mut s, link0.index).expect("list");
        assert!(seen.iter().any(|n| n.ip == ip && n.mac == Some(mac.clone())), "{seen:?}");
        s.apply(&[neigh::delete(&link0, ip)]).expect("delete");

        let rule = Rule { priority: Some(500), ..Rule::from_source("10.9.0.5/32".parse().unwrap(), 1000) };
        s.apply(&[rule::add(&rule)]).expect("add");
        assert!(rule::list(&mut s).expect("list").contains(&rule));
        s.apply(&[rule::delete(&rule)]).expect("delete");
        assert!(!rule::list(&mut s).expect("list").contains(&rule));
    });
}

#[test]
fn ports_have_flags() {
    in_new_netns(|| {
        let mut s = socket();
        let kind = Kind::Bridge { vlan_filtering: false };
        let bridge = make(&mut s, &NewEnd { up: true, ..end("br0") }, &kind);
        let near = NewEnd { master: Some(bridge.index), ..end("p0") };
        let port = make(&mut s, &near, &Kind::Veth { peer: end("p1") });
        let on =
            PortChange { hairpin: Some(Switch::On), isolated: Some(Switch::On), learning: Some(Switch::Off) };
        s.apply(&[bridge::set_port(&port, on)]).expect("set");
        let state = observed(&mut s, "p0").port.expect("a port");
        assert!(state.hairpin && state.isolated && !state.learning);
        let off = PortChange { hairpin: Some(Switch::Off), ..PortChange::default() };
        s.apply(&[bridge::set_port(&port, off)]).expect("set");
        let state = observed(&mut s, "p0").port.expect("a port");
        assert!(!state.hairpin && state.isolated, "what was not named stays");
    });
}

/// Where the kernel is built without VLAN filtering, the refusal is what is tested.
#[test]
fn ports_have_vlans() {
    in_new_netns(|| {
        let mut s = socket();
        let kind = Kind::Bridge { vlan_filtering: true };
        let created = s.apply(&[link::create(&NewEnd { up: true, ..end("br0") }, &kind)]);
        if !support::kernel_filters_vlans() {
            let refusal = created.expect_err("a kernel without VLAN filtering refuses").to_string();
            assert!(refusal.starts_with("create bridge br0: "), "{refusal}");
            return;
        }
        created.expect("create");
        let bridge = observed(&mut s, "br0").id;
        assert!(observed(&mut s, "br0").bridge.expect("a bridge").vlan_filtering);
        let near = NewEnd { master: Some(bridge.index), ..end("p0") };
        let port = make(&mut s, &near, &Kind::Veth { peer: end("p1") });
        let access = VlanFlags { pvid: true, untagged: true };
        s.apply(&[
            bridge::delete_vlans(&port, VlanSide::Port, VlanRange::one(1)),
            bridge::delete_vlans(&port, VlanSide::Port, VlanRange::one(55)),
            bridge::add_vlans(&port, VlanSide::Port, VlanRange::one(100), access),
            bridge::add_vlans(
                &port,
                VlanSide::Port,
                VlanRange { first: 200, last: 210 },
                VlanFlags::default(),
            ),
            bridge::add_vlans(&bridge, VlanSide::Bridge, VlanRange::one(100), VlanFlags::default()),
        ])
        .expect("set");
        let of_port = bridge::vlans(&mut s, &port).expect("list");
        let ids: Vec<u16> = of_port.keys().copied().collect();
        assert_eq!(ids, [vec![100], (200..=210).collect()].concat());
        assert_eq!(of_port[&100], access);
        let of_bridge = bridge::vlans(&mut s, &bridge).expect("list");
        assert_eq!(of_bridge.keys().copied().collect::<Vec<_>>(), [1, 100]);
    });
}

#[test]
fn traffic_is_limited_and_redirected() {
    in_new_netns(|| {
        let mut s = socket();
        let link0 = make_link(&mut s, "d0");
        let ifb = make(&mut s, &NewEnd { up: true, txqlen: Some(0), ..end("ifb9") }, &Kind::Ifb);
        for rate in [1, 125_000, 12_500_000_000] {
            let wanted = tc::Tbf { rate, buffer: tc::ticks(1_000_000, rate), limit: 65_535 };
            s.apply(&[tc::set_tbf(&link0, &wanted)]).expect("set");
            let seen = tc::qdiscs(&mut s, link0.index).expect("list");
            assert_eq!(seen.iter().find(|q| q.is_root()).and_then(|q| q.tbf), Some(wanted));
        }
        assert_eq!(tc::ingress_filters(&mut s, link0.index).expect("list"), []);
        s.apply(&[tc::add_ingress(&link0), tc::redirect_ingress(&link0, &ifb)]).expect("redirect");
        let filters = tc::ingress_filters(&mut s, link0.index).expect("list");
        assert!(
            filters.iter().any(|f| f.redirects == [ifb.index] && f.priority == 1 && f.protocol == 3),
            "{filters:?}"
        );
        s.apply(&[tc::delete_root(&link0), tc::delete_ingress(&link0), tc::add_clsact(&link0)])
            .expect("replace");
        let seen = tc::qdiscs(&mut s, link0.index).expect("list");
        assert!(seen.iter().any(|q| q.kind == "clsact" && q.is_ingress()), "{seen:?}");
        assert!(s.apply(&[tc::add_ingress(&link0)]).expect_err("one hook only").is_present());
    });
}

#[test]
fn forward_write_of_a_value_that_is_there_is_not_made() {
    in_new_netns(|| {
        let key = "net/ipv4/ip_forward";
        sysctl::write(key, "0").expect("write");
        assert!(sysctl::ensure(key, "1").expect("ensure"), "written");
        assert!(!sysctl::ensure(key, "1").expect("ensure"), "not written again");
        assert_eq!(sysctl::read(key).expect("read"), "1");
        let unknown = "net/ipv4/no_such_key";
        assert!(!sysctl::ensure_if_known(unknown, "1").expect("absence is fine"));
        assert!(sysctl::ensure(unknown, "1").expect_err("absence is an error").is_absent());
        let long = "net/ipv4/ip_local_reserved_ports";
        let ports: Vec<String> = (0..100).map(|n| (10_000 + 2 * n).to_string()).collect();
        sysctl::write(long, &ports.join(",")).expect("write");
        assert_eq!(sysctl::read(long).expect("a long value"), ports.join(","));
    });
}

#[test]
fn a_procfs_of_our_own_shows_the_threads_namespace() {
    in_new_netns(|| {
        make_link(&mut socket(), "d0.7");
        let (fresh, shared) = (Keys::fresh(), Keys::shared());
        fresh.write("net/ipv6/conf/d0.7/accept_ra", "0").expect("write");
        assert_eq!(shared.read("net/ipv6/conf/d0.7/accept_ra").expect("read"), "0");
        assert!(shared.ensure("net/ipv4/ip_forward", "1").expect("ensure"));
        assert!(!fresh.ensure("net.ipv4.ip_forward", "1").expect("ensure"), "it is there already");
        assert!(fresh.read("net/ipv6/conf/absent0/accept_ra").expect_err("no such link").is_absent());
        fresh.write_if_known("net/ipv6/conf/absent0/accept_ra", "0").expect("absence is fine");
        let opened = format!("{fresh:?}");
        assert!(opened.contains("Some"), "root gets one: {opened}");
    });
}

#[test]
fn forwarding_is_asked_for_by_netlink() {
    in_new_netns(|| {
        let mut s = socket();
        for (family, key) in
            [(libc::AF_INET, "net/ipv4/ip_forward"), (libc::AF_INET6, "net/ipv6/conf/all/forwarding")]
        {
            for (value, forwards) in [("0", false), ("1", true)] {
                sysctl::write(key, value).expect("write");
                assert_eq!(netconf::forwards(&mut s, family).expect("ask"), forwards, "{key} {value}");
            }
        }
    });
}
