//! `portmap` behind `bridge`, in namespaces of its own, with real packets, on both backends. Needs root, `nft` and
//! `iptables`.

mod members;
#[allow(dead_code, reason = "only the golden comparison is used")]
#[path = "../../kernel/tests/netns/mod.rs"]
mod netns;
mod support;
mod traffic;

use members::{Member, join};
use netns::matches_golden;
use plugins::portmap::Portmap;
use serde_json::{Value, json};
use support::{Host, on_new_host, with};
use traffic::{Server, UdpClient, is_out_of_reach, reaches};

const BACKENDS: [&str; 2] = ["nftables", "iptables"];

const PODS: [&str; 2] = ["10.1.0.0/24", "fd00:1::/64"];
/// Where clients on other hosts are: the host is 203.0.113.1 there.
const OUTSIDE: [&str; 2] = ["203.0.113.0/24", "2001:db8:113::/64"];

fn join_pods(host: &Host) -> Member {
    join(host, "pods0", &PODS)
}

fn join_outside(host: &Host) -> Member {
    join(host, "outside0", &OUTSIDE)
}

fn conf(backend: &str, mappings: Value) -> Value {
    json!({
        "cniVersion": "1.1.0", "name": "net1", "type": "portmap", "backend": backend,
        "runtimeConfig": { "portMappings": mappings },
    })
}

fn tcp_80() -> Value {
    json!([{ "hostPort": 8080, "containerPort": 80, "protocol": "tcp" }])
}

fn udp_53() -> Value {
    json!([{ "hostPort": 5353, "containerPort": 53, "protocol": "udp" }])
}

fn call(host: &Host, verb: &str, member: &Member, conf: &Value) -> Result<Value, Value> {
    host.call(&Portmap, verb, &member.pod, &with(conf, "prevResult", member.result.clone()))
}

fn add(host: &Host, member: &Member, conf: &Value) {
    let result = call(host, "ADD", member, conf).unwrap_or_else(|e| panic!("ADD: {e}"));
    assert_eq!(result, member.result, "prevResult is passed on");
}

fn ruleset(host: &Host) -> String {
    host.sh("nft --stateless list ruleset")
}

#[test]
fn tcp_from_outside_localhost_self_and_neighbour_and_nothing_after_del() {
    for backend in BACKENDS {
        on_new_host(|host| {
            let (server, neighbour, client) = (join_pods(host), join_pods(host), join_outside(host));
            let before = ruleset(host);
            let conf = conf(backend, tcp_80());
            add(host, &server, &conf);
            let _serving = Server::tcp(server.netns(), "[::]:80");
            let gateway = "10.1.0.1";

            assert_eq!(reaches(client.netns(), "203.0.113.1:8080").to_string(), client.ip(0), "{backend}");
            assert_eq!(reaches(client.netns(), "[2001:db8:113::1]:8080").to_string(), client.ip(1));
            assert_eq!(
                reaches(&host.netns, "127.0.0.1:8080").to_string(),
                gateway,
                "{backend}: from loopback"
            );
            reaches(&host.netns, "203.0.113.1:8080");
            reaches(&host.netns, "[2001:db8:113::1]:8080");
            for target in ["203.0.113.1:8080", "10.1.0.1:8080", "[2001:db8:113::1]:8080"] {
                reaches(server.netns(), target);
                reaches(neighbour.netns(), target);
            }
            call(host, "CHECK", &server, &conf).expect("CHECK");

            call(host, "DEL", &server, &conf).expect("DEL");
            is_out_of_reach(client.netns(), "203.0.113.1:8080");
            is_out_of_reach(&host.netns, "127.0.0.1:8080");
            if backend == "nftables" {
                assert_eq!(ruleset(host), before);
            }
            assert!(!ruleset(host).contains("CNI-"), "{backend}: {}", ruleset(host));
        });
    }
}

