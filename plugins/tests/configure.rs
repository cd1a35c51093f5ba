//! A pod's interface gets its addresses and routes.

mod support;

use cni::{AddResult, IfName, Interface, IpConfig, Route};
use plugins::configure::{self, Duplicates, Inside, Subnet};
use plugins::veth::{self, Plan};
use support::{Host, Pod, on_new_host};

fn cable(host: &Host, pod: &Pod) {
    let ifname = IfName::parse("eth0").expect("a name");
    let plan = Plan {
        pod: &pod.netns,
        ifname: &ifname,
        mtu: None,
        mac: None,
        host_mac: None,
        master: None,
        up: true,
    };
    veth::create(&mut host.socket(), &plan, veth::random_name).expect("a pair");
}

fn enter(pod: &Pod) -> Inside {
    enter_for(pod, &result(vec![]))
}

fn enter_for(pod: &Pod, result: &AddResult) -> Inside {
    configure::enter(&pod.netns, "eth0", Duplicates::Trusted, result).expect("enter")
}

fn interface(name: &str, sandbox: &str) -> Interface {
    Interface { name: name.into(), sandbox: sandbox.into(), ..Interface::default() }
}

fn ip(address: &str, gateway: &str, interface: Option<i64>) -> IpConfig {
    IpConfig { interface, address: address.parse().unwrap(), gateway: gateway.parse().ok() }
}

fn route(dst: &str, gw: &str) -> Route {
    Route::new(dst.parse().unwrap(), gw.parse().ok())
}

fn result(routes: Vec<Route>) -> AddResult {
    AddResult {
        interfaces: vec![interface("vethhost", ""), interface("eth0", "/pod")],
        ips: vec![
            ip("1.2.3.4/24", "1.2.3.1", Some(1)),
            ip("abcd:1234:ffff::cdde/64", "abcd:1234:ffff::1", Some(1)),
        ],
        routes,
        ..AddResult::default()
    }
}

fn applied(host: &Host, result: &AddResult) -> Pod {
    let pod = host.new_pod();
    cable(host, &pod);
    configure::apply(&mut enter(&pod), result, Subnet::Connected).expect("configure");
    pod
}

#[test]
fn configure_iface_sets_addresses_and_routes_with_the_gateway_as_default() {
    on_new_host(|host| {
        let routes = vec![
            route("15.5.6.0/24", ""),
            route("0.0.0.0/0", "1.2.3.9"),
            route("1001:dead::/64", ""),
            route("1001:beef::/64", "abcd:1234:ffff::2"),
        ];
        let result = result(routes);
        let pod = applied(host, &result);
        assert_eq!(pod.addresses("eth0"), ["1.2.3.4/24", "abcd:1234:ffff::cdde/64"]);
        let seen = pod.sh("ip route show; ip -6 route show");
        for line in [
            "15.5.6.0/24 via 1.2.3.1 dev eth0",
            "default via 1.2.3.9 dev eth0",
            "1001:dead::/64 via abcd:1234:ffff::1 dev eth0",
            "1001:beef::/64 via abcd:1234:ffff::2 dev eth0",
        ] {
            assert!(seen.contains(line), "{line} in {seen}");
        }
        let inside = enter(&pod);
        configure::check(&mut pod.socket(), &inside.link.id, &result).expect("all is there");
    });
}

/// A pod whose default route is configured asks no router for one: on a bridge every pod would hear the question.
#[test]
fn configure_iface_asks_for_routers_only_without_a_default_route() {
    on_new_host(|host| {
        for (dst, asked) in [("::/0", false), ("1001:dead::/64", true)] {
            let pod = host.new_pod();
            cable(host, &pod);
            let key = "cat /proc/sys/net/ipv6/conf/eth0/router_solicitations";
            let before = pod.sh(key);
            let result = result(vec![route(dst, "abcd:1234:ffff::2")]);
            configure::apply(&mut enter_for(&pod, &result), &result, Subnet::Connected).expect("configure");
            let expected = if asked { before } else { "0\n".into() };
            assert_eq!(pod.sh(key).trim(), expected.trim(), "{dst}");
            let link_local = pod.sh("ip -o -6 addr show dev eth0 scope link");
            assert_eq!(link_local.lines().count(), 1, "{link_local}");
        }
    });
}

#[test]
fn configure_iface_ecmp_keeps_both_next_hops() {
    on_new_host(|host| {
        let routes = vec![
            route("15.5.6.0/24", "1.2.3.1"),
            route("15.5.6.0/24", "1.2.3.2"),
            route("1001:dead::/64", "abcd:1234:ffff::1"),
            route("1001:dead::/64", "abcd:1234:ffff::2"),
        ];
        let pod = applied(host, &result(routes.clone()));
        let seen = pod.sh("ip route show 15.5.6.0/24; ip -6 route show 1001:dead::/64");
        assert!(routes.iter().all(|r| seen.contains(&format!("via {}", r.gw.unwrap()))), "{seen}");

        let other = host.new_pod();
        cable(host, &other);
        let twice = result(vec![routes[0].clone(), routes[0].clone()]);
        let refusal =
            configure::apply(&mut enter(&other), &twice, Subnet::Connected).expect_err("the same again");
        assert!(refusal.msg.starts_with("add route 15.5.6.0/24 via 1.2.3.1: "), "{refusal}");
    });
}

