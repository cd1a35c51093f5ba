//! `bowline demo`: a node with pods, real traffic, a drawing, and nothing left.
//!
//! Everything happens in namespaces of this process: they end with it, however it ends.

mod attach;
mod drawing;
mod screen;
mod traffic;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use attach::{Joined, Networks};
use drawing::PodView;
use lab::Node;
use screen::Screen;
use serde_json::json;

/// How to show it.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Leave the node running until Ctrl-C, and say how to enter it
    #[arg(long)]
    keep: bool,
    /// Directory of the plug-ins [default: beside this program, else /opt/cni/bin]
    #[arg(long, value_name = "DIR")]
    plugins: Option<PathBuf>,
}

/// The configuration that README tells people to install.
const CONFLIST: &str = include_str!("../../../conf/bridge.conflist");
/// The node port of pod `web`.
const HOST_PORT: u16 = 8080;
/// The port that every pod serves.
const POD_PORT: u16 = 80;
/// What pod `slow` may send and receive, in bits per second.
const LIMIT: u64 = 20_000_000;

/// A pod of the demo: name, and what the runtime asks for on its behalf.
fn wishes() -> [(&'static str, serde_json::Value); 3] {
    let limit = json!({"ingressRate": LIMIT, "ingressBurst": LIMIT / 10, "egressRate": LIMIT, "egressBurst": LIMIT / 10});
    let port = json!([{"hostPort": HOST_PORT, "containerPort": POD_PORT, "protocol": "tcp"}]);
    [("web", json!({"portMappings": port})), ("client", json!({})), ("slow", json!({"bandwidth": limit}))]
}

/// Runs the demo; success only if every step was as it should be.
pub fn run(arguments: &Arguments) -> ExitCode {
    let mut screen = Screen::new();
    match show(arguments, &mut screen) {
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

fn show(arguments: &Arguments, screen: &mut Screen) -> Result<(), cni::Error> {
    let kernel = |e: kernel::Error| cni::Error::from_chain(&e);
    let plugins = plugins_directory(arguments.plugins.as_deref())?;
    lab::own_user_namespace().map_err(kernel)?;
    screen.title("A node of its own. Nothing on this machine is touched.");
    let started = Instant::now();
    let node = Node::new("demo").map_err(kernel)?;
    let uplink = format!("own namespaces; uplink eth0 {}, {}", Node::IP4, Node::IP6);
    screen.step("node", &uplink, started.elapsed());
    let networks = Networks::new(CONFLIST, &plugins)?;
    let found = networks.status(&node)?;
    screen.step("STATUS", &found.sentence, found.took);

    screen.title("Pods, by conf/bridge.conflist");
    let mut pods = Vec::new();
    for (name, wish) in wishes() {
        let joined = networks.add(&node, name, &wish)?;
        screen.step(&format!("ADD {name}"), &joined.sentence(), joined.took);
        pods.push(joined);
    }

    screen.title("Traffic");
    let [web, client, slow] = pods.as_slice() else { unreachable!("three wishes make three pods") };
    traffic::prove(&traffic::Scene { node: &node, web, client, slow }, screen);

    screen.title("The node");
    let views: Vec<PodView> = pods.iter().map(view).collect();
    screen.block(&drawing::node(&views, &networks.gateways(&node), screen.glyphs()));
    screen.block(&drawing::table(&views));
    check_all(&networks, &node, &pods, screen);
    if arguments.keep {
        return keep(&node, &pods, screen);
    }
    take_down(&networks, &node, &pods, screen);
    Ok(())
}

fn view(pod: &Joined) -> PodView {
    let wish =
        wishes().into_iter().find(|(name, _)| *name == pod.name).map(|(_, wish)| wish).unwrap_or_default();
    let port = wish["portMappings"][0]["hostPort"].as_u64().map(|port| format!("{port}/tcp → {POD_PORT}"));
    let limit = wish["bandwidth"]["ingressRate"].as_u64().map(|rate| format!("{} Mbit/s", rate / 1_000_000));
    PodView {
        name: pod.name.clone(),
        host_end: pod.host_end.clone(),
        addresses: pod.ips.iter().map(ToString::to_string).collect(),
        port,
        limit,
        took: pod.took,
    }
}

fn check_all(networks: &Networks, node: &Node, pods: &[Joined], screen: &mut Screen) {
    let started = Instant::now();
    let found: Vec<String> =
        pods.iter().filter_map(|pod| networks.check(node, pod).err()).map(|e| e.to_string()).collect();
    let sentence =
        if found.is_empty() { "every pod is as its ADD left it".to_owned() } else { found.join("; ") };
    screen.verdict(found.is_empty(), "CHECK", &sentence, started.elapsed());
}

fn take_down(networks: &Networks, node: &Node, pods: &[Joined], screen: &mut Screen) {
    screen.title("Taking it down");
    for pod in pods.iter().rev() {
        let started = Instant::now();
        let outcome = networks.del(node, pod);
        let sentence = outcome.as_ref().err().map_or_else(|| "gone".to_owned(), ToString::to_string);
        screen.verdict(outcome.is_ok(), &format!("DEL {}", pod.name), &sentence, started.elapsed());
    }
    let started = Instant::now();
    let left = networks.leftovers(node);
    let sentence = match left.as_slice() {
        [] => "no link, no rule, no lease is left but the bridge, which belongs to the node".to_owned(),
        left => format!("left behind: {}", left.join(", ")),
    };
    screen.verdict(left.is_empty(), "no trace", &sentence, started.elapsed());
}

/// Waits for Ctrl-C; the namespaces end with the process.
fn keep(node: &Node, pods: &[Joined], screen: &mut Screen) -> Result<(), cni::Error> {
    if screen.failures() > 0 {
        return Ok(());
    }
    let _servers: Vec<_> = pods.iter().map(|pod| traffic::serve(pod, POD_PORT)).collect();
    // nsenter looks at this thread's namespaces.
    node.enter().map_err(|e| cni::Error::from_chain(&e))?;
    let pid = std::process::id();
    let user = if own_user_namespace() { "-U --preserve-credentials " } else { "sudo " };
    let enter = match user {
        "sudo " => format!("sudo nsenter -t {pid} -m -n"),
        user => format!("nsenter -t {pid} {user}-m -n"),
    };
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

/// Whether root here is root of a namespace of our own.
fn own_user_namespace() -> bool {
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    map.split_whitespace().nth(2) == Some("1")
}

/// The plug-ins: as said, else as `make build` lays them beside this program, else where runtimes look.
fn plugins_directory(said: Option<&Path>) -> Result<PathBuf, cni::Error> {
    let this = std::env::current_exe().unwrap_or_default();
    let beside = this.parent().unwrap_or(Path::new("/"));
    let places = match said {
        Some(said) => vec![said.to_owned()],
        None => vec![beside.join("../cni"), beside.join("cni"), PathBuf::from("/opt/cni/bin")],
    };
    let found = places.iter().find(|place| place.join("bridge").is_file());
    found.and_then(|place| place.canonicalize().ok()).ok_or_else(|| {
        let looked: Vec<String> = places.iter().map(|place| place.display().to_string()).collect();
        cni::Error::config(format!("no plug-ins in {} (make build, or --plugins DIR)", looked.join(", ")))
    })
}
