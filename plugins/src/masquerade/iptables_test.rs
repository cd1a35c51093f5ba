use cni::{ContainerId, IfName};

use super::*;
use crate::iptables::model::{EMPTY, after, seen};

const CHAIN: &str = "CNI-e8f6f419596f7f47b3468487";

fn owner() -> Owner {
    let container_id = ContainerId::parse("cid1").expect("an ID");
    Owner::new("net1", &Attachment { container_id, ifname: IfName::parse("eth0").expect("a name") })
}

fn addresses(texts: &[&str]) -> Vec<IpNetwork> {
    texts.iter().map(|text| text.parse().expect("an address")).collect()
}

#[test]
fn masq_ipt_golden_script_is_the_references_chain() {
    let script = plan_ensure(&seen(EMPTY), &owner(), &addresses(&["10.1.0.2/24"]));
    let who = r#"-m comment --comment "name: \"net1\" id: \"cid1\"""#;
    let expected = format!(
        "*nat\n-N {CHAIN}\n-A {CHAIN} -d 10.1.0.0/24 {who} -j ACCEPT\n-A {CHAIN} ! -d 224.0.0.0/4 {who} -j MASQUERADE\n\
         -A POSTROUTING -s 10.1.0.2/32 {who} -j {CHAIN}\nCOMMIT\n"
    );
    assert_eq!(script.text(), expected);
    let v6 = plan_ensure(&seen(EMPTY), &owner(), &addresses(&["fd00::2/64"])).text();
    assert!(
        v6.contains("-d fd00::/64") && v6.contains("! -d ff00::/8") && v6.contains("-s fd00::2/128"),
        "{v6}"
    );
}

#[test]
fn masq_ipt_twice_is_a_no_op_and_removal_undoes_it() {
    let (owner, ips) = (owner(), addresses(&["10.1.0.2/24", "10.2.0.2/16"]));
    let made = after(EMPTY, &plan_ensure(&seen(EMPTY), &owner, &ips));
    assert!(plan_ensure(&seen(&made), &owner, &ips).is_empty());
    assert_eq!(find_missing(&seen(&made), &owner, &ips), None);
    assert_eq!(after(&made, &plan_remove(&seen(&made), CHAIN, Some(&ips))), EMPTY);
    assert_eq!(after(&made, &plan_remove(&seen(&made), CHAIN, None)), EMPTY);
    assert!(plan_remove(&seen(EMPTY), CHAIN, None).is_empty());
    let without_rule = made.replace("-d 10.2.0.0/16", "-d 10.3.0.0/16");
    assert!(find_missing(&seen(&without_rule), &owner, &ips).expect("drift").contains("10.2.0.0/16"));
}

#[test]
fn masq_ipt_two_interfaces_share_a_chain_until_the_last_goes() {
    let owner = owner();
    let (one, two) = (addresses(&["10.1.0.2/24"]), addresses(&["10.1.0.3/24", "10.9.0.3/24"]));
    let first = after(EMPTY, &plan_ensure(&seen(EMPTY), &owner, &one));
    let both = after(&first, &plan_ensure(&seen(&first), &owner, &two));
    let masquerade = both.rfind("MASQUERADE");
    let accept = both.rfind("ACCEPT");
    assert!(accept < masquerade, "{both}");
    let left = after(&both, &plan_remove(&seen(&both), CHAIN, Some(&one)));
    assert_eq!(find_missing(&seen(&left), &owner, &two), None);
    assert_eq!(after(&left, &plan_remove(&seen(&left), CHAIN, Some(&two))), EMPTY);
}

#[test]
fn masq_ipt_removal_knows_the_older_form_with_the_subnet() {
    let made = after(EMPTY, &plan_ensure(&seen(EMPTY), &owner(), &addresses(&["10.1.0.2/24"])));
    let older = made.replace("-s 10.1.0.2/32", "-s 10.1.0.0/24");
    assert_eq!(after(&older, &plan_remove(&seen(&older), CHAIN, Some(&addresses(&["10.1.0.2/24"])))), EMPTY);
}

#[test]
fn masq_ipt_gc_removes_only_invalid_chains_of_the_network() {
    let made = after(EMPTY, &plan_ensure(&seen(EMPTY), &owner(), &addresses(&["10.1.0.2/24"])));
    assert!(
        plan_gc(&seen(&made), "net", &BTreeSet::new()).is_empty(),
        "another network's name is no prefix of ours"
    );
    assert!(plan_gc(&seen(&made), "net1", &BTreeSet::from([CHAIN.to_owned()])).is_empty());
    assert_eq!(after(&made, &plan_gc(&seen(&made), "net1", &BTreeSet::new())), EMPTY);
    let orphan: String =
        made.lines().filter(|line| !line.starts_with("-A POSTROUTING")).map(|l| format!("{l}\n")).collect();
    assert_eq!(after(&orphan, &plan_gc(&seen(&orphan), "net1", &BTreeSet::new())), EMPTY);
}
