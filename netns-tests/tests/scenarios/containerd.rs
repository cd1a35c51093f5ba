//! A real runtime: containerd, started for this test alone, runs containers through the plug-ins (`ctr run --cni`).

use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Child;

use lab::wait::until;
use lab::{Node, on_both};
use serde_json::Value;

use crate::conflists::shipped;

/// containerd with its root, state and socket below the node's own /run, and a root file system of busybox alone.
struct Containerd<'a> {
    node: &'a Node,
    /// Control groups are the host's, and this is their name: nobody else's.
    namespace: String,
    daemon: Child,
}

impl Containerd<'_> {
    fn start<'a>(node: &'a Node, who: &str) -> Containerd<'a> {
        let namespace = format!("bowline-lab-{}-{who}", std::process::id());
        let config = r#"
            version = 2
            root = "/run/lab/root"
            state = "/run/lab/state"
            disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt"]
            [grpc]
            address = "/run/lab/containerd.sock"
            [ttrpc]
            address = "/run/lab/containerd.sock.ttrpc"
        "#;
        node.write("/run/lab/config.toml", config);
        let log = Path::new("/run/lab/containerd.log");
        let daemon = node.start("containerd", &["--config", "/run/lab/config.toml"], log);
        let containerd = Containerd { node, namespace, daemon };
        until("containerd to answer", || containerd.ctr("version").ok());
        for directory in ["bin", "proc", "sys", "dev", "etc", "www"] {
            node.sh(&format!("mkdir -p /run/lab/rootfs/{directory}"));
        }
        let busybox = node.sh("which busybox");
        node.sh(&format!("cp {} /run/lab/rootfs/bin/busybox", busybox.trim()));
        node.write("/run/lab/rootfs/www/hello", "hello from a container");
        containerd
    }

    /// One command of ctr(8).
    fn ctr(&self, command: &str) -> kernel::Result<String> {
        self.node.try_sh(&format!("{} {command}", self.words().join(" ")))
    }

    fn words(&self) -> [&str; 5] {
        ["ctr", "--address", "/run/lab/containerd.sock", "--namespace", &self.namespace]
    }

    /// `ctr run --cni`, which runs ADD before the container starts and DEL when it has ended.
    fn run(&self, name: &str, command: &[&str]) -> Child {
        let mut args = self.words()[1..].to_vec();
        args.extend(["run", "--cni", "--rm", "--rootfs", "/run/lab/rootfs", name, "/bin/busybox"]);
        args.extend(command);
        self.node.start("ctr", &args, Path::new(&format!("/run/lab/{name}.log")))
    }
}

impl Drop for Containerd<'_> {
    /// Leaves nothing of a failed test behind: containers outlive their daemon, and control groups their containers.
    fn drop(&mut self) {
        for task in self.ctr("task list --quiet").unwrap_or_default().lines() {
            let _ = self.ctr(&format!("task delete --force {task}"));
        }
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
        for hierarchy in std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
            let _ = std::fs::remove_dir(hierarchy.path().join(&self.namespace));
        }
        let _ = std::fs::remove_dir(Path::new("/sys/fs/cgroup").join(&self.namespace));
    }
}

impl Containerd<'_> {
    /// Where the runtime keeps the result of ADD.
    fn cache_file(&self, name: &str) -> String {
        format!("/var/lib/cni/results/bridge-{}-{name}-eth0", self.namespace)
    }

    /// The address in the runtime's result cache, which appears when ADD is done.
    fn address(&self, name: &str) -> Ipv4Addr {
        let file = self.cache_file(name);
        let log = format!("/run/lab/{name}.log");
        until(&format!("the result of {name}"), || {
            let said = self.node.read(&log);
            assert!(!said.contains("ctr: "), "{said}");
            let cached: Value = serde_json::from_str(&self.node.read(&file)).ok()?;
            cached["result"]["ips"][0]["address"].as_str()?.split('/').next()?.parse().ok()
        })
    }
}

/// What libcni keeps is byte for byte what our runtime side keeps of the same attachment, so either finds the other's.
fn our_cache_entry_equals(text: &str) {
    let theirs = cni::runtime::cache::parse_file(text.as_bytes()).expect("an entry of libcni is read");
    let list = cni::list::NetworkList::parse(&theirs.config, None).expect("the list it was made with");
    let directory = tempfile::tempdir().expect("room for our entry");
    let ours = cni::runtime::cache::Cache::new(directory.path());
    ours.store(&list, &theirs.args, &theirs.result.expect("a result")).expect("our entry is written");
    assert_eq!(std::fs::read_to_string(ours.file(&list.name, &theirs.args)).expect("our entry"), text);
}

on_both! {
    /// A container gets an address, reaches its gateway and a second container; when both have ended no trace is left.
    fn containers_reach_each_other(node, subject) {
        node.bind_directory(&subject.directory, Path::new("/opt/cni/bin")).unwrap();
        // As it is shipped: a runtime of this age takes `cniVersion`, a newer one picks from `cniVersions`.
        node.write("/etc/cni/net.d/10-bridge.conflist", &shipped("bridge").to_string());
        let containerd = Containerd::start(node, if subject.is_reference { "reference" } else { "bowline" });

        let mut server = containerd.run("server", &["httpd", "-f", "-p", "80", "-h", "/www"]);
        let address = containerd.address("server");
        assert_eq!(address, Ipv4Addr::new(10, 77, 0, 2));
        our_cache_entry_equals(&node.read(containerd.cache_file("server")));
        until("the server to answer the node", || {
            node.try_sh(&format!("busybox wget -q -O - http://{address}/hello")).ok()
        });

        let script = format!(
            "busybox ping -c 1 -w 5 10.77.0.1 && busybox wget -q -O - http://{address}/hello && busybox ip -6 addr"
        );
        let status = containerd.run("client", &["sh", "-c", &script]).wait().unwrap();
        let said = node.read("/run/lab/client.log");
        assert!(status.success() && said.contains("hello from a container"), "{said}");
        assert!(said.contains("fd00:77::3/64"), "{said}");

        containerd.ctr("task kill --signal SIGKILL server").unwrap();
        server.wait().unwrap();
        drop(containerd);
        if subject.is_reference {
            // ctr sends DEL without CNI_NETNS, upon which the reference leaves its masquerade chains for ever.
            node.sh("nft flush ruleset");
        }
        node.unmount(Path::new("/opt/cni/bin")).unwrap();
        node.delete_bridge("bowline0");
    }
}