#[test]
fn tcp_masq_all_hides_every_client_and_snat_off_hides_none() {
    for backend in BACKENDS {
        on_new_host(|host| {
            let (server, client) = (join_pods(host), join_outside(host));
            let _serving = Server::tcp(server.netns(), "[::]:80");
            let all = with(&conf(backend, tcp_80()), "masqAll", true);
            add(host, &server, &all);
            assert_eq!(reaches(client.netns(), "203.0.113.1:8080").to_string(), "10.1.0.1", "{backend}");
            assert_eq!(reaches(client.netns(), "[2001:db8:113::1]:8080").to_string(), "fd00:1::1");
            call(host, "CHECK", &server, &all).expect("CHECK");
            call(host, "DEL", &server, &all).expect("DEL");

            let off = with(&conf(backend, tcp_80()), "snat", false);
            add(host, &server, &off);
            assert_eq!(reaches(client.netns(), "203.0.113.1:8080").to_string(), client.ip(0), "{backend}");
            is_out_of_reach(server.netns(), "203.0.113.1:8080");
            call(host, "CHECK", &server, &off).expect("CHECK");
        });
    }
}

#[test]
fn tcp_by_another_way_keeps_the_clients_address() {
    on_new_host(|host| {
        let (server, neighbour, client) = (join_pods(host), join_pods(host), join_outside(host));
        let same_port = json!([{ "hostPort": 80, "containerPort": 80, "protocol": "tcp" }]);
        add(host, &server, &conf("nftables", same_port));
        let _serving = Server::tcp(server.netns(), "[::]:80");
        let target = format!("{}:80", server.ip(0));
        assert_eq!(reaches(neighbour.netns(), &target).to_string(), neighbour.ip(0));
        assert_eq!(reaches(client.netns(), &target).to_string(), client.ip(0));
        assert_eq!(
            reaches(neighbour.netns(), "10.1.0.1:80").to_string(),
            "10.1.0.1",
            "a mapped port is masqueraded"
        );
    });
}

#[test]
fn tcp_host_ip_specific_and_unspecified() {
    for backend in BACKENDS {
        on_new_host(|host| {
            let (server, client) = (join_pods(host), join_outside(host));
            host.sh("ip addr add 203.0.113.99/24 dev outside0");
            let mappings = json!([
                { "hostPort": 8081, "containerPort": 80, "protocol": "tcp", "hostIP": "203.0.113.99" },
                { "hostPort": 8082, "containerPort": 80, "protocol": "tcp", "hostIP": "0.0.0.0" },
                { "hostPort": 8083, "containerPort": 80, "protocol": "tcp", "hostIP": "::" },
                { "hostPort": 8084, "containerPort": 80, "protocol": "tcp", "hostIP": "127.0.0.1" },
            ]);
            let conf = conf(backend, mappings);
            add(host, &server, &conf);
            let _serving = Server::tcp(server.netns(), "[::]:80");
            reaches(client.netns(), "203.0.113.99:8081");
            reaches(client.netns(), "203.0.113.1:8082");
            reaches(client.netns(), "[2001:db8:113::1]:8083");
            reaches(&host.netns, "127.0.0.1:8084");
            for wrong in
                ["203.0.113.1:8081", "[2001:db8:113::1]:8082", "203.0.113.1:8083", "203.0.113.1:8084"]
            {
                is_out_of_reach(client.netns(), wrong);
            }
            call(host, "CHECK", &server, &conf).expect("CHECK");
            call(host, "DEL", &server, &conf).expect("DEL");
        });
    }
}

