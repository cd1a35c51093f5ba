//! Configuration lists: rows "list-first" to "pick-version" of the acceptance checklist.

mod fake;

use cni::Code;
use cni::list::NetworkList;
use fake::Stage;

const LIST: &str = r#"{"name":"net","cniVersion":"1.0.0","plugins":[{"type":"from-list"}]}"#;
const SINGLE: &str = r#"{"name":"net","cniVersion":"0.4.0","type":"from-single","x":1}"#;

fn find(stage: &Stage, name: &str) -> cni::Result<NetworkList> {
    NetworkList::find(&stage.path("net.d"), name)
}

fn types(list: &NetworkList) -> Vec<&str> {
    list.plugins.iter().map(|p| p.plugin_type.as_str()).collect()
}

#[test]
fn list_first_conflist_beats_conf() {
    let stage = Stage::new(&[]);
    stage.conf("00.conf", SINGLE);
    stage.conf("99.conflist", LIST);
    let list = find(&stage, "net").unwrap();
    assert_eq!(types(&list), ["from-list"]);
    assert_eq!(list.bytes, LIST.as_bytes());
}

#[test]
fn list_first_single_conf_is_up_converted() {
    let stage = Stage::new(&[]);
    stage.conf("10.json", SINGLE);
    let list = find(&stage, "net").unwrap();
    assert_eq!((types(&list), list.cni_version.as_str()), (vec!["from-single"], "0.4.0"));
    let expected = r#"{"cniVersion":"0.4.0","name":"net","plugins":[{"cniVersion":"0.4.0","name":"net","type":"from-single","x":1}]}"#;
    assert_eq!(String::from_utf8(list.bytes).unwrap(), expected);
}

#[test]
fn list_first_malformed_earlier_file_is_reported() {
    let stage = Stage::new(&[]);
    stage.conf("10.conflist", "{");
    stage.conf("20.conflist", LIST);
    let e = find(&stage, "net").unwrap_err();
    assert_eq!(e.code, Code::DECODE);
    assert!(e.msg.contains("10.conflist"), "{e}");
    stage.conf("10.conflist", &LIST.replace("net", "other"));
    assert_eq!(types(&find(&stage, "net").unwrap()), ["from-list"]);
}

#[test]
fn what_is_no_file_is_not_waited_for() {
    let stage = Stage::new(&[]);
    stage.conf("20.conflist", LIST);
    let pipe = stage.path("net.d").join("10.conflist");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let e = find(&stage, "net").unwrap_err();
    assert!(e.msg.contains("10.conflist") && e.msg.ends_with("not a regular file"), "{e}");
}

#[test]
fn list_first_nested_directories_are_ignored() {
    let stage = Stage::new(&[]);
    stage.conf("deep/10.conflist", LIST);
    stage.conf("dir.conflist/readme", "");
    assert!(find(&stage, "net").unwrap_err().msg.starts_with("no net configurations found in "));
    stage.conf("10.conflist", LIST);
    let e = find(&stage, "absent").unwrap_err();
    assert!(e.msg.starts_with("no net configuration with name \"absent\" in "), "{e}");
    assert!(NetworkList::find(&stage.path("nowhere"), "net").is_err());
}

