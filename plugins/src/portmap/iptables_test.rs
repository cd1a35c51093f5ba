use cni::NetConf;
use serde_json::{Value, json};

use super::*;
use crate::iptables::model::{EMPTY, after, seen};

/// As saved after Debian's containernetworking-plugins 1.1.1 had the same configuration.
const REFERENCE_V4: &str = include_str!("testdata/reference-v4.rules");
const REFERENCE_V6: &str = include_str!("testdata/reference-v6.rules");

fn config(extra: Value) -> Config {
    let mut conf = json!({ "cniVersion": "1.0.0", "name": "net1", "type": "portmap", "backend": "iptables" });
    for (key, value) in extra.as_object().expect("an object") {
        conf[key] = value.clone();
    }
    Config::parse(&NetConf::parse(conf.to_string()).expect("a configuration")).expect("a good configuration")
}

fn mappings() -> Value {
    json!({ "portMappings": [
        { "hostPort": 8080, "containerPort": 80, "protocol": "tcp" },
        { "hostPort": 8081, "containerPort": 80, "protocol": "udp" },
        { "hostPort": 8082, "containerPort": 81, "protocol": "tcp", "hostIP": "192.168.1.1" },
        { "hostPort": 8083, "containerPort": 81, "protocol": "sctp", "hostIP": "0.0.0.0" },
    ]})
}

fn intent<'a>(config: &'a Config, pod: &str) -> Intent<'a> {
    Intent { network: "net1", container_id: "cid1", config, pod: pod.parse().expect("an address") }
}

fn ensured(text: &str, intent: Intent<'_>) -> String {
    after(text, &plan_ensure(&seen(text), intent))
}

#[test]
fn ipt_golden_top_and_container_chains_are_the_references() {
    let config = config(json!({ "runtimeConfig": mappings() }));
    for (pod, reference) in [("10.1.0.2/24", REFERENCE_V4), ("fd00::2/64", REFERENCE_V6)] {
        let ours = seen(&ensured(EMPTY, intent(&config, pod)));
        let reference = seen(reference);
        let words = |table: &Ruleset| -> Vec<(String, Vec<Vec<String>>)> {
            let rules = |chain: &str| table.rules(chain).iter().map(|rule| iptables::words(rule)).collect();
            table.chains().map(|chain| (chain.to_owned(), rules(chain))).collect()
        };
        assert_eq!(words(&ours), words(&reference), "{pod}");
        assert_eq!(find_missing(&reference, intent(&config, pod)), None, "the reference's pods pass CHECK");
        let left = after(&ensured(EMPTY, intent(&config, pod)), &plan_remove(&ours, &chain()));
        assert_eq!(left, EMPTY);
    }
}

fn chain() -> BTreeSet<String> {
    BTreeSet::from([dnat_chain("net1", "cid1"), snat_chain("net1", "cid1")])
}

fn container_chain(extra: Value) -> Vec<String> {
    let mut extra = extra;
    extra["runtimeConfig"] =
        json!({ "portMappings": [{ "hostPort": 8080, "containerPort": 80, "protocol": "tcp" }] });
    let config = config(extra);
    let script = plan_ensure(&seen(EMPTY), intent(&config, "10.1.0.2/24"));
    script.text().lines().map(str::to_owned).collect()
}

fn holds(lines: &[String], wanted: &str) -> bool {
    lines.iter().any(|line| line == wanted)
}

#[test]
fn ipt_golden_snat_off_is_dnat_only() {
    let lines = container_chain(json!({ "snat": false }));
    let dn = dnat_chain("net1", "cid1");
    let expected = [
        "*nat".to_owned(),
        format!(":{dn} - [0:0]"),
        "-N CNI-HOSTPORT-DNAT".to_owned(),
        format!("-A PREROUTING {DNAT_JUMP}"),
        format!("-A OUTPUT {DNAT_JUMP}"),
        format!("-A {dn} -p tcp -m tcp --dport 8080 -j DNAT --to-destination 10.1.0.2:80"),
        format!(
            r#"-A CNI-HOSTPORT-DNAT -p tcp -m comment --comment "dnat name: \"net1\" id: \"cid1\"" -m multiport --dports 8080 -j {dn}"#
        ),
        "COMMIT".to_owned(),
    ];
    assert_eq!(lines, expected);
}

#[test]
fn ipt_golden_external_mark_chain_makes_no_chains_for_masquerading() {
    let lines = container_chain(json!({ "externalSetMarkChain": "PLZ-SET-MARK" }));
    let dn = dnat_chain("net1", "cid1");
    assert!(holds(&lines, &format!("-A {dn} -s 10.1.0.0/24 -p tcp -m tcp --dport 8080 -j PLZ-SET-MARK")));
    assert!(
        !lines.iter().any(|line| line.contains("CNI-HOSTPORT-MASQ") || line.contains("SETMARK")),
        "{lines:#?}"
    );
}

#[test]
fn ipt_golden_mark_bit_5_is_0x20() {
    let lines = container_chain(json!({ "markMasqBit": 5 }));
    assert!(holds(&lines, "-A CNI-HOSTPORT-MASQ -m mark --mark 0x20/0x20 -j MASQUERADE"), "{lines:#?}");
    let set = r#"-A CNI-HOSTPORT-SETMARK -m comment --comment "CNI portfwd masquerade mark" -j MARK --set-xmark 0x20/0x20"#;
    assert!(holds(&lines, set), "{lines:#?}");
}

