//! From kube-proxy to bowline and back, under load: by the overlays with Services and network-only, and by proxy-only in
//! the place of the DaemonSet kube-proxy. kube-proxy itself is played by the rules that it writes.

use lab::rendered::Rendered;
use lab::wait::until;
use serde_json::json;

use super::install::{NET_ADMIN, has_the_rights_of};
use super::kube_proxy::{self, Mode};
use super::stage::Stage;

const CONNECTIONS: u64 = 20_000;

fn has_our_table(stage: &Stage) -> bool {
    stage.node().sh("nft list tables").contains("bowline_proxy")
}

#[test]
fn services_change_hands_and_back_without_a_loss() {
    let mut stage = Stage::new();
    let (network, whole, kubelet) =
        (stage.manifest("network-only"), stage.manifest("vxlan"), stage.kubelet());
    let mut container = kubelet.run(&network, "network");
    container.until_ready();
    stage.start_other(&["--mode=vxlan", "--proxy-mode=nftables"]);
    let mut traffic = stage.load();
    let ips = traffic.ips();
    kube_proxy::program(stage.node(), Mode::Iptables, &ips);
    traffic.begin();
    let mut swaps = 0;
    while swaps < 2 || traffic.made() < CONNECTIONS {
        // kubectl apply -k conf/overlays/vxlan, then kube-proxy's DaemonSet goes.
        traffic.goes_on(500);
        container.terminate();
        container = kubelet.run(&whole, &format!("whole-{swaps}"));
        container.until_ready();
        until("kube-proxy's rules to go", || (!kube_proxy::is_there(stage.node())).then_some(()));
        assert!(has_our_table(&stage));
        traffic.goes_on(500);
        // kube-proxy's DaemonSet comes, then kubectl apply -k conf/overlays/network-only.
        swaps += 1;
        let mode = if swaps % 2 == 1 { Mode::Nftables } else { Mode::Iptables };
        kube_proxy::program(stage.node(), mode, &ips);
        traffic.goes_on(500);
        container.terminate();
        container = kubelet.run(&network, &format!("network-{swaps}"));
        container.until_ready();
        assert!(!has_our_table(&stage) && kube_proxy::is_there(stage.node()));
    }
    traffic.goes_on(500);
    traffic.end(CONNECTIONS);
    eprintln!("{CONNECTIONS} connections and more, {swaps} times to bowline and back");
}

const NET_RAW: u64 = 1 << 13;

/// kubeadm's ConfigMap as it is; in the kubeconfig stands where the API is, as kubeadm writes it there.
fn of_kubeadm(stage: &Stage) -> serde_json::Value {
    let kubeconfig = format!(
        "apiVersion: v1\nkind: Config\nclusters:\n- cluster:\n    \
         certificate-authority: /var/run/secrets/kubernetes.io/serviceaccount/ca.crt\n    server: {}\n  name: default\n\
         contexts:\n- context:\n    cluster: default\n    namespace: default\n    user: default\n  name: default\n\
         current-context: default\nusers:\n- name: default\n  user:\n    \
         tokenFile: /var/run/secrets/kubernetes.io/serviceaccount/token\n",
        stage.server.url()
    );
    json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "kube-proxy", "namespace": "kube-system"},
        "data": {
            "config.conf": include_str!("../../../daemon/tests/kube_proxy/kubeadm.conf"),
            "kubeconfig.conf": kubeconfig,
        },
    })
}

#[test]
fn kubeadms_kube_proxy_is_replaced_and_comes_back_without_a_loss() {
    let mut stage = Stage::new();
    let kubelet = stage.kubelet();
    // Whose pod network it is does not matter: a daemon of the lab on both nodes.
    stage.daemons.push(stage.cluster.start_with(0, &stage.source, &["--mode=vxlan"]));
    stage.cluster.node(0).until_ready(&stage.daemons[0]);
    let other = stage.cluster.start_with(1, &stage.source, &["--mode=vxlan", "--proxy-mode=nftables"]);
    stage.cluster.node(1).until_ready(&other);
    let mut traffic = stage.load();
    let ips = traffic.ips();
    kube_proxy::program(stage.node(), Mode::Iptables, &ips);
    traffic.begin();
    let manifest = Rendered::read("proxy-only").with(of_kubeadm(&stage));
    let mut rounds = 0;
    while rounds < 2 || traffic.made() < CONNECTIONS {
        traffic.goes_on(500);
        let container = kubelet.run(&manifest, &format!("kube-proxy-{rounds}"));
        container.until_ready();
        has_the_rights_of(&container, NET_ADMIN | NET_RAW);
        // It is in charge: the chains of its own words are there, and endpoints come and go.
        stage.endpoints("web", &ips[2..]);
        until("its change to be there", || {
            let chain = stage.node().sh("iptables-save -t nat");
            (!chain.contains(&format!("--to-destination {}:", ips[0]))).then_some(())
        });
        stage.endpoints("web", &ips);
        traffic.goes_on(500);
        container.terminate();
        traffic.goes_on(500);
        // kubectl rollout undo: the real one finds its own chains.
        kube_proxy::program(stage.node(), Mode::Iptables, &ips);
        rounds += 1;
    }
    traffic.end(CONNECTIONS);
    eprintln!("{CONNECTIONS} connections and more, {rounds} times in kube-proxy's place and back");
}