#[test]
fn inlined_plugins_seven_combinations() {
    let inline = r#""plugins":[{"type":"inline"}],"#;
    // inlined, folder, loadOnlyInlinedPlugins -> plug-ins, or an error
    let rows: [(&str, bool, &str, Option<&[&str]>); 7] = [
        (inline, false, "", Some(&["inline"])),
        (inline, true, "", Some(&["inline", "a", "b"])),
        (inline, true, r#""loadOnlyInlinedPlugins":true,"#, Some(&["inline"])),
        ("", true, "", Some(&["a", "b"])),
        ("", false, "", None),
        ("", true, r#""loadOnlyInlinedPlugins":"True","#, None),
        (r#""plugins":[],"#, true, "", None),
    ];
    for (inline, folder, only, expected) in rows {
        let stage = Stage::new(&[]);
        stage.conf("10.conflist", &format!(r#"{{{inline}{only}"name":"net","cniVersion":"1.0.0"}}"#));
        if folder {
            stage.conf("net/20.conf", r#"{"type":"b"}"#);
            stage.conf("net/10.conf", r#"{"type":"a"}"#);
            stage.conf("net/30.json", r#"{"type":"not read"}"#);
        }
        match (find(&stage, "net"), expected) {
            (Ok(list), Some(expected)) => assert_eq!(types(&list), expected),
            (Err(e), None) => assert!(e.msg.contains("plugins"), "{e}"),
            (found, _) => panic!("{inline} {folder} {only}: {found:?}"),
        }
    }
}

#[test]
fn string_bool_of_disable_check_and_disable_gc() {
    let parse =
        |extra: &str| NetworkList::parse(LIST.replacen('{', &format!("{{{extra},"), 1).as_bytes(), None);
    for (text, expected) in [("true", true), ("false", false), (r#""TRUE""#, true), (r#""False""#, false)] {
        let list = parse(&format!(r#""disableCheck":{text},"disableGC":{text}"#)).unwrap();
        assert_eq!((list.disable_check, list.disable_gc), (expected, expected), "{text}");
    }
    for key in ["disableCheck", "disableGC", "loadOnlyInlinedPlugins"] {
        for text in [r#""yes""#, "1", "[]", r#""""#] {
            let e = parse(&format!("\"{key}\":{text}")).unwrap_err();
            assert_eq!(
                (e.code, e.msg),
                (Code::INVALID_CONFIG, format!("{key}: {text} is not true or false"))
            );
        }
    }
}

#[test]
fn pick_version_six_cases() {
    for (own, listed, expected) in [
        ("0.3.0", r#"["0.3.1","1.0.0","0.4.0"]"#, Some("1.0.0")),
        ("0.4.0", "[]", Some("0.4.0")),
        ("1.1.0", r#"["0.4.0","1.0.0"]"#, Some("1.1.0")),
        ("0.4.0", r#"["1.0.0","2.3.4","1.2"]"#, Some("1.0.0")),
        ("0.4.0", r#"["1.0.0","new"]"#, None),
        ("2.0.0", r#"["3.0.0"]"#, Some("2.0.0")),
    ] {
        let text = format!(
            r#"{{"name":"net","cniVersion":"{own}","cniVersions":{listed},"plugins":[{{"type":"x"}}]}}"#
        );
        match (NetworkList::parse(text.as_bytes(), None), expected) {
            (Ok(list), Some(expected)) => assert_eq!(list.cni_version, expected, "{text}"),
            (Err(e), None) => {
                assert_eq!(e.msg, "cniVersions: invalid version \"new\": a part is not a number")
            }
            (parsed, _) => panic!("{text}: {parsed:?}"),
        }
    }
}

#[test]
fn faults_name_key_and_value() {
    for (text, message) in [
        ("[]", "error parsing configuration: it is not an object"),
        (r#"{"plugins":[{"type":"x"}]}"#, "missing network name"),
        (r#"{"name":"../x","plugins":[{"type":"x"}]}"#, "invalid characters found in network name; ../x"),
        (r#"{"name":5}"#, "name: 5 is not a string"),
        (r#"{"name":"n","plugins":{}}"#, "plugins is not a list"),
        (r#"{"name":"n","plugins":[1]}"#, "plugins[0]: 1 is not an object"),
        (r#"{"name":"n","plugins":[{"type":"x"},{}]}"#, "plugins[1]: type is missing"),
        (
            r#"{"name":"n","plugins":[{"type":"x","capabilities":{"ips":1}}]}"#,
            "plugins[0]: capabilities.ips: 1 is not a boolean",
        ),
    ] {
        assert_eq!(NetworkList::parse(text.as_bytes(), None).unwrap_err().to_string(), message);
    }
}
