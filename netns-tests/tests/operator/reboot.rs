//! A node that reboots: the kernel's state is gone, the disk is there. And one that loses power in mid-install.

use lab::traffic::ask_tcp;
use lab::wait::until;
use lab::{Node, Subject};

use super::install::CONFLIST;
use super::stage::{Stage, frontends};

/// All that a reboot takes: rules, links, routes, /run, and the sysctls.
fn reboot(node: &Node) {
    node.sh("nft flush ruleset");
    let links = node.sh("ip -o link");
    for line in links.lines().filter(|line| line.contains("bowline") || line.contains("veth")) {
        let name = line.split(": ").nth(1).unwrap().split('@').next().unwrap();
        // The other end may have taken it along.
        let _ = node.try_sh(&format!("ip link del {name}"));
    }
    for command in ["ip route flush proto 98", "ip -6 route flush proto 98", "ip route flush table 9800"] {
        let _ = node.try_sh(command);
    }
    for family in ["-4", "-6"] {
        while node.try_sh(&format!("ip {family} rule del proto 98")).is_ok() {}
    }
    node.sh("rm -rf /run/bowline");
    node.switch_off_forwarding();
}

#[test]
fn a_rebooted_node_comes_back() {
    let mut stage = Stage::new();
    let (manifest, kubelet) = (stage.manifest("vxlan"), stage.kubelet());
    let container = kubelet.run(&manifest, "bowlined");
    container.until_ready();
    stage.start_other(&["--mode=vxlan", "--proxy-mode=nftables"]);
    drop(stage.cluster.pod(0, "before"));
    container.kill();
    reboot(stage.node());
    // The conflist is on disk, so runtimes start pods before bowlined does: they are told to wait.
    assert!(!stage.node().read(CONFLIST).is_empty());
    let early = kubelet.containerd.run_pod("early", &["true"]).wait().unwrap();
    let said = stage.node().read(lab::containerd::log("early"));
    assert!(!early.success() && said.contains("/run/bowline/node.json"), "{said}");
    let container = kubelet.run(&manifest, "bowlined-again");
    container.until_ready();
    let (here, there) = (stage.cluster.pod(0, "here"), stage.cluster.pod(1, "there"));
    let _servers = stage.serve(&[&there]);
    for to in frontends() {
        until("a pod to reach a Service", || ask_tcp(&here.pod, to));
    }
    container.terminate();
}

/// Whatever of an installation is there is whole: plug-ins under their names, and the conflist only behind all of them.
fn is_whole(node: &Node) {
    let ours = Subject::bowline().directory;
    let installed = node.list("/opt/cni/bin");
    for name in installed.iter().filter(|name| !name.starts_with('.')) {
        node.sh(&format!("cmp /opt/cni/bin/{name} {}", ours.join(name).display()));
    }
    if !node.read(CONFLIST).is_empty() {
        for name in ["routed", "portmap", "bandwidth"] {
            assert!(installed.iter().any(|it| it == name), "a conflist without {name}");
        }
    }
}

#[test]
fn power_lost_in_mid_install_is_no_obstacle() {
    let stage = Stage::new();
    let (manifest, kubelet) = (stage.manifest("routed"), stage.kubelet());
    let node = stage.node();
    // Moments: nothing yet, the first file, some, the conflist.
    for (round, files) in [0, 1, 4, 9].into_iter().enumerate() {
        node.sh("rm -rf /opt/cni/bin /etc/cni/net.d /run/bowline");
        let container = kubelet.run(&manifest, &format!("killed-{round}"));
        until("that moment", || (node.list("/opt/cni/bin").len() >= files).then_some(()));
        container.kill();
        is_whole(node);
    }
    // What a disk may show of writes that were never finished.
    node.write("/etc/cni/net.d/.10-bowline.conflist.bowlined", "{");
    node.write("/etc/cni/net.d/10-bowline.conflist", "");
    node.write("/var/lib/bowline/api-servers.json", "[\"https://1");
    node.write("/var/lib/bowline/proxy-modes", "nfta");
    let container = kubelet.run(&manifest, "at-last");
    container.until_ready();
    is_whole(node);
    assert_eq!(node.list("/etc/cni/net.d"), ["10-bowline.conflist"]);
    let hidden = node.list("/opt/cni/bin").into_iter().filter(|name| name.starts_with('.'));
    assert_eq!(hidden.count(), 0, "temporary files remain");
    drop(stage.cluster.pod(0, "pod"));
    container.terminate();
}