#[test]
fn tcp_conditions_that_exclude_the_client() {
    let rows = [
        ("nftables", "ip saddr != 203.0.113.2", "ip6 saddr != 2001:db8:113::2"),
        ("nftables", "ip saddr { 203.0.113.3, 203.0.113.128/25 }", "ip6 saddr 2001:db8:113::3"),
        ("nftables", "iifname pods0 tcp dport 8000-9000", "ct state established"),
        ("iptables", "! -s 203.0.113.2", "! -s 2001:db8:113::2"),
    ];
    for (backend, v4, v6) in rows {
        on_new_host(|host| {
            let (server, client, other) = (join_pods(host), join_outside(host), join_outside(host));
            let before = ruleset(host);
            let words = |text: &str| text.split(' ').map(Value::from).collect::<Vec<_>>();
            let conditional = with(&conf(backend, tcp_80()), "conditionsV4", words(v4));
            let conditional = with(&conditional, "conditionsV6", words(v6));
            add(host, &server, &conditional);
            let _serving = Server::tcp(server.netns(), "[::]:80");
            is_out_of_reach(client.netns(), "203.0.113.1:8080");
            is_out_of_reach(client.netns(), "[2001:db8:113::1]:8080");
            if !v4.starts_with("iifname") {
                reaches(other.netns(), "203.0.113.1:8080");
                reaches(other.netns(), "[2001:db8:113::1]:8080");
            }
            call(host, "CHECK", &server, &conditional).expect("CHECK");
            call(host, "DEL", &server, &conditional).expect("DEL");
            if backend == "nftables" {
                assert_eq!(ruleset(host), before);
            }
        });
    }
}

#[test]
fn tcp_conditions_of_one_pod_leave_other_pods_alone() {
    on_new_host(|host| {
        let (closed, open, client) = (join_pods(host), join_pods(host), join_outside(host));
        let never = json!(["ip", "saddr", "192.0.2.1"]);
        add(host, &closed, &with(&conf("nftables", tcp_80()), "conditionsV4", never));
        let mapping = json!([{ "hostPort": 8081, "containerPort": 80, "protocol": "tcp" }]);
        add(host, &open, &conf("nftables", mapping));
        let _serving = [Server::tcp(closed.netns(), "[::]:80"), Server::tcp(open.netns(), "[::]:80")];
        reaches(client.netns(), "203.0.113.1:8081");
        is_out_of_reach(client.netns(), "203.0.113.1:8080");
    });
}

#[test]
fn loopback_addresses_stay_out_of_reach_of_pods() {
    on_new_host(|host| {
        let pod = join_pods(host);
        add(host, &pod, &conf("nftables", tcp_80()));
        let _local = Server::tcp(&host.netns, "127.0.0.1:7777");
        pod.pod
            .sh("ip route add 127.0.0.0/8 via 10.1.0.1 dev eth0 table 100 && ip rule add pref 1 lookup 100");
        pod.pod.sh("sysctl -qw net.ipv4.conf.eth0.route_localnet=1 && ip rule add pref 2 lookup local && ip rule del pref 0");
        reaches(&host.netns, "127.0.0.1:7777");
        is_out_of_reach(&pod.pod.netns, "127.0.0.1:7777");
    });
}

#[test]
fn udp_takeover_reaches_the_second_container() {
    for backend in BACKENDS {
        on_new_host(|host| {
            let (first, second, client) = (join_pods(host), join_pods(host), join_outside(host));
            // Without any rule left the kernel would stop translating old flows by itself.
            add(host, &join_pods(host), &conf(backend, tcp_80()));
            let _one = Server::udp(first.netns(), "0.0.0.0:53", "first");
            let _two = Server::udp(second.netns(), "0.0.0.0:53", "second");
            let conf = conf(backend, udp_53());
            add(host, &first, &conf);
            let flow = UdpClient::new(client.netns(), "203.0.113.1:5353");
            flow.hears("first");
            if backend == "iptables" {
                call(host, "DEL", &first, &conf).expect("DEL");
            }
            add(host, &second, &conf);
            flow.hears("second");
            call(host, "DEL", &first, &conf).expect("a late DEL of the first");
            flow.hears("second");
            call(host, "CHECK", &second, &conf).expect("CHECK");
            call(host, "DEL", &second, &conf).expect("DEL");
            assert_eq!(flow.ask(), None, "{backend}: nothing answers after DEL");
        });
    }
}

