//! ipMasq on the real kernel, each test in a network namespace of its own. Needs root and the `nft` program.

#[path = "../../kernel/tests/netns/mod.rs"]
mod netns;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use cni::{Attachment, ContainerId, IfName, IpConfig};
use kernel::netlink::{Protocol, Socket};
use kernel::nft::{self, Batch, Family, Table};
use netns::{in_new_netns, listing, matches_golden};
use plugins::backend::Backend::{self, Nftables};
use plugins::backend::Choice;
use plugins::masquerade;
use plugins::owner::Owner;
use proptest::prelude::*;

fn socket() -> Socket {
    Socket::open(Protocol::Netfilter).unwrap()
}

fn attachment(id: &str) -> Attachment {
    Attachment { container_id: ContainerId::parse(id).unwrap(), ifname: IfName::parse("eth0").unwrap() }
}

fn owner(network: &str, id: &str) -> Owner {
    Owner::new(network, &attachment(id))
}

fn ips(addresses: &[&str]) -> Vec<IpConfig> {
    let ip = |a: &&str| IpConfig { interface: None, address: a.parse().unwrap(), gateway: None };
    addresses.iter().map(ip).collect()
}

fn ensure(host: &mut Socket, owner: &Owner, addresses: &[&str]) {
    masquerade::ensure(host, owner, &ips(addresses), Nftables).unwrap();
}

/// Four containers on two networks, three subnets and both families.
fn four_containers(host: &mut Socket) {
    ensure(host, &owner("red", "one"), &["10.1.0.2/24", "fd00:1::2/64"]);
    ensure(host, &owner("red", "two"), &["10.1.0.3/24", "fd00:1::3/64"]);
    ensure(host, &owner("blue", "three"), &["10.2.0.2/16"]);
    ensure(host, &owner("blue", "four"), &["10.1.0.4/24", "192.0.2.7/32"]);
}

#[test]
fn masq_nft_four_containers() {
    in_new_netns(|| {
        four_containers(&mut socket());
        matches_golden("masquerade-four", &listing());
    });
}

#[test]
fn masq_nft_twice_is_a_no_op() {
    in_new_netns(|| {
        let mut host = socket();
        four_containers(&mut host);
        let (before, generation) = (listing(), nft::generation(&mut host).unwrap());
        four_containers(&mut host);
        assert_eq!(listing(), before);
        assert_eq!(nft::generation(&mut host).unwrap(), generation, "nothing was even sent");
    });
}

#[test]
fn masq_nft_del_leaves_the_host_as_before() {
    in_new_netns(|| {
        let mut host = socket();
        let before = listing();
        four_containers(&mut host);
        masquerade::remove(&mut host, &owner("red", "one"), &ips(&["10.1.0.2/24", "fd00:1::2/64"])).unwrap();
        masquerade::remove(&mut host, &owner("red", "two"), &ips(&["10.1.0.3/24", "fd00:1::3/64"])).unwrap();
        matches_golden("masquerade-two-left", &listing());
        masquerade::remove(&mut host, &owner("blue", "three"), &[]).unwrap();
        masquerade::remove(&mut host, &owner("blue", "three"), &[]).unwrap();
        masquerade::remove(&mut host, &owner("blue", "four"), &[]).unwrap();
        assert_eq!(listing(), before);
        masquerade::remove(&mut host, &owner("blue", "four"), &ips(&["10.1.0.4/24"])).unwrap();
        assert_eq!(listing(), before);
    });
}

#[test]
fn masq_nft_del_after_a_del_that_was_killed_in_between() {
    in_new_netns(|| {
        let mut host = socket();
        let one = owner("red", "one");
        for known in [ips(&["10.1.0.2/24"]), vec![]] {
            ensure(&mut host, &one, &["10.1.0.2/24"]);
            let killed = "delete element inet bowline_masquerade pods-10.1.0.0/24 { 10.1.0.2 }";
            assert!(std::process::Command::new("nft").arg(killed).status().unwrap().success());
            masquerade::remove(&mut host, &one, &known).unwrap();
            assert_eq!(listing(), "");
        }
        ensure(&mut host, &one, &["10.1.0.2/24"]);
        let killed = "flush set inet bowline_masquerade pods-10.1.0.0/24";
        assert!(std::process::Command::new("nft").arg(killed).status().unwrap().success());
        masquerade::gc(&mut host, "blue", &[]).unwrap();
        assert_eq!(listing(), "");
    });
}

