//! ipMasq by iptables on the real kernel, and beside the reference. Needs root, `iptables` and `nft`.

#[allow(dead_code, reason = "only the namespace is used")]
#[path = "../../kernel/tests/netns/mod.rs"]
mod netns;

use std::process::Command;

use cni::{Attachment, ContainerId, IfName, IpConfig};
use kernel::netlink::{Protocol, Socket};
use netns::in_new_netns;
use plugins::backend::Backend::{Iptables, Nftables};
use plugins::masquerade;
use plugins::owner::Owner;

fn socket() -> Socket {
    Socket::open(Protocol::Netfilter).expect("a socket")
}

fn owner(id: &str, ifname: &str) -> Owner {
    let container_id = ContainerId::parse(id).expect("an ID");
    Owner::new("net1", &Attachment { container_id, ifname: IfName::parse(ifname).expect("a name") })
}

fn ips(addresses: &[&str]) -> Vec<IpConfig> {
    let ip = |a: &&str| IpConfig { interface: None, address: a.parse().expect("an address"), gateway: None };
    addresses.iter().map(ip).collect()
}

/// The rules and chains of ours, in both families.
fn rules(variant: &str) -> Vec<String> {
    let save = |program: String| {
        let output = Command::new(&program).args(["-t", "nat"]).output().expect(&program);
        String::from_utf8(output.stdout).expect("text")
    };
    let text = save(format!("iptables-{variant}-save")) + &save(format!("ip6tables-{variant}-save"));
    text.lines().filter(|line| line.contains("CNI-")).map(str::to_owned).collect()
}

#[test]
fn masq_ipt_add_check_del_with_and_without_addresses() {
    in_new_netns(|| {
        let (mut host, pod, both) = (socket(), owner("one", "eth0"), ips(&["10.1.0.2/24", "fd00::2/64"]));
        masquerade::check(&mut host, &pod, &both, Iptables).expect_err("nothing there yet");
        for addresses in [both.clone(), Vec::new()] {
            for _ in 0..2 {
                masquerade::ensure(&mut host, &pod, &both, Iptables).expect("ADD");
                assert_eq!(rules("nft").len(), 8, "{:#?}", rules("nft"));
            }
            masquerade::check(&mut host, &pod, &both, Iptables).expect("CHECK");
            masquerade::check(&mut host, &pod, &both, Nftables).expect("CHECK after the backend was changed");
            for _ in 0..2 {
                masquerade::remove(&mut host, &pod, &addresses).expect("DEL");
                assert_eq!(rules("nft"), [""; 0]);
            }
        }
    });
}

#[test]
fn masq_ipt_rules_of_legacy_iptables_are_found_and_removed() {
    in_new_netns(|| {
        let mut host = socket();
        masquerade::ensure(&mut host, &owner("one", "eth0"), &ips(&["10.1.0.2/24"]), Iptables).expect("ADD");
        let script = "iptables-nft-save -t nat | iptables-legacy-restore && iptables-nft -t nat -F && iptables-nft -t nat -X";
        assert!(Command::new("sh").args(["-c", script]).status().expect("sh").success());
        assert_eq!((rules("nft").len(), rules("legacy").len()), (0, 4));
        masquerade::check(&mut host, &owner("one", "eth0"), &ips(&["10.1.0.2/24"]), Iptables).expect("CHECK");
        masquerade::remove(&mut host, &owner("one", "eth0"), &ips(&["10.1.0.2/24"])).expect("DEL");
        assert_eq!(rules("legacy"), [""; 0]);
    });
}

#[test]
fn masq_ipt_gc_keeps_the_valid() {
    in_new_netns(|| {
        let mut host = socket();
        let (one, two) = (owner("one", "eth0"), owner("two", "eth0"));
        masquerade::ensure(&mut host, &one, &ips(&["10.1.0.2/24"]), Iptables).expect("ADD");
        masquerade::ensure(&mut host, &two, &ips(&["10.1.0.3/24"]), Iptables).expect("ADD");
        masquerade::gc(&mut host, "net1", std::slice::from_ref(&two.attachment)).expect("GC");
        masquerade::check(&mut host, &one, &ips(&["10.1.0.2/24"]), Iptables).expect_err("it is gone");
        masquerade::check(&mut host, &two, &ips(&["10.1.0.3/24"]), Iptables).expect("it is kept");
        masquerade::gc(&mut host, "net1", &[]).expect("GC");
        assert_eq!(rules("nft"), [""; 0]);
    });
}
