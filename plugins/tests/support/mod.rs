//! A host and its pods for one test, each in a network namespace of its own, and calls of plug-ins through the
//! dispatcher.
//!
//! ```ignore
//! support::on_new_host(|host| {
//!     let pod = host.new_pod();
//!     let result = host.call(&Bridge, "ADD", &pod, &conf).expect("ADD");
//! });
//! ```
//! The test's thread is the host: what it opens, and every program it runs, is in the host's namespace.
#![allow(dead_code, reason = "every test binary compiles its own copy and uses part of it")]

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use cni::dispatch::{self, Env};
use cni::{Plugin, Version};
use kernel::Netns;
use kernel::addr::{self, Address};
use kernel::link::{self, Link, LinkId, Switch};
use kernel::netlink::{Protocol, Socket};
use serde_json::{Value, json};

/// The host: a fresh network namespace, and directories for state and plug-in binaries.
pub struct Host {
    dir: tempfile::TempDir,
    /// Where this test's pods and host look at the kernel from.
    pub netns: Netns,
}

/// A pod: a container ID and a network namespace, kept by its handle and named by a path under /proc.
pub struct Pod {
    /// Its namespace.
    pub netns: Netns,
    /// CNI_NETNS.
    pub path: PathBuf,
    /// CNI_CONTAINERID.
    pub id: String,
    /// CNI_IFNAME.
    pub ifname: String,
}

/// Runs `test` on a thread of its own in a fresh network namespace.
pub fn on_new_host<T: Send>(test: impl FnOnce(&Host) -> T + Send) -> T {
    in_new_netns(|netns| {
        let host = Host { dir: tempfile::tempdir().expect("a temporary directory"), netns };
        std::fs::create_dir(host.bin_dir()).expect("a directory for binaries");
        for plugin in plugins::TABLE {
            // Links to this test's own binary: delegates are then served in this process.
            std::os::unix::fs::symlink("/proc/self/exe", host.bin_dir().join(plugin.name())).expect("a link");
        }
        let lo = LinkId { index: 1, name: "lo".into() };
        host.socket().apply(&[link::set_up(&lo, Switch::On)]).expect("lo up");
        test(&host)
    })
}

fn in_new_netns<T: Send>(test: impl FnOnce(Netns) -> T + Send) -> T {
    std::thread::scope(|scope| {
        let inside = scope.spawn(|| {
            // SAFETY: unshare takes a flag; the thread is this test's own.
            assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNET) }, 0, "run the tests as root");
            test(Netns::current().expect("a handle of the new namespace"))
        });
        inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

impl Host {
    /// A new pod whose interface will be eth0.
    pub fn new_pod(&self) -> Pod {
        let netns = in_new_netns(|netns| netns);
        let path = PathBuf::from(format!("/proc/self/fd/{}", netns.as_fd().as_raw_fd()));
        let id = format!("pod-{}", kernel::random::hex8().expect("random bytes"));
        Pod { netns, path, id, ifname: "eth0".into() }
    }

    /// A directory for state; made by whoever uses it.
    pub fn state_dir(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    /// CNI_PATH: every plug-in of the table, served by this process.
    pub fn bin_dir(&self) -> PathBuf {
        self.dir.path().join("bin")
    }

    /// An rtnetlink socket on the host.
    pub fn socket(&self) -> Socket {
        Socket::open_in(&self.netns, Protocol::Route).expect("a netlink socket")
    }

    /// The host's link called `name`.
    pub fn link(&self, name: &str) -> Option<Link> {
        link::find(&mut self.socket(), name).expect("look up a link")
    }

    /// The host's links but `lo`.
    pub fn links(&self) -> Vec<Link> {
        link::list(&mut self.socket()).expect("list links").into_iter().filter(|l| !l.is_loopback()).collect()
    }

    /// Whether `ip` answers the host.
    pub fn reaches(&self, ip: &str) -> bool {
        self.netns.run(|| answer(ip, Duration::from_secs(5))).expect("enter the host") == Answer::Refusal
    }

    /// What a pod may not leave behind: links, routes, rules. Carrier states follow at the kernel's leisure and are
    /// left out.
    pub fn footprint(&self) -> String {
        let links = "ip -o link | cut -d' ' -f2";
        let routes = "(ip route show table all; ip -6 route show table all) | sed 's/ linkdown//' | sort -u";
        self.sh(&format!("{links}; {routes}; nft list ruleset"))
    }

    /// Runs a program in the host's namespace and returns its stdout.
    pub fn sh(&self, command: &str) -> String {
        let command = command.to_owned();
        let output = self.netns.run(|| Command::new("sh").args(["-c", &command]).output());
        let output = output.expect("enter the host").expect("run sh");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "`{command}` ended with {}: {stderr}", output.status);
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// `ipam` of host-local with its state in this test's directory.
    pub fn host_local(&self, subnets: &[&str]) -> Value {
        let ranges: Vec<Value> = subnets.iter().map(|subnet| json!([{ "subnet": subnet }])).collect();
        json!({ "type": "host-local", "dataDir": self.state_dir(), "ranges": ranges })
    }

    /// One call for `pod`: the result (`null` for verbs that have none) or the error object.
    pub fn call(&self, plugin: &dyn Plugin, verb: &str, pod: &Pod, conf: &Value) -> Result<Value, Value> {
        self.call_env(plugin, conf, &env_of(verb, pod, &self.bin_dir()))
    }

    /// One call with these variables.
    pub fn call_env(
        &self,
        plugin: &dyn Plugin,
        conf: &Value,
        env: &[(&str, String)],
    ) -> Result<Value, Value> {
        let env: Env = env.iter().map(|(key, value)| (*key, value.as_str())).collect();
        let outcome = dispatch::run(plugin, &env, conf.to_string().as_bytes(), &|_| false);
        let stdout = match outcome.stdout.as_str() {
            "" => Value::Null,
            text => serde_json::from_str(text).expect("stdout is JSON"),
        };
        if outcome.exit == 0 { Ok(stdout) } else { Err(stdout) }
    }
}

/// The variables of a call; change or add to them for special cases.
pub fn env_of(verb: &str, pod: &Pod, bin_dir: &Path) -> Vec<(&'static str, String)> {
    vec![
        ("CNI_COMMAND", verb.to_owned()),
        ("CNI_CONTAINERID", pod.id.clone()),
        ("CNI_NETNS", pod.path.display().to_string()),
        ("CNI_IFNAME", pod.ifname.clone()),
        ("CNI_PATH", bin_dir.display().to_string()),
    ]
}

/// Runs the reference's `plugin`; its answer, null where there is none, or what it printed on failing.
pub fn reference(plugin: &str, verb: &str, pod: &Pod, conf: &Value) -> Result<Value, String> {
    let directory = Path::new("/usr/lib/cni");
    let mut env = env_of(verb, pod, directory);
    env[2].1 = format!("/proc/{}/fd/{}", std::process::id(), pod.netns.as_fd().as_raw_fd());
    let mut child = Command::new(directory.join(plugin))
        .envs(env)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("apt-get install containernetworking-plugins");
    let mut stdin = child.stdin.take().expect("a pipe");
    std::io::Write::write_all(&mut stdin, conf.to_string().as_bytes()).expect("read");
    drop(stdin);
    let output = child.wait_with_output().expect("it ends");
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        return Err(stdout);
    }
    Ok(if stdout.is_empty() { Value::Null } else { serde_json::from_str(&stdout).expect("JSON") })
}

