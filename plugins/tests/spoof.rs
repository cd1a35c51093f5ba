//! macspoofchk on the real kernel, each test on a host of its own. Needs root and the `nft` program.

#[path = "../../kernel/tests/netns/mod.rs"]
#[allow(dead_code, reason = "this test needs part of it")]
mod netns;
mod support;

use std::net::UdpSocket;
use std::process::Command;
use std::time::{Duration, Instant};

use cni::{Attachment, ContainerId, IfName};
use kernel::netlink::{Protocol, Socket};
use netns::{listing, matches_golden};
use plugins::owner::Owner;
use plugins::spoof::{self, Guard};
use support::on_new_host;

fn socket() -> Socket {
    Socket::open(Protocol::Netfilter).unwrap()
}

fn attachment(id: &str) -> Attachment {
    Attachment { container_id: ContainerId::parse(id).unwrap(), ifname: IfName::parse("eth0").unwrap() }
}

fn owner(network: &str, id: &str) -> Owner {
    Owner::new(network, &attachment(id))
}

fn guard(port: &str, mac: &str) -> Guard {
    Guard { port: port.into(), mac: mac.parse().unwrap() }
}

fn nft(text: &str) {
    assert!(Command::new("nft").arg(text).status().unwrap().success(), "{text}");
}

/// What the reference's ADD leaves for one attachment.
fn reference_rules(id: &str, port: &str, mac: &str) -> String {
    let chain = format!("cni-br-iface-{id}-eth0");
    let comment = format!("comment \"macspoofchk-{id}-eth0\"");
    format!(
        "table bridge nat {{\n\
         chain PREROUTING {{\ntype filter hook prerouting priority -300; policy accept;\n}}\n\
         chain {chain}-mac {{\nether saddr {mac} return {comment}\ndrop {comment}\n}}\n\
         chain {chain} {{\njump {chain}-mac {comment}\n}}\n}}\n\
         add rule bridge nat PREROUTING iifname {port} jump {chain} {comment}\n"
    )
}

#[test]
fn spoofcheck_declared_rules() {
    on_new_host(|_| {
        let mut host = socket();
        spoof::ensure(&mut host, &owner("red", "one"), &guard("veth1", "02:00:00:00:00:01")).unwrap();
        spoof::ensure(&mut host, &owner("red", "two"), &guard("veth2", "02:00:00:00:00:02")).unwrap();
        matches_golden("spoof", &listing());
        let generation = kernel::nft::generation(&mut host).unwrap();
        spoof::ensure(&mut host, &owner("red", "two"), &guard("veth2", "02:00:00:00:00:02")).unwrap();
        assert_eq!(kernel::nft::generation(&mut host).unwrap(), generation, "a second time sends nothing");
    });
}

#[test]
fn spoofcheck_teardown_with_and_without_knowing_the_port() {
    on_new_host(|_| {
        let mut host = socket();
        let guards = [guard("veth1", "02:00:00:00:00:01"), guard("veth2", "02:00:00:00:00:02")];
        let unfitting = guard("veth3", "02:00:00:00:00:99");
        for known in [Some(&guards[0]), None, Some(&unfitting)] {
            spoof::ensure(&mut host, &owner("red", "two"), &guards[1]).unwrap();
            let before = listing();
            spoof::ensure(&mut host, &owner("red", "one"), &guards[0]).unwrap();
            spoof::remove(&mut host, &owner("red", "one"), known).unwrap();
            assert_eq!(listing(), before, "removed by {known:?}");
            spoof::remove(&mut host, &owner("red", "one"), known).unwrap();
            assert_eq!(listing(), before, "twice is a no-op");
            spoof::remove(&mut host, &owner("red", "two"), None).unwrap();
            assert_eq!(listing(), "");
        }
    });
}

#[test]
fn spoofcheck_name_reuse_keeps_the_new_owner() {
    on_new_host(|_| {
        let mut host = socket();
        let (old, new) = (owner("red", "old"), owner("red", "new"));
        spoof::ensure(&mut host, &old, &guard("veth1", "02:00:00:00:00:01")).unwrap();
        spoof::ensure(&mut host, &new, &guard("veth1", "02:00:00:00:00:02")).unwrap();
        spoof::remove(&mut host, &old, Some(&guard("veth1", "02:00:00:00:00:01"))).unwrap();
        spoof::check(&mut host, &new, &guard("veth1", "02:00:00:00:00:02")).unwrap();
        assert!(!listing().contains("02:00:00:00:00:01"));
        spoof::remove(&mut host, &new, None).unwrap();
        assert_eq!(listing(), "");
    });
}

#[test]
fn spoofcheck_apply_or_read_failing_is_an_error_and_not_a_panic() {
    on_new_host(|_| {
        // A socket that does not speak nf_tables: every read and every batch fails.
        let mut deaf = Socket::open(Protocol::Route).unwrap();
        let (one, guard) = (owner("red", "one"), guard("veth1", "02:00:00:00:00:01"));
        let error = spoof::ensure(&mut deaf, &one, &guard).unwrap_err();
        assert!(error.msg.starts_with("macspoofchk: read the nf_tables generation: "), "{error}");
        let error = spoof::remove(&mut deaf, &one, None).unwrap_err();
        assert!(error.msg.starts_with("macspoofchk: "), "{error}");
        assert!(!error.details.is_empty(), "both halves of the teardown are tried: {error:?}");
        assert!(spoof::check(&mut deaf, &one, &guard).is_err());
        assert!(spoof::gc(&mut deaf, "red", &[]).is_err());
        let infiniband = Guard { port: "veth1".into(), mac: "00:11:22:33:44:55:66:77".parse().unwrap() };
        let error = spoof::ensure(&mut socket(), &one, &infiniband).unwrap_err();
        assert_eq!(error.msg, "macspoofchk: 00:11:22:33:44:55:66:77 is no Ethernet address");
        assert_eq!(listing(), "");
    });
}

