//! Masquerade, forwarding and sysctls in a node's namespace, looked at with nft(8), iptables-save(8) and sysctl(8).

use daemon::node::masquerade::{self, Masquerade};
use daemon::node::{Outcome, forward, sysctls};
use ipnetwork::IpNetwork;
use kernel::netlink::{Protocol, Socket};
use lab::Space;
use overlay::DualStack;

fn node() -> Space {
    Space::new_node().expect("a node (run the tests as root)")
}

/// What a line of shell prints.
fn sh(node: &Space, line: &str) -> String {
    let output = node.output("sh", &["-ec", line], b"");
    assert!(output.status.success(), "`{line}`: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn netfilter() -> Socket {
    Socket::open(Protocol::Netfilter).expect("a socket")
}

fn networks(texts: &[&str]) -> Vec<IpNetwork> {
    texts.iter().map(|text| text.parse().expect("a network")).collect()
}

fn ruleset(node: &Space) -> String {
    sh(node, "nft -s list ruleset")
}

fn wanted(inside: &[&str]) -> DualStack<Option<Masquerade>> {
    DualStack::from_fn(|family| {
        let of_family = |network: &&IpNetwork| overlay::Family::of_network(**network) == family;
        let pods = networks(&["10.1.0.0/24", "fd00:1::/64"]);
        Some(Masquerade {
            pods: pods.iter().filter(of_family).copied().collect(),
            inside: networks(inside).iter().filter(of_family).copied().collect(),
        })
    })
}

fn masquerades(node: &Space, wanted: &DualStack<Option<Masquerade>>) -> Vec<String> {
    node.run(|| masquerade::sync(&mut netfilter(), wanted).expect("synced"))
}

#[test]
fn masquerade_is_one_table_that_reads_well_and_changes_by_element() {
    let node = node();
    let few = wanted(&["10.0.0.0/14", "10.1.0.0/24", "192.0.2.7/32", "192.0.2.8/32", "fd00::/16"]);
    assert!(!masquerades(&node, &few).is_empty());
    let listing = ruleset(&node);
    for line in [
        "type nat hook postrouting priority srcnat; policy accept;",
        "elements = { 10.1.0.0/24 }",
        "ip saddr @local_pods_ipv4 ip daddr != @inside_ipv4 counter masquerade comment \"IPv4 of pods that leaves the cluster\"",
        "ip6 saddr @local_pods_ipv6 ip6 daddr != @inside_ipv6 counter masquerade comment \"IPv6 of pods that leaves the cluster\"",
        "elements = { fd00:1::/64 }",
    ] {
        assert!(listing.lines().any(|it| it.trim() == line), "{line}\n{listing}");
    }
    assert_eq!(masquerades(&node, &few), [""; 0], "twice is a no-op");
    let more = wanted(&["10.0.0.0/14", "192.0.2.8/32", "192.0.2.9/32", "0.0.0.0/5", "fd00::/16"]);
    let changes = masquerades(&node, &more);
    assert_eq!(
        changes,
        [
            "delete an element of set inet bowline_node inside_ipv4",
            "add 2 elements of set inet bowline_node inside_ipv4"
        ]
    );
    assert_eq!(masquerades(&node, &more), [""; 0]);
    let off = node.run(|| masquerade::cleanup(&mut netfilter()).expect("removed"));
    assert_eq!((off.len(), ruleset(&node).as_str()), (1, ""));
    assert_eq!(node.run(|| masquerade::cleanup(&mut netfilter()).expect("again")), [""; 0]);
}

#[test]
fn masquerade_is_put_back_whatever_is_taken_from_it() {
    let node = node();
    let wanted = wanted(&["10.0.0.0/14", "fd00::/16"]);
    masquerades(&node, &wanted);
    let whole = ruleset(&node);
    for damage in [
        "flush ruleset",
        "flush chain inet bowline_node postrouting",
        "delete element inet bowline_node inside_ipv4 { 10.0.0.0/14 }",
        "add element inet bowline_node inside_ipv4 { 8.8.8.8 }",
        "flush set inet bowline_node local_pods_ipv6",
        "add rule inet bowline_node postrouting accept",
    ] {
        sh(&node, &format!("nft '{damage}'"));
        assert_ne!(ruleset(&node), whole, "{damage}");
        assert!(!masquerades(&node, &wanted).is_empty(), "{damage}");
        assert_eq!(ruleset(&node), whole, "{damage}");
    }
}

#[test]
fn one_family_alone_has_one_rule() {
    let node = node();
    let both = wanted(&[]);
    masquerades(&node, &both);
    let only = DualStack { v4: both.v4, v6: None };
    masquerades(&node, &only);
    let listing = ruleset(&node);
    assert!(!listing.contains("ip6") && listing.contains("ip saddr"), "{listing}");
    assert_eq!(masquerades(&node, &only), [""; 0]);
}

fn forwards(node: &Space, pods: &[&str]) -> Outcome {
    node.run(|| forward::sync(&mut netfilter(), &networks(pods)).expect("looked at"))
}

const PODS: [&str; 2] = ["10.1.0.0/24", "fd00:1::/64"];

/// What a firewall does, where our rules must then be seen, and what undoes them.
const FIREWALLS: &[(&str, &str, &str, &str, usize)] = &[
    (
        "iptables' policy",
        "iptables -P FORWARD DROP; ip6tables -P FORWARD DROP",
        "iptables-save; ip6tables-save",
        "iptables -F FORWARD; ip6tables -F BOWLINE-FORWARD",
        6,
    ),
    ("a rule of iptables", "iptables -A FORWARD -j REJECT", "iptables-save", "iptables -D FORWARD 1", 3),
    ("legacy iptables", "iptables-legacy -P FORWARD DROP", "iptables-legacy-save", "iptables-legacy -F", 3),
    (
        "an administrator's table",
        "nft 'add table inet fw; add chain inet fw forwarded { type filter hook forward priority 0; policy drop; }; add rule inet fw forwarded tcp dport 25 drop'",
        "nft -s list table inet fw",
        "nft flush chain inet fw forwarded",
        4,
    ),
    (
        "firewalld's table",
        "nft 'add table inet firewalld; add chain inet firewalld filter_FORWARD { type filter hook forward priority 10; }; add rule inet firewalld filter_FORWARD reject'",
        "nft -s list table inet firewalld",
        "nft 'flush table inet firewalld; add rule inet firewalld filter_FORWARD reject'",
        4,
    ),
    (
        "a table of one family",
        "nft 'add table ip fw; add chain ip fw forwarded { type filter hook forward priority 0; policy drop; }'",
        "nft -s list table ip fw",
        "nft flush chain ip fw forwarded",
        2,
    ),
];

#[test]
fn forwarding_is_accepted_wherever_it_may_be_dropped_and_nothing_else_changes() {
    for (name, set_up, list, damage, rules) in FIREWALLS {
        let node = node();
        sh(&node, set_up);
        let state = || {
            let text = sh(&node, list) + &ruleset(&node);
            // Counters and dates are not state.
            text.lines()
                .filter(|line| !line.starts_with('#'))
                .map(|line| line.split(" [").next().unwrap_or_default().to_owned() + "\n")
                .collect::<String>()
        };
        let before = state();
        let ours = || sh(&node, list).lines().filter(|it| it.contains("bowlined: ")).count();
        let outcome = forwards(&node, &PODS);
        assert_eq!(outcome.problems, [""; 0], "{name}");
        assert_eq!(ours(), *rules, "{name}:\n{}", sh(&node, list));
        assert_eq!(forwards(&node, &PODS), Outcome::default(), "{name}: twice is a no-op");
        let whole = state();
        sh(&node, damage);
        assert_ne!(ours(), *rules, "{name}: the damage damages");
        assert!(!forwards(&node, &PODS).changes.is_empty(), "{name}");
        assert_eq!(ours(), *rules, "{name}: is put back\n{}", sh(&node, list));
        if !damage.contains("FORWARD 1") {
            forwards(&node, &["10.9.0.0/24"]);
            assert!(sh(&node, list).contains("10.9.0.0/24"), "{name}: other pods\n{}", sh(&node, list));
            assert!(!sh(&node, list).contains("10.1.0.0/24"), "{name}: other pods\n{}", sh(&node, list));
        }
        drop(whole);
        node.run(|| forward::cleanup(&mut netfilter()).expect("removed"));
        assert_eq!(ours(), 0, "{name}");
        if !damage.contains("-F") && !damage.contains("flush") {
            assert_eq!(state(), before, "{name}");
        }
        assert_eq!(node.run(|| forward::find(&mut netfilter()).expect("looked")), [""; 0], "{name}");
    }
}

#[test]
fn a_table_that_only_counts_is_let_be() {
    let node = node();
    sh(
        &node,
        "nft 'add table inet fw; add chain inet fw forwarded { type filter hook forward priority 0; }; add rule inet fw forwarded counter'",
    );
    sh(&node, "iptables -A FORWARD -s 192.0.2.1 -j ACCEPT");
    let before = ruleset(&node);
    assert_eq!(forwards(&node, &PODS), Outcome::default());
    assert_eq!(ruleset(&node), before);
}

#[test]
fn our_rules_of_iptables_come_first_and_iptables_can_read_them() {
    let node = node();
    sh(&node, "iptables -P FORWARD DROP; iptables -A FORWARD -j REJECT");
    forwards(&node, &PODS);
    let saved = sh(&node, "iptables-save");
    let rules: Vec<&str> = saved.lines().filter(|line| line.starts_with("-A ")).collect();
    assert_eq!(
        rules,
        [
            "-A FORWARD -m comment --comment \"bowlined: pods of this node\" -j BOWLINE-FORWARD",
            "-A FORWARD -j REJECT --reject-with icmp-port-unreachable",
            "-A BOWLINE-FORWARD -s 10.1.0.0/24 -m comment --comment \"bowlined: from pods 10.1.0.0/24\" -j ACCEPT",
            "-A BOWLINE-FORWARD -d 10.1.0.0/24 -m comment --comment \"bowlined: to pods 10.1.0.0/24\" -j ACCEPT",
        ],
        "{saved}"
    );
    // What iptables writes back, it has understood.
    sh(&node, "iptables-save | iptables-restore");
    assert_eq!(sh(&node, "iptables-save | grep -c bowlined:").trim(), "3");
}

/// What a Service proxy rejects or drops is not accepted before it has been asked, whoever came first.
#[test]
fn our_rules_of_iptables_come_behind_those_of_services() {
    for program in ["iptables", "iptables-legacy"] {
        let node = node();
        let jumps = |node: &Space| {
            let saved = sh(node, &format!("{program}-save"));
            let rules = saved.lines().filter(|line| line.starts_with("-A FORWARD"));
            rules.map(|rule| rule.rsplit(' ').next().unwrap_or_default().to_owned()).collect::<Vec<_>>()
        };
        let kube = "KUBE-SERVICES";
        sh(&node, &format!("{program} -N {kube}; {program} -P FORWARD DROP; {program} -A FORWARD -j ACCEPT"));
        forwards(&node, &PODS);
        assert_eq!(jumps(&node), ["BOWLINE-FORWARD", "ACCEPT"], "{program}");
        sh(&node, &format!("{program} -I FORWARD -j {kube}"));
        assert!(forwards(&node, &PODS).changes.is_empty(), "{program}: it is behind already");
        sh(&node, &format!("{program} -D FORWARD -j {kube}; {program} -I FORWARD 2 -j {kube}"));
        forwards(&node, &PODS);
        assert_eq!(jumps(&node), [kube, "BOWLINE-FORWARD", "ACCEPT"], "{program}");
        assert!(forwards(&node, &PODS).changes.is_empty(), "{program}: twice is a no-op");
    }
}

#[test]
fn forwarding_is_switched_on_and_router_advertisements_keep_counting() {
    let node = node();
    sh(&node, "ip link add up0 type veth peer name up1; ip link set up0 up; ip link set up1 up");
    sh(
        &node,
        "sysctl -qw net.ipv4.ip_forward=0 net.ipv6.conf.all.forwarding=0 net.ipv6.conf.up0.accept_ra=1 net.ipv6.conf.up1.accept_ra=1",
    );
    sh(&node, "ip -6 route add default via fe80::1 dev up0 proto ra");
    let uplink = |name: &str| {
        let index = node.read(format!("/sys/class/net/{name}/ifindex")).trim().parse().expect("a number");
        overlay::Uplink {
            link: kernel::link::LinkId { index, name: name.into() },
            ip: "2001:db8::1".parse().expect("an address"),
            prefix: 64,
            mtu: 1500,
        }
    };
    let ensure = |name: &str| {
        let uplinks = DualStack { v4: None, v6: Some(uplink(name)) };
        node.run(|| {
            let mut socket = Socket::open(Protocol::Route).expect("a socket");
            sysctls::ensure_forwarding(&mut socket, DualStack { v4: true, v6: true }, &uplinks).expect("set")
        })
    };
    assert_eq!(ensure("up1").changes.len(), 2, "no route was learned there");
    let outcome = ensure("up0");
    assert_eq!(outcome.changes, ["set sysctl net/ipv6/conf/up0/accept_ra to 2"]);
    assert_eq!(ensure("up0"), Outcome::default());
    let values =
        sh(&node, "sysctl -n net.ipv4.ip_forward net.ipv6.conf.all.forwarding net.ipv6.conf.up0.accept_ra");
    assert_eq!(values.split_whitespace().collect::<Vec<_>>(), ["1", "1", "2"]);
}

#[test]
fn bridged_packets_meet_the_ruleset_where_they_can() {
    let node = node();
    let both = DualStack { v4: true, v6: true };
    let ensure = || {
        node.run(|| {
            let mut socket = Socket::open(Protocol::Route).expect("a socket");
            sysctls::ensure_bridge_filter(&mut socket, both).expect("looked at")
        })
    };
    assert!(ensure().1.starts_with("not needed"));
    sh(&node, "ip link add bowline0 type bridge");
    let is_loaded = node.run(|| std::path::Path::new("/proc/sys/net/bridge").exists());
    let (_, state) = ensure();
    assert_eq!(state.starts_with("loaded"), is_loaded, "{state}");
    if is_loaded {
        sh(&node, "sysctl -qw net.bridge.bridge-nf-call-iptables=0");
        assert_eq!(ensure().0.changes, ["set sysctl net/bridge/bridge-nf-call-iptables to 1"]);
        assert_eq!(ensure().0, Outcome::default());
    }
}