/// `conf` with `key` set.
pub fn with(conf: &Value, key: &str, value: impl Into<Value>) -> Value {
    let mut conf = conf.clone();
    conf[key] = value.into();
    conf
}

/// `conf` for CHECK and DEL: with `prevResult` where the version has it.
pub fn after(conf: &Value, version: Version, result: &Value) -> Value {
    if version >= Version::V0_4_0 { with(conf, "prevResult", result.clone()) } else { conf.clone() }
}

impl Pod {
    /// An rtnetlink socket in the pod.
    pub fn socket(&self) -> Socket {
        Socket::open_in(&self.netns, Protocol::Route).expect("a netlink socket")
    }

    /// The pod's link called `name`.
    pub fn link(&self, name: &str) -> Option<Link> {
        link::find(&mut self.socket(), name).expect("look up a link")
    }

    /// The global addresses of the pod's link called `name`; none when there is no such link.
    pub fn addresses(&self, name: &str) -> Vec<String> {
        let mut socket = self.socket();
        let Some(link) = link::find(&mut socket, name).expect("look up a link") else { return Vec::new() };
        let all = addr::list(&mut socket, Some(link.id.index)).expect("list addresses");
        all.iter().filter(|a| a.is_global()).map(|a: &Address| a.ip.to_string()).collect()
    }

    /// Whether `ip` answers the pod: it refuses a connection to a port where nobody listens.
    pub fn reaches(&self, ip: &str) -> bool {
        self.netns.run(|| answer(ip, Duration::from_secs(5))).expect("enter the pod") == Answer::Refusal
    }

    /// Whether `ip` does not answer the pod within half a second.
    pub fn is_ignored_by(&self, ip: &str) -> bool {
        self.netns.run(|| answer(ip, Duration::from_millis(500))).expect("enter the pod") == Answer::None
    }

    /// Runs a program in the pod and returns its stdout.
    pub fn sh(&self, command: &str) -> String {
        let command = command.to_owned();
        let output = self.netns.run(|| Command::new("sh").args(["-c", &command]).output());
        let output = output.expect("enter the pod").expect("run sh");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "`{command}` ended with {}: {stderr}", output.status);
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

#[derive(PartialEq, Eq)]
enum Answer {
    Refusal,
    None,
}

fn answer(ip: &str, patience: Duration) -> Answer {
    let to = SocketAddr::new(ip.parse().expect("an address"), 9);
    match TcpStream::connect_timeout(&to, patience) {
        Err(e) if e.kind() == ErrorKind::ConnectionRefused => Answer::Refusal,
        Err(e) if matches!(e.kind(), ErrorKind::TimedOut | ErrorKind::HostUnreachable) => Answer::None,
        other => panic!("{ip} answered {other:?}"),
    }
}

/// The addresses that a result of any version reports.
pub fn addresses(result: &Value) -> Vec<String> {
    let text = |value: &Value| value.as_str().expect("an address").to_owned();
    match result["ips"].as_array() {
        Some(ips) => ips.iter().map(|ip| text(&ip["address"])).collect(),
        None => {
            ["ip4", "ip6"].iter().map(|f| &result[f]["ip"]).filter(|ip| !ip.is_null()).map(text).collect()
        }
    }
}

/// The addresses that host-local has leased in network `net1`.
pub fn leases(host: &Host) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(host.state_dir().join("net1")) else { return Vec::new() };
    let names = entries.map(|e| e.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.filter(|n| n.parse::<std::net::IpAddr>().is_ok()).collect();
    names.sort();
    names
}

/// How many veth links the host has.
pub fn veths(host: &Host) -> usize {
    host.links().iter().filter(|l| l.kind == "veth").count()
}