#[test]
fn a_port_that_was_taken_over_is_given_back() {
    on_new_host(|host| {
        let before = ruleset(host);
        let pods = [join_pods(host), join_pods(host), join_pods(host)];
        let client = join_outside(host);
        let _keep = ["first", "second", "third"].map(|name| {
            let pod = &pods[["first", "second", "third"].iter().position(|n| *n == name).expect("listed")];
            Server::udp(pod.netns(), "0.0.0.0:53", name)
        });
        let everywhere = conf("nftables", udp_53());
        let at =
            json!([{ "hostPort": 5353, "containerPort": 53, "protocol": "udp", "hostIP": "203.0.113.1" }]);
        for conf in [everywhere, conf("nftables", at)] {
            let verb = |verb: &str, n: usize| {
                call(host, verb, &pods[n], &conf).unwrap_or_else(|e| panic!("{verb} {n}: {e}"));
            };
            let flow = UdpClient::new(client.netns(), "203.0.113.1:5353");
            for n in [0, 1, 1, 2] {
                verb("ADD", n);
            }
            flow.hears("third");
            call(host, "CHECK", &pods[0], &conf).expect_err("the first has it no more");
            // One of those who wait goes; then the one that has it.
            verb("DEL", 1);
            flow.hears("third");
            verb("DEL", 2);
            flow.hears("first");
            verb("CHECK", 0);
            assert!(!ruleset(host).contains("waiting"), "{}", ruleset(host));
            // It takes part in the next round as any other, and garbage collection gives back as well.
            verb("ADD", 1);
            flow.hears("second");
            let valid = json!([{ "containerID": pods[0].pod.id, "ifname": "eth0" }]);
            let gc = with(&conf, "cni.dev/valid-attachments", valid);
            host.call(&Portmap, "GC", &pods[1].pod, &gc).expect("GC");
            flow.hears("first");
            // Without a prevResult, and the other way round: what waits goes too.
            verb("ADD", 1);
            host.call(&Portmap, "DEL", &pods[0].pod, &conf).expect("DEL by tag");
            flow.hears("second");
            verb("DEL", 1);
            // A client that nobody has answered yet.
            let late = UdpClient::new(client.netns(), "203.0.113.1:5353");
            assert_eq!(late.ask(), None, "nobody is left");
            assert!(!ruleset(host).contains("bowline_hostport"), "{}", ruleset(host));
        }
        assert_eq!(ruleset(host), before);
    });
}

#[test]
fn check_notices_that_loopback_is_no_longer_routed() {
    for backend in BACKENDS {
        on_new_host(|host| {
            let pod = join_pods(host);
            let conf = conf(backend, tcp_80());
            add(host, &pod, &conf);
            call(host, "CHECK", &pod, &conf).expect("CHECK after ADD");
            host.sh("sysctl -qw net.ipv4.conf.pods0.route_localnet=0");
            let error = call(host, "CHECK", &pod, &conf).expect_err(backend);
            let said = error["msg"].as_str().unwrap_or_default();
            assert!(said.contains("net/ipv4/conf/pods0/route_localnet is 0, not 1"), "{error}");
            let without = with(&conf, "snat", false);
            call(host, "CHECK", &pod, &without).expect("where nobody asked for it, it is not missed");
        });
    }
}

#[test]
fn udp_flows_of_others_live_on_when_ports_come_and_go() {
    on_new_host(|host| {
        let (server, client) = (join_pods(host), join_outside(host));
        let _serving = Server::udp(&host.netns, "0.0.0.0:9999", "host");
        let flow = UdpClient::new(client.netns(), "203.0.113.1:9999");
        flow.hears("host");
        host.sh("nft 'table ip t { chain c { type filter hook input priority 0; ct state established; }; }'");
        flow.hears("host");
        let flows =
            || host.sh("conntrack -L -p udp --orig-port-dst 9999 2>/dev/null | wc -l").trim().to_owned();
        assert_eq!(flows(), "1");
        let both = json!([
            { "hostPort": 8080, "containerPort": 80, "protocol": "tcp" },
            { "hostPort": 5353, "containerPort": 53, "protocol": "udp" },
        ]);
        for mappings in [tcp_80(), both] {
            let conf = conf("nftables", mappings);
            add(host, &server, &conf);
            call(host, "DEL", &server, &conf).expect("DEL");
            assert_eq!(flows(), "1", "{conf}");
        }
    });
}

