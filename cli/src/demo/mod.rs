//! `bowline demo`: a node with pods, or a cluster of nodes: real traffic, a drawing, and nothing left.
//!
//! Everything happens in namespaces of this process: they end with it, however it ends.

mod attach;
mod cluster;
mod drawing;
mod glyphs;
mod screen;
mod traffic;

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use attach::{Joined, Network, Step, total};
use cni::{Error, Result};
use drawing::PodView;
use lab::Node;
use screen::{Screen, milliseconds};
use serde_json::{Value, json};

/// How to show it.
#[derive(Debug, clap::Args)]
pub struct DemoArgs {
    /// How many nodes; with more than one, each has a daemon
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=16))]
    nodes: u8,
    /// How packets travel between nodes
    #[arg(long, value_enum, default_value_t = ClusterMode::Vxlan)]
    mode: ClusterMode,
    /// Leave everything running until Ctrl-C, and say how to enter it
    #[arg(long)]
    keep: bool,
    /// The daemon's program [default: beside this program, else /usr/local/bin/bowlined]
    #[arg(long, value_name = "FILE")]
    daemon: Option<PathBuf>,
    /// Directory of the plug-ins [default: beside this program, else /opt/cni/bin]
    #[arg(long, value_name = "DIR")]
    plugins: Option<PathBuf>,
}

/// The modes that the kernel of any machine has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum ClusterMode {
    /// In UDP, over whatever network there is
    Vxlan,
    /// As they are, on one link
    Routed,
    /// As they are on one link, by VXLAN beyond a router
    CrossSubnet,
}

impl fmt::Display for ClusterMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ClusterMode::Vxlan => "vxlan",
            ClusterMode::Routed => "routed",
            ClusterMode::CrossSubnet => "cross-subnet",
        })
    }
}

/// The configuration that README tells people to install.
const CONFLIST: &str = include_str!("../../../conf/bridge.conflist");
/// The node port of pod `web`.
const HOST_PORT: u16 = 8080;
/// The port that every pod serves.
const POD_PORT: u16 = 80;
/// What pod `slow` may send and receive, in bits per second.
const LIMIT: u64 = 20_000_000;

