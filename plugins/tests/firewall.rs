//! `firewall` behind `bridge`, in namespaces of its own, with real packets, on every backend. Needs root, `nft`,
//! `iptables` and `dbus-daemon`.

mod members;
#[allow(dead_code, reason = "only the golden comparison is used")]
#[path = "../../kernel/tests/netns/mod.rs"]
mod netns;
mod support;
mod traffic;

use members::{Member, join};
use netns::matches_golden;
use plugins::firewall::Firewall;
use serde_json::{Value, json};
use support::{Host, on_new_host, with};
use traffic::{Server, is_out_of_reach, reaches};

const BACKENDS: [&str; 2] = ["nftables", "iptables"];
const FOO: [&str; 2] = ["10.1.0.0/24", "fd00:1::/64"];
const BAR: [&str; 2] = ["10.2.0.0/24", "fd00:2::/64"];

fn conf(backend: &str, policy: &str) -> Value {
    json!({
        "cniVersion": "1.1.0", "name": "net1", "type": "firewall", "backend": backend, "ingressPolicy": policy,
    })
}

fn call(host: &Host, verb: &str, member: &Member, conf: &Value) -> Result<Value, Value> {
    host.call(&Firewall, verb, &member.pod, &with(conf, "prevResult", member.result.clone()))
}

fn add(host: &Host, member: &Member, conf: &Value) {
    let result = call(host, "ADD", member, conf).unwrap_or_else(|e| panic!("ADD: {e}"));
    assert_eq!(result, member.result, "prevResult is passed on");
}

fn ruleset(host: &Host) -> String {
    host.sh("nft --stateless list ruleset")
}

/// A member without links, for tests of rules.
fn named(host: &Host, id: &str, ips: &[&str]) -> Member {
    let mut pod = host.new_pod();
    pod.id = id.into();
    let ips: Vec<Value> = ips.iter().map(|ip| json!({ "interface": 1, "address": ip })).collect();
    let result = json!({
        "cniVersion": "1.1.0",
        "interfaces": [{ "name": "cni0" }, { "name": "eth0", "sandbox": "/ns" }],
        "ips": ips,
    });
    Member { pod, result }
}

#[test]
fn pass_through_prints_prev_result_unchanged() {
    on_new_host(|host| {
        for (backend, policy) in
            BACKENDS.iter().flat_map(|b| ["open", "same-bridge", "isolated"].map(|p| (*b, p)))
        {
            let full = named(host, "full", &["10.1.0.2/24", "fd00:1::2/64"]);
            add(host, &full, &conf(backend, policy));
            let empty = named(host, "empty", &[]);
            let result = call(host, "ADD", &empty, &conf(backend, policy)).expect("nothing to admit");
            assert_eq!(result["interfaces"], empty.result["interfaces"]);
        }
        let alone = named(host, "alone", &[]);
        let error =
            host.call(&Firewall, "ADD", &alone.pod, &conf("nftables", "open")).expect_err("no prevResult");
        assert!(error["msg"].as_str().expect("a message").contains("prevResult"), "{error}");
    });
}

#[test]
fn rules_nft_golden_for_every_policy_and_none_after_del() {
    on_new_host(|host| {
        let before = ruleset(host);
        let pods = [
            (named(host, "one", &["10.1.0.2/24", "fd00:1::2/64"]), "open"),
            (named(host, "two", &["10.1.0.3/24", "fd00:1::3/64"]), "same-bridge"),
            (named(host, "three", &["10.1.0.4/24"]), "isolated"),
        ];
        for (member, policy) in &pods {
            let conf = conf("nftables", policy);
            call(host, "CHECK", member, &conf).expect_err("nothing there yet");
            add(host, member, &conf);
            let listed = ruleset(host);
            add(host, member, &conf);
            assert_eq!(ruleset(host), listed, "twice is a no-op");
            call(host, "CHECK", member, &conf).expect("CHECK");
        }
        matches_golden("firewall-three", &ruleset(host));
        call(host, "DEL", &pods[2].0, &conf("nftables", "isolated")).expect("DEL");
        call(host, "DEL", &pods[1].0, &conf("nftables", "same-bridge")).expect("DEL");
        matches_golden("firewall-one-left", &ruleset(host));
        call(host, "DEL", &pods[0].0, &conf("nftables", "open")).expect("DEL");
        assert_eq!(ruleset(host), before);
    });
}

