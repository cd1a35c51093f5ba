//! Every file of conf/ is a network that a runtime can load, named like its file, and doubled by no other.

use std::collections::BTreeSet;

use bowline_tests::{Text, read, texts};
use cni::list::NetworkList;
use serde_json::Value;

fn conflists() -> Vec<Text> {
    let found = texts(&[".conflist"]);
    assert!(found.iter().any(|f| f.path == "conf/bridge.conflist"), "the demo's configuration is missing");
    found
}

#[test]
fn every_conflist_is_a_network_named_like_its_file() {
    for file in conflists() {
        let list = NetworkList::parse(file.content.as_bytes(), None)
            .unwrap_or_else(|e| panic!("{}: {e}", file.path));
        assert_eq!(file.path, format!("conf/{}.conflist", list.name));
        assert_eq!(list.cni_version, "1.1.0", "{}", file.path);
    }
}

#[test]
fn every_plugin_type_is_ours() {
    let ours: BTreeSet<&str> = plugins::TABLE.iter().map(|plugin| plugin.name()).collect();
    for file in conflists() {
        let list = NetworkList::parse(file.content.as_bytes(), None).expect("tested above");
        for plugin in &list.plugins {
            assert!(ours.contains(plugin.plugin_type.as_str()), "{}: {}", file.path, plugin.plugin_type);
        }
    }
}

#[test]
fn networks_can_stand_side_by_side() {
    let mut seen = BTreeSet::new();
    for file in conflists() {
        let list: Value = serde_json::from_str(&file.content).expect("tested above");
        let plugin = &list["plugins"][0];
        let ranges = plugin["ipam"]["ranges"].as_array().into_iter().flatten();
        let subnets = ranges.map(|set| set[0]["subnet"].to_string());
        let bridge = plugin.get("bridge").map(Value::to_string);
        for mine in subnets.chain(bridge) {
            assert!(seen.insert(mine.clone()), "{}: {mine} is taken by another file", file.path);
        }
    }
}

#[test]
fn every_conflist_is_described() {
    let described = read("conf/README.md");
    for file in conflists() {
        let name = file.path.trim_start_matches("conf/");
        assert!(described.contains(&format!("]({name})")), "conf/README.md does not describe {name}");
    }
}
