//! What the dispatcher hands to a plug-in and makes of its answer: results, `prevResult`, valid attachments.

mod fake;

use cni::{AddResult, Code, Version};
use fake::plugin::{Fake, env, object, refused, serve, served};
use serde_json::{Value, json};

#[test]
fn result_is_printed_in_the_configs_version() {
    for version in Version::ALL {
        let conf = json!({ "cniVersion": version.as_str(), "name": "net" }).to_string();
        let outcome = serve(&Fake::new(), &env("ADD", &[]), &conf);
        served(&outcome);
        assert_eq!(object(&outcome)["cniVersion"], version.as_str());
        assert!(!outcome.stdout.ends_with('\n'));
    }
}

#[test]
fn result_that_cannot_be_said_is_undone() {
    let plugin = Fake { result: AddResult::default(), ..Fake::new() };
    let told = refused(&serve(&plugin, &env("ADD", &[]), r#"{"name":"net"}"#), Code::INVALID_CONFIG);
    assert_eq!(told, "cannot convert: no valid IP addresses|");
    assert_eq!(plugin.calls(), ["ADD /netns/pod", "DEL /netns/pod"]);
}

fn prev(config: &str, prev: Value) -> String {
    json!({"cniVersion": config, "name": "net", "prevResult": prev}).to_string()
}

#[test]
fn prev_result_is_parsed_within_its_family() {
    let ips = json!([{ "address": "10.1.0.9/24", "interface": 0 }]);
    let good = [
        prev("1.1.0", json!({ "cniVersion": "1.0.0", "ips": ips })),
        prev("1.0.0", json!({ "ips": ips })),
        prev("0.3.1", json!({ "cniVersion": "0.4.0", "ips": ips })),
        prev("0.2.0", json!({ "ip4": { "ip": "10.1.0.9/24" } })),
    ];
    for conf in &good {
        for verb in ["ADD", "DEL"] {
            let plugin = Fake::new();
            served(&serve(&plugin, &env(verb, &[]), conf));
            let seen = plugin.prev.lock().unwrap().take().unwrap();
            assert_eq!(seen.ips[0].address.to_string(), "10.1.0.9/24", "{conf}");
        }
    }
}

#[test]
fn prev_result_of_another_family_or_version_is_refused_but_by_del() {
    let ips = json!([{ "address": "10.1.0.9/24", "interface": 0 }]);
    let bad = [
        (
            prev("1.1.0", json!({ "cniVersion": "0.4.0", "ips": ips })),
            Code::INVALID_CONFIG,
            "prevResult: cniVersion: 0.4.0",
        ),
        (
            prev("0.4.0", json!({ "cniVersion": "0.2.0" })),
            Code::INVALID_CONFIG,
            "prevResult: cniVersion: 0.2.0",
        ),
        (
            prev("1.1.0", json!({ "cniVersion": "9.9.9" })),
            Code::INCOMPATIBLE_VERSION,
            "prevResult: cniVersion: \"9.9.9\"",
        ),
        (
            prev("1.1.0", json!({ "ips": [{ "address": "x" }] })),
            Code::INVALID_CONFIG,
            "prevResult: ips[0].address: \"x\"",
        ),
        (
            prev("1.1.0", json!({ "ips": [{}] })),
            Code::INVALID_CONFIG,
            "prevResult: ips[0].address is missing",
        ),
        (prev("1.1.0", json!("text")), Code::DECODE, "prevResult: \"text\" is not an object"),
    ];
    for (conf, code, mention) in &bad {
        let plugin = Fake::new();
        for verb in ["ADD", "CHECK"] {
            let told = refused(&serve(&plugin, &env(verb, &[]), conf), *code);
            assert!(told.starts_with(mention), "{told}");
        }
        assert_eq!(plugin.calls(), [""; 0]);
        // DEL must not be pinned by it, but says so.
        let outcome = serve(&plugin, &env("DEL", &[]), conf);
        assert_eq!((outcome.exit, outcome.stdout.as_str()), (0, ""));
        assert!(outcome.stderr.contains(mention), "{}", outcome.stderr);
        assert_eq!(plugin.calls(), ["DEL /netns/pod"]);
        assert_eq!(*plugin.prev.lock().unwrap(), None);
    }
}

#[test]
fn gc_valid_attachments_absent_empty_and_listed() {
    let valid = |key: &str, value: Value| {
        let plugin = Fake::new();
        let conf = json!({ "cniVersion": "1.1.0", "name": "net", key: value }).to_string();
        let outcome = serve(&plugin, &env("GC", &[]), &conf);
        let seen = plugin.valid.lock().unwrap().take();
        (outcome, seen)
    };
    let key = "cni.dev/valid-attachments";
    assert_eq!(valid("other", json!([])).1, Some(None));
    assert_eq!(valid(key, Value::Null).1, Some(None));
    assert_eq!(valid(key, json!([])).1, Some(Some(vec![])));
    let one = json!([{ "containerID": "cid", "ifname": "eth0" }]);
    for key in [key, "cni.dev/attachments"] {
        let listed = valid(key, one.clone()).1.unwrap().unwrap();
        assert_eq!((listed[0].container_id.as_str(), listed[0].ifname.as_str()), ("cid", "eth0"));
    }
    for bad in [json!([{ "containerID": "a/b", "ifname": "eth0" }]), json!([{}])] {
        let (outcome, seen) = valid(key, bad);
        assert!(refused(&outcome, Code::INVALID_CONFIG).starts_with(key));
        assert_eq!(seen, None, "a list that cannot be trusted removes nothing");
    }
}

#[test]
fn legacy_old_runtime_is_served() {
    // From before chaining: no version, no CNI_ARGS, nothing kept between ADD and DEL.
    let conf = r#"{"name":"net","type":"fake","ipam":{"type":"host-local"}}"#;
    let plugin = Fake::new();
    let bare = [("CNI_ARGS", "")];
    let outcome = serve(&plugin, &env("ADD", &bare), conf);
    served(&outcome);
    assert_eq!(object(&outcome), json!({"cniVersion":"0.1.0","ip4":{"ip":"10.1.0.2/24"},"dns":{}}));
    served(&serve(&plugin, &env("DEL", &[("CNI_ARGS", ""), ("CNI_NETNS", "")]), conf));
    assert_eq!(plugin.calls(), ["ADD /netns/pod", "DEL -"]);
    // From before CHECK: `prevResult` on ADD only.
    let chained = json!({"cniVersion":"0.3.1","name":"net","prevResult":{"ips":[{"version":"4","address":"10.1.0.9/24"}]}});
    served(&serve(&plugin, &env("ADD", &bare), &chained.to_string()));
    assert!(plugin.prev.lock().unwrap().is_some());
    served(&serve(&plugin, &env("DEL", &bare), r#"{"cniVersion":"0.3.1","name":"net"}"#));
}
