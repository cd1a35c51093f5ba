//! The dispatcher: rows "env-each-var" to "same-netns" of the acceptance checklist.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use cni::dispatch::{Env, Outcome, run};
use cni::{AddResult, Attachment, Call, Code, Error, GcCall, IpConfig, Plugin, Result, StatusCall, Version};
use serde_json::{Value, json};

const VERBS: [&str; 5] = ["ADD", "CHECK", "DEL", "GC", "STATUS"];
const CONF: &str = r#"{"cniVersion":"1.1.0","name":"net","type":"fake"}"#;

/// Notes every call; answers ADD with `result`, or everything with `error`.
struct Fake {
    calls: Mutex<Vec<String>>,
    result: AddResult,
    error: Option<Error>,
    versions: &'static [Version],
    about: &'static str,
    valid: Mutex<Option<Option<Vec<Attachment>>>>,
    prev: Mutex<Option<AddResult>>,
}

impl Fake {
    fn new() -> Fake {
        let ip = IpConfig { interface: None, address: "10.1.0.2/24".parse().unwrap(), gateway: None };
        Fake {
            calls: Mutex::default(),
            result: AddResult { ips: vec![ip], ..AddResult::default() },
            error: None,
            versions: &Version::ALL,
            about: "a fake",
            valid: Mutex::default(),
            prev: Mutex::default(),
        }
    }

    fn note(&self, verb: &str, netns: Option<&Path>) -> Result<()> {
        self.calls
            .lock()
            .unwrap()
            .push(format!("{verb} {}", netns.map_or("-".into(), |p| p.display().to_string())));
        self.error.clone().map_or(Ok(()), Err)
    }

    fn calls(&self) -> Vec<String> {
        std::mem::take(&mut self.calls.lock().unwrap())
    }
}

impl Plugin for Fake {
    fn name(&self) -> &'static str {
        "fake"
    }
    fn about(&self) -> String {
        self.about.to_owned()
    }
    fn versions(&self) -> &'static [Version] {
        self.versions
    }
    fn add(&self, call: &Call<PathBuf>) -> Result<AddResult> {
        *self.prev.lock().unwrap() = call.conf.prev_result.clone();
        self.note("ADD", Some(&call.netns))?;
        Ok(self.result.clone())
    }
    fn del(&self, call: &Call<Option<PathBuf>>) -> Result<()> {
        *self.prev.lock().unwrap() = call.conf.prev_result.clone();
        self.note("DEL", call.netns.as_deref())
    }
    fn check(&self, call: &Call<PathBuf>) -> Result<()> {
        *self.prev.lock().unwrap() = call.conf.prev_result.clone();
        self.note("CHECK", Some(&call.netns))
    }
    fn gc(&self, call: &GcCall) -> Result<()> {
        *self.valid.lock().unwrap() = Some(call.valid.clone());
        self.note("GC", None)
    }
    fn status(&self, _: &StatusCall) -> Result<()> {
        self.note("STATUS", None)
    }
}

/// A complete environment, changed by `changes` (an empty value takes the variable away).
fn env(verb: &str, changes: &[(&str, &str)]) -> Env {
    let mut all = vec![
        ("CNI_COMMAND", verb),
        ("CNI_CONTAINERID", "cid"),
        ("CNI_NETNS", "/netns/pod"),
        ("CNI_IFNAME", "eth0"),
        ("CNI_PATH", "/bin:/usr/bin"),
        ("CNI_ARGS", "A=b"),
    ];
    for (name, value) in changes {
        all.retain(|(n, _)| n != name);
        all.push((name, value));
    }
    all.into_iter().collect()
}

fn serve(plugin: &Fake, env: &Env, stdin: &str) -> Outcome {
    run(plugin, env, stdin.as_bytes(), &|path| path == Path::new("/netns/own"))
}

fn object(outcome: &Outcome) -> Value {
    serde_json::from_str(&outcome.stdout).unwrap()
}

#[track_caller]
fn refused(outcome: &Outcome, code: Code) -> String {
    assert_eq!(outcome.exit, 1, "{outcome:?}");
    let object = object(outcome);
    assert_eq!(object["code"], code.0, "{object}");
    assert!(outcome.stdout.starts_with("{\n    \"") && outcome.stdout.ends_with("\n}"));
    let text = |key: &str| object[key].as_str().unwrap_or("").to_owned();
    [text("msg"), text("details")].join("|")
}

#[track_caller]
fn served(outcome: &Outcome) {
    assert_eq!((outcome.exit, outcome.stderr.as_str()), (0, ""), "{outcome:?}");
}

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
fn same_netns_is_refused_before_the_work() {
    let plugin = Fake::new();
    for verb in ["ADD", "DEL"] {
        let told =
            refused(&serve(&plugin, &env(verb, &[("CNI_NETNS", "/netns/own")]), CONF), Code::INVALID_NETNS);
        assert!(told.ends_with("|/netns/own"), "{told}");
        assert_eq!(plugin.calls(), [""; 0], "nothing was done");
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

#[test]
fn prev_result_is_parsed_and_its_version_judged() {
    let prev = |config: &str, prev: Value| {
        json!({"cniVersion": config, "name": "net", "prevResult": prev}).to_string()
    };
    let ips = json!([{ "address": "10.1.0.9/24", "interface": 0 }]);
    let good = [
        prev("1.1.0", json!({ "cniVersion": "1.0.0", "ips": ips })),
        prev("1.0.0", json!({ "ips": ips })),
        prev("0.3.1", json!({ "cniVersion": "0.4.0", "ips": ips })),
        prev("0.2.0", json!({ "ip4": { "ip": "10.1.0.9/24" } })),
    ];
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
    for conf in &good {
        for verb in ["ADD", "DEL"] {
            let plugin = Fake::new();
            served(&serve(&plugin, &env(verb, &[]), conf));
            let seen = plugin.prev.lock().unwrap().take().unwrap();
            assert_eq!(seen.ips[0].address.to_string(), "10.1.0.9/24", "{conf}");
        }
    }
    for (conf, code, mention) in &bad {
        let plugin = Fake::new();
        for verb in ["ADD", "CHECK"] {
            if verb == "CHECK" && conf.contains(r#""cniVersion":"0.2"#) {
                continue;
            }
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
