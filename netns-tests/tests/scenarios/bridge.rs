//! bridge: pods on one node.

use lab::network::Request;
use lab::traffic::{Server, ask_tcp, ask_udp, is_silent_ping, is_silent_tcp, ping};
use lab::wait::until;
use lab::{Network, Node, on_both, on_bowline, on_bowline_iptables};
use serde_json::{Value, json};

use crate::conflists::{VERSIONS, bridge, host_local, list, under};

const DUAL: [&str; 2] = ["10.1.0.0/24", "fd00:1::/64"];

on_both! {
    /// Two pods of both families reach each other and their gateway, and see each other's own addresses.
    fn add_check_del_dual_stack(node, subject) {
        let network = Network::new(subject, list("pods", json!([bridge(&DUAL, json!({}))])));
        let (a, b) = (node.pod("a"), node.pod("b"));
        let on_a = network.add(node, &a, Request::default()).unwrap();
        let on_b = network.add(node, &b, Request::default()).unwrap();
        for (mine, gateway) in [(0, "10.1.0.1"), (1, "fd00:1::1")] {
            let peer = on_b.ips()[mine];
            let (tcp, udp) = (Server::tcp(&b, (peer, 80), "b"), Server::udp(&b, (peer, 53), "b"));
            let seen = format!("b {}", on_a.ips()[mine]);
            assert_eq!(ask_tcp(&a, tcp.address), Some(seen.clone()));
            assert_eq!(ask_udp(&a, udp.address), Some(seen));
            assert!(ping(&a, gateway.parse::<std::net::IpAddr>().unwrap()), "{gateway}");
        }
        on_a.check(node).unwrap();
        on_b.check(node).unwrap();
        on_a.del(node).unwrap();
        on_b.del(node).unwrap();
        node.delete_bridge("cni0");
    }

    /// Under every version of the protocol: v4, v6, both, and three subnets of one family, with default routes.
    fn add_del_every_version(node, subject) {
        let rows: [&[&str]; 4] =
            [&["10.1.0.0/24"], &["fd00:1::/64"], &DUAL, &["fd00:1::/64", "fd00:2::/64", "fd00:3::/64"]];
        let spoken = if subject.is_reference { &VERSIONS[..6] } else { &VERSIONS[..] };
        for version in spoken {
            for subnets in rows {
                let is_old = *version < "0.3.0";
                if is_old && subnets.len() == 3 {
                    // host-local refuses several addresses of one family that these versions cannot express.
                    continue;
                }
                let mut plugin = bridge(subnets, json!({"isDefaultGateway": true}));
                plugin["ipam"]["routes"] = json!([]);
                let network = Network::new(subject, under(version, list("pods", json!([plugin]))));
                let pod = node.pod("a");
                let on_a = network.add(node, &pod, Request::default()).unwrap();
                assert_eq!(on_a.result["cniVersion"], *version);
                if is_old {
                    for (key, dot) in [("ip4", "."), ("ip6", ":")] {
                        let wanted = subnets.iter().any(|s| s.contains(dot));
                        assert_eq!(on_a.result[key]["ip"].is_string(), wanted, "{version} {}", on_a.result);
                    }
                } else {
                    assert_eq!(on_a.ips().len(), subnets.len(), "{version} {}", on_a.result);
                }
                let addresses = pod.sh("ip -o addr show dev eth0 scope global");
                assert_eq!(addresses.lines().count(), subnets.len(), "{addresses}");
                let routes = pod.sh("ip route show default") + &pod.sh("ip -6 route show default");
                let families = 1 + usize::from(subnets == DUAL.as_slice());
                assert_eq!(routes.lines().count(), families, "{routes}");
                if *version >= "0.4.0" {
                    on_a.check(node).unwrap();
                }
                on_a.del(node).unwrap();
                assert!(pod.try_sh("ip link show eth0").is_err(), "eth0 is left in the pod");
                pod.remove_netns_path();
                node.delete_bridge("cni0");
            }
        }
    }

    /// With ipMasq the outside sees the node, and pods still see pods.
    fn masquerade(node, subject) {
        let plugins = json!([bridge(&DUAL, json!({"ipMasq": true}))]);
        let network = Network::new(subject, list("pods", plugins));
        masquerade_story(node, &network);
    }

    /// A bridge that is there already is used as it is, and its ifindex stays.
    fn existing_bridge_is_reused(node, subject) {
        node.sh("ip link add cni0 type bridge");
        let index = node.read("/sys/class/net/cni0/ifindex");
        let network = Network::new(subject, list("pods", json!([bridge(&DUAL, json!({"mtu": 1400}))])));
        let pod = node.pod("a");
        let on_a = network.add(node, &pod, Request::default()).unwrap();
        assert_eq!(node.read("/sys/class/net/cni0/ifindex"), index);
        assert!(pod.sh("ip link show eth0").contains("mtu 1400"));
        on_a.del(node).unwrap();
        node.delete_bridge("cni0");
        node.sh("ip link add cni0 type veth peer name other");
        let refused = network.add(node, &pod, Request::default()).unwrap_err();
        assert!(refused.msg.contains("cni0"), "{refused}");
        on_a.del(node).unwrap();
        node.sh("ip link delete cni0");
    }

    /// A pod reaches its own address through the bridge's hairpin port only when told to be allowed.
    fn hairpin_promisc_and_isolation_flags(node, subject) {
        let rows = [
            (json!({"hairpinMode": true}), "hairpin on", false),
            (json!({"hairpinMode": false}), "hairpin off", false),
            (json!({"hairpinMode": false, "promiscMode": true}), "hairpin off", true),
        ];
        for (keys, hairpin, promiscuous) in rows {
            let network = Network::new(subject, list("pods", json!([bridge(&DUAL, keys)])));
            let on_a = network.add(node, &node.pod("a"), Request::default()).unwrap();
            let port = node.sh(&format!("bridge -d link show dev {}", on_a.host_end("veth")));
            assert!(port.contains(hairpin), "{port}");
            assert_eq!(node.sh("ip -d link show cni0").contains("PROMISC"), promiscuous);
            on_a.check(node).unwrap();
            on_a.del(node).unwrap();
            node.delete_bridge("cni0");
            node.unbind_net(&on_a.netns).unwrap();
        }
    }

    /// Layer 2 only: the link is up without addresses, and old versions, which cannot say so, are refused.
    fn l2_has_a_link_and_no_address(node, subject) {
        let plugin = json!({"type": "bridge", "bridge": "cni0"});
        for version in ["0.3.1", "0.4.0", "1.0.0"] {
            let network = Network::new(subject, under(version, list("flat", json!([plugin]))));
            let (a, b) = (node.pod("a"), node.pod("b"));
            let on_a = network.add(node, &a, Request::default()).unwrap();
            let on_b = network.add(node, &b, Request::default()).unwrap();
            a.sh("ip addr add 10.5.0.1/24 dev eth0");
            b.sh("ip addr add 10.5.0.2/24 dev eth0");
            assert!(ping(&a, "10.5.0.2".parse::<std::net::IpAddr>().unwrap()));
            on_a.del(node).unwrap();
            on_b.del(node).unwrap();
            a.remove_netns_path();
            b.remove_netns_path();
        }
        let network = Network::new(subject, under("0.2.0", list("flat", json!([plugin]))));
        let a = node.pod("a");
        let refused = network.add(node, &a, Request::default()).unwrap_err();
        assert!(refused.msg.contains("no valid IP addresses"), "{refused}");
        network.attachment(&a, Request::default()).del(node).unwrap();
        node.delete_bridge("cni0");
    }

    /// The bridge keeps its hardware address while ports come and go.
    fn stable_mac(node, subject) {
        let network = Network::new(subject, list("pods", json!([bridge(&DUAL, json!({}))])));
        let first = network.add(node, &node.pod("a"), Request::default()).unwrap();
        let mac = node.read("/sys/class/net/cni0/address");
        let others: Vec<_> =
            ["b", "c", "d"].iter().map(|n| network.add(node, &node.pod(n), Request::default()).unwrap()).collect();
        assert_eq!(node.read("/sys/class/net/cni0/address"), mac);
        first.del(node).unwrap();
        others.iter().for_each(|o| o.del(node).unwrap());
        assert_eq!(node.read("/sys/class/net/cni0/address"), mac);
        node.delete_bridge("cni0");
    }

    /// A hardware address comes from CNI_ARGS, is overruled by args.cni.mac, and that by runtimeConfig.
    fn explicit_mac(node, subject) {
        let capability = || Request::capability("mac", json!("c2:00:00:00:00:03"));
        let args = "IgnoreUnknown=1;MAC=c2:00:00:00:00:01".to_owned();
        let rows = [
            ("c2:00:00:00:00:01", false, Request { args: args.clone(), ..Request::default() }),
            ("c2:00:00:00:00:02", true, Request { args: args.clone(), ..Request::default() }),
            ("c2:00:00:00:00:03", true, Request { args, ..capability() }),
        ];
        for (mac, has_args, request) in rows {
            let mut plugin = bridge(&DUAL, json!({"capabilities": {"mac": true}}));
            if has_args {
                plugin["args"] = json!({"cni": {"mac": "c2:00:00:00:00:02"}});
            }
            let network = Network::new(subject, list("pods", json!([plugin])));
            let pod = node.pod("a");
            let on_a = network.add(node, &pod, request).unwrap();
            assert!(pod.sh("ip link show eth0").contains(mac), "{mac}");
            on_a.check(node).unwrap();
            on_a.del(node).unwrap();
            pod.remove_netns_path();
        }
        node.delete_bridge("cni0");
    }

    /// An ADD that fails after the address was leased gives the lease back.
    fn late_failure_releases_the_lease(node, subject) {
        node.sh("ip link add cni0 type bridge");
        node.sh("ip addr add 10.1.0.77/24 dev cni0");
        let network = Network::new(subject, list("pods", json!([bridge(&["10.1.0.0/24"], json!({}))])));
        let pod = node.pod("a");
        let refused = network.add(node, &pod, Request::default()).unwrap_err();
        assert!(refused.msg.contains("10.1.0.77") || subject.is_reference, "{refused}");
        assert_eq!(leases(node, "pods"), Vec::<String>::new());
        network.attachment(&pod, Request::default()).del(node).unwrap();
        node.delete_bridge("cni0");
    }

    /// The gateway's address on a bridge that has others: a v4 address or an overlapping v6 one is in the way, and is
    /// replaced with forceAddress; a disjoint v6 one may stay.
    fn ensure_addr(node, subject) {
        let rows = [
            ("10.1.0.77/24", "10.1.0.0/24", true),
            ("10.200.0.1/24", "10.1.0.0/24", true),
            ("fd00:1::77/64", "fd00:1::/64", true),
            ("fd00:2::77/64", "fd00:1::/64", false),
        ];
        for (present, subnet, conflicts) in rows {
            for force in [false, true] {
                node.sh("ip link add cni0 type bridge");
                node.sh(&format!("ip addr add {present} dev cni0 nodad"));
                let plugin = bridge(&[subnet], json!({"forceAddress": force}));
                let network = Network::new(subject, list("pods", json!([plugin])));
                let pod = node.pod("a");
                let outcome = network.add(node, &pod, Request::default());
                assert_eq!(outcome.is_err(), conflicts && !force, "{present} {subnet} force {force}: {outcome:?}");
                let addresses = node.sh("ip -o addr show dev cni0 scope global");
                assert_eq!(addresses.contains(present), !conflicts || !force, "{addresses}");
                network.attachment(&pod, Request::default()).del(node).unwrap();
                pod.remove_netns_path();
                node.delete_bridge("cni0");
            }
        }
    }

    /// DEL of what was never added succeeds, and again.
    fn del_unconfigured(node, subject) {
        let network = Network::new(subject, list("pods", json!([bridge(&DUAL, json!({"ipMasq": true}))])));
        let never = network.attachment(&node.pod("a"), Request::default());
        never.del(node).unwrap();
        never.del(node).unwrap();
    }
}

