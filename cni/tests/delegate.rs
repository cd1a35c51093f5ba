//! Delegation to a foreign plug-in, and how its failures are understood.

mod fake;

use std::fs;
use std::path::PathBuf;

use cni::{Code, NetConf, delegate, exec};
use fake::Stage;

fn conf(version: &str) -> NetConf {
    NetConf::parse(format!(r#"{{ "cniVersion":"{version}","name":"net", "ipam":{{"type":"ipam"}} }}"#))
        .unwrap()
}

fn path(stage: &Stage) -> Vec<PathBuf> {
    vec![stage.path("empty"), stage.path("bin")]
}

#[test]
fn add_hands_on_stdin_untouched_and_reads_the_result() {
    let stage = Stage::new(&["ipam"]);
    let conf = conf("1.1.0");
    let result = delegate::add(&path(&stage), &conf.ipam_type, &conf).unwrap();
    assert_eq!(result.ips[0].address.to_string(), "10.1.0.2/24");
    assert_eq!(fs::read(stage.path("bin/stdin.ipam.ADD")).unwrap(), conf.bytes);
    assert!(stage.env("ipam", "ADD").contains("CNI_COMMAND=ADD\n"));
}

#[test]
fn every_verb_is_passed_on() {
    let stage = Stage::new(&["ipam"]);
    let (conf, path) = (conf("1.1.0"), path(&stage));
    delegate::del(&path, "ipam", &conf).unwrap();
    delegate::check(&path, "ipam", &conf).unwrap();
    delegate::gc(&path, "ipam", &conf).unwrap();
    delegate::status(&path, "ipam", &conf).unwrap();
    assert_eq!(stage.log(), ["ipam DEL", "ipam CHECK", "ipam GC", "ipam STATUS"]);
    stage.fail("ipam", "STATUS", r#"{"code":50,"msg":"pool is empty","details":"0 left"}"#);
    let e = delegate::status(&path, "ipam", &conf).unwrap_err();
    assert_eq!((e.code, e.msg.as_str(), e.details.as_str()), (Code(50), "pool is empty", "0 left"));
}

#[test]
fn result_without_version_has_the_configurations() {
    let stage = Stage::new(&["ipam"]);
    for (version, answer) in [
        ("1.0.0", r#"{"ips":[{"address":"10.1.0.2/24"}]}"#),
        ("0.4.0", r#"{"ips":[{"version":"4","address":"10.1.0.2/24"}]}"#),
        ("0.2.0", r#"{"ip4":{"ip":"10.1.0.2/24"}}"#),
        ("0.1.0", r#"{"cniVersion":"","ip4":{"ip":"10.1.0.2/24"}}"#),
    ] {
        stage.answer("ipam", "ADD", answer);
        let result = delegate::add(&path(&stage), "ipam", &conf(version)).unwrap();
        assert_eq!(result.ips[0].address.to_string(), "10.1.0.2/24", "{version}");
    }
    stage.answer("ipam", "ADD", "null");
    assert!(delegate::add(&path(&stage), "ipam", &conf("1.1.0")).unwrap().ips.is_empty());
}

#[test]
fn failures_are_understood() {
    let stage = Stage::new(&["ipam"]);
    let fail = |answer: &str, stderr: &str| {
        stage.fail("ipam", "ADD", answer);
        stage.stderr("ipam", "ADD", stderr);
        delegate::add(&path(&stage), "ipam", &conf("1.1.0")).unwrap_err()
    };
    let e = fail("", "the log says why\n");
    assert_eq!(
        (e.code, e.msg.as_str()),
        (Code(999), "ipam failed with no error message: \"the log says why\"")
    );
    assert!(fail("", "").msg.starts_with("ipam failed with no error message: exit status: 1"));
    let e = fail("no JSON", "");
    assert!(e.msg.starts_with("ipam failed but its error message \"no JSON\" is unreadable: "), "{e}");
    assert_eq!(fail(r#"{"CODE":11,"Msg":"later"}"#, "").code, Code::TRY_AGAIN);
}

#[test]
fn programs_are_found_by_name_in_order() {
    let stage = Stage::new(&["ipam"]);
    fs::create_dir_all(stage.path("first/ipam")).unwrap();
    fs::create_dir_all(stage.path("second")).unwrap();
    fs::write(stage.path("second/ipam"), "not even executable").unwrap();
    let dirs = ["nowhere", "first", "second", "bin"].map(|dir| stage.path(dir));
    assert_eq!(exec::find("ipam", &dirs).unwrap(), stage.path("second/ipam"));
    let unrunnable = delegate::del(&dirs, "ipam", &conf("1.1.0")).unwrap_err();
    assert_eq!(unrunnable.code, Code::IO);
    for (name, mention) in [
        ("", "no plugin name provided"),
        ("../ipam", "\"../ipam\" is not a plugin name"),
        ("none", "nowhere"),
    ] {
        let e = exec::find(name, &dirs).unwrap_err();
        assert_eq!(e.code, Code::INVALID_CONFIG);
        assert!(e.msg.contains(mention), "{e}");
    }
    assert!(exec::find("ipam", &[]).unwrap_err().msg.contains("no paths"));
}

#[test]
fn large_input_and_output_do_not_block_each_other() {
    let stage = Stage::new(&[]);
    stage.script("echo", "#!/bin/sh\nexec cat\n");
    let filler = "x".repeat(1 << 20);
    let text = format!(r#"{{"cniVersion":"1.1.0","name":"net","filler":"{filler}"}}"#);
    delegate::add(&path(&stage), "echo", &NetConf::parse(text).unwrap()).unwrap();
}

#[test]
fn a_program_being_replaced_is_tried_again() {
    let stage = Stage::new(&["ipam"]);
    let file = stage.path("bin/ipam");
    let writer = fs::OpenOptions::new().append(true).open(&file).unwrap();
    let (conf, dirs) = (conf("1.1.0"), path(&stage));
    std::thread::scope(|threads| {
        let delegate = threads.spawn(|| delegate::del(&dirs, "ipam", &conf));
        // While the file is open for writing the kernel refuses to run it.
        let busy = std::time::Instant::now();
        while busy.elapsed() < std::time::Duration::from_millis(50) {
            std::thread::yield_now();
        }
        drop(writer);
        delegate.join().unwrap().unwrap();
    });
}
