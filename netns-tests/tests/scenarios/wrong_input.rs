//! Wrong input of every kind: the spec's error object, a message that names key and value, and nothing half-made.

use lab::network::Request;
use lab::plugin::Invocation;
use lab::{Attachment, Network, Node, Snapshot, Subject, on_bowline};
use serde_json::{Value, json};

use crate::conflists::{bridge, host_local, list};

const DUAL: [&str; 2] = ["10.1.0.0/24", "fd00:1::/64"];

/// One wrong value at one place of a plug-in's request; the refusal's code and the words it must hold.
struct Row {
    plugin: fn() -> Value,
    pointer: &'static str,
    wrong: Value,
    codes: &'static [u64],
    words: &'static [&'static str],
}

fn a_bridge() -> Value {
    bridge(&DUAL, json!({"ipMasq": true}))
}
fn a_ptp() -> Value {
    json!({"type": "ptp", "ipam": host_local(&DUAL)})
}
fn a_static() -> Value {
    bridge(&DUAL, json!({"ipam": {"type": "static", "addresses": [{"address": "10.1.0.9/24"}]}}))
}
fn a_portmap() -> Value {
    json!({
        "type": "portmap", "capabilities": {"portMappings": true},
        "runtimeConfig": {"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]},
    })
}
fn a_portmap_on_nftables() -> Value {
    let mut plugin = a_portmap();
    plugin["backend"] = json!("nftables");
    plugin
}
fn a_bandwidth() -> Value {
    json!({"type": "bandwidth", "ingressRate": 1_000_000, "ingressBurst": 1_000_000})
}
fn a_tuning() -> Value {
    json!({"type": "tuning", "mtu": 1300})
}
fn a_firewall() -> Value {
    json!({"type": "firewall"})
}

const CONFIG: &[u64] = &[2, 5, 6, 7, 999];

macro_rules! rows {
    ($($plugin:ident $pointer:literal = $wrong:tt => $($word:literal)*;)*) => {
        vec![$(Row { plugin: $plugin, pointer: $pointer, wrong: json!($wrong), codes: CONFIG, words: &[$($word),*] }),*]
    };
}

fn wrong_keys() -> Vec<Row> {
    rows! {
        a_bridge "/vlan" = 5000 => "vlan" "5000";
        a_bridge "/vlan" = (-100) => "vlan" "-100";
        a_bridge "/vlanTrunk" = [{"minID": 10}] => "maxID";
        a_bridge "/vlanTrunk" = [{"minID": 10, "maxID": 5}] => "10" "5";
        a_bridge "/vlanTrunk" = [{"id": 4095}] => "4095";
        a_bridge "/mtu" = (-1) => "mtu" "-1";
        a_bridge "/mtu" = "big" => "mtu";
        a_bridge "/mtu" = 1.5 => "mtu";
        a_bridge "/isGateway" = "yes" => "isGateway";
        a_bridge "/bridge" = "a-name-that-is-too-long" => "a-name-that-is-too-long";
        a_bridge "/promiscMode" = true => "promiscMode" "hairpinMode";
        a_bridge "/ipMasqBackend" = "ebtables" => "ipMasqBackend" "ebtables";
        a_bridge "/disableContainerInterface" = true => "disableContainerInterface" "ipam";
        a_bridge "/args/cni/mac" = "zz" => "mac" "zz";
        a_bridge "/runtimeConfig/mac" = "c2:00" => "mac" "c2:00";
        a_bridge "/ipam/type" = "no-such-ipam" => "no-such-ipam";
        a_bridge "/ipam/type" = "../evil" => "../evil";
        a_bridge "/ipam/ranges" = [[{"subnet": "10.1.0.1/24"}]] => "10.1.0.1/24";
        a_bridge "/ipam/ranges" = [[{"subnet": "10.1.0.0/31"}]] => "10.1.0.0/31";
        a_bridge "/ipam/ranges" = [[{"subnet": "10.1.0.0/33"}]] => "10.1.0.0/33";
        a_bridge "/ipam/ranges" = [[{"subnet": "elephant"}]] => "elephant";
        a_bridge "/ipam/ranges" = [[{"subnet": "10.1.0.0/24"}, {"subnet": "fd00::/64"}]] => "fd00::/64";
        a_bridge "/ipam/ranges" = [[{"subnet": "10.1.0.0/24"}], [{"subnet": "10.1.0.0/16"}]] => "10.1.0.1";
        a_bridge "/ipam/ranges" = [[]] => "range";
        a_bridge "/ipam/ranges" = [[{"subnet": "10.1.0.0/24", "rangeStart": "10.9.0.1"}]] => "10.9.0.1";
        a_bridge "/ipam/ranges" = [[{"subnet": "10.1.0.0/24", "rangeStart": "10.1.0.9", "rangeEnd": "10.1.0.3"}]] => "10.1.0.9";
        a_bridge "/ipam/routes" = [{"dst": "nowhere"}] => "nowhere";
        a_bridge "/ipam/routes" = [{"dst": "0.0.0.0/0", "gw": "10.1.0.1/24"}] => "10.1.0.1/24";
        a_bridge "/ipam/resolvConf" = "/no/such/file" => "/no/such/file";
        a_static "/ipam/addresses" = [{"address": "10.1.0.9"}] => "10.1.0.9";
        a_static "/ipam/addresses" = [{"address": "10.1.0.9/24", "gateway": "door"}] => "door";
        a_static "/ipam/addresses" = [] => "address";
        a_ptp "/ipam" = {} => "ipam";
        a_ptp "/mtu" = (-5) => "mtu" "-5";
        a_ptp "/ipMasqBackend" = "pf" => "pf";
        a_portmap "/runtimeConfig/portMappings/0/hostPort" = 0 => "hostPort" "0";
        a_portmap "/runtimeConfig/portMappings/0/hostPort" = 65536 => "hostPort" "65536";
        a_portmap "/runtimeConfig/portMappings/0/containerPort" = (-1) => "containerPort" "-1";
        a_portmap "/runtimeConfig/portMappings/0/protocol" = "icmp" => "protocol" "icmp";
        a_portmap "/runtimeConfig/portMappings/0/hostIP" = "here" => "hostIP" "here";
        a_portmap "/backend" = "ebpf" => "backend" "ebpf";
        a_portmap "/markMasqBit" = 32 => "markMasqBit" "32";
        a_portmap_on_nftables "/conditionsV4" = ["-s", "10.0.0.1"] => "conditionsV4";
        a_bandwidth "/ingressBurst" = 0 => "ingressBurst";
        a_bandwidth "/ingressBurst" = 34359738360_u64 => "ingressBurst" "34359738360";
        a_bandwidth "/ingressRate" = "fast" => "ingressRate";
        a_bandwidth "/egressRate" = 1000 => "egressBurst";
        a_tuning "/sysctl" = {"kernel.hostname": "evil"} => "kernel.hostname";
        a_tuning "/sysctl" = {"net.ipv4.../../kernel/hostname": "evil"} => "hostname";
        a_tuning "/sysctl" = {"net.ipv4.no_such_key": "1"} => "no_such_key";
        a_tuning "/mac" = "zz" => "mac" "zz";
        a_tuning "/mtu" = 7 => "mtu" "7";
        a_firewall "/backend" = "pf" => "backend" "pf";
        a_firewall "/ingressPolicy" = "closed" => "ingressPolicy" "closed";
    }
}

/// Puts `value` at a JSON pointer, making objects on the way.
fn put(target: &mut Value, pointer: &str, value: &Value) {
    let mut here = target;
    for key in pointer.trim_start_matches('/').split('/') {
        here = match key.parse::<usize>() {
            Ok(index) => &mut here[index],
            Err(_) => {
                if here.is_null() {
                    *here = json!({});
                }
                &mut here[key]
            }
        };
    }
    *here = value.clone();
}

/// The attachment on which a plug-in of this kind would run: a main plug-in starts afresh, the others follow a bridge.
fn prepared(node: &Node, subject: &Subject, plugin: Value, name: &str) -> (Attachment, usize) {
    let is_main = plugin["type"] == "bridge" || plugin["type"] == "ptp";
    let plugins = if is_main { json!([plugin]) } else { json!([bridge(&DUAL, json!({})), plugin]) };
    let network = Network::new(subject, list("pods", plugins));
    let mut attachment = network.attachment(&node.pod(name), Request::default());
    if !is_main {
        attachment.add_step(node, 0).unwrap();
    }
    (attachment, usize::from(!is_main))
}

on_bowline! {
    /// Each wrong key of each plug-in.
    fn wrong_config_keys(node, subject) {
        let mut failures = Vec::new();
        for (number, row) in wrong_keys().iter().enumerate() {
            let mut plugin = (row.plugin)();
            put(&mut plugin, row.pointer, &row.wrong);
            let title = format!("{} {} = {}", plugin["type"].as_str().unwrap(), row.pointer, row.wrong);
            let (attachment, index) = prepared(node, subject, plugin, &format!("pod-{number}"));
            let before = Snapshot::quick(node);
            match attachment.invocation("ADD", index).run(node) {
                Ok(_) => failures.push(format!("{title}: accepted")),
                Err(refusal) => {
                    let silent: Vec<_> = row.words.iter().filter(|w| !refusal.msg.contains(**w)).collect();
                    if !silent.is_empty() || !row.codes.contains(&refusal.code) {
                        failures.push(format!("{title}: must say {silent:?}: {refusal}"));
                    }
                }
            }
            if index == 0 {
                // The bridge is the node's: an ADD that fails later may leave it, empty.
                let _ = node.try_sh("ip link delete cni0");
            }
            let difference = before.difference(node);
            if !difference.is_empty() {
                failures.push(format!("{title}: half-made:\n{difference}"));
            }
            clean_up(node, &attachment);
        }
        assert!(failures.is_empty(), "{}", failures.join("\n"));
    }

    /// Container ID, interface name, namespace, arguments, version, and JSON itself.
    fn wrong_environment(node, subject) {
        type Edit = fn(Invocation) -> Invocation;
        let rows: [(&str, Edit, u64, &str); 16] = [
            ("bad ID", |c| c.env("CNI_CONTAINERID", "../etc"), 4, "../etc"),
            ("no ID", |c| c.env("CNI_CONTAINERID", ""), 4, "CNI_CONTAINERID"),
            ("long name", |c| c.env("CNI_IFNAME", "sixteen-letters-"), 4, ""),
            ("name with slash", |c| c.env("CNI_IFNAME", "a/b"), 4, ""),
            ("no name", |c| c.env("CNI_IFNAME", ""), 4, "CNI_IFNAME"),
            ("no netns", |c| c.env("CNI_NETNS", ""), 4, "CNI_NETNS"),
            ("missing netns", |c| c.env("CNI_NETNS", "/run/netns/none"), 0, "/run/netns/none"),
            ("netns is a file", |c| c.env("CNI_NETNS", "/etc/passwd"), 0, "/etc/passwd"),
            ("own netns", |c| c.env("CNI_NETNS", "/proc/self/ns/net"), 8, "/proc/self/ns/net"),
            ("bad args", |c| c.env("CNI_ARGS", "MAC=1=2"), 0, "MAC=1=2"),
            ("unknown arg", |c| c.env("CNI_ARGS", "COLOUR=red"), 0, "COLOUR"),
            ("bad MAC", |c| c.env("CNI_ARGS", "MAC=zz"), 0, "zz"),
            ("unknown verb", |c| c.env("CNI_COMMAND", "MEND"), 4, "MEND"),
            ("not JSON", |mut c| { c.stdin = b"{\"name\":".to_vec(); c }, 6, ""),
            ("nothing", |mut c| { c.stdin.clear(); c }, 6, ""),
            ("version of the future", |c| edited(c, |conf| conf["cniVersion"] = json!("9.9.9")), 1, "9.9.9"),
        ];
        let network = Network::new(subject, list("pods", json!([a_bridge()])));
        let attachment = network.attachment(&node.pod("a"), Request::default());
        let before = Snapshot::of(node);
        for (title, edit, code, word) in rows {
            let refused = edit(attachment.invocation("ADD", 0)).run(node).unwrap_err();
            assert!(refused.code == code || (code == 0 && refused.code != 0), "{title}: {refused}");
            assert!(refused.msg.contains(word), "{title}: {refused}");
        }
        let named = |name: &str| edited(attachment.invocation("ADD", 0), |conf| conf["name"] = json!(name)).run(node);
        assert_eq!(named("").unwrap_err().code, 7);
        let refused = named("../evil").unwrap_err();
        assert!(refused.code == 7 && refused.msg.contains("../evil"), "{refused}");
        let difference = before.difference(node);
        assert!(difference.is_empty(), "{difference}");
    }

    /// A previous result that lies, is of another family of versions, or is missing where it is needed.
    fn wrong_prev_result(node, subject) {
        let results = [
            json!({"cniVersion": "0.2.0", "ip4": {"ip": "10.1.0.2/24"}}),
            json!({"cniVersion": "7.0.0"}),
            json!("text"),
            json!({"cniVersion": "1.0.0", "ips": "none"}),
            json!({"cniVersion": "1.0.0", "ips": [{"address": "10.1.0.2"}]}),
            json!({"cniVersion": "1.0.0", "interfaces": [{"name": "nope0"}], "ips": [{"address": "10.1.0.2/24", "interface": 7}]}),
            Value::Null,
        ];
        for plugin in [a_portmap(), a_bandwidth(), a_tuning(), a_firewall()] {
            let network = Network::new(subject, list("pods", json!([plugin])));
            for (number, result) in results.iter().enumerate() {
                let pod = node.pod("a");
                let mut attachment = network.attachment(&pod, Request::default());
                attachment.result = result.clone();
                let before = Snapshot::quick(node);
                let call = attachment.invocation("ADD", 0);
                let call = edited(call, |conf| {
                    if network.kinds()[0] == "portmap" {
                        conf["runtimeConfig"] = a_portmap()["runtimeConfig"].clone();
                    }
                });
                let outcome = call.run(node);
                // portmap and firewall have nothing to look at in an index that points nowhere.
                assert!(outcome.is_err() || number == 5, "{} takes {result}: {outcome:?}", network.kinds()[0]);
                if let Err(refused) = outcome {
                    assert_ne!(refused.code, 0, "{} {result}: {refused}", network.kinds()[0]);
                }
                let _ = call.env("CNI_COMMAND", "DEL").run(node);
                let difference = before.difference(node);
                assert!(difference.is_empty(), "{} {result}:\n{difference}", network.kinds()[0]);
                pod.remove_netns_path();
            }
        }
    }

    /// Truncated, empty and foreign files in the lease directory and in the tuning backup disturb nobody.
    fn truncated_state_files(node, subject) {
        let leases = "/var/lib/cni/networks/pods";
        for (file, text) in [("10.1.0.2", ""), ("10.1.0.3", "\r\n"), ("last_reserved_ip.0", "10.1."), ("core", "x"), ("lock", "")] {
            node.write(format!("{leases}/{file}"), text);
        }
        let network = Network::new(subject, list("pods", json!([bridge(&DUAL, json!({})), a_tuning()])));
        let on_a = network.add(node, &node.pod("a"), Request::default()).unwrap();
        on_a.check(node).unwrap();
        node.write("/run/cni/tuning/a_eth0.json", "{\"mtu\":");
        on_a.del(node).unwrap();
        network.gc(node, &[]).unwrap();
        node.run(|| std::fs::remove_file(format!("{leases}/core"))).unwrap();
        node.delete_bridge("cni0");
    }

    /// A full disk and a read-only one: the error names the file, nothing is half-made, and DEL does not get stuck.
    fn full_disk_and_read_only_data_dir(node, subject) {
        for bytes in [4096, 0] {
            let network = Network::new(subject, list("pods", json!([bridge(&["10.1.0.0/24"], json!({"ipMasq": true}))])));
            let warm = node.pod("warm");
            network.add(node, &warm, Request::default()).unwrap().del(node).unwrap();
            warm.remove_netns_path();
            node.delete_bridge("cni0");
            node.cramp("/var/lib/cni".as_ref(), bytes).unwrap();
            if bytes > 0 {
                node.run(|| {
                    let _ = std::fs::create_dir_all("/var/lib/cni/networks/pods");
                    let _ = std::fs::write("/var/lib/cni/ballast", vec![0; 1 << 20]);
                });
            }
            let before = Snapshot::quick(node);
            let pod = node.pod("a");
            let refused = network.add(node, &pod, Request::default()).unwrap_err();
            assert!(refused.code != 0 && refused.msg.contains("/var/lib/cni"), "{refused}");
            let _ = node.try_sh("ip link delete cni0");
            let difference = before.difference(node);
            assert!(difference.is_empty(), "{refused}:\n{difference}");
            network.attachment(&pod, Request::default()).del(node).unwrap();
            node.unmount("/var/lib/cni".as_ref()).unwrap();
            pod.remove_netns_path();
        }
        // The tuning backup too.
        node.cramp("/run/cni".as_ref(), 0).unwrap();
        let network = Network::new(subject, list("pods", json!([bridge(&["10.1.0.0/24"], json!({})), a_tuning()])));
        let pod = node.pod("b");
        let refused = network.add(node, &pod, Request::default()).unwrap_err();
        assert!(refused.msg.contains("/run/cni/tuning"), "{refused}");
        assert!(pod.sh("ip link show eth0").contains("mtu 1500"), "half-tuned");
        network.attachment(&pod, Request::default()).del(node).unwrap();
        node.unmount("/run/cni".as_ref()).unwrap();
        node.delete_bridge("cni0");
    }

    /// An interface of that name is there already: refused, and left alone.
    fn interface_exists_already(node, subject) {
        let pod = node.pod("a");
        pod.sh("ip link add eth0 type bridge");
        for plugin in [a_bridge(), a_ptp()] {
            let network = Network::new(subject, list("pods", json!([plugin])));
            let refused = network.add(node, &pod, Request::default()).unwrap_err();
            assert!(refused.msg.contains("eth0"), "{refused}");
            assert!(pod.sh("ip -d link show eth0").contains("bridge"), "somebody else's link");
        }
        pod.sh("ip link delete eth0");
        let _ = node.try_sh("ip link delete cni0");
    }
}

/// The call with its request changed.
fn edited(mut call: Invocation, edit: impl Fn(&mut Value)) -> Invocation {
    let mut conf: Value = serde_json::from_slice(&call.stdin).unwrap();
    edit(&mut conf);
    call.stdin = serde_json::to_vec(&conf).unwrap();
    call
}

/// DEL of what was prepared, with the right values.
fn clean_up(node: &Node, attachment: &Attachment) {
    if attachment.network.kinds().len() > 1 {
        attachment.invocation("DEL", 0).run(node).unwrap();
    }
    let _ = node.try_sh("ip link delete cni0");
    node.unbind_net(&attachment.netns).unwrap();
}