#[test]
fn del_of_the_references_nftables_layout() {
    on_new_host(|host| {
        let (pod, other) = (join_pods(host), join_pods(host));
        let rule = |chain: &str, id: &str, what: &str| {
            format!("add rule ip cni_hostport {chain} {what} comment \"{id}\"\n")
        };
        let mut script = "add table ip cni_hostport\nadd chain ip cni_hostport hostports\n\
                          add chain ip cni_hostport masquerading\n"
            .to_owned();
        for (member, port) in [(&pod, 8080), (&other, 8081)] {
            let (id, ip) = (&member.pod.id, member.ip(0));
            script += &rule("hostports", id, &format!("tcp dport {port} dnat to {ip}:80"));
            script += &rule("masquerading", id, &format!("ip saddr {ip} ip daddr {ip} masquerade"));
            script += &rule("masquerading", id, &format!("ip saddr 127.0.0.1 ip daddr {ip} masquerade"));
        }
        std::fs::write(host.bin_dir().join("script"), script).expect("a file");
        host.sh(&format!("nft -f {}", host.bin_dir().join("script").display()));
        host.sh("sysctl -qw net.ipv4.conf.pods0.route_localnet=1");
        let v4 = json!([{ "hostPort": 8080, "containerPort": 80, "protocol": "tcp", "hostIP": "0.0.0.0" }]);
        call(host, "CHECK", &pod, &conf("nftables", v4.clone())).expect("the reference's rules pass");
        call(host, "DEL", &pod, &conf("nftables", v4.clone())).expect("DEL");
        call(host, "CHECK", &pod, &conf("nftables", v4)).expect_err("they are gone");
        let left = ruleset(host);
        assert!(!left.contains(&pod.pod.id) && left.matches(&other.pod.id).count() == 3, "{left}");
    });
}

#[test]
fn nft_golden_v4_v6_masq_all_on_and_off_and_after_del() {
    on_new_host(|host| {
        let mappings = json!([
            { "hostPort": 8080, "containerPort": 80, "protocol": "tcp" },
            { "hostPort": 5353, "containerPort": 53, "protocol": "udp" },
            { "hostPort": 9000, "containerPort": 90, "protocol": "sctp", "hostIP": "203.0.113.1" },
        ]);
        let masq_all = json!([{ "hostPort": 8081, "containerPort": 80, "protocol": "tcp" }]);
        let conditional = json!([{ "hostPort": 8082, "containerPort": 80, "protocol": "tcp" }]);
        host.sh("ip link add br0 type bridge && ip addr add 10.1.0.1/24 dev br0 && ip link set br0 up");
        let before = ruleset(host);
        let member = |id: &str, last: u8, bits: [u8; 2]| {
            let mut pod = host.new_pod();
            pod.id = id.into();
            let result = json!({ "cniVersion": "1.1.0",
                "interfaces": [{ "name": "eth0", "sandbox": "/ns" }],
                "ips": [{ "interface": 0, "address": format!("10.1.0.{last}/{}", bits[0]) },
                        { "interface": 0, "address": format!("fd00:1::{last}/{}", bits[1]) }] });
            Member { pod, result }
        };
        let plain = conf("nftables", mappings);
        let all = with(&conf("nftables", masq_all), "masqAll", true);
        let words = json!(["ip", "saddr", "{", "192.0.2.1,", "198.51.100.0/24", "}", "ct", "state", "new"]);
        let when = with(&conf("nftables", conditional), "conditionsV4", words);
        let members = [
            (member("one", 2, [24, 64]), plain),
            (member("two", 3, [24, 64]), all),
            (member("three", 4, [32, 128]), when),
        ];
        for (member, conf) in &members {
            add(host, member, conf);
            let listed = ruleset(host);
            add(host, member, conf);
            assert_eq!(ruleset(host), listed, "twice is a no-op");
            call(host, "CHECK", member, conf).expect("CHECK");
        }
        matches_golden("portmap-three", &ruleset(host));
        call(host, "DEL", &members[2].0, &members[2].1).expect("DEL");
        call(host, "DEL", &members[0].0, &members[0].1).expect("DEL");
        matches_golden("portmap-masq-all-left", &ruleset(host));
        call(host, "DEL", &members[1].0, &members[1].1).expect("DEL");
        assert_eq!(ruleset(host), before);
    });
}