fn leases(node: &Node, network: &str) -> Vec<String> {
    let names = node.list(format!("/var/lib/cni/networks/{network}"));
    names.into_iter().filter(|n| n.parse::<std::net::IpAddr>().is_ok()).collect()
}

fn masquerade_story(node: &Node, network: &Network) {
    let (a, b) = (node.pod("a"), node.pod("b"));
    let on_a = network.add(node, &a, Request::default()).unwrap();
    let on_b = network.add(node, &b, Request::default()).unwrap();
    for outside in [std::net::IpAddr::from(Node::OUTSIDE4), Node::OUTSIDE6.into()] {
        let server = Server::tcp(node.outside(), (outside, 80), "outside");
        assert_eq!(ask_tcp(&a, server.address), Some(format!("outside {}", Node::ip_like(outside))));
    }
    let server = Server::tcp(&b, (on_b.ip(), 80), "b");
    assert_eq!(ask_tcp(&a, server.address), Some(format!("b {}", on_a.ip())), "never pod to pod");
    on_a.check(node).unwrap();
    on_a.del(node).unwrap();
    let server = Server::tcp(node.outside(), (Node::OUTSIDE4, 81), "outside");
    assert!(ask_tcp(&b, server.address).is_some(), "a's DEL took b's rule");
    on_b.del(node).unwrap();
    node.delete_bridge("cni0");
}