#[test]
fn masq_nft_gc_of_one_network() {
    in_new_netns(|| {
        let mut host = socket();
        four_containers(&mut host);
        let all = listing();
        masquerade::gc(&mut host, "green", &[]).unwrap();
        assert_eq!(listing(), all, "another network removes nothing");
        masquerade::gc(&mut host, "red", &[attachment("one"), attachment("two")]).unwrap();
        assert_eq!(listing(), all, "valid attachments keep theirs");
        masquerade::gc(&mut host, "red", &[attachment("one")]).unwrap();
        let left = listing();
        assert!(left.contains("10.1.0.2") && !left.contains("10.1.0.3"), "{left}");
        masquerade::gc(&mut host, "red", &[]).unwrap();
        matches_golden("masquerade-two-left", &listing());
        masquerade::gc(&mut host, "blue", &[]).unwrap();
        assert_eq!(listing(), "");
    });
}

#[test]
fn masq_nft_after_reuse_the_new_owner_keeps_its_address() {
    in_new_netns(|| {
        let mut host = socket();
        let (old, new) = (owner("red", "old"), owner("red", "new"));
        let address = ["10.1.0.2/24"];
        ensure(&mut host, &old, &address);
        ensure(&mut host, &new, &address);
        let taken = listing();
        masquerade::remove(&mut host, &old, &ips(&address)).unwrap();
        masquerade::remove(&mut host, &old, &[]).unwrap();
        assert_eq!(listing(), taken, "DEL of the old owner leaves the new owner's element");
        masquerade::check(&mut host, &new, &ips(&address), Nftables).unwrap();
        assert!(masquerade::check(&mut host, &old, &ips(&address), Nftables).is_err());
        masquerade::remove(&mut host, &new, &ips(&address)).unwrap();
        assert_eq!(listing(), "");
    });
}

/// One step in the life of a host, on small numbers so that steps meet.
#[derive(Debug, Clone, Copy)]
enum Step {
    Ensure { pod: usize, ip: usize },
    Remove { pod: usize, ip: usize },
    RemoveUnknown { pod: usize },
    Gc { network: usize, valid: usize },
}

const NETWORKS: [&str; 2] = ["red", "blue"];
const ADDRESSES: [&str; 4] = ["10.1.0.2/24", "10.1.0.3/24", "10.2.0.2/16", "fd00:1::2/64"];

/// Pods 0 to 3; the even ones are on the first network.
fn pod(number: usize) -> Owner {
    owner(NETWORKS[number % 2], &format!("pod{number}"))
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0..4usize, 0..4usize).prop_map(|(pod, ip)| Step::Ensure { pod, ip }),
        2 => (0..4usize, 0..4usize).prop_map(|(pod, ip)| Step::Remove { pod, ip }),
        1 => (0..4usize).prop_map(|pod| Step::RemoveUnknown { pod }),
        1 => (0..2usize, 0..4usize).prop_map(|(network, valid)| Step::Gc { network, valid }),
    ];
    prop::collection::vec(step, 0..20)
}

