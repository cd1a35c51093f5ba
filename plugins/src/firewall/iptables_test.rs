use super::*;
use crate::backend;
use crate::firewall::config::Choice;
use crate::iptables::model::{EMPTY, after, seen};

fn config(policy: IngressPolicy) -> Config {
    Config {
        choice: Choice::Netfilter(backend::Choice::Iptables),
        admin_chain: ADMIN_CHAIN.into(),
        zone: "trusted".into(),
        policy,
    }
}

fn pod(addresses: &[&str], bridge: &str) -> Pod {
    let addresses = addresses.iter().map(|text| text.parse().expect("an address")).collect();
    Pod { addresses, bridge: bridge.into() }
}

fn ensured(text: &str, config: &Config, pod: &Pod) -> String {
    after(text, &plan_ensure(&seen(text), Family::V4, config, pod))
}

fn removed(text: &str, pod: &Pod) -> String {
    after(text, &plan_remove(&seen(text), &pod.ips(), pod))
}

#[test]
fn rules_golden_script_is_the_references() {
    let script = plan_ensure(
        &seen(EMPTY),
        Family::V4,
        &config(IngressPolicy::Open),
        &pod(&["10.1.0.2/24", "fd00::2/64"], "cni0"),
    );
    let expected = r#"*filter
-N CNI-FORWARD
-N CNI-ADMIN
-I FORWARD 1 -m comment --comment "CNI firewall plugin rules" -j CNI-FORWARD
-I CNI-FORWARD 1 -m comment --comment "CNI firewall plugin admin overrides" -j CNI-ADMIN
-A CNI-FORWARD -d 10.1.0.2/32 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A CNI-FORWARD -s 10.1.0.2/32 -j ACCEPT
COMMIT
"#;
    assert_eq!(script.text(), expected);
}

#[test]
fn rules_repeat_add_does_not_duplicate_and_removal_undoes_it() {
    for policy in [IngressPolicy::Open, IngressPolicy::SameBridge, IngressPolicy::Isolated] {
        let (config, one, two) =
            (config(policy), pod(&["10.1.0.2/24"], "cni0"), pod(&["10.1.0.3/24"], "cni0"));
        let first = ensured(EMPTY, &config, &one);
        assert!(plan_ensure(&seen(&first), Family::V4, &config, &one).is_empty());
        assert_eq!(find_missing(&seen(&first), Family::V4, &config, &one), None);
        let both = ensured(&first, &config, &two);
        assert_eq!(removed(&both, &two), first, "{policy:?}");
        assert_eq!(removed(&first, &one), EMPTY, "{policy:?}");
        assert!(plan_remove(&seen(EMPTY), &one.ips(), &one).is_empty());
    }
}

#[test]
fn rules_admin_chain_comes_first_and_stays_while_it_has_rules() {
    let mut config = config(IngressPolicy::Open);
    config.admin_chain = "MINE".into();
    let one = pod(&["10.1.0.2/24"], "cni0");
    let made = ensured(EMPTY, &config, &one);
    assert!(seen(&made).rules(CNI_FORWARD)[0].ends_with("-j MINE"), "{made}");
    let used = made.replace("-N MINE\n", "-N MINE\n-A MINE -j DROP\n");
    assert!(removed(&used, &one).contains("-A MINE -j DROP"));
    assert!(removed(&used, &one).contains("-j CNI-FORWARD"));
    assert!(removed(&made, &one).contains("-N MINE\n"), "a chain that isn't ours by name stays");
}

#[test]
fn same_bridge_rules_are_the_references() {
    let made = ensured(EMPTY, &config(IngressPolicy::SameBridge), &pod(&["10.1.0.2/24"], "cni0"));
    let table = seen(&made);
    let comment = r#"-m comment --comment "CNI firewall plugin rules (ingressPolicy: same-bridge)""#;
    assert_eq!(table.rules(FORWARD)[0], format!("{comment} -j {STAGE_1}"));
    assert_eq!(
        table.rules(STAGE_1),
        [format!("-i cni0 ! -o cni0 {comment} -j {STAGE_2}"), format!("{comment} -j RETURN")]
    );
    assert_eq!(table.rules(STAGE_2), [format!("-o cni0 {comment} -j DROP"), format!("{comment} -j RETURN")]);
    let reworded = made.replace(" (ingressPolicy: same-bridge)", "");
    let again = plan_ensure(
        &seen(&reworded),
        Family::V4,
        &config(IngressPolicy::SameBridge),
        &pod(&["10.1.0.2/24"], "cni0"),
    );
    assert!(again.is_empty(), "{}", again.text());
}

#[test]
fn isolated_drops_within_the_bridge_first_and_bridges_go_one_by_one() {
    let config = config(IngressPolicy::Isolated);
    let (one, two) = (pod(&["10.1.0.2/24"], "cni0"), pod(&["10.2.0.2/24"], "cni1"));
    let first = ensured(EMPTY, &config, &one);
    assert!(seen(&first).rules(STAGE_1)[0].starts_with("-i cni0 -o cni0 "), "{first}");
    let both = ensured(&first, &config, &two);
    assert_eq!(removed(&both, &two), first);
}

#[test]
fn check_names_the_missing_rule() {
    let (config, one) = (config(IngressPolicy::Isolated), pod(&["10.1.0.2/24"], "cni0"));
    let made = ensured(EMPTY, &config, &one);
    for rule in made.lines().filter(|line| line.starts_with("-A")) {
        let drifted = made.replacen(&format!("{rule}\n"), "", 1);
        assert!(find_missing(&seen(&drifted), Family::V4, &config, &one).is_some(), "{rule}");
    }
}
