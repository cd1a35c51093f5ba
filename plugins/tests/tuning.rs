//! tuning in namespaces of its own.

mod support;

use std::path::PathBuf;

use kernel::link::Link;
use plugins::tuning::Tuning;
use serde_json::{Value, json};
use support::{Host, Pod, env_of, on_new_host, reference, with};

/// A pod with an interface to tune.
fn pod(host: &Host) -> Pod {
    let pod = host.new_pod();
    pod.sh("ip link add eth0 type veth peer name eth1 && ip link set eth0 up && ip link set eth1 up");
    pod
}

fn conf(host: &Host, pod: &Pod, keys: &Value) -> Value {
    let mut conf = json!({
        "cniVersion": "1.1.0",
        "name": "net",
        "type": "tuning",
        "dataDir": host.state_dir(),
        "prevResult": {
            "cniVersion": "1.1.0",
            "interfaces": [{ "name": "br0", "mac": "02:00:00:00:00:99" }, { "name": "eth0", "mac": "old", "sandbox": pod.path }],
        },
    });
    conf.as_object_mut().expect("an object").extend(keys.as_object().expect("an object").clone());
    conf
}

fn link(pod: &Pod) -> Link {
    pod.link("eth0").expect("the interface")
}

/// What tuning may change.
fn attributes(pod: &Pod) -> (String, bool, u32, bool, u32) {
    let link = link(pod);
    (link.mac_text(), link.is_promisc(), link.mtu, link.is_allmulti(), link.txqlen)
}

fn backups(host: &Host) -> Vec<String> {
    let entries = std::fs::read_dir(host.state_dir()).into_iter().flatten();
    entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8")).collect()
}

fn backup(host: &Host, pod: &Pod) -> PathBuf {
    host.state_dir().join(format!("{}_eth0.json", pod.id))
}

fn message(answer: Result<Value, Value>) -> String {
    answer.expect_err("refused")["msg"].as_str().expect("text").to_owned()
}

/// Set, CHECK, CHECK of drift, DEL restores, for the keys at the top level and in args.
fn set_check_restore(keys: &Value, seen: impl Fn(&Link) -> bool + Sync, drift: &str) {
    for keys in [keys.clone(), json!({ "args": { "cni": keys } })] {
        on_new_host(|host| {
            let pod = pod(host);
            let before = attributes(&pod);
            let conf = conf(host, &pod, &keys);
            let result = host.call(&Tuning, "ADD", &pod, &conf).expect("ADD");
            assert!(seen(&link(&pod)), "{keys}: {:?}", link(&pod));
            let after = with(&conf, "prevResult", result);
            host.call(&Tuning, "CHECK", &pod, &after).expect("CHECK");
            let tuned = attributes(&pod);
            pod.sh(drift);
            host.call(&Tuning, "CHECK", &pod, &after).expect_err("drift");
            host.call(&Tuning, "DEL", &pod, &after).expect("DEL");
            assert_eq!(attributes(&pod), before, "from {tuned:?}");
            assert_eq!(backups(host), [""; 0]);
            host.call(&Tuning, "DEL", &pod, &after).expect("DEL again");
        });
    }
}

#[test]
fn promisc_set_check_restore() {
    set_check_restore(&json!({ "promisc": true }), Link::is_promisc, "ip link set eth0 promisc off");
}

#[test]
fn mtu_set_check_restore() {
    set_check_restore(&json!({ "mtu": 1454 }), |link| link.mtu == 1454, "ip link set eth0 mtu 1455");
}

#[test]
fn allmulti_set_check_restore() {
    set_check_restore(&json!({ "allmulti": true }), Link::is_allmulti, "ip link set eth0 allmulticast off");
}

#[test]
fn tx_q_len_set_check_restore() {
    set_check_restore(&json!({ "txQLen": 20000 }), |link| link.txqlen == 20000, "ip link set eth0 txqlen 7");
}

#[test]
fn mac_set_check_restore_case_ignored() {
    let seen = |link: &Link| link.mac_text() == "c2:11:22:33:44:55";
    set_check_restore(
        &json!({ "mac": "C2:11:22:33:44:55" }),
        seen,
        "ip link set eth0 address 02:00:00:00:00:01",
    );
}