#[test]
fn nft_check_finds_drift_and_gives_no_false_alarm() {
    on_new_host(|host| {
        let (pod, other) = (join_pods(host), join_pods(host));
        let conf = conf("nftables", tcp_80());
        let nothing = call(host, "CHECK", &pod, &conf).expect_err("no rules yet");
        assert!(nothing["msg"].as_str().expect("a message").starts_with("portmap: "), "{nothing}");
        let second = json!([{ "hostPort": 8081, "containerPort": 80, "protocol": "tcp" }]);
        let drifts = [
            "delete element ip bowline_hostport ports { tcp . 8080 }",
            "flush set ip bowline_hostport masquerade-10.1.0.0/24",
            "flush chain ip bowline_hostport output",
            "flush chain ip bowline_hostport prerouting",
            "flush chain ip bowline_hostport postrouting",
            "flush chain ip6 bowline_hostport hostports",
            "flush chain ip bowline_hostport loopback",
            "flush chain ip6 bowline_hostport postrouting; add rule ip bowline_hostport prerouting counter",
            "delete table ip6 bowline_hostport",
        ];
        for drift in drifts {
            add(host, &pod, &conf);
            add(host, &other, &with(&conf, "runtimeConfig", json!({ "portMappings": second })));
            host.sh("nft add rule ip bowline_hostport prerouting counter comment mine");
            call(host, "CHECK", &pod, &conf).expect("extra rules and elements are tolerated");
            host.sh(&format!("nft '{drift}'"));
            call(host, "CHECK", &pod, &conf).expect_err(drift);
            add(host, &pod, &conf);
            call(host, "CHECK", &pod, &conf).expect("ADD mends what others have broken");
            host.sh("nft flush ruleset");
        }
        add(host, &pod, &conf);
        let loopback = "nft -a list chain ip bowline_hostport postrouting | sed -n 's/.* 127.*handle //p'";
        host.sh(&format!("nft delete rule ip bowline_hostport postrouting handle $({loopback})"));
        call(host, "CHECK", &pod, &conf).expect_err("one of two rules for masquerading is gone");
        add(host, &other, &with(&conf, "runtimeConfig", json!({ "portMappings": second })));
        call(host, "CHECK", &pod, &conf).expect("the next pod's ADD has mended it");
    });
}

#[test]
fn nft_check_without_masquerading_only_when_snat_is_off() {
    on_new_host(|host| {
        let pod = join_pods(host);
        let off = with(&conf("nftables", tcp_80()), "snat", false);
        add(host, &pod, &off);
        call(host, "CHECK", &pod, &off).expect("no masquerading is wanted");
        call(host, "CHECK", &pod, &conf("nftables", tcp_80())).expect_err("masquerading is wanted");
    });
}

#[test]
fn del_matrix_portmap_in_every_way_leaves_nothing() {
    for backend in BACKENDS {
        on_new_host(|host| {
            let pod = join_pods(host);
            let before = ruleset(host);
            let full = conf(backend, tcp_80());
            let bare = json!({ "cniVersion": "1.1.0", "name": "net1", "type": "portmap" });
            let variants = [
                with(&full, "prevResult", pod.result.clone()),
                full.clone(),
                with(&bare, "prevResult", pod.result.clone()),
                bare.clone(),
                with(&full, "backend", if backend == "iptables" { "nftables" } else { "iptables" }),
            ];
            for (index, conf) in variants.iter().enumerate() {
                host.call(&Portmap, "DEL", &pod.pod, conf).expect("DEL without ADD");
                add(host, &pod, &full);
                let mut env = support::env_of("DEL", &pod.pod, &host.bin_dir());
                if index % 2 == 0 {
                    env.retain(|(key, _)| *key != "CNI_NETNS");
                } else {
                    env.iter_mut()
                        .filter(|(key, _)| *key == "CNI_NETNS")
                        .for_each(|(_, v)| *v = "/run/gone".into());
                }
                for _ in 0..2 {
                    host.call_env(&Portmap, conf, &env).unwrap_or_else(|e| panic!("{backend} {index}: {e}"));
                }
                let left = ruleset(host);
                assert!(
                    !left.contains("CNI-") && !left.contains("bowline_hostport"),
                    "{backend} {index}: {left}"
                );
                if backend == "nftables" {
                    assert_eq!(left, before);
                }
            }
        });
    }
}