#[test]
fn spoofcheck_del_after_a_del_that_was_killed_in_between() {
    on_new_host(|_| {
        let mut host = socket();
        let (one, guard) = (owner("red", "one"), guard("veth1", "02:00:00:00:00:01"));
        for known in [Some(&guard), None] {
            spoof::ensure(&mut host, &one, &guard).unwrap();
            nft("flush set bridge bowline_spoof allowed; flush set bridge bowline_spoof guarded");
            spoof::remove(&mut host, &one, known).unwrap();
            assert_eq!(listing(), "");
        }
    });
}

#[test]
fn gc_matrix_spoof() {
    on_new_host(|_| {
        let mut host = socket();
        spoof::ensure(&mut host, &owner("red", "one"), &guard("veth1", "02:00:00:00:00:01")).unwrap();
        spoof::ensure(&mut host, &owner("red", "two"), &guard("veth2", "02:00:00:00:00:02")).unwrap();
        spoof::ensure(&mut host, &owner("blue", "one"), &guard("veth3", "02:00:00:00:00:03")).unwrap();
        let all = listing();
        spoof::gc(&mut host, "green", &[]).unwrap();
        spoof::gc(&mut host, "red", &[attachment("one"), attachment("two")]).unwrap();
        assert_eq!(listing(), all);
        spoof::gc(&mut host, "red", &[attachment("two")]).unwrap();
        assert!(!listing().contains("veth1") && listing().contains("veth2") && listing().contains("veth3"));
        spoof::gc(&mut host, "red", &[]).unwrap();
        spoof::gc(&mut host, "blue", &[]).unwrap();
        assert_eq!(listing(), "");
    });
}

#[test]
fn check_negative_spoof() {
    on_new_host(|_| {
        let mut host = socket();
        let (one, guard) = (owner("red", "one"), guard("veth1", "02:00:00:00:00:01"));
        let complaint = |host: &mut Socket| spoof::check(host, &one, &guard).unwrap_err().msg;
        assert_eq!(complaint(&mut host), "macspoofchk: veth1: table bridge bowline_spoof has no rule");
        spoof::ensure(&mut host, &one, &guard).unwrap();
        spoof::check(&mut host, &one, &guard).unwrap();
        nft("delete element bridge bowline_spoof allowed { veth1 . 02:00:00:00:00:01 }");
        assert_eq!(
            complaint(&mut host),
            "macspoofchk: veth1 with 02:00:00:00:00:01: not in set bridge bowline_spoof allowed"
        );
        spoof::ensure(&mut host, &one, &guard).unwrap();
        nft("flush chain bridge bowline_spoof prerouting");
        assert_eq!(complaint(&mut host), "macspoofchk: veth1: table bridge bowline_spoof has no rule");
    });
}

#[test]
fn spoofcheck_of_the_reference_is_checked_and_removed() {
    on_new_host(|_| {
        let mut host = socket();
        let mac = "02:00:00:00:00:01";
        nft(&reference_rules("one", "veth1", mac));
        let with_one = listing();
        nft(&reference_rules("two", "veth2", mac));
        spoof::check(&mut host, &owner("red", "two"), &guard("veth2", mac)).unwrap();
        spoof::remove(&mut host, &owner("red", "two"), None).unwrap();
        assert!(spoof::check(&mut host, &owner("red", "two"), &guard("veth2", mac)).is_err());
        assert_eq!(listing(), with_one);
    });
}

#[test]
fn a_guarded_pod_speaks_with_its_own_address_only() {
    on_new_host(|host| {
        let pod = host.new_pod();
        host.sh(&format!(
            "ip link add br0 type bridge forward_delay 0 && ip link set br0 up && ip addr add 10.9.0.1/24 dev br0 &&
             ip link add veth1 type veth peer name eth0 address 02:00:00:00:00:01 &&
             ip link set veth1 master br0 up && ip link set eth0 netns {}",
            pod.path.display().to_string().replace("self", &std::process::id().to_string())
        ));
        pod.sh("ip addr add 10.9.0.2/24 dev eth0 && ip link set eth0 up");
        let listener = UdpSocket::bind("10.9.0.1:7").unwrap();
        let heard = |within: Duration| {
            let deadline = Instant::now() + within;
            let send =
                || UdpSocket::bind("0.0.0.0:0").and_then(|socket| socket.send_to(b"hello", "10.9.0.1:7"));
            listener.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
            while Instant::now() < deadline {
                pod.netns.run(send).unwrap().unwrap();
                if listener.recv(&mut [0; 8]).is_ok() {
                    return true;
                }
            }
            false
        };
        let (soon, at_all) = (Duration::from_millis(400), Duration::from_secs(10));
        assert!(heard(at_all), "unguarded");
        let one = owner("red", "one");
        spoof::ensure(&mut socket(), &one, &guard("veth1", "02:00:00:00:00:01")).unwrap();
        assert!(heard(at_all), "guarded, with its own address");
        while listener.recv(&mut [0; 8]).is_ok() {}
        pod.sh("ip link set eth0 address 02:00:00:00:00:99");
        assert!(!heard(soon), "guarded, with another address");
        pod.sh("ip link set eth0 address 02:00:00:00:00:01");
        assert!(heard(at_all), "guarded, with its own address again");
        pod.sh("ip link set eth0 address 02:00:00:00:00:99");
        spoof::remove(&mut socket(), &one, None).unwrap();
        assert!(heard(at_all), "no longer guarded");
    });
}
