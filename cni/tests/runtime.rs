//! The runtime side against fake plug-ins: rows "capability-filter" to "legacy" of the acceptance checklist.

mod fake;

use std::fs;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use cni::list::NetworkList;
use cni::runtime::RuntimeArgs;
use cni::{Attachment, Code};
use fake::{Stage, args};
use serde_json::json;

const ADDED: &str = r#"{"cniVersion":"1.1.0","ips":[{"address":"10.1.0.2/24"}]}"#;

#[test]
fn capability_filter_declared_and_supplied_only() {
    let stage = Stage::new(&["one"]);
    let text = r#"{"name":"net","cniVersion":"1.1.0","plugins":[
        {"type":"one","capabilities":{"mac":true,"ips":true,"aliases":false},"kept":[1,null]}]}"#;
    let list = NetworkList::parse(text.as_bytes(), None).unwrap();
    let supplied = json!({"mac":"02:00:00:00:00:01","aliases":["a"],"portMappings":[]});
    let args = RuntimeArgs { capabilities: supplied.as_object().unwrap().clone(), ..args() };
    stage.runtime().add(&list, &args).unwrap();
    let stdin = stage.stdin("one", "ADD");
    assert_eq!(stdin["runtimeConfig"], json!({"mac":"02:00:00:00:00:01"}));
    assert_eq!((&stdin["kept"], &stdin["capabilities"]["ips"]), (&json!([1, null]), &json!(true)));
    assert_eq!((&stdin["name"], &stdin["cniVersion"]), (&json!("net"), &json!("1.1.0")));
    assert_eq!(stdin.get("prevResult"), None);
}

#[test]
fn chain_order_add_forward_del_reverse() {
    let stage = Stage::new(&["one", "two"]);
    let (list, args) = (stage.list("1.1.0", &["one", "two"]), args());
    let second = r#"{"cniVersion":"1.1.0","ips":[{"address":"10.1.0.2/24"}],"new-key":1}"#;
    stage.answer("two", "ADD", second);
    let (result, json) = stage.runtime().add(&list, &args).unwrap();
    assert_eq!(result.ips[0].address.to_string(), "10.1.0.2/24");
    assert_eq!(json["new-key"], 1);
    assert_eq!(stage.stdin("two", "ADD")["prevResult"]["ips"][0]["address"], "10.1.0.2/24");
    stage.runtime().check(&list, &args).unwrap();
    stage.runtime().del(&list, &args).unwrap();
    let expected = ["one ADD", "two ADD", "one CHECK", "two CHECK", "two DEL", "one DEL"];
    assert_eq!(stage.log(), expected);
    for (plugin, verb) in [("one", "CHECK"), ("two", "CHECK"), ("one", "DEL"), ("two", "DEL")] {
        assert_eq!(stage.stdin(plugin, verb)["prevResult"]["new-key"], 1, "{plugin} {verb}");
    }
    let env = stage.env("one", "ADD");
    let path = stage.path("bin").display().to_string();
    let expected = format!(
        "CNI_ARGS=\nCNI_COMMAND=ADD\nCNI_CONTAINERID=cid\nCNI_IFNAME=eth0\nCNI_NETNS=/run/netns/x\nCNI_PATH={path}\n"
    );
    assert_eq!(env, expected);
}

#[test]
fn chain_order_second_plugin_failing_leaves_no_cache_file() {
    let stage = Stage::new(&["one", "two", "three"]);
    let (list, args) = (stage.list("1.1.0", &["one", "two", "three"]), args());
    stage.fail("two", "ADD", r#"{"code":123,"msg":"no","details":"because"}"#);
    let e = stage.runtime().add(&list, &args).unwrap_err();
    assert_eq!((e.code, e.details.as_str()), (Code(123), "because"));
    assert_eq!(e.msg, "plugin type=\"two\" failed (add): no");
    assert_eq!(stage.log(), ["one ADD", "two ADD"]);
    assert!(!stage.runtime().cache().file("net", &args).exists());
    // CHECK and DEL stop at the first error too; DEL keeps the result for the next try.
    stage.fail("two", "DEL", "");
    assert!(stage.runtime().del(&list, &args).unwrap_err().msg.contains("two failed with no error message"));
    assert_eq!(stage.log(), ["three DEL", "two DEL"]);
}

#[test]
fn cache_exact_file_content() {
    use std::os::unix::fs::PermissionsExt;
    let stage = Stage::new(&["one"]);
    let list = stage.list("1.1.0", &["one"]);
    let capabilities = json!({"mac": "<x>", "aliases": []}).as_object().unwrap().clone();
    let pairs = vec![("IgnoreUnknown".to_owned(), "1".to_owned()), ("A".to_owned(), "b".to_owned())];
    let args = RuntimeArgs { args: pairs, capabilities, ..args() };
    stage.runtime().add(&list, &args).unwrap();
    let file = stage.path("cache/results/net-cid-eth0");
    let config = "eyJjbmlWZXJzaW9uIjoiMS4xLjAiLCJuYW1lIjoibmV0IiwicGx1Z2lucyI6W3sidHlwZSI6Im9uZSJ9XX0=";
    let expected = format!(
        r#"{{"kind":"cniCacheV1","containerId":"cid","config":"{config}","ifName":"eth0","networkName":"net","netns":"/run/netns/x","cniArgs":[["IgnoreUnknown","1"],["A","b"]],"capabilityArgs":{{"aliases":[],"mac":"\u003cx\u003e"}},"result":{{"cniVersion":"1.1.0","ips":[{{"address":"10.1.0.2/24"}}]}}}}"#
    );
    assert_eq!(fs::read_to_string(&file).unwrap(), expected);
    let mode = |path: &std::path::Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&file), mode(file.parent().unwrap())), (0o600, 0o700));
    assert!(stage.env("one", "ADD").contains("CNI_ARGS=IgnoreUnknown=1;A=b\n"));
    let kept = stage.runtime().cache().attachments().unwrap();
    assert_eq!((kept.len(), &kept[0].args, &kept[0].config), (1, &args, &list.bytes));
}