/// The pods, and what the runtime asks for on their behalf.
fn wishes() -> [(&'static str, Value); 3] {
    let port = json!([{"hostPort": HOST_PORT, "containerPort": POD_PORT, "protocol": "tcp"}]);
    let burst = LIMIT / 10;
    let limit =
        json!({"ingressRate": LIMIT, "ingressBurst": burst, "egressRate": LIMIT, "egressBurst": burst});
    [("web", json!({"portMappings": port})), ("client", json!({})), ("slow", json!({"bandwidth": limit}))]
}

/// Runs the demo; success only if every step was as it should be.
pub fn run(args: &DemoArgs) -> ExitCode {
    let mut screen = Screen::new();
    let shown = match args.nodes {
        1 => show(args, &mut screen),
        nodes => cluster::show(args, nodes, &mut screen),
    };
    match shown {
        Ok(()) if screen.failures() == 0 => ExitCode::SUCCESS,
        Ok(()) => {
            screen.note(&format!("{} steps failed.", screen.failures()));
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("bowline demo: {error}");
            ExitCode::FAILURE
        }
    }
}

fn show(args: &DemoArgs, screen: &mut Screen) -> Result<()> {
    let kernel = |e: kernel::Error| Error::from_chain(&e);
    let plugins = plugins_directory(args.plugins.as_deref())?;
    lab::own_user_namespace().map_err(kernel)?;
    screen.title("A node of its own. Nothing on this machine is touched.");
    let started = Instant::now();
    let node = Node::new("demo").map_err(kernel)?;
    let uplink = format!("own namespaces; uplink eth0 {}, {}", Node::IP4, Node::IP6);
    screen.step("node", &uplink, started.elapsed());
    let network = Network::new(CONFLIST, plugins)?;
    let steps = network.status(&node)?;
    let asked: Vec<&str> = steps.iter().map(|step| step.plugin.as_str()).collect();
    screen.step("STATUS", &format!("{} can serve", asked.join(", ")), total(&steps));

    screen.title("Pods, by conf/bridge.conflist");
    let mut pods = Vec::new();
    for (name, wish) in wishes() {
        let pod = network.add(&node, name, wish)?;
        screen.step(&format!("ADD {name}"), "", pod.took());
        for step in &pod.steps {
            screen.detail(&step.plugin, &deed(&step.plugin, &pod, network.bridge()), step.took);
        }
        pods.push(pod);
    }

    screen.title("Traffic");
    let [web, client, slow] = pods.as_slice() else { unreachable!("three wishes make three pods") };
    traffic::prove(&traffic::Scene { node: &node, web, client, slow }, screen);

    screen.title("The node");
    let views: Vec<PodView> = pods.iter().map(view).collect();
    screen.block(&drawing::node(&views, &network.view(&node), screen.glyphs()));
    screen.block(&drawing::table(&views));
    check_all(&network, &node, &pods, screen);
    if args.keep {
        return keep(&node, &pods, screen);
    }
    take_down(&network, &node, &pods, screen)
}

/// What a plug-in did for a pod.
fn deed(plugin: &str, pod: &Joined, bridge: &str) -> String {
    let ips: Vec<String> = pod.ips.iter().map(ToString::to_string).collect();
    match (plugin, port(pod), limit(pod)) {
        ("bridge", ..) => format!("{} on {bridge}, eth0 {} by host-local", pod.host_end, ips.join(", ")),
        ("portmap", Some(port), _) => format!("node port {port}"),
        ("bandwidth", _, Some(limit)) => format!("{limit} each way"),
        _ => "nothing asked for".to_owned(),
    }
}

fn port(pod: &Joined) -> Option<String> {
    pod.wish["portMappings"][0]["hostPort"].as_u64().map(|port| format!("{port}/tcp → {POD_PORT}"))
}

fn limit(pod: &Joined) -> Option<String> {
    pod.wish["bandwidth"]["ingressRate"].as_u64().map(|rate| format!("{} Mbit/s", rate / 1_000_000))
}

fn view(pod: &Joined) -> PodView {
    PodView {
        name: pod.name.clone(),
        host_end: pod.host_end.clone(),
        addresses: pod.ips.iter().map(ToString::to_string).collect(),
        port: port(pod),
        limit: limit(pod),
        took: pod.took(),
    }
}

fn check_all(network: &Network, node: &Node, pods: &[Joined], screen: &mut Screen) {
    let started = Instant::now();
    let found: Vec<String> =
        pods.iter().filter_map(|pod| network.check(node, pod).err()).map(|e| e.to_string()).collect();
    let sentence =
        if found.is_empty() { "every pod is as its ADD left it".to_owned() } else { found.join("; ") };
    screen.verdict(found.is_empty(), "CHECK", &sentence, started.elapsed());
}

fn take_down(network: &Network, node: &Node, pods: &[Joined], screen: &mut Screen) -> Result<()> {
    screen.title("Taking it down");
    for pod in pods.iter().rev() {
        let what = format!("DEL {}", pod.name);
        match network.del(node, pod) {
            Ok(steps) => screen.step(&what, &times(&steps), total(&steps)),
            Err(error) => screen.verdict(false, &what, &error.to_string(), Duration::ZERO),
        }
    }
    let started = Instant::now();
    let left = network.leftovers(node)?;
    let sentence = match left.as_slice() {
        [] => "no link, table, lease or result is left; the bridge stays, it belongs to the node".to_owned(),
        left => format!("left behind: {}", left.join(", ")),
    };
    screen.verdict(left.is_empty(), "no trace", &sentence, started.elapsed());
    Ok(())
}

/// `bandwidth 0.9 ms, portmap 1.1 ms`
fn times(steps: &[Step]) -> String {
    let times = steps.iter().map(|step| format!("{} {}", step.plugin, milliseconds(step.took)));
    times.collect::<Vec<_>>().join(", ")
}

/// Waits for Ctrl-C; the namespaces end with the process.
fn keep(node: &Node, pods: &[Joined], screen: &mut Screen) -> Result<()> {
    if screen.failures() > 0 {
        return Ok(());
    }
    let _servers: Vec<_> = pods.iter().map(|pod| traffic::serve(pod, POD_PORT)).collect();
    // nsenter looks at this thread's namespaces.
    node.enter().map_err(|e| Error::from_chain(&e))?;
    let pid = std::process::id();
    let enter = enter_command(&pid.to_string());
    screen.title("Left running");
    screen.note(&format!(
        "enter the node    {enter} bash\n\
         enter a pod       {enter} ip netns exec {} bash\n\
         from outside      {enter} ip netns exec outside bash\n\
         try               {enter} nft list ruleset\n\
         end it            Ctrl-C here, or kill {pid}",
        pods[0].name
    ));
    loop {
        std::thread::park();
    }
}

/// How to enter the namespaces that a thread or process is in.
fn enter_command(thread: &str) -> String {
    match own_user_namespace() {
        true => format!("nsenter -t {thread} -U --preserve-credentials -m -n"),
        false => format!("sudo nsenter -t {thread} -m -n"),
    }
}

/// Whether root here is root of a namespace of our own.
fn own_user_namespace() -> bool {
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    map.split_whitespace().nth(2) == Some("1")
}

/// The plug-ins: as said, else as `make build` lays them beside this program, else where runtimes look.
fn plugins_directory(said: Option<&Path>) -> Result<PathBuf> {
    let this = std::env::current_exe().unwrap_or_default();
    let beside = this.parent().unwrap_or(Path::new("/"));
    let places = match said {
        Some(said) => vec![said.to_owned()],
        None => vec![beside.join("../cni"), beside.join("cni"), PathBuf::from("/opt/cni/bin")],
    };
    let found = places.iter().find(|place| place.join("bridge").is_file());
    found.and_then(|place| place.canonicalize().ok()).ok_or_else(|| {
        let looked: Vec<String> = places.iter().map(|place| place.display().to_string()).collect();
        Error::config(format!("no plug-ins in {} (make build, or --plugins DIR)", looked.join(", ")))
    })
}
