//! A daemon on a node of the lab: what it tells, what it takes back, what it leaves to others.

use std::path::Path;

use daemon::conflist;
use daemon::install::{self, Removal};
use daemon::status::Status;
use lab::cluster::{CONFLIST, Families, HEALTHZ, Shape};
use lab::daemon::{http, program};
use lab::wait::{until, until_nothing};
use lab::{Cluster, Space, Subject};

const FACTS: &str = "/run/bowline/node.json";

fn one() -> Cluster {
    Cluster::new(&Shape::flat(1, Families::Dual)).expect("a cluster (run the tests as root)")
}

/// What `bowline status` prints, and its exit code.
fn told(node: &Space, flags: &[&str]) -> (String, Option<i32>) {
    let args: Vec<&str> = ["status"].iter().chain(flags).copied().collect();
    let output = node.output(&program("bowline").display().to_string(), &args, b"");
    let text = [output.stdout, output.stderr].concat();
    (String::from_utf8_lossy(&text).into_owned(), output.status.code())
}

fn status(node: &Space) -> Status {
    let (text, _) = told(node, &["-o", "json"]);
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[test]
fn bowline_status_tells_a_ready_node_from_one_that_is_not() {
    let cluster = one();
    let node = cluster.node(0);
    let (text, code) = told(node, &[]);
    assert_eq!((text.contains("bowlined does not run on this node"), code), (true, Some(2)), "{text}");

    let mut entry = node.entry().clone();
    let pod_cidrs = std::mem::take(&mut entry.pod_cidrs);
    cluster.manifests().write(&entry);
    let daemon = cluster.start(0, &["--mode", "vxlan"]);
    until("a status that says what is missing", || {
        let (text, code) = told(node, &[]);
        (code == Some(1) && text.contains("spec.podCIDRs") && text.contains("NOT READY")).then_some(())
    });

    entry.pod_cidrs = pod_cidrs;
    cluster.manifests().write(&entry);
    node.until_ready(&daemon);
    let (text, code) = told(node, &[]);
    assert_eq!(code, Some(0), "{text}");
    for words in
        ["ready", "vxlan, VNI 1, pod MTU 1430", "10.244.0.0/24", "172.16.0.10 on eth0", "no other nodes"]
    {
        assert!(text.contains(words), "{words}: {text}");
    }
    assert_eq!(status(node).pods, Some(0));
    let _pod = cluster.pod(0, "a");
    assert_eq!(status(node).pods, Some(1));
    let (_, ready) = http(node, HEALTHZ, "/readyz?verbose").expect("an answer");
    assert!(ready.lines().all(|line| line.starts_with("[+] ") || line == "ready"), "{ready}");
    assert_eq!(ready.lines().count(), 9, "{ready}");
}

/// New pods are refused as soon as the Node is gone, and old ones keep what they have.
#[test]
fn what_promises_pods_is_taken_back_and_given_again() {
    let cluster = one();
    let node = cluster.node(0);
    let entry = node.entry().clone();
    let daemon = cluster.start(0, &["--mode", "vxlan"]);
    node.until_ready(&daemon);
    let routes = node.sh("ip route show table all proto 98");
    cluster.manifests().remove(&entry.name);
    until("the promise to be taken back", || {
        let gone = node.read(CONFLIST).is_empty() && node.read(FACTS).is_empty();
        (gone && http(node, HEALTHZ, "/readyz")?.0 == 503).then_some(())
    });
    assert_eq!(http(node, HEALTHZ, "/livez").map(|(code, _)| code), Some(200));
    assert_eq!(node.sh("ip route show table all proto 98"), routes, "pods that run are not touched");
    cluster.manifests().write(&entry);
    node.until_ready(&daemon);
}

#[test]
fn a_list_of_an_earlier_boot_goes_and_one_of_this_boot_stays() {
    let cluster = one();
    let node = cluster.node(0);
    let mut entry = node.entry().clone();
    let pod_cidrs = std::mem::take(&mut entry.pod_cidrs);
    cluster.manifests().write(&entry);
    node.run(|| std::fs::create_dir_all("/etc/cni/net.d")).expect("a directory");
    node.write(CONFLIST, "{}");
    let daemon = cluster.start(0, &["--mode", "vxlan"]);
    until("the old list to go", || node.read(CONFLIST).is_empty().then_some(()));
    entry.pod_cidrs = pod_cidrs;
    cluster.manifests().write(&entry);
    node.until_ready(&daemon);
    daemon.kill();

    // The next one has a source that does not answer: what was true is still true.
    let list = node.read(CONFLIST);
    let missing = ["--manifests=/run/none".to_owned()];
    let _daemon = cluster.start_with(0, &missing, &["--mode", "vxlan"]);
    until("the next one to say what it waits for", || {
        http(node, HEALTHZ, "/readyz").filter(|(code, text)| *code == 503 && text.contains("[-] source"))
    });
    assert_eq!(node.read(CONFLIST), list);
    assert!(!node.read(FACTS).is_empty());
}

#[test]
fn the_uplinks_mtu_and_the_nodes_pod_cidr_are_followed() {
    let cluster = one();
    let node = cluster.node(0);
    let daemon = cluster.start(0, &["--mode", "vxlan"]);
    node.until_ready(&daemon);
    node.sh("ip link set eth0 mtu 1400");
    until_nothing("the MTU of pods to follow", || {
        let facts = node.read(FACTS);
        let link = node.sh("ip -o link show bowline.1");
        if facts.contains("\"mtu\": 1330") && link.contains("mtu 1350") {
            String::new()
        } else {
            facts + &link
        }
    });
    let mut entry = node.entry().clone().reborn(2);
    entry.pod_cidrs = vec!["10.244.77.0/24".into(), "fd00:244:77::/64".into()];
    cluster.manifests().write(&entry);
    until_nothing("the pod CIDR to follow", || {
        let state = node.read(FACTS) + &node.sh("ip route show proto 98") + &node.sh("nft list ruleset");
        let is_new = state.matches("10.244.77.0/24").count() >= 3 && !state.contains("10.244.0.0/24");
        if is_new { String::new() } else { state }
    });
}

#[test]
fn another_projects_plugins_and_lists_stay_and_are_told() {
    let cluster = one();
    let node = cluster.node(0);
    node.run(|| {
        std::fs::create_dir_all("/etc/cni/net.d").and_then(|()| std::fs::create_dir_all("/opt/cni/bin"))
    })
    .expect("directories");
    node.write("/etc/cni/net.d/05-other.conflist", "{}");
    node.write("/opt/cni/bin/portmap", "#!/bin/sh\n");
    let daemon = cluster.start(0, &["--mode", "vxlan"]);
    node.until_ready(&daemon);
    assert_eq!(node.read("/opt/cni/bin/portmap"), "#!/bin/sh");
    let notes = status(node).notes.join("\n");
    assert!(notes.contains("portmap") && notes.contains("/etc/cni/net.d/05-other.conflist"), "{notes}");
    daemon.kill();
    node.sh(&format!("{} cleanup", program("bowline").display()));
    assert_eq!(node.list("/opt/cni/bin"), ["portmap"]);
    assert_eq!(node.list("/etc/cni/net.d"), ["05-other.conflist"]);
}

#[test]
fn cleanup_refuses_while_a_daemon_runs_and_a_dry_run_changes_nothing() {
    let cluster = one();
    let node = cluster.node(0);
    let daemon = cluster.start(0, &["--mode", "vxlan"]);
    node.until_ready(&daemon);
    let cleanup = |flags: &str| node.try_sh(&format!("{} cleanup {flags}", program("bowline").display()));
    let refusal = cleanup("").expect_err("a daemon runs").to_string();
    assert!(refusal.contains(&format!("bowlined runs as process {}", daemon.pid())), "{refusal}");
    daemon.kill();
    let state = || {
        let files = ["/etc/cni/net.d", "/opt/cni/bin", "/run/bowline"].map(|directory| node.list(directory));
        format!("{files:?}") + &node.sh("ip -o link") + &node.sh("nft list ruleset")
    };
    let before = state();
    let told = cleanup("--dry-run").expect("told");
    for words in ["10-bowline.conflist", "link bowline.1", "table inet bowline_node", "/opt/cni/bin/vxlan"] {
        assert!(
            told.lines().any(|line| line.starts_with("would remove") && line.contains(words)),
            "{words}: {told}"
        );
    }
    assert_eq!(state(), before);
    let removed = cleanup("").expect("removed");
    assert_eq!(removed.replace("removed ", "would remove "), told);
    assert_eq!(cleanup("").expect("again"), "nothing of bowline is here\n");
}

#[test]
fn plugins_are_installed_once_and_errors_name_the_place() {
    let program = Subject::bowline().directory.join("bridge");
    let directory = tempfile::tempdir().expect("a directory");
    let bin = directory.path().join("bin");
    assert_eq!(install::install(&program, &bin, "vxlan"), Ok(Vec::new()));
    assert!(install::is_there(&bin, "vxlan") && install::is_there(&bin, "loopback"));
    std::fs::remove_file(bin.join("routed")).expect("removed");
    std::fs::write(bin.join("routed"), "#!/bin/sh\n").expect("written");
    assert_eq!(install::install(&program, &bin, "vxlan"), Ok(vec!["routed".to_owned()]));
    let refusal = install::install(&program, &bin, "routed").expect_err("another's");
    assert!(refusal.contains("bin/routed is not bowline's"), "{refusal}");
    let ours = install::uninstall(&program, &bin, Removal::Now).expect("removed");
    assert!(ours.len() > 5 && !ours.contains(&bin.join("routed")), "{ours:?}");

    let refusal = install::install(&program, Path::new("/proc/none"), "vxlan").expect_err("no such place");
    assert!(refusal.starts_with("plug-ins can't be installed into /proc/none: "), "{refusal}");
    let refusal = install::install(Path::new("/none"), &bin, "vxlan").expect_err("no such program");
    assert!(refusal.starts_with("run /none: "), "{refusal}");
}

#[test]
fn a_list_in_a_directory_that_cannot_be_written_is_told() {
    let list = conflist::list(Path::new("/run/bowline/node.json"));
    let refusal = conflist::ensure(Path::new("/proc/none"), &list).expect_err("no such place");
    assert!(refusal.starts_with("write /proc/none/10-bowline.conflist: "), "{refusal}");
}