#[test]
fn gc_matrix_portmap_keeps_valid_attachments_and_other_networks() {
    for backend in BACKENDS {
        on_new_host(|host| {
            let (stale, valid, other) = (join_pods(host), join_pods(host), join_pods(host));
            let port = |port: u16| json!([{ "hostPort": port, "containerPort": 80, "protocol": "tcp" }]);
            let confs = [
                conf(backend, port(8001)),
                conf(backend, port(8002)),
                with(&conf(backend, port(8003)), "name", "net2"),
            ];
            for (member, conf) in [&stale, &valid, &other].into_iter().zip(&confs) {
                add(host, member, conf);
            }
            let gc = |valid: Value| {
                let bare = json!({ "cniVersion": "1.1.0", "name": "net1", "type": "portmap" });
                let conf =
                    if valid.is_null() { bare } else { with(&bare, "cni.dev/valid-attachments", valid) };
                let env =
                    [("CNI_COMMAND", "GC".to_owned()), ("CNI_PATH", host.bin_dir().display().to_string())];
                host.call_env(&Portmap, &conf, &env).expect("GC");
            };
            gc(Value::Null);
            call(host, "CHECK", &stale, &confs[0]).expect("without a list nothing is removed");
            gc(json!([{ "containerID": valid.pod.id, "ifname": "eth0" }]));
            call(host, "CHECK", &stale, &confs[0]).expect_err("the stale one is gone");
            call(host, "CHECK", &valid, &confs[1]).expect("the valid one stays");
            call(host, "CHECK", &other, &confs[2]).expect("the other network's stays");
            gc(json!([]));
            call(host, "CHECK", &valid, &confs[1]).expect_err("an empty list keeps nothing");
            call(host, "CHECK", &other, &confs[2]).expect("the other network's stays");
        });
    }
}

#[test]
fn status_says_whether_the_backend_can_be_used() {
    on_new_host(|host| {
        let env = [("CNI_COMMAND", "STATUS".to_owned()), ("CNI_PATH", host.bin_dir().display().to_string())];
        for backend in BACKENDS {
            host.call_env(&Portmap, &conf(backend, json!([])), &env).expect(backend);
        }
        let error = host.call_env(&Portmap, &conf("ipfw", json!([])), &env).expect_err("no such backend");
        assert_eq!(error["code"], 7);
    });
}

#[test]
fn chain_ops_parallel_workers_set_up_and_tear_down() {
    for backend in BACKENDS {
        on_new_host(|host| {
            host.sh("ip link add br0 type bridge && ip addr add 10.1.0.1/24 dev br0 && ip link set br0 up");
            let members: Vec<Member> = (2..10)
                .map(|last| Member {
                    pod: host.new_pod(),
                    result: json!({ "cniVersion": "1.1.0", "interfaces": [{ "name": "eth0", "sandbox": "/ns" }],
                        "ips": [{ "interface": 0, "address": format!("10.1.0.{last}/24") }] }),
                })
                .collect();
            let conf_of = |index: usize| {
                conf(backend, json!([{ "hostPort": 8000 + index, "containerPort": 80, "protocol": "tcp" }]))
            };
            for verb in ["ADD", "CHECK", "DEL", "DEL"] {
                std::thread::scope(|scope| {
                    for (index, member) in members.iter().enumerate() {
                        let conf = conf_of(index);
                        scope.spawn(move || {
                            call(host, verb, member, &conf)
                                .unwrap_or_else(|e| panic!("{backend} {verb}: {e}"))
                        });
                    }
                });
            }
            assert!(!ruleset(host).contains("CNI-"), "{}", ruleset(host));
            assert!(!ruleset(host).contains("bowline"), "{}", ruleset(host));
        });
    }
}
