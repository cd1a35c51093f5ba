//! containerd, started for one test alone on a node, with its root, state and socket below the node's own /run.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::atomic::{AtomicU32, Ordering};

use kernel::Result;
use serde_json::Value;

use crate::{Space, wait};

/// A containerd of a node. It and all that it runs end with it.
#[derive(Debug)]
pub struct Containerd {
    node: Space,
    /// Control groups are the host's, and this is their name: nobody else's.
    namespace: String,
    daemon: Child,
}

const CONFIG: &str = r#"
    version = 2
    root = "/run/lab/root"
    state = "/run/lab/state"
    disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt"]
    [grpc]
    address = "/run/lab/containerd.sock"
    [ttrpc]
    address = "/run/lab/containerd.sock.ttrpc"
"#;
/// A root file system of busybox alone.
pub const ROOTFS: &str = "/run/lab/rootfs";

impl Containerd {
    /// Starts it on `node`; `who` is for people.
    ///
    /// # Panics
    /// When it is not installed, or does not answer in time.
    pub fn start(node: &Space, who: &str) -> Containerd {
        // Two of one name would end each other's containers.
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let namespace = format!("bowline-lab-{}-{number}-{who}", std::process::id());
        node.write("/run/lab/config.toml", CONFIG);
        let log = Path::new("/run/lab/containerd.log");
        let daemon = node.start("containerd", &["--config", "/run/lab/config.toml"], log);
        let containerd = Containerd { node: node.clone(), namespace, daemon };
        wait::until("containerd to answer", || containerd.ctr("version").ok());
        for directory in ["bin", "proc", "sys", "dev", "etc", "www"] {
            node.sh(&format!("mkdir -p {ROOTFS}/{directory}"));
        }
        let busybox = node.sh("which busybox");
        node.sh(&format!("cp {} {ROOTFS}/bin/busybox", busybox.trim()));
        node.write(format!("{ROOTFS}/www/hello"), "hello from a container");
        containerd
    }

    /// The name of its control groups and of its namespace.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// One command of ctr(8), split at blanks.
    ///
    /// # Errors
    /// When it fails, with what it said.
    pub fn ctr(&self, command: &str) -> Result<String> {
        self.node.try_sh(&format!("{} {command}", self.words().join(" ")))
    }

    fn words(&self) -> [&str; 5] {
        ["ctr", "--address", "/run/lab/containerd.sock", "--namespace", &self.namespace]
    }

    /// One command of ctr(8), as it stands.
    ///
    /// # Panics
    /// When it fails.
    pub fn run_whole(&self, args: &[String]) {
        let all: Vec<&str> =
            self.words()[1..].iter().copied().chain(args.iter().map(String::as_str)).collect();
        let done = self.node.output("ctr", &all, b"");
        assert!(done.status.success(), "ctr {}: {}", args.join(" "), String::from_utf8_lossy(&done.stderr));
    }

    /// `ctr run --cni`, which runs ADD before the container starts and DEL when it has ended.
    pub fn run_pod(&self, name: &str, command: &[&str]) -> Child {
        let mut args = self.words()[1..].to_vec();
        args.extend(["run", "--cni", "--rm", "--rootfs", ROOTFS, name, "/bin/busybox"]);
        args.extend(command);
        self.node.start("ctr", &args, &PathBuf::from(log(name)))
    }

    /// Where the runtime keeps the result of ADD of a pod's attachment to `network`.
    pub fn cache_file(&self, network: &str, name: &str) -> String {
        format!("/var/lib/cni/results/{network}-{}-{name}-eth0", self.namespace)
    }

    /// The pod's first address in the runtime's result cache, which appears when ADD is done.
    ///
    /// # Panics
    /// When ctr complains, or there is none in time.
    pub fn address(&self, network: &str, name: &str) -> IpAddr {
        let file = self.cache_file(network, name);
        wait::until(&format!("the result of {name}"), || {
            let said = self.node.read(log(name));
            assert!(!said.contains("ctr: "), "{said}");
            let cached: Value = serde_json::from_str(&self.node.read(&file)).ok()?;
            cached["result"]["ips"][0]["address"].as_str()?.split('/').next()?.parse().ok()
        })
    }
}

/// Where `ctr run` of a pod or container of that name writes.
pub fn log(name: &str) -> String {
    format!("/run/lab/{name}.log")
}

impl Drop for Containerd {
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
