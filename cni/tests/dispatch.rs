//! The dispatcher: rows "env-each-var" to "same-netns" of the acceptance checklist.

mod fake;

use std::io::Read;

use cni::dispatch::{Env, Outcome, run};
use cni::{Code, Error, Version};
use fake::plugin::{CONF, Fake, VERBS, env, object, refused, serve, served};
use serde_json::json;

struct Unreadable;

impl Read for Unreadable {
    fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
        Err(std::io::Error::other("this stdin must not be read"))
    }
}

#[test]
fn env_each_var_required_or_optional_for_each_verb() {
    let required = |verb: &str, name: &str| match name {
        "CNI_CONTAINERID" | "CNI_IFNAME" => matches!(verb, "ADD" | "CHECK" | "DEL"),
        "CNI_NETNS" => matches!(verb, "ADD" | "CHECK"),
        "CNI_PATH" => true,
        _ => false,
    };
    for verb in VERBS {
        for name in
            ["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_ARGS", "CNI_PATH", "CNI_NETNS_OVERRIDE"]
        {
            let plugin = Fake::new();
            let outcome = serve(&plugin, &env(verb, &[(name, "")]), CONF);
            if required(verb, name) {
                let told = refused(&outcome, Code::INVALID_ENVIRONMENT);
                assert_eq!(told, format!("required env variables [{name}] missing|"), "{verb}");
                assert_eq!(plugin.calls(), [""; 0]);
            } else {
                served(&outcome);
                assert_eq!(plugin.calls().len(), 1, "{verb} without {name}");
            }
        }
    }
    let plugin = Fake::new();
    served(&serve(&plugin, &env("DEL", &[("CNI_NETNS", "")]), CONF));
    assert_eq!(plugin.calls(), ["DEL -"]);
}

#[test]
fn env_all_missing_are_listed_together() {
    let empty: Vec<_> =
        ["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH"].iter().map(|name| (*name, "")).collect();
    let told = refused(&serve(&Fake::new(), &env("ADD", &empty), CONF), Code::INVALID_ENVIRONMENT);
    assert_eq!(told, "required env variables [CNI_CONTAINERID,CNI_NETNS,CNI_IFNAME,CNI_PATH] missing|");
    // A malformed one before the missing ones wins.
    let changes = [("CNI_CONTAINERID", "/"), ("CNI_PATH", "")];
    assert!(
        refused(&serve(&Fake::new(), &env("ADD", &changes), CONF), Code::INVALID_ENVIRONMENT)
            .contains("containerID")
    );
}

#[test]
fn about_without_command() {
    let mut plugin = Fake::new();
    let outcome = serve(&plugin, &Env::default(), "");
    let stderr = "a fake\nCNI protocol versions supported: 0.1.0, 0.2.0, 0.3.0, 0.3.1, 0.4.0, 1.0.0, 1.1.0\n";
    assert_eq!(outcome, Outcome { stdout: String::new(), stderr: stderr.to_owned(), exit: 0 });
    plugin.about = "";
    let told = refused(&serve(&plugin, &Env::default(), ""), Code::INVALID_ENVIRONMENT);
    assert_eq!(told, "required env variables [CNI_COMMAND] missing|");
}

#[test]
fn version_no_stdin_is_read() {
    let env: Env = [("CNI_COMMAND", "VERSION")].into_iter().collect();
    let outcome = run(&Fake::new(), &env, Unreadable, &|_| false);
    served(&outcome);
    let expected = r#"{"cniVersion":"1.1.0","supportedVersions":["0.1.0","0.2.0","0.3.0","0.3.1","0.4.0","1.0.0","1.1.0"]}"#;
    assert_eq!(outcome.stdout, format!("{expected}\n"));
}