/// Takes a step in the kernel and in the model, which says to which pod each address belongs.
fn take(step: Step, host: &mut Socket, model: &mut BTreeMap<usize, usize>) {
    match step {
        Step::Ensure { pod: number, ip } => {
            ensure(host, &pod(number), &[ADDRESSES[ip]]);
            model.insert(ip, number);
        }
        Step::Remove { pod: number, ip } => {
            masquerade::remove(host, &pod(number), &ips(&[ADDRESSES[ip]])).unwrap();
            if model.get(&ip) == Some(&number) {
                model.remove(&ip);
            }
        }
        Step::RemoveUnknown { pod: number } => {
            masquerade::remove(host, &pod(number), &[]).unwrap();
            model.retain(|_, of| *of != number);
        }
        Step::Gc { network, valid } => {
            masquerade::gc(host, NETWORKS[network], &[pod(valid).attachment]).unwrap();
            model.retain(|_, of| *of % 2 != network || *of == valid);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn masq_nft_any_history_leaves_each_address_with_its_last_owner(history in steps()) {
        in_new_netns(|| {
            let (mut host, mut model) = (socket(), BTreeMap::new());
            for step in history {
                take(step, &mut host, &mut model);
                for (ip, address) in ADDRESSES.iter().enumerate() {
                    for number in 0..4 {
                        let has = masquerade::check(&mut host, &pod(number), &ips(&[address]), Nftables).is_ok();
                        assert_eq!(has, model.get(&ip) == Some(&number), "{address} of pod {number} after {step:?}");
                    }
                }
            }
            (0..4).for_each(|number| masquerade::remove(&mut host, &pod(number), &[]).unwrap());
            assert_eq!(nft::list_tables(&mut host, Family::Inet).unwrap(), Vec::<String>::new());
        });
    }
}

#[test]
fn auto_is_iptables_where_the_host_has_its_tables() {
    in_new_netns(|| {
        let mut host = socket();
        assert_eq!(Choice::Auto.decide(&mut host), Nftables);
        assert_eq!(Choice::Iptables.decide(&mut host), Backend::Iptables);
        let table = Table::new(Family::Ip6, "filter");
        Batch::new().add_table(&table).commit(&mut host).unwrap();
        assert_eq!(Choice::Auto.decide(&mut host), Backend::Iptables);
        assert_eq!(Choice::Nftables.decide(&mut host), Nftables);
    });
}

#[test]
fn check_negative_masquerade() {
    in_new_netns(|| {
        let mut host = socket();
        let (one, ips) = (owner("red", "one"), ips(&["10.1.0.2/24", "fd00:1::2/64"]));
        let check = |host: &mut Socket| masquerade::check(host, &one, &ips, Nftables);
        let nft = |command: &str| {
            let status = std::process::Command::new("nft").arg(command).status().unwrap();
            assert!(status.success(), "{command}");
        };
        let fails = |host: &mut Socket, with: &str| {
            let error = check(host).unwrap_err();
            assert_eq!(error.msg, with);
        };
        fails(&mut host, "masquerade: 10.1.0.2: set inet bowline_masquerade pods-10.1.0.0/24 has no rule");
        masquerade::ensure(&mut host, &one, &ips, Nftables).unwrap();
        check(&mut host).unwrap();
        nft("delete element inet bowline_masquerade pods-fd00_1__/64 { fd00:1::2 }");
        fails(&mut host, "masquerade: fd00:1::2: not in set inet bowline_masquerade pods-fd00_1__/64");
        masquerade::ensure(&mut host, &one, &ips, Nftables).unwrap();
        check(&mut host).unwrap();
        nft("flush chain inet bowline_masquerade postrouting");
        fails(&mut host, "masquerade: 10.1.0.2: set inet bowline_masquerade pods-10.1.0.0/24 has no rule");
        let flushed = listing().lines().count();
        masquerade::ensure(&mut host, &owner("red", "two"), &self::ips(&["10.1.0.3/24"]), Nftables).unwrap();
        check(&mut host).expect("the next pod's ADD has mended the rules of all");
        masquerade::remove(&mut host, &owner("red", "two"), &self::ips(&["10.1.0.3/24"])).unwrap();
        assert_eq!(
            listing().lines().count(),
            flushed + 4,
            "two rules for multicast, two for pods: {}",
            listing()
        );
        nft("flush chain inet bowline_masquerade postrouting");
        for (family, subnet) in [("ip", "10.1.0.0/24"), ("ip6", "fd00:1::/64")] {
            let set = format!("pods-{}", subnet.replace(':', "_"));
            nft(&format!(
                "add rule inet bowline_masquerade postrouting {family} saddr @{set} {family} daddr != {subnet} \
                 masquerade comment \"{}\"",
                subnet.replace(':', "_")
            ));
        }
        fails(&mut host, "masquerade: chain inet bowline_masquerade postrouting does not spare multicast");
        masquerade::remove(&mut host, &one, &ips).unwrap();
        assert_eq!(listing(), "");
    });
}

#[test]
fn masquerade_of_the_newer_reference_is_checked_and_removed() {
    in_new_netns(|| {
        let mut host = socket();
        let (one, two) = (owner("red", "one"), owner("red", "two"));
        let rule = |owner: &Owner, ip: &str| {
            let comment = owner.comment();
            format!("ip saddr == {ip} ip daddr != 10.1.0.0/24 masquerade comment \"{comment}\"\n")
        };
        let ruleset = format!(
            "table inet cni_plugins_masquerade {{\nchain masq_checks {{\n{}{}}}\n}}",
            rule(&one, "10.1.0.2"),
            rule(&two, "10.1.0.3")
        );
        assert!(std::process::Command::new("nft").arg(ruleset).status().unwrap().success());
        masquerade::check(&mut host, &one, &ips(&["10.1.0.2/24"]), Nftables).unwrap();
        masquerade::remove(&mut host, &one, &ips(&["10.1.0.2/24"])).unwrap();
        assert!(masquerade::check(&mut host, &one, &ips(&["10.1.0.2/24"]), Nftables).is_err());
        masquerade::check(&mut host, &two, &ips(&["10.1.0.3/24"]), Nftables).unwrap();
        masquerade::gc(&mut host, "red", &[]).unwrap();
        assert_eq!(
            nft::list_rules(&mut host, &nft::Table::new(nft::Family::Inet, "cni_plugins_masquerade"), None)
                .unwrap(),
            []
        );
    });
}

#[test]
fn parallel_masquerade_of_forty_pods_leaves_nothing() {
    in_new_netns(|| {
        let here = kernel::Netns::current().unwrap();
        std::thread::scope(|scope| {
            for pod in 0..40 {
                let here = &here;
                scope.spawn(move || {
                    let mut host = Socket::open_in(here, Protocol::Netfilter).unwrap();
                    let (owner, addresses) =
                        (owner("red", &format!("pod{pod}")), [format!("10.1.{}.{pod}/24", pod % 3)]);
                    let ips = ips(&[addresses[0].as_str()]);
                    for _ in 0..5 {
                        masquerade::ensure(&mut host, &owner, &ips, Nftables).unwrap();
                        masquerade::check(&mut host, &owner, &ips, Nftables).unwrap();
                        masquerade::remove(&mut host, &owner, &ips).unwrap();
                    }
                });
            }
        });
        assert_eq!(listing(), "");
    });
}

/// The least time of `work`, of 25 turns: what it takes when nothing else runs.
fn fastest(mut work: impl FnMut(u8)) -> Duration {
    let timed = |turn| {
        let start = Instant::now();
        work(turn);
        start.elapsed()
    };
    (0..25).map(timed).min().unwrap()
}

#[test]
fn the_thousandth_pod_costs_what_the_second_costs() {
    in_new_netns(|| {
        let mut host = socket();
        ensure(&mut host, &owner("red", "first"), &["10.1.0.1/16"]);
        let mut add_and_del = |block: u8| {
            let pod = |turn: u8| {
                (owner("red", &format!("pod-{block}-{turn}")), ips(&[&format!("10.1.{block}.{turn}/16")]))
            };
            let adding = fastest(|turn| {
                let (owner, ips) = pod(turn);
                masquerade::ensure(&mut host, &owner, &ips, Nftables).unwrap();
            });
            let deleting = fastest(|turn| {
                let (owner, ips) = pod(turn);
                masquerade::remove(&mut host, &owner, &ips).unwrap();
            });
            (adding, deleting)
        };
        let (first_add, first_del) = add_and_del(10);
        for pod in 0..1000 {
            let address = format!("10.1.{}.{}/16", 100 + pod / 250, pod % 250);
            ensure(&mut self::socket(), &owner("red", &format!("bulk{pod}")), &[&address]);
        }
        let (last_add, last_del) = add_and_del(20);
        println!("ADD {first_add:?} -> {last_add:?}, DEL {first_del:?} -> {last_del:?}");
        assert!(
            last_add < first_add * 2,
            "ADD took {first_add:?} at the first pod, {last_add:?} at the 1,000th"
        );
        // One page of a listing more, to see that the set is not empty.
        let page = Duration::from_micros(300);
        assert!(
            last_del < first_del * 2 + page,
            "DEL took {first_del:?} at the first pod, {last_del:?} at the 1,000th"
        );
    });
}