on_bowline! {
    /// A bridge's port and an ifb pass frames on and have no IPv6 of their own: no routes that grow with the pods.
    fn ports_have_no_routes(node, subject) {
        let rates = json!({"ingressRate": 1_000_000, "ingressBurst": 100_000, "egressRate": 1_000_000,
                           "egressBurst": 100_000});
        let limited = json!({"type": "bandwidth"}).as_object().cloned().map(|mut plugin| {
            plugin.extend(rates.as_object().cloned().unwrap());
            plugin
        });
        let network = Network::new(subject, list("pods", json!([bridge(&DUAL, json!({})), limited])));
        let pod = node.pod("a");
        let on_a = network.add(node, &pod, Request::default()).unwrap();
        let routes = node.sh("ip -6 route show table all");
        for interface in on_a.result["interfaces"].as_array().unwrap() {
            let name = interface["name"].as_str().unwrap();
            if interface["sandbox"].as_str().unwrap_or("").is_empty() && name != "cni0" {
                assert!(!routes.contains(name), "{name} in {routes}");
            }
        }
        on_a.del(node).unwrap();
        node.delete_bridge("cni0");
    }

    /// What comes from outside reaches a fresh pod at once over IPv6 too: no address on its way is on probation.
    fn ipv6_is_forwarded_at_once(node, subject) {
        let network = Network::new(subject, list("pods", json!([bridge(&DUAL, json!({}))])));
        let pod = node.pod("a");
        let on_a = network.add(node, &pod, Request::default()).unwrap();
        // Without probation the kernel still settles a link-local address by a work queue, in its own few milliseconds.
        assert_eq!(node.read("/proc/sys/net/ipv6/conf/cni0/accept_dad"), "0");
        until("the bridge's addresses", || node.sh("ip -6 addr show dev cni0 tentative").is_empty().then_some(()));
        until("the pod's addresses", || pod.sh("ip -6 addr show tentative").is_empty().then_some(()));
        on_a.del(node).unwrap();
        node.delete_bridge("cni0");
    }

    /// resolv.conf as host-local reads it reaches the result.
    fn add_del_resolv_conf(node, subject) {
        node.write("/etc/pod-resolv.conf", "nameserver 10.9.9.9\nsearch one two\noptions ndots:3\n");
        let mut plugin = bridge(&DUAL, json!({}));
        plugin["ipam"]["resolvConf"] = json!("/etc/pod-resolv.conf");
        let network = Network::new(subject, list("pods", json!([plugin])));
        let on_a = network.add(node, &node.pod("a"), Request::default()).unwrap();
        let expected = json!({"nameservers": ["10.9.9.9"], "search": ["one", "two"], "options": ["ndots:3"]});
        assert_eq!(on_a.result["dns"], expected);
        on_a.del(node).unwrap();
        node.write("/etc/pod-resolv.conf", "");
        node.delete_bridge("cni0");
    }

    /// Each choice of backend masquerades; unset and `nftables` leave not even a table, and run no iptables.
    fn masq_backend_nftables(node, subject) {
        for keys in [json!({"ipMasq": true}), json!({"ipMasq": true, "ipMasqBackend": "nftables"})] {
            let network = Network::new(subject, list("pods", json!([bridge(&DUAL, keys)])));
            masquerade_story(node, &network);
            assert_eq!(node.sh("nft list ruleset"), "");
            node.unbind_net("/run/netns/a".as_ref()).unwrap();
            node.unbind_net("/run/netns/b".as_ref()).unwrap();
        }
    }

    /// Only the address that the pod was given may leave its port.
    fn spoof_check_drops_a_forged_mac(node, subject) {
        let network = Network::new(subject, list("pods", json!([bridge(&DUAL, json!({"macspoofchk": true}))])));
        let (a, b) = (node.pod("a"), node.pod("b"));
        let on_a = network.add(node, &a, Request::default()).unwrap();
        let on_b = network.add(node, &b, Request::default()).unwrap();
        let server = Server::tcp(&b, (on_b.ip(), 80), "b");
        assert!(ask_tcp(&a, server.address).is_some());
        let honest = on_a.result["interfaces"][2]["mac"].as_str().unwrap().to_owned();
        a.sh("ip link set eth0 address c2:00:00:00:00:99");
        assert!(is_silent_tcp(&a, server.address), "a forged source MAC passes");
        a.sh(&format!("ip link set eth0 address {honest}"));
        assert!(ask_tcp(&a, server.address).is_some());
        on_a.check(node).unwrap();
        on_a.del(node).unwrap();
        on_b.del(node).unwrap();
        assert_eq!(node.sh("nft list ruleset"), "");
        node.delete_bridge("cni0");
    }

    /// Isolated ports reach the gateway and not each other.
    fn isolation(node, subject) {
        let network = Network::new(subject, list("pods", json!([bridge(&DUAL, json!({"portIsolation": true}))])));
        let (a, b) = (node.pod("a"), node.pod("b"));
        let on_a = network.add(node, &a, Request::default()).unwrap();
        let on_b = network.add(node, &b, Request::default()).unwrap();
        assert!(ping(&a, "10.1.0.1".parse::<std::net::IpAddr>().unwrap()));
        assert!(is_silent_ping(&a, on_b.ip()));
        on_a.check(node).unwrap();
        on_a.del(node).unwrap();
        on_b.del(node).unwrap();
        node.delete_bridge("cni0");
    }

    /// disableContainerInterface leaves the container end down; with IPAM it is refused.
    fn container_down(node, subject) {
        let plugin = json!({"type": "bridge", "bridge": "cni0", "disableContainerInterface": true});
        let network = Network::new(subject, list("pods", json!([plugin])));
        let pod = node.pod("a");
        let on_a = network.add(node, &pod, Request::default()).unwrap();
        assert!(pod.sh("ip link show eth0").contains("state DOWN"));
        on_a.check(node).unwrap();
        on_a.del(node).unwrap();
        let mut plugin = plugin;
        plugin["ipam"] = host_local(&DUAL);
        let network = Network::new(subject, list("pods", json!([plugin])));
        let refused = network.add(node, &pod, Request::default()).unwrap_err();
        assert!(refused.msg.contains("disableContainerInterface"), "{refused}");
        node.delete_bridge("cni0");
    }

    /// Addresses are usable when ADD returns: no duplicate address detection is waited for, in neither family.
    fn addresses_are_usable_at_once(node, subject) {
        let network = Network::new(subject, list("pods", json!([bridge(&DUAL, json!({}))])));
        let pod = node.pod("a");
        let on_a = network.add(node, &pod, Request::default()).unwrap();
        let addresses = pod.sh("ip -o addr show dev eth0 scope global");
        assert!(!addresses.contains("tentative"), "{addresses}");
        let gateways = node.sh("ip -o addr show dev cni0 scope global");
        assert!(!gateways.contains("tentative"), "{gateways}");
        on_a.del(node).unwrap();
        node.delete_bridge("cni0");
    }

    /// The result names the MTU of each interface (1.1.0).
    fn result_says_the_mtu(node, subject) {
        let network = Network::new(subject, list("pods", json!([bridge(&DUAL, json!({"mtu": 1380}))])));
        let on_a = network.add(node, &node.pod("a"), Request::default()).unwrap();
        let mtus: Vec<&Value> = on_a.result["interfaces"].as_array().unwrap().iter().map(|i| &i["mtu"]).collect();
        assert_eq!(mtus, [&json!(1380), &json!(1380), &json!(1380)], "{}", on_a.result);
        on_a.del(node).unwrap();
        node.delete_bridge("cni0");
    }
}

on_bowline_iptables! {
    /// The same by the reference's chains.
    fn masq_backend_iptables(node, subject) {
        let keys = json!({"ipMasq": true, "ipMasqBackend": "iptables"});
        masquerade_story(node, &Network::new(subject, list("pods", json!([bridge(&DUAL, keys)]))));
    }
}