#[test]
fn bad_id_bad_ifname_bad_name() {
    for (name, value, msg) in [
        ("CNI_CONTAINERID", "-x", "invalid characters in containerID|-x"),
        ("CNI_CONTAINERID", "a/b", "invalid characters in containerID|a/b"),
        ("CNI_CONTAINERID", "ä", "invalid characters in containerID|ä"),
        ("CNI_IFNAME", "0123456789abcdef", "interface name is longer than 15 bytes|0123456789abcdef"),
        ("CNI_IFNAME", ".", "interface name is . or ..|."),
        ("CNI_IFNAME", "..", "interface name is . or ..|.."),
        ("CNI_IFNAME", "a/b", "interface name contains / or : or whitespace characters|a/b"),
        ("CNI_IFNAME", "eth%d", "interface name contains %, which the kernel takes for a pattern|eth%d"),
        (
            "CNI_IFNAME",
            "all",
            "interface name is one under which the kernel keeps the settings of every interface|all",
        ),
        (
            "CNI_IFNAME",
            "default",
            "interface name is one under which the kernel keeps the settings of every interface|default",
        ),
        ("CNI_IFNAME", "a:b", "interface name contains / or : or whitespace characters|a:b"),
        ("CNI_IFNAME", "a\u{2003}b", "interface name contains / or : or whitespace characters|a\u{2003}b"),
    ] {
        for verb in ["ADD", "CHECK", "DEL"] {
            let outcome = serve(&Fake::new(), &env(verb, &[(name, value)]), CONF);
            assert_eq!(refused(&outcome, Code::INVALID_ENVIRONMENT), msg);
        }
        served(&serve(&Fake::new(), &env("GC", &[(name, value)]), CONF));
    }
    assert_eq!(cni::IfName::parse("").unwrap_err().msg, "interface name is empty");
    assert_eq!(cni::ContainerId::parse("").unwrap_err().code, Code::UNKNOWN_CONTAINER);
    for (name, msg) in
        [("", "missing network name|"), ("a b", "invalid characters found in network name|a b")]
    {
        for verb in VERBS {
            let conf = json!({ "cniVersion": "1.1.0", "name": name }).to_string();
            assert_eq!(refused(&serve(&Fake::new(), &env(verb, &[]), &conf), Code::INVALID_CONFIG), msg);
        }
    }
}

#[test]
fn bad_json_bad_stdin_bad_version_text_wrong_version_unknown_verb() {
    let conf = |version: &str| json!({ "cniVersion": version, "name": "net" }).to_string();
    for verb in VERBS {
        for text in [
            "",
            "{",
            "[1]",
            r#"{"name":5}"#,
            r#"{"name":"net","cniVersion":1}"#,
            r#"{"name":"n","ipam":"x"}"#,
        ] {
            refused(&serve(&Fake::new(), &env(verb, &[]), text), Code::DECODE);
        }
        refused(&run(&Fake::new(), &env(verb, &[]), Unreadable, &|_| false), Code::IO);
    }
    for verb in ["CHECK", "GC", "STATUS"] {
        for text in ["new", "1.2.3.4", "1..2", "-1"] {
            assert!(refused(&serve(&Fake::new(), &env(verb, &[]), &conf(text)), Code::DECODE).contains(text));
        }
    }
    for verb in ["ADD", "DEL"] {
        for text in ["new", "1.0", "9.9.9"] {
            let told =
                refused(&serve(&Fake::new(), &env(verb, &[]), &conf(text)), Code::INCOMPATIBLE_VERSION);
            assert!(told.starts_with(&format!(
                "incompatible CNI versions|config is {text:?}, plugin supports [\"0.1.0\" "
            )));
        }
    }
    let plugin = Fake::new();
    let told = refused(&serve(&plugin, &env("PING", &[]), CONF), Code::INVALID_ENVIRONMENT);
    assert_eq!(told, "unknown CNI_COMMAND: PING|");
    refused(&serve(&plugin, &env("PING", &[]), "{"), Code::DECODE);
    assert_eq!(plugin.calls(), [""; 0]);
}