#[test]
fn rules_iptables_as_the_reference_and_repeat_add_does_not_duplicate() {
    on_new_host(|host| {
        let member = named(host, "one", &["10.1.0.2/24"]);
        let conf = conf("iptables", "open");
        for _ in 0..2 {
            add(host, &member, &conf);
            let saved = host.sh("iptables-save -t filter | grep ^-A");
            let expected = r#"-A FORWARD -m comment --comment "CNI firewall plugin rules" -j CNI-FORWARD
-A CNI-FORWARD -m comment --comment "CNI firewall plugin admin overrides" -j CNI-ADMIN
-A CNI-FORWARD -d 10.1.0.2/32 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A CNI-FORWARD -s 10.1.0.2/32 -j ACCEPT
"#;
            assert_eq!(saved, expected);
        }
        assert!(!ruleset(host).contains("ip6 filter"), "a pod without IPv6 needs no ip6tables");
        call(host, "CHECK", &member, &conf).expect("CHECK");
        call(host, "DEL", &member, &conf).expect("DEL");
        assert!(!ruleset(host).contains("CNI-"), "{}", ruleset(host));
    });
}

#[test]
fn admin_chain_custom_is_created_and_jumped_to() {
    on_new_host(|host| {
        let member = named(host, "one", &["10.1.0.2/24"]);
        let mut conf = with(&conf("", "open"), "iptablesAdminChainName", "MY-ADMIN");
        conf.as_object_mut().expect("an object").remove("backend");
        add(host, &member, &conf);
        let saved = host.sh("iptables-save -t filter");
        assert!(saved.contains(":MY-ADMIN - "), "{saved}");
        assert!(saved.contains(r#"--comment "CNI firewall plugin admin overrides" -j MY-ADMIN"#), "{saved}");
        host.sh("iptables -A MY-ADMIN -s 192.0.2.1 -j DROP");
        call(host, "DEL", &member, &conf).expect("DEL");
        let saved = host.sh("iptables-save -t filter");
        assert!(
            saved.contains("-A MY-ADMIN -s 192.0.2.1/32 -j DROP"),
            "the administrator's rules stay: {saved}"
        );
        assert!(!saved.contains("10.1.0.2"), "{saved}");
    });
}

#[test]
fn check_then_clean_fails_once_rules_are_gone_and_creates_nothing() {
    on_new_host(|host| {
        let member = named(host, "one", &["10.1.0.2/24", "fd00:1::2/64"]);
        let drifts = [
            ("iptables", "isolated", "iptables -F CNI-FORWARD"),
            ("iptables", "isolated", "iptables -F CNI-ISOLATION-STAGE-1"),
            ("iptables", "isolated", "iptables -F CNI-ISOLATION-STAGE-2"),
            ("iptables", "isolated", "iptables -F FORWARD"),
            ("iptables", "open", "ip6tables -F CNI-FORWARD"),
            ("nftables", "open", "nft delete element inet bowline_firewall pods-ipv4 '{ 10.1.0.2 }'"),
            ("nftables", "open", "nft flush chain inet bowline_firewall forward"),
            ("nftables", "same-bridge", "nft delete element inet bowline_firewall bridges '{ cni0 }'"),
            ("nftables", "same-bridge", "nft flush set inet bowline_firewall same-bridge-cni0-ipv6"),
            ("nftables", "isolated", "nft delete table bridge bowline_firewall"),
            ("nftables", "open", "nft delete table inet bowline_firewall"),
        ];
        for (backend, policy, drift) in drifts {
            let conf = conf(backend, policy);
            add(host, &member, &conf);
            call(host, "CHECK", &member, &conf).expect("CHECK");
            host.sh(drift);
            let drifted = ruleset(host);
            call(host, "CHECK", &member, &conf).expect_err(drift);
            assert_eq!(ruleset(host), drifted, "CHECK creates nothing");
            host.sh("nft flush ruleset");
            call(host, "CHECK", &member, &conf).expect_err("everything is gone");
            assert_eq!(ruleset(host), "");
        }
    });
}

#[test]
fn forward_policy_drop_of_others_is_overcome_and_restored() {
    let hosts = [
        ("nftables", "iptables-nft -P FORWARD DROP; ip6tables-nft -P FORWARD DROP"),
        ("iptables", "iptables-nft -P FORWARD DROP; ip6tables-nft -P FORWARD DROP"),
        ("nftables", "iptables-legacy -P FORWARD DROP; ip6tables-legacy -P FORWARD DROP"),
        (
            "nftables",
            "nft 'table inet mine { chain forward { type filter hook forward priority 0; policy drop; }; }'",
        ),
        (
            "nftables",
            "nft 'table ip mine { chain f { type filter hook forward priority 10; policy drop; }; }'; \
             nft 'table ip6 mine { chain f { type filter hook forward priority 10; policy drop; }; }'",
        ),
        ("nftables", "iptables-nft -A FORWARD -j DROP; ip6tables-nft -A FORWARD -j REJECT"),
        (
            "nftables",
            "nft 'table inet mine { chain forward { type filter hook forward priority 0; policy accept; \
                  ct state established,related accept; reject; }; }'",
        ),
    ];
    for (backend, firewall) in hosts {
        on_new_host(|host| {
            let (pod, outside) = (join(host, "foo", &FOO), join(host, "bar", &BAR));
            let _there = Server::tcp(outside.netns(), "[::]:80");
            let _here = Server::tcp(pod.netns(), "[::]:80");
            host.sh(firewall);
            let before = ruleset(host) + &host.sh("iptables-legacy-save | sed '/^#/d; s/ \\[.*//'");
            let (v4, v6) = (format!("{}:80", outside.ip(0)), format!("[{}]:80", outside.ip(1)));
            is_out_of_reach(pod.netns(), &v4);
            let conf = conf(backend, "open");
            add(host, &pod, &conf);
            let (listed, saved) = (ruleset(host), host.sh("iptables-save"));
            add(host, &pod, &conf);
            assert_eq!(ruleset(host), listed, "twice is a no-op");
            assert!(!saved.contains("incompatible"), "{saved}");
            reaches(pod.netns(), &v4);
            reaches(pod.netns(), &v6);
            is_out_of_reach(outside.netns(), &format!("{}:80", pod.ip(0)));
            call(host, "CHECK", &pod, &conf).expect("CHECK");
            let mine = "nft -a list table inet mine 2>/dev/null | sed -n 's/.*accept comment.* handle //p' | head -1";
            host.sh(&format!(
                "rule=$({mine}); [ -z \"$rule\" ] || nft delete rule inet mine forward handle $rule"
            ));
            if firewall.contains("inet mine") {
                call(host, "CHECK", &pod, &conf).expect_err("one of the rules in the host's chain is gone");
            }
            call(host, "DEL", &pod, &conf).expect("DEL");
            is_out_of_reach(pod.netns(), &v4);
            let after = ruleset(host) + &host.sh("iptables-legacy-save | sed '/^#/d; s/ \\[.*//'");
            assert_eq!(after, before, "{firewall}");
        });
    }
}

#[test]
fn forward_rules_by_netlink_read_as_iptables_own() {
    on_new_host(|host| {
        let member = named(host, "one", &["10.1.0.2/24", "fd00:1::2/64"]);
        let saved = |host: &Host| host.sh("(iptables-save; ip6tables-save) | grep -v '^#'");
        host.sh("iptables -P FORWARD DROP; ip6tables -P FORWARD DROP");
        add(host, &member, &conf("nftables", "open"));
        let by_netlink = saved(host);
        host.sh("iptables -C CNI-FORWARD -s 10.1.0.2/32 -j ACCEPT");
        host.sh(
            "iptables -C CNI-FORWARD -d 10.1.0.2/32 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
        );
        host.sh("nft flush ruleset; iptables -P FORWARD DROP; ip6tables -P FORWARD DROP");
        add(host, &member, &conf("iptables", "open"));
        let sorted = |text: &str| {
            let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
            lines.sort();
            lines
        };
        assert_eq!(sorted(&by_netlink), sorted(&saved(host)));
        call(host, "CHECK", &member, &conf("nftables", "open"))
            .expect("what iptables made passes CHECK of nftables");
        call(host, "DEL", &member, &conf("nftables", "open")).expect("and DEL");
        assert!(!saved(host).contains("CNI-"), "{}", saved(host));
    });
}

/// Who may reach whom: two pods on foo, one on bar.
fn fates(backend: &str, policy: &str, neighbours: bool, br_netfilter: bool) {
    on_new_host(|host| {
        let setting = u8::from(br_netfilter);
        host.sh(&format!("sysctl -qw net.bridge.bridge-nf-call-iptables={setting} net.bridge.bridge-nf-call-ip6tables={setting}"));
        let (one, two, other) = (join(host, "foo", &FOO), join(host, "foo", &FOO), join(host, "bar", &BAR));
        let before = ruleset(host);
        let conf = conf(backend, policy);
        let members = [&one, &two, &other];
        let _servers: Vec<Server> = members.iter().map(|m| Server::tcp(m.netns(), "[::]:80")).collect();
        for member in members {
            add(host, member, &conf);
        }
        for (index, brackets) in [(0, ["", ""]), (1, ["[", "]"])] {
            let target = |member: &Member| format!("{}{}{}:80", brackets[0], member.ip(index), brackets[1]);
            reaches(&host.netns, &target(&one));
            if neighbours {
                reaches(one.netns(), &target(&two));
            } else {
                is_out_of_reach(one.netns(), &target(&two));
            }
            is_out_of_reach(one.netns(), &target(&other));
            is_out_of_reach(other.netns(), &target(&two));
        }
        for member in members {
            call(host, "CHECK", member, &conf).expect("CHECK");
            call(host, "DEL", member, &conf).expect("DEL");
        }
        reaches(one.netns(), &format!("{}:80", other.ip(0)));
        let left = ruleset(host);
        assert!(!left.contains("CNI-"), "{left}");
        if backend == "nftables" {
            assert_eq!(left, before);
        }
    });
}

#[test]
fn same_bridge_foo_foo_allowed_and_foo_bar_blocked() {
    for (backend, br_netfilter) in [("nftables", true), ("nftables", false), ("iptables", true)] {
        fates(backend, "same-bridge", true, br_netfilter);
    }
}

#[test]
fn isolated_foo_foo_blocked_and_foo_bar_blocked() {
    for (backend, br_netfilter) in [("nftables", true), ("nftables", false), ("iptables", true)] {
        fates(backend, "isolated", false, br_netfilter);
    }
}

#[test]
fn del_matrix_firewall_in_every_way_leaves_nothing() {
    for backend in BACKENDS {
        on_new_host(|host| {
            let pod = named(host, "one", &["10.1.0.2/24", "fd00:1::2/64"]);
            host.sh("nft flush ruleset");
            let full = conf(backend, "isolated");
            let bare = json!({ "cniVersion": "1.1.0", "name": "net1", "type": "firewall" });
            let variants = [with(&full, "prevResult", pod.result.clone()), full.clone(), bare.clone()];
            for (index, conf) in variants.iter().enumerate() {
                host.call(&Firewall, "DEL", &pod.pod, conf).expect("DEL without ADD");
                add(host, &pod, &full);
                let mut env = support::env_of("DEL", &pod.pod, &host.bin_dir());
                env.retain(|(key, _)| *key != "CNI_NETNS" || index != 0);
                for _ in 0..2 {
                    host.call_env(&Firewall, conf, &env).unwrap_or_else(|e| panic!("{backend} {index}: {e}"));
                }
                let left = ruleset(host);
                assert!(!left.contains("CNI-") && !left.contains("bowline"), "{backend} {index}: {left}");
            }
        });
    }
}

#[test]
fn del_of_an_old_owner_leaves_the_new_owners_rules() {
    for backend in BACKENDS {
        on_new_host(|host| {
            host.sh("iptables -P FORWARD DROP");
            let (old, new) = (named(host, "old", &["10.1.0.2/24"]), named(host, "new", &["10.1.0.2/24"]));
            let conf = conf(backend, "open");
            add(host, &old, &conf);
            add(host, &new, &conf);
            call(host, "DEL", &old, &conf).expect("a late DEL");
            call(host, "CHECK", &new, &conf).expect("the address is the new pod's");
            call(host, "DEL", &new, &conf).expect("DEL");
            call(host, "CHECK", &new, &conf).expect_err("gone");
        });
    }
}

#[test]
fn gc_matrix_firewall_keeps_valid_attachments_and_other_networks() {
    for backend in BACKENDS {
        on_new_host(|host| {
            host.sh("iptables -P FORWARD DROP");
            let members = ["stale", "valid", "other"]
                .iter()
                .zip(2..)
                .map(|(id, last)| named(host, id, &[&format!("10.1.0.{last}/24")]))
                .collect::<Vec<_>>();
            let mine = conf(backend, "same-bridge");
            let confs = [mine.clone(), mine.clone(), with(&mine, "name", "net2")];
            for (member, conf) in members.iter().zip(&confs) {
                add(host, member, conf);
            }
            let gc = |valid: Value| {
                let conf = if valid.is_null() {
                    mine.clone()
                } else {
                    with(&mine, "cni.dev/valid-attachments", valid)
                };
                let env =
                    [("CNI_COMMAND", "GC".to_owned()), ("CNI_PATH", host.bin_dir().display().to_string())];
                host.call_env(&Firewall, &conf, &env).expect("GC");
            };
            let checks = |expected: [bool; 3]| {
                for ((member, conf), expected) in members.iter().zip(&confs).zip(expected) {
                    assert_eq!(
                        call(host, "CHECK", member, conf).is_ok(),
                        expected,
                        "{backend} {}",
                        member.pod.id
                    );
                }
            };
            gc(Value::Null);
            checks([true, true, true]);
            gc(json!([{ "containerID": "valid", "ifname": "eth0" }]));
            checks([false, true, true]);
            gc(json!([]));
            checks([false, false, true]);
        });
    }
}

#[test]
fn status_says_whether_the_backend_can_be_used() {
    on_new_host(|host| {
        let env = [("CNI_COMMAND", "STATUS".to_owned()), ("CNI_PATH", host.bin_dir().display().to_string())];
        for backend in BACKENDS {
            host.call_env(&Firewall, &conf(backend, "open"), &env).expect(backend);
        }
        let error = host.call_env(&Firewall, &conf("nftables", "closed"), &env).expect_err("no such policy");
        assert_eq!(error["code"], 7);
    });
}