#[test]
fn ipt_golden_masq_all_marks_every_source() {
    let lines = container_chain(json!({ "masqAll": true }));
    let dn = dnat_chain("net1", "cid1");
    let marks: Vec<_> =
        lines.iter().filter(|l| l.contains(&dn) && l.ends_with("CNI-HOSTPORT-SETMARK")).collect();
    assert_eq!(marks, [&format!("-A {dn} -p tcp -m tcp --dport 8080 -j CNI-HOSTPORT-SETMARK")]);
}

#[test]
fn ipt_golden_conditions_and_groups_of_fifteen_ports() {
    let ports: Vec<Value> =
        (1..=31).map(|port| json!({ "hostPort": port, "containerPort": port, "protocol": "udp" })).collect();
    let config = config(json!({
        "conditionsV4": ["!", "-s", "192.0.2.0/24", "-m", "comment", "--comment", "a b"],
        "runtimeConfig": { "portMappings": ports },
    }));
    let rules = entry_rules(intent(&config, "10.1.0.2/24"));
    assert_eq!(rules.len(), 3);
    assert!(rules[0].contains("--dports 1,2,3,4,5,6,7,8,9,10,11,12,13,14,15 "), "{}", rules[0]);
    assert!(
        rules[2].contains(r#"--dports 31 ! -s 192.0.2.0/24 -m comment --comment "a b" -j CNI-DN-"#),
        "{}",
        rules[2]
    );
    assert!(entry_rules(intent(&config, "fd00::2/64"))[2].contains("--dports 31 -j CNI-DN-"));
}

#[test]
fn ipt_golden_long_ids_have_a_comment_of_255_bytes() {
    let config = config(json!({ "runtimeConfig": mappings() }));
    let long = "x".repeat(300);
    let rules = entry_rules(Intent { container_id: &long, ..intent(&config, "10.1.0.2/24") });
    assert_eq!(iptables::comment_of(&rules[0]).map(|comment| comment.len()), Some(255));
}

#[test]
fn chain_ops_setup_and_teardown_twice_are_no_ops() {
    let config = config(json!({ "runtimeConfig": mappings() }));
    let made = ensured(EMPTY, intent(&config, "10.1.0.2/24"));
    assert!(plan_ensure(&seen(&made), intent(&config, "10.1.0.2/24")).is_empty());
    assert!(plan_remove(&seen(EMPTY), &chain()).is_empty());
}

#[test]
fn chain_ops_a_changed_chain_is_rewritten_and_a_stray_entry_replaced() {
    let config = config(json!({ "runtimeConfig": mappings() }));
    let made = ensured(EMPTY, intent(&config, "10.1.0.2/24"));
    for (from, to) in [("10.1.0.2:80", "10.1.0.9:80"), ("--dports 8081", "--dports 9999")] {
        let drifted = made.replace(from, to);
        assert_eq!(ensured(&drifted, intent(&config, "10.1.0.2/24")), made, "{to}");
    }
}

#[test]
fn chain_ops_shared_chains_stay_for_other_containers_and_old_snat_chains_go() {
    let config = config(json!({ "runtimeConfig": mappings() }));
    let other = Intent { container_id: "cid2", ..intent(&config, "10.1.0.3/24") };
    let one = ensured(EMPTY, other);
    let sn = snat_chain("net1", "cid1");
    let both = ensured(&one, intent(&config, "10.1.0.2/24"));
    let old = format!("{both}-N {sn}\n-A {sn} -j MASQUERADE\n-A POSTROUTING -s 127.0.0.1/32 -j {sn}\n");
    assert_eq!(after(&old, &plan_remove(&seen(&old), &chain())), one);
}

#[test]
fn ipt_check_names_the_missing_rule() {
    let config = config(json!({ "runtimeConfig": mappings() }));
    let made = ensured(EMPTY, intent(&config, "10.1.0.2/24"));
    let rows = [
        ("-A PREROUTING", "chain PREROUTING lacks"),
        ("-A OUTPUT", "chain OUTPUT lacks"),
        ("-A POSTROUTING", "chain POSTROUTING lacks"),
        ("-A CNI-HOSTPORT-DNAT -p udp", "has 2 of 3 rules"),
        ("-A CNI-DN-e8f6f419596f7f47b3468 -p udp -m udp --dport 8081 -j DNAT", "lacks `-p udp"),
    ];
    for (removed, expected) in rows {
        let lines: Vec<&str> = made.lines().filter(|line| !line.starts_with(removed)).collect();
        let missing = find_missing(&seen(&lines.join("\n")), intent(&config, "10.1.0.2/24"));
        assert!(missing.as_deref().is_some_and(|m| m.contains(expected)), "{removed}: {missing:?}");
    }
    assert!(find_missing(&seen(EMPTY), intent(&config, "10.1.0.2/24")).is_some());
}

#[test]
fn ipt_gc_takes_the_networks_invalid_containers_only() {
    let config = config(json!({ "runtimeConfig": mappings() }));
    let made = ensured(EMPTY, intent(&config, "10.1.0.2/24"));
    let chain = dnat_chain("net1", "cid1");
    let none = BTreeSet::new();
    assert_eq!(stale(&seen(&made), "net1", &none), BTreeSet::from([chain.clone()]));
    assert_eq!(stale(&seen(&made), "net", &none), none);
    assert_eq!(stale(&seen(&made), "net1", &BTreeSet::from([chain])), none);
}