#[test]
fn configure_iface_table_scope_priority_mtu_and_advmss() {
    on_new_host(|host| {
        let special = Route {
            table: Some(5000),
            priority: Some(150),
            mtu: Some(1400),
            advmss: Some(1300),
            ..route("15.5.6.0/24", "")
        };
        let on_link = Route { scope: Some(253), ..route("15.5.7.0/24", "") };
        let on_link = AddResult {
            ips: vec![ip("1.2.3.4/24", "", Some(1))],
            ..result(vec![Route { gw: None, ..on_link }])
        };
        let wanted = result(vec![special]);
        let pod = applied(host, &wanted);
        let seen = pod.sh("ip route show table 5000");
        assert!(seen.contains("15.5.6.0/24 via 1.2.3.1 dev eth0 metric 150 mtu 1400 advmss 1300"), "{seen}");
        let id = enter(&pod).link.id;
        configure::check(&mut pod.socket(), &id, &wanted).expect("found in its own table");
        pod.sh("ip route add 15.5.6.0/24 via 1.2.3.1; ip route del 15.5.6.0/24 table 5000");
        configure::check(&mut pod.socket(), &id, &wanted).expect_err("gone from its own table");

        let pod = applied(host, &on_link);
        assert!(pod.sh("ip route show").contains("15.5.7.0/24 dev eth0 scope link"));
    });
}

#[test]
fn configure_iface_ipv6_is_kept_after_link_down_and_switched_on() {
    on_new_host(|host| {
        let pod = host.new_pod();
        pod.sh("echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6; echo 1 > /proc/sys/net/ipv6/conf/default/disable_ipv6");
        cable(host, &pod);
        configure::apply(&mut enter(&pod), &result(vec![]), Subnet::Connected).expect("configure");
        assert_eq!(
            pod.sh("cat /proc/sys/net/ipv6/conf/lo/disable_ipv6 /proc/sys/net/ipv6/conf/eth0/disable_ipv6"),
            "0\n0\n"
        );
        pod.sh("ip link set eth0 down");
        assert_eq!(pod.addresses("eth0"), ["1.2.3.4/24", "abcd:1234:ffff::cdde/64"]);
        pod.sh("ip link set eth0 up");
        assert_eq!(pod.addresses("eth0"), ["1.2.3.4/24", "abcd:1234:ffff::cdde/64"]);
    });
}

#[test]
fn configure_iface_errors() {
    let no_interfaces = AddResult { interfaces: vec![], ..result(vec![]) };
    let wrong_name =
        AddResult { interfaces: vec![interface("a", ""), interface("b", "/pod")], ..result(vec![]) };
    let index = |at| AddResult { ips: vec![ip("1.2.3.4/24", "", Some(at))], ..result(vec![]) };
    for (result, said) in [
        (no_interfaces, "no interfaces in the result to configure eth0 from"),
        (wrong_name, "address 1.2.3.4/24 is for b, not for eth0"),
        (index(2), "address 1.2.3.4/24: interface 2 is outside 0..2"),
        (index(-1), "address 1.2.3.4/24: interface -1 is outside 0..2"),
        (index(0), "address 1.2.3.4/24 is for vethhost, not for eth0"),
    ] {
        on_new_host(|host| {
            let pod = host.new_pod();
            cable(host, &pod);
            let error = configure::apply(&mut enter(&pod), &result, Subnet::Connected).expect_err(said);
            assert_eq!(error.msg, said);
            assert_eq!(pod.addresses("eth0"), Vec::<String>::new());
        });
    }
}

#[test]
fn configure_iface_errors_not_for_an_address_without_interface() {
    on_new_host(|host| {
        let mut result = result(vec![]);
        result.ips.push(ip("9.9.9.9/24", "", None));
        let pod = applied(host, &result);
        assert_eq!(pod.addresses("eth0"), ["1.2.3.4/24", "abcd:1234:ffff::cdde/64"]);
        configure::enter(&pod.netns, "eth7", Duplicates::Trusted, &AddResult::default())
            .expect_err("no such interface");
    });
}

#[test]
fn forward_write_enables_each_family_asked_for() {
    on_new_host(|host| {
        let read = || host.sh("cd /proc/sys/net; cat ipv4/ip_forward ipv6/conf/all/forwarding");
        assert_eq!(read(), "0\n0\n");
        for (v4, v6, seen) in [(false, false, "0\n0\n"), (true, false, "1\n0\n"), (true, true, "1\n1\n")] {
            configure::enable_forwarding(&mut host.socket(), v4, v6).expect("enable");
            assert_eq!(read(), seen);
        }
    });
}
