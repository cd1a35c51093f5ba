//! `kubectl apply` on a node that another CNI has been on: the image, with the rights of the manifest and no other, makes
//! it a node of the cluster.

use lab::kubelet::Container;
use lab::network::Request;
use lab::traffic::ask_tcp;
use lab::wait::until;
use lab::{Attachment, Conversation, Network, Node, Pod, Subject};
use serde_json::json;

use super::stage::{CLUSTER_IPS, Stage, frontends};

pub const CONFLIST: &str = "/etc/cni/net.d/10-bowline.conflist";
const FOREIGN: &str = "/etc/cni/net.d/87-other.conflist";

/// What another project has left: a network that sorts behind ours, plug-ins of its own, in directories that are not
/// root's (archives of the reference plug-ins unpack to user 1001).
pub fn another_cni(node: &Node) -> (String, String) {
    let list = r#"{"cniVersion": "1.0.0", "name": "other", "plugins": [{"type": "bridge"}]}"#;
    node.write(FOREIGN, list);
    node.sh("mkdir -p /opt/cni/bin");
    node.sh("cp /usr/lib/cni/bridge /usr/lib/cni/host-local /opt/cni/bin/");
    node.sh("chown -R 1001:1001 /opt/cni/bin");
    of_another_cni(node)
}

/// A pod that it has attached.
fn pod_of_another_cni(node: &Node) -> (Pod, Attachment) {
    let list = json!({"cniVersion": "1.0.0", "name": "other", "plugins": [{
        "type": "bridge", "bridge": "other0", "isGateway": true,
        "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.88.0.0/24"}]]},
    }]});
    let pod = node.pod("older");
    let attachment = Network::new(&Subject::reference(), list).add(node, &pod, Request::default()).unwrap();
    (pod, attachment)
}

/// What is left of it.
pub fn of_another_cni(node: &Node) -> (String, String) {
    (node.sh("sha256sum /opt/cni/bin/bridge /opt/cni/bin/host-local"), node.read(FOREIGN))
}

/// The container has what the manifest says and nothing else; what ctr makes of flags is seen in the kernel's words.
pub fn has_the_rights_of(container: &Container<'_>, capabilities: u64) {
    let status = std::fs::read_to_string(format!("/proc/{}/status", container.pid)).unwrap();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(&format!("{name}:")));
        line.unwrap_or_else(|| panic!("{name} in {status}")).trim().to_owned()
    };
    for set in ["CapPrm", "CapEff", "CapBnd"] {
        assert_eq!(u64::from_str_radix(&field(set), 16), Ok(capabilities), "{set}");
    }
    assert_eq!((field("NoNewPrivs").as_str(), field("Seccomp").as_str()), ("1", "2"));
    let mounts = std::fs::read_to_string(format!("/proc/{}/mountinfo", container.pid)).unwrap();
    let root = mounts.lines().find(|line| line.split(' ').nth(4) == Some("/")).expect("a root");
    assert!(root.split(' ').nth(5).unwrap().split(',').any(|option| option == "ro"), "{root}");
}

const DAC_OVERRIDE: u64 = 1 << 1;
pub const NET_ADMIN: u64 = 1 << 12;

#[test]
fn an_apply_makes_a_node_that_carries_pods_and_serves() {
    let mut stage = Stage::new();
    let foreign = another_cni(stage.node());
    let (older, attachment) = pod_of_another_cni(stage.node());
    let talk = Conversation::start(stage.node(), &older, attachment.ip());
    let (manifest, kubelet) = (stage.manifest("vxlan"), stage.kubelet());
    let container = kubelet.run(&manifest, "bowlined");
    container.until_ready();
    has_the_rights_of(&container, NET_ADMIN | DAC_OVERRIDE);
    stage.start_other(&["--mode=vxlan", "--proxy-mode=nftables"]);
    let node = stage.node();
    assert!(node.read(CONFLIST).contains("bowline"));
    for name in ["routed", "portmap", "bandwidth", "vxlan", "loopback"] {
        node.sh(&format!("cmp /opt/cni/bin/{name} {}", Subject::bowline().directory.join(name).display()));
    }
    assert_eq!(of_another_cni(node), foreign, "another project's files");
    // A pod of the runtime's own, which answers nodes, pods of other nodes, and as a Service.
    let mut web = kubelet.containerd.run_pod("web", &["httpd", "-f", "-p", "8080", "-h", "/www"]);
    let ip = kubelet.containerd.address("bowline", "web");
    let remote = stage.cluster.pod(1, "remote");
    stage.endpoints("web", &[ip]);
    until("the node to reach its pod", || {
        node.try_sh(&format!("busybox wget -q -O - http://{ip}:8080/hello")).ok()
    });
    until("a pod of another node to reach it", || {
        remote.pod.try_sh(&format!("busybox wget -q -O - http://{ip}:8080/hello")).ok()
    });
    let ask = format!("busybox wget -q -O - http://{}/hello", CLUSTER_IPS[0]);
    until("the node to serve", || node.try_sh(&ask).ok());
    let status = kubelet.containerd.run_pod("client", &["sh", "-c", &ask]).wait().unwrap();
    let said = node.read(lab::containerd::log("client"));
    assert!(status.success() && said.contains("hello from a container"), "{said}");
    // Both families, towards a server elsewhere.
    let _servers = stage.serve(&[&remote]);
    until("the change to be there", || {
        let rules = node.sh("nft list ruleset");
        remote.ips().iter().all(|ip| rules.contains(&format!("{ip} . 8080"))).then_some(())
    });
    for to in frontends() {
        until(&format!("{to}, with an endpoint elsewhere"), || {
            ask_tcp(node, to).filter(|it| it.starts_with("remote "))
        });
    }
    assert!(container.probe("livenessProbe") && container.probe("readinessProbe"));
    // Whoever was there before has noticed nothing.
    talk.end();
    kubelet.containerd.ctr("task kill --signal SIGKILL web").unwrap();
    web.wait().unwrap();
    container.terminate();
}