#[test]
fn cache_two_ifnames_keep_two_files_and_del_removes_its_own() {
    let stage = Stage::new(&["one"]);
    let (list, runtime) = (stage.list("1.1.0", &["one"]), stage.runtime());
    let second = RuntimeArgs::new("cid", "/run/netns/x", "eth1").unwrap();
    for args in [&args(), &second] {
        runtime.add(&list, args).unwrap();
    }
    let exists = |name: &str| stage.path("cache/results").join(name).exists();
    assert!(exists("net-cid-eth0") && exists("net-cid-eth1"));
    runtime.del(&list, &args()).unwrap();
    assert!(!exists("net-cid-eth0") && exists("net-cid-eth1"));
    // A second DEL has no result to give, and succeeds.
    runtime.del(&list, &args()).unwrap();
    assert_eq!(stage.stdin("one", "DEL").get("prevResult"), None);
}

#[test]
fn cache_broken_del_tolerates_check_does_not() {
    let stage = Stage::new(&["one"]);
    let (list, runtime) = (stage.list("1.1.0", &["one"]), stage.runtime());
    let file = runtime.cache().file("net", &args());
    let bad_version = r#"{"kind":"cniCacheV1","result":{"cniVersion":"9.9.9"}}"#;
    for broken in ["", "{", "[]", r#"{"kind":"other"}"#, bad_version, r#"{"ips":[{"address":"x"}]}"#] {
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, broken).unwrap();
        let e = runtime.check(&list, &args()).unwrap_err();
        assert!(e.msg.starts_with("failed to get network \"net\" cached result: "), "{broken}: {e}");
        assert_eq!(stage.log(), [""; 0]);
        runtime.del(&list, &args()).unwrap();
        assert_eq!(stage.log(), ["one DEL"]);
        assert!(!file.exists(), "{broken}");
        assert_eq!(stage.stdin("one", "DEL").get("prevResult"), None);
    }
}

#[test]
fn cache_broken_is_dropped_even_when_del_fails() {
    let stage = Stage::new(&["one"]);
    let (list, runtime) = (stage.list("1.1.0", &["one"]), stage.runtime());
    let file = runtime.cache().file("net", &args());
    stage.fail("one", "DEL", "");
    for (content, remains) in [("{", false), (r#"{"cniVersion":"1.1.0"}"#, true)] {
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, content).unwrap();
        runtime.del(&list, &args()).unwrap_err();
        assert_eq!(file.exists(), remains, "{content}");
    }
}

