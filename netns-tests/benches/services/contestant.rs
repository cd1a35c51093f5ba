//! Who is measured: which program, by which of the kernel's ways.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use kernel::iptables::HINTS;
use lab::cluster::{HEALTHZ, METRICS};
use lab::{Cluster, Daemon};

/// How Services get into the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    /// Maps and sets.
    Nftables,
    /// kube-proxy's chains by iptables-nft.
    IptablesNft,
    /// The same by iptables-legacy.
    IptablesLegacy,
}

impl Backend {
    /// Every one.
    pub const ALL: [Backend; 3] = [Backend::Nftables, Backend::IptablesNft, Backend::IptablesLegacy];

    /// As people call it.
    pub fn name(self) -> &'static str {
        match self {
            Backend::Nftables => "nftables",
            Backend::IptablesNft => "iptables-nft",
            Backend::IptablesLegacy => "iptables-legacy",
        }
    }

    fn mode(self) -> &'static str {
        if self == Backend::Nftables { "nftables" } else { "iptables" }
    }
}

/// Whose program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Program {
    /// `make build`'s daemon, or `LAB_BOWLINED`.
    Bowlined,
    /// kube-proxy, beside a daemon of ours that does pods alone.
    KubeProxy(PathBuf),
}

impl Program {
    /// As people call it.
    pub fn name(&self) -> &'static str {
        match self {
            Program::Bowlined => "bowline",
            Program::KubeProxy(_) => "kube-proxy",
        }
    }
}

/// A proxy that runs.
pub struct Running {
    /// The one whose memory and processor time count.
    pub daemon: Daemon,
    /// Where it tells metrics.
    pub metrics: SocketAddr,
    /// Who does pods, where that is another.
    _pods: Option<Daemon>,
}

/// Starts `program` on the only node of `cluster`.
pub fn start(program: &Program, backend: Backend, cluster: &Cluster, source: &[String]) -> Running {
    const POD_CIDRS: &str = "--cluster-cidr=10.244.0.0/16";
    let node = cluster.node(0);
    if backend != Backend::Nftables {
        // The mark by which kubelet says which variant a host uses.
        node.sh(&format!("{} -t mangle -N {}", backend.name(), HINTS[0]));
    }
    match program {
        Program::Bowlined => {
            let mode = format!("--proxy-mode={}", backend.mode());
            let daemon = cluster.start_with(0, source, &["--mode=routed", &mode, POD_CIDRS]);
            Running { daemon, metrics: METRICS, _pods: None }
        }
        Program::KubeProxy(path) => {
            let pods = cluster.start_with(0, source, &["--mode=routed", "--proxy-mode=off"]);
            node.until_ready(&pods);
            let metrics = SocketAddr::new(METRICS.ip(), METRICS.port() + 10_000);
            let daemon = kube_proxy(path, backend, cluster, metrics, source);
            Running { daemon, metrics, _pods: Some(pods) }
        }
    }
}

fn kube_proxy(
    path: &Path,
    backend: Backend,
    cluster: &Cluster,
    metrics: SocketAddr,
    source: &[String],
) -> Daemon {
    let node = cluster.node(0);
    let aside = cluster.manifests().aside();
    // It takes whatever is called iptables.
    for tool in
        ["iptables", "iptables-save", "iptables-restore", "ip6tables", "ip6tables-save", "ip6tables-restore"]
    {
        let (family, verb) =
            tool.split_once('-').map_or((tool, String::new()), |(f, v)| (f, format!("-{v}")));
        let variant = if backend == Backend::IptablesLegacy { "legacy" } else { "nft" };
        let target = format!("/usr/sbin/{family}-{variant}{verb}");
        std::os::unix::fs::symlink(target, aside.join(tool))
            .expect("a link can be made in a temporary directory");
    }
    let mut args = vec![
        format!("PATH={}:/usr/sbin:/usr/bin:/sbin:/bin", aside.display()),
        path.display().to_string(),
        format!("--hostname-override={}", node.entry().name),
        format!("--proxy-mode={}", backend.mode()),
        format!("--metrics-bind-address={metrics}"),
        format!("--healthz-bind-address={}", SocketAddr::new(HEALTHZ.ip(), HEALTHZ.port() + 10_000)),
        // Sysctls and files that a namespace can't write.
        "--conntrack-max-per-core=0".to_owned(),
        "--conntrack-tcp-timeout-established=0".to_owned(),
        "--conntrack-tcp-timeout-close-wait=0".to_owned(),
        "--oom-score-adj=0".to_owned(),
        "--cluster-cidr=10.244.0.0/16".to_owned(),
        // What the stand-in speaks.
        "--kube-api-content-type=application/json".to_owned(),
    ];
    args.extend(source.iter().cloned());
    Daemon::start(node, Path::new("/usr/bin/env"), &args, &aside.join("kube-proxy.log"))
}