#[test]
fn plain_vs_typed_error() {
    let mut plugin = Fake::new();
    let plain = std::io::Error::other("plain text");
    plugin.error = Some(Error::from_chain(&plain));
    assert_eq!(refused(&serve(&plugin, &env("ADD", &[]), CONF), Code::INTERNAL), "plain text|");
    plugin.error = Some(Error::new(Code(123), "typed").with_details("more"));
    for verb in VERBS {
        let outcome = serve(&plugin, &env(verb, &[]), CONF);
        assert_eq!(refused(&outcome, Code(123)), "typed|more");
        assert_eq!(object(&outcome)["cniVersion"], "1.1.0");
    }
    for (verb, conf, told) in [
        ("ADD", r#"{"name":"net","cniVersion":"0.3.1"}"#, "0.3.1"),
        ("DEL", r#"{"name":"net"}"#, "0.1.0"),
        ("ADD", r#"{"name":"net","cniVersion":"9.9.9"}"#, "1.1.0"),
    ] {
        assert_eq!(object(&serve(&plugin, &env(verb, &[]), conf))["cniVersion"], told);
    }
}

#[test]
fn verb_gates_by_config_and_plugin_version() {
    let check = |verb: &str, conf: &str, versions, expected: Option<&str>| {
        let plugin = Fake { versions, ..Fake::new() };
        let conf = json!({ "cniVersion": conf, "name": "net" }).to_string();
        let outcome = serve(&plugin, &env(verb, &[]), &conf);
        match expected {
            None => served(&outcome),
            Some(msg) => {
                let told = refused(&outcome, Code::INCOMPATIBLE_VERSION);
                assert!(told.starts_with(&format!("{msg} version does not allow {verb}|")), "{told}");
            }
        }
    };
    for (verb, minimum) in [("CHECK", Version::V0_4_0), ("GC", Version::V1_1_0), ("STATUS", Version::V1_1_0)]
    {
        for version in Version::ALL {
            let expected = (version < minimum).then_some("config");
            check(verb, version.as_str(), &Version::ALL, expected);
            check(verb, version.as_str(), &Version::ALL[..4], Some(expected.unwrap_or("plugin")));
        }
        check(verb, "1.2.0", &Version::ALL, Some("plugin"));
    }
    check("CHECK", "0.4.1", &Version::ALL, None);
}

#[test]
fn no_cni_version_runs_as_0_1_0() {
    for conf in
        [r#"{"name":"net"}"#, r#"{"name":"net","cniVersion":""}"#, r#"{"NAME":"net","CniVersion":null}"#]
    {
        let outcome = serve(&Fake::new(), &env("ADD", &[]), conf);
        served(&outcome);
        assert_eq!(object(&outcome), json!({"cniVersion":"0.1.0","ip4":{"ip":"10.1.0.2/24"},"dns":{}}));
    }
}

#[test]
fn same_netns_is_refused_untouched() {
    let plugin = Fake::new();
    for verb in ["ADD", "DEL"] {
        let told =
            refused(&serve(&plugin, &env(verb, &[("CNI_NETNS", "/netns/own")]), CONF), Code::INVALID_NETNS);
        assert!(told.ends_with("|/netns/own"), "{told}");
        let freed_elsewhere: &[&str] = if verb == "DEL" { &["DEL -"] } else { &[] };
        assert_eq!(plugin.calls(), freed_elsewhere);
        for permission in ["1", "true", "TRUE"] {
            let changes = [("CNI_NETNS", "/netns/own"), ("CNI_NETNS_OVERRIDE", permission)];
            served(&serve(&plugin, &env(verb, &changes), CONF));
        }
        plugin.calls();
        let changes = [("CNI_NETNS", "/netns/own"), ("CNI_NETNS_OVERRIDE", "no")];
        refused(&serve(&plugin, &env(verb, &changes), CONF), Code::INVALID_NETNS);
    }
    served(&serve(&plugin, &env("CHECK", &[("CNI_NETNS", "/netns/own")]), CONF));
}
