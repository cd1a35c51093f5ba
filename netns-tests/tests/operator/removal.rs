//! `kubectl delete` leaves pods connected; conf/cleanup then leaves no trace, and what is not bowline's as it was.

use lab::rendered::Rendered;
use lab::scenario::{Leftovers, no_trace};
use lab::traffic::ask_tcp;
use lab::wait::until;
use lab::{Conversation, Snapshot};

use super::install::{another_cni, of_another_cni};
use super::stage::{Stage, frontends};

#[test]
fn a_removal_leaves_pods_connected_and_the_cleanup_leaves_no_trace() {
    let mut stage = Stage::new();
    let foreign = another_cni(stage.node());
    let (manifest, kubelet) = (stage.manifest("vxlan"), stage.kubelet());
    // Sysctls stay: others may rely on them by now. These two are as kube-proxy has them, too.
    for (key, seconds) in [("established", "86400"), ("close_wait", "3600")] {
        stage.node().write(format!("/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_{key}"), seconds);
    }
    let before = Snapshot::of(stage.node());
    let plugins = stage.node().list("/opt/cni/bin");
    let container = kubelet.run(&manifest, "bowlined");
    container.until_ready();
    stage.start_other(&["--mode=vxlan", "--proxy-mode=nftables"]);
    let (a, b) = (stage.cluster.pod(0, "a"), stage.cluster.pod(1, "b"));
    let talks: Vec<Conversation> =
        b.ips().into_iter().map(|ip| Conversation::start(&a.pod, &b.pod, ip)).collect();
    let _servers = stage.serve(&[&b]);
    for to in frontends() {
        until("Services to be there", || ask_tcp(&a.pod, to));
    }
    // kubectl delete -k conf/overlays/vxlan
    container.terminate();
    talks.iter().for_each(Conversation::goes_on);
    for to in frontends() {
        until("Services to go on", || ask_tcp(&a.pod, to));
    }
    for talk in talks {
        talk.end();
    }
    // Pods go, and with them what is theirs.
    a.attachment.del(stage.node()).unwrap();
    drop(a);
    // kubectl apply -k conf/cleanup; its pods are available once they have stayed for a while.
    let cleanup = Rendered::read("cleanup");
    for name in ["cleanup", "cleanup-again"] {
        let container = kubelet.run(&cleanup, name);
        until("the plug-ins to go", || (stage.node().list("/opt/cni/bin") == plugins).then_some(()));
        until("the directories to go", || {
            let gone = |path: &str, name: &str| !stage.node().list(path).contains(&name.to_owned());
            (gone("/run", "bowline") && gone("/var/lib", "bowline")).then_some(())
        });
        no_trace(stage.node(), &before, Leftovers::Nothing);
        assert!(container.is_running(), "{}", container.log());
        container.terminate();
    }
    assert_eq!(of_another_cni(stage.node()), foreign);
    assert_eq!(stage.node().list("/etc/cni/net.d"), ["87-other.conflist"]);
}

/// While bowlined runs, the cleanup refuses and says so: it would only be undone.
#[test]
fn the_cleanup_refuses_a_node_whose_daemon_runs() {
    let stage = Stage::new();
    let (manifest, kubelet) = (stage.manifest("routed"), stage.kubelet());
    let container = kubelet.run(&manifest, "bowlined");
    container.until_ready();
    let cleanup = kubelet.run(&Rendered::read("cleanup"), "cleanup");
    until("it to refuse", || (!cleanup.is_running()).then_some(()));
    until("its sentence", || cleanup.log().contains("bowlined runs as process").then_some(()));
    assert!(container.probe("readinessProbe"));
}