#[test]
fn mac_from_config_cni_args_runtime_config_and_args_the_later_wins() {
    on_new_host(|host| {
        let pod = pod(host);
        let mut keys = json!({ "mac": "02:00:00:00:00:01" });
        let try_with = |keys: &Value, args: &str| {
            let conf = conf(host, &pod, keys);
            let mut env = env_of("ADD", &pod, &host.bin_dir());
            env.push(("CNI_ARGS", args.to_owned()));
            let result = host.call_env(&Tuning, &conf, &env).expect("ADD");
            let (mac, interfaces) = (link(&pod).mac_text(), &result["interfaces"]);
            assert_eq!(
                (&interfaces[0]["mac"], &interfaces[1]["mac"]),
                (&json!("02:00:00:00:00:99"), &json!(mac))
            );
            mac
        };
        assert_eq!(try_with(&keys, ""), "02:00:00:00:00:01");
        let args = "IgnoreUnknown=1;MAC=02:00:00:00:00:02;X=y";
        assert_eq!(try_with(&keys, args), "02:00:00:00:00:02");
        keys["runtimeConfig"] = json!({ "mac": "02:00:00:00:00:03" });
        assert_eq!(try_with(&keys, args), "02:00:00:00:00:03");
        keys["args"] = json!({ "cni": { "mac": "02:00:00:00:00:04" } });
        assert_eq!(try_with(&keys, args), "02:00:00:00:00:04");
    });
}

#[test]
fn data_dir_four_attributes_at_once_in_one_file_that_goes_with_del() {
    on_new_host(|host| {
        let pod = pod(host);
        let before = attributes(&pod);
        let keys = json!({ "mac": "c2:11:22:33:44:55", "promisc": true, "mtu": 1400, "allmulti": true });
        let conf = conf(host, &pod, &keys);
        host.call(&Tuning, "ADD", &pod, &conf).expect("ADD");
        assert_eq!(backups(host), [format!("{}_eth0.json", pod.id)]);
        let text = std::fs::read_to_string(backup(host, &pod)).expect("read");
        let mut json: Value = serde_json::from_str(&text).expect("JSON");
        assert!(json["owner"].as_str().expect("text").contains(&pod.id));
        json.as_object_mut().expect("an object").remove("owner");
        assert_eq!(json, json!({ "mac": before.0, "promisc": false, "mtu": 1500, "allmulti": false }));
        host.call(&Tuning, "DEL", &pod, &conf).expect("DEL");
        assert_eq!((attributes(&pod), backups(host)), (before, Vec::new()));
    });
}

#[test]
fn add_again_and_a_second_tuning_in_the_chain_keep_the_first_originals() {
    on_new_host(|host| {
        let pod = pod(host);
        let before = attributes(&pod);
        std::fs::create_dir_all(host.state_dir()).expect("made");
        std::fs::write(backup(host, &pod), "{\"mtu\": 1280}").expect("somebody's leftover");
        for keys in [json!({ "mtu": 1400 }), json!({ "mtu": 1300, "promisc": true }), json!({ "txQLen": 7 })]
        {
            host.call(&Tuning, "ADD", &pod, &conf(host, &pod, &keys)).expect("ADD");
        }
        let failing = json!({ "allmulti": true, "sysctl": { "net.ipv4.nope": "1" } });
        host.call(&Tuning, "ADD", &pod, &conf(host, &pod, &failing)).expect_err("no such sysctl");
        assert_eq!((link(&pod).mtu, link(&pod).is_promisc(), link(&pod).txqlen), (1300, true, 7));
        host.call(&Tuning, "DEL", &pod, &conf(host, &pod, &json!({}))).expect("DEL");
        assert_eq!((attributes(&pod), backups(host)), (before, Vec::new()));
    });
}

#[test]
fn sysctl_set_in_the_pod_checked_and_not_on_the_host() {
    on_new_host(|host| {
        let pod = pod(host);
        let keys = json!({
            "sysctl": {
                "net.ipv4.conf.IFNAME.arp_filter": "1",
                "net/core/somaxconn": "501",
                "net.ipv4.ip_local_port_range": "1024 65000",
            },
            "args": { "cni": { "sysctl": { "net/core/somaxconn": "502", "net.ipv4.conf/all/arp_filter": "1" } } },
        });
        let conf = conf(host, &pod, &keys);
        let result = host.call(&Tuning, "ADD", &pod, &conf).expect("ADD");
        assert_eq!(result, conf["prevResult"], "prevResult passes through");
        assert_eq!(backups(host), [""; 0], "no attribute, no backup");
        let read = |key: &str| pod.sh(&format!("cat /proc/sys/net/{key}")).trim().to_owned();
        assert_eq!((read("ipv4/conf/eth0/arp_filter"), read("core/somaxconn")), ("1".into(), "502".into()));
        assert_eq!(read("ipv4/conf/all/arp_filter"), "1");
        assert_ne!(host.sh("cat /proc/sys/net/core/somaxconn").trim(), "502");
        host.call(&Tuning, "CHECK", &pod, &conf).expect("CHECK, white space aside");
        pod.sh("echo 503 > /proc/sys/net/core/somaxconn");
        let found = message(host.call(&Tuning, "CHECK", &pod, &conf));
        assert_eq!(found, "tuning: sysctl net/core/somaxconn is \"503\", expected \"502\"");
        host.call(&Tuning, "DEL", &pod, &conf).expect("DEL");
    });
}