#[test]
fn cache_older_format_and_older_version_are_converted() {
    let stage = Stage::new(&["one"]);
    let list = stage.list("1.1.0", &["one"]);
    let file = stage.runtime().cache().file("net", &args());
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(&file, r#"{"cniVersion":"0.2.0","ip4":{"ip":"10.1.0.2/24"},"dns":{}}"#).unwrap();
    stage.runtime().check(&list, &args()).unwrap();
    let prev = &stage.stdin("one", "CHECK")["prevResult"];
    assert_eq!(prev, &json!({"cniVersion":"1.1.0","ips":[{"address":"10.1.0.2/24"}]}));
}

#[test]
fn disable_check_does_nothing() {
    let stage = Stage::new(&["one"]);
    let mut list = stage.list("1.1.0", &["one"]);
    list.disable_check = true;
    stage.runtime().check(&list, &args()).unwrap();
    assert_eq!(stage.log(), [""; 0]);
    let old = stage.list("0.3.1", &["one"]);
    let e = stage.runtime().check(&old, &args()).unwrap_err();
    assert_eq!(e.code, Code::INCOMPATIBLE_VERSION);
    assert!(e.msg.contains("\"0.3.1\" does not support CHECK"), "{e}");
}

#[test]
fn gc_stale_entries_get_del_then_gc_is_sent() {
    let stage = Stage::new(&["one", "two"]);
    let (list, runtime) = (stage.list("1.1.0", &["one", "two"]), stage.runtime());
    let stale = RuntimeArgs { args: vec![("A".into(), "b".into())], ..args() };
    let valid = RuntimeArgs::new("alive", "/run/netns/y", "eth0").unwrap();
    let mut other = list.clone();
    other.name = "other".to_owned();
    runtime.add(&list, &stale).unwrap();
    runtime.add(&list, &valid).unwrap();
    runtime.add(&other, &stale).unwrap();
    stage.log();
    let spared = [Attachment { container_id: valid.container_id.clone(), ifname: valid.ifname.clone() }];
    runtime.gc(&list, Some(&spared)).unwrap();
    assert_eq!(stage.log(), ["two DEL", "one DEL", "one GC", "two GC"]);
    assert!(stage.env("one", "DEL").contains("CNI_ARGS=A=b\nCNI_COMMAND=DEL\nCNI_CONTAINERID=cid\n"));
    let listed = json!([{"containerID":"alive","ifname":"eth0"}]);
    let stdin = stage.stdin("two", "GC");
    assert_eq!((&stdin["cni.dev/valid-attachments"], &stdin["cni.dev/attachments"]), (&listed, &listed));
    let kept: Vec<_> = runtime.cache().attachments().unwrap().into_iter().map(|c| c.network).collect();
    assert_eq!(kept, ["net", "other"]);
}

#[test]
fn gc_without_list_deletes_all_and_gathers_errors() {
    let stage = Stage::new(&["one", "two"]);
    let (list, runtime) = (stage.list("1.1.0", &["one", "two"]), stage.runtime());
    runtime.add(&list, &args()).unwrap();
    stage.log();
    stage.fail("one", "DEL", r#"{"code":101,"msg":"first"}"#);
    stage.fail("one", "GC", r#"{"code":102,"msg":"second"}"#);
    let e = runtime.gc(&list, None).unwrap_err();
    assert_eq!(e.code, Code(101));
    assert!(e.msg.contains("stale attachment cid eth0") && e.msg.contains("second"), "{e}");
    assert_eq!(stage.log(), ["two DEL", "one DEL", "one GC", "two GC"]);
    assert_eq!(stage.stdin("two", "GC").get("cni.dev/valid-attachments"), None);
}

#[test]
fn gc_of_old_versions_disabled_and_without_cache() {
    let stage = Stage::new(&["one"]);
    let runtime = stage.runtime();
    let mut list = stage.list("1.1.0", &["one"]);
    runtime.gc(&list, None).unwrap();
    assert_eq!(stage.log(), [""; 0], "no cache directory: nothing is done");
    let old = stage.list("0.4.0", &["one"]);
    runtime.add(&old, &args()).unwrap();
    runtime.gc(&old, None).unwrap();
    assert_eq!(stage.log(), ["one ADD", "one DEL"]);
    list.disable_gc = true;
    runtime.add(&list, &args()).unwrap();
    runtime.gc(&list, None).unwrap();
    assert_eq!(stage.log(), ["one ADD"]);
}

#[test]
fn status_plugins_code_reaches_the_caller() {
    let stage = Stage::new(&["one", "two"]);
    let list = stage.list("1.1.0", &["one", "two"]);
    stage.runtime().status(&list).unwrap();
    assert_eq!(stage.log(), ["one STATUS", "two STATUS"]);
    stage.fail("one", "STATUS", r#"{"code":50,"msg":"daemon is down"}"#);
    let e = stage.runtime().status(&list).unwrap_err();
    assert_eq!(e.code, Code::NOT_AVAILABLE);
    assert_eq!(stage.log(), ["one STATUS"]);
    stage.runtime().status(&stage.list("1.0.0", &["one"])).unwrap();
    assert_eq!(stage.log(), [""; 0]);
}

#[test]
fn timeout_plugin_is_killed() {
    let stage = Stage::new(&[]);
    stage.script("slow", "#!/bin/sh\necho $$ > $(dirname $0)/pid\nexec sleep 600\n");
    let runtime = stage.runtime().with_timeout(Duration::from_millis(300));
    let started = Instant::now();
    let e = runtime.add(&stage.list("1.1.0", &["slow"]), &args()).unwrap_err();
    assert_eq!(e.code, Code::TRY_AGAIN);
    assert!(e.msg.contains("did not finish in time"), "{e}");
    assert!(started.elapsed() < Duration::from_secs(60));
    let pid = fs::read_to_string(stage.path("bin/pid")).unwrap();
    assert!(!std::path::Path::new("/proc").join(pid.trim()).exists(), "it was killed and reaped");
}

#[test]
fn observer_sees_each_step_in_order() {
    let stage = Stage::new(&["one", "two"]);
    stage.fail("two", "ADD", r#"{"code":7,"msg":"bad"}"#);
    let seen = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&seen);
    let runtime = stage.runtime().with_observer(move |step| {
        assert!(step.elapsed > Duration::ZERO && !step.request.is_empty());
        let outcome = step.outcome.map(|out| out.len()).map_err(|e| e.code);
        sink.lock().unwrap().push(format!("{} {} {outcome:?}", step.verb, step.plugin_type));
    });
    runtime.add(&stage.list("1.1.0", &["one", "two"]), &args()).unwrap_err();
    let expected = [format!("ADD one Ok({})", ADDED.len()), "ADD two Err(Code(7))".to_owned()];
    assert_eq!(*seen.lock().unwrap(), expected);
}

#[test]
fn legacy_plugin_from_before_version() {
    let stage = Stage::new(&["old", "null", "listed", "mute"]);
    stage.fail("old", "VERSION", r#"{"code":4,"msg":"unknown CNI_COMMAND: VERSION"}"#);
    stage.answer("null", "VERSION", r#"{"cniVersion":"0.2.0"}"#);
    stage.answer("listed", "VERSION", r#"{"cniVersion":"1.1.0","supportedVersions":["0.4.0","1.0.0"]}"#);
    let versions = |plugin: &str| stage.runtime().supported_versions(plugin);
    assert_eq!(versions("old").unwrap(), ["0.1.0"]);
    assert_eq!(versions("null").unwrap(), ["0.1.0", "0.2.0"]);
    assert_eq!(versions("listed").unwrap(), ["0.4.0", "1.0.0"]);
    assert_eq!(versions("mute").unwrap_err().code, Code::DECODE);
    assert!(stage.env("old", "VERSION").contains("CNI_NETNS=dummy\n"));
    stage.runtime().validate(&stage.list("", &["old", "null"])).unwrap();
    let e = stage.runtime().validate(&stage.list("1.0.0", &["listed", "old"])).unwrap_err();
    assert_eq!(e.code, Code::INCOMPATIBLE_VERSION);
    // It answers in the oldest format, and without saying so.
    stage.answer("old", "ADD", r#"{"ip4":{"ip":"10.1.0.2/24"}}"#);
    let (result, json) = stage.runtime().add(&stage.list("0.1.0", &["old"]), &args()).unwrap();
    assert_eq!(result.ips[0].address.to_string(), "10.1.0.2/24");
    assert_eq!(json["cniVersion"], "0.1.0");
}

#[test]
fn legacy_plugin_from_before_check_gets_no_prev_result_on_del() {
    let stage = Stage::new(&["one"]);
    let list = stage.list("0.3.1", &["one"]);
    stage.answer("one", "ADD", r#"{"cniVersion":"0.3.1","ips":[{"version":"4","address":"10.1.0.2/24"}]}"#);
    stage.runtime().add(&list, &args()).unwrap();
    assert_eq!(stage.runtime().check(&list, &args()).unwrap_err().code, Code::INCOMPATIBLE_VERSION);
    stage.runtime().del(&list, &args()).unwrap();
    assert_eq!(stage.log(), ["one ADD", "one DEL"]);
    assert_eq!(stage.stdin("one", "DEL").get("prevResult"), None);
}

#[test]
fn answers_that_are_no_results_are_refused() {
    let stage = Stage::new(&["one"]);
    let list = stage.list("1.1.0", &["one"]);
    for (answer, mention) in [
        ("", "EOF"),
        ("[1]", "not an object"),
        (r#"{"cniVersion":"7.0.0"}"#, "\"7.0.0\""),
        (r#"{"ips":[{"address":"10.1.0.2"}]}"#, "ips[0].address: \"10.1.0.2\""),
    ] {
        stage.answer("one", "ADD", answer);
        let e = stage.runtime().add(&list, &args()).unwrap_err();
        assert!(e.msg.contains(mention) && e.msg.contains("one"), "{answer}: {e}");
        assert!(!stage.runtime().cache().file("net", &args()).exists());
    }
    stage.answer("one", "ADD", "null");
    assert_eq!(stage.runtime().add(&list, &args()).unwrap().1, json!({"cniVersion":"1.1.0"}));
}