#[test]
fn sysctl_refused_later_takes_the_earlier_back_and_leaves_the_interface_alone() {
    on_new_host(|host| {
        let pod = pod(host);
        let before = (attributes(&pod), pod.sh("cat /proc/sys/net/core/somaxconn"));
        for (keys, expected) in [
            (
                json!({ "mtu": 1300, "sysctl": { "net.core.somaxconn": "501", "net.ipv4.nope": "1" } }),
                "sysctl: set net.ipv4.nope to \"1\": ",
            ),
            (
                json!({ "mtu": 1300, "sysctl": { "net.core.somaxconn": "501", "net.ipv4.ip_forward": "x" } }),
                "sysctl: set net.ipv4.ip_forward to \"x\": ",
            ),
            (
                json!({ "mtu": 1300, "sysctl": { "kernel.hostname": "x" } }),
                "sysctl: \"kernel.hostname\" is not below net",
            ),
            (
                json!({ "txQLen": 7, "mtu": 7, "sysctl": { "net.core.somaxconn": "501" } }),
                "mtu: set the MTU of eth0 to 7",
            ),
            (json!({ "mac": "zz" }), "mac: \"zz\" is no hardware address that a link can have"),
            (json!({ "mac": "01:00:5e:00:00:01" }), "mac: \"01:00:5e:00:00:01\" is no hardware address"),
            (json!({ "mtu": -5 }), "mtu: -5 is not an integer"),
            (
                json!({ "sysctl": { "net.core.somaxconn": 5 } }),
                "sysctl.net.core.somaxconn: 5 is not a string",
            ),
        ] {
            let refused = message(host.call(&Tuning, "ADD", &pod, &conf(host, &pod, &keys)));
            assert!(refused.starts_with(expected), "{refused}");
            assert_eq!((attributes(&pod), pod.sh("cat /proc/sys/net/core/somaxconn")), before, "{keys}");
            assert_eq!(backups(host), [""; 0], "{keys}");
        }
    });
}

#[test]
fn duplicate_sysctl_refused_at_the_top_and_in_args() {
    on_new_host(|host| {
        let pod = pod(host);
        let plain = conf(host, &pod, &json!({ "sysctl": { "net.core.somaxconn": "1" } })).to_string();
        let twice = r#""sysctl":{"net.core.somaxconn":"1","net.core.somaxconn":"2"}"#;
        let top = plain.replacen(r#""sysctl":{"net.core.somaxconn":"1"}"#, twice, 1);
        let args = plain.replacen('{', &format!(r#"{{"args":{{"cni":{{{twice}}}}},"#), 1);
        for text in [top, args] {
            let env: cni::dispatch::Env = env_of("ADD", &pod, &host.bin_dir()).into_iter().collect();
            let outcome = cni::dispatch::run(&Tuning, &env, text.as_bytes(), &|_| false);
            assert!(
                outcome.stdout.contains(r#"sysctl: \"net.core.somaxconn\" is written twice"#),
                "{outcome:?}"
            );
        }
    });
}

#[test]
fn prev_result_passed_through_or_missed_and_ifname_with_path_separator_refused() {
    on_new_host(|host| {
        let mut pod = pod(host);
        let conf = conf(host, &pod, &json!({}));
        assert_eq!(host.call(&Tuning, "ADD", &pod, &conf).expect("ADD"), conf["prevResult"]);
        let mut alone = conf.clone();
        alone.as_object_mut().expect("an object").remove("prevResult");
        assert!(message(host.call(&Tuning, "ADD", &pod, &alone)).starts_with("prevResult: missing"));
        pod.ifname = "eth0/../../core".into();
        let error = host.call(&Tuning, "ADD", &pod, &conf).expect_err("a path");
        assert_eq!(error["code"], 4);
    });
}

#[test]
fn del_matrix_backup_goes_without_netns_interface_and_with_a_crooked_file() {
    on_new_host(|host| {
        let pod = pod(host);
        let conf = conf(host, &pod, &json!({ "mtu": 1400 }));
        let del = |netns: &str, keys: &Value| {
            let mut env = env_of("DEL", &pod, &host.bin_dir());
            env[2].1 = netns.to_owned();
            host.call_env(&Tuning, keys, &env).expect("DEL");
            assert_eq!(backups(host), [""; 0]);
        };
        let path = pod.path.display().to_string();
        let bare =
            json!({ "cniVersion": "1.1.0", "name": "net", "dataDir": host.state_dir(), "mtu": "what" });
        for netns in ["", "/no/such/netns", "/etc/hostname", &path] {
            host.call(&Tuning, "ADD", &pod, &conf).expect("ADD");
            del(netns, &bare);
        }
        for text in ["", "{\"mtu\":", "[]", "{\"mtu\": 5, \"mac\": 7}", "{\"mtu\": -1, \"txQLen\": 1e99}"] {
            std::fs::create_dir_all(host.state_dir()).expect("made");
            std::fs::write(backup(host, &pod), text).expect("written");
            del(&path, &conf);
        }
        host.call(&Tuning, "ADD", &pod, &conf).expect("ADD");
        pod.sh("ip link del eth0");
        del(&path, &conf);
    });
}

#[test]
fn gc_matrix_removes_backups_of_dead_attachments_of_this_network() {
    on_new_host(|host| {
        let pods: Vec<Pod> = (0..3)
            .map(|n| {
                let pod = pod(host);
                let name = if n == 2 { "other" } else { "net" };
                let conf = with(&conf(host, &pod, &json!({ "mtu": 1400 })), "name", name);
                host.call(&Tuning, "ADD", &pod, &conf).expect("ADD");
                pod
            })
            .collect();
        std::fs::write(host.state_dir().join("theirs_eth0.json"), "{\"mtu\":1500}").expect("written");
        std::fs::write(host.state_dir().join("crooked_eth0.json"), "{").expect("written");
        let gc = |valid: Option<Value>| {
            let mut conf = conf(host, &pods[0], &json!({}));
            if let Some(valid) = valid {
                conf["cni.dev/valid-attachments"] = valid;
            }
            host.call(&Tuning, "GC", &pods[0], &conf).expect("GC");
            backups(host).len()
        };
        assert_eq!(gc(None), 5);
        assert_eq!(gc(Some(json!([{ "containerID": pods[0].id, "ifname": "eth0" }]))), 4);
        assert!(backup(host, &pods[0]).exists());
        assert_eq!(gc(Some(json!([]))), 3, "the other network's and two that do not say whose they are");
    });
}

#[test]
fn unwritable_data_dir_is_named_and_nothing_is_tuned() {
    on_new_host(|host| {
        let pod = pod(host);
        let before = attributes(&pod);
        let conf = with(&conf(host, &pod, &json!({ "mtu": 1400 })), "dataDir", "/proc/nothing/here");
        let refused = message(host.call(&Tuning, "ADD", &pod, &conf));
        assert!(refused.starts_with("dataDir: remember the interface in /proc/nothing/here/"), "{refused}");
        assert_eq!(attributes(&pod), before);
    });
}

#[test]
fn mixed_fleet_backups_are_understood_both_ways() {
    on_new_host(|host| {
        let pod = pod(host);
        let before = attributes(&pod);
        let keys = json!({ "mac": "c2:11:22:33:44:55", "promisc": true, "mtu": 1400, "allmulti": true });
        let mut conf = with(&conf(host, &pod, &keys), "cniVersion", "1.0.0");
        conf["prevResult"]["cniVersion"] = json!("1.0.0");
        conf["prevResult"]["interfaces"][1]["mac"] = json!(before.0);
        let result = reference("tuning", "ADD", &pod, &conf).expect("the reference's ADD");
        let after = with(&conf, "prevResult", result);
        host.call(&Tuning, "CHECK", &pod, &after).expect("our CHECK");
        host.call(&Tuning, "DEL", &pod, &after).expect("our DEL");
        assert_eq!((attributes(&pod), backups(host)), (before.clone(), Vec::new()));

        let result = host.call(&Tuning, "ADD", &pod, &conf).expect("our ADD");
        let after = with(&conf, "prevResult", result);
        reference("tuning", "CHECK", &pod, &after).expect("the reference's CHECK");
        reference("tuning", "DEL", &pod, &after).expect("the reference's DEL");
        assert_eq!((attributes(&pod), backups(host)), (before, Vec::new()));
    });
}

/// DEL of an attachment that has no backup succeeds where nothing could be removed.
#[test]
fn nothing_to_remove_on_a_read_only_file_system_is_no_error() {
    let space = lab::Space::new_node().expect("namespaces of its own");
    let directory = std::path::Path::new("/run/read-only");
    space.cramp(directory, 0).expect("a read-only file system");
    space.run(|| plugins::tuning::backup::remove(&directory.join("backup"))).expect("nothing is there");
    // What is there and stays is an error that names it.
    let kept =
        plugins::tuning::backup::remove(std::path::Path::new("/proc/version")).expect_err("procfs keeps it");
    assert!(kept.msg.starts_with("dataDir: remove /proc/version: "), "{kept}");
}
