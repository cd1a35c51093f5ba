//! `bowline demo --nodes N`: nodes on a network, a daemon on each, pods that talk, and what travels between.
//!
//! The nodes' only common knowledge is a directory of manifests; everything else the daemons do.

mod drawing;
mod node;
mod reach;
mod services;
mod wire;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use cni::{Error, Result};
use lab::cluster::{Families, Shape};
use lab::{Cluster, Daemon};
use serde_json::json;

use super::attach::{Joined, Network};
use super::screen::Screen;
use super::{ClusterMode, DemoArgs, enter_command, plugins_directory};
use node::Host;

/// A node, its network, and the pod on it.
pub struct Place {
    /// The network, as the node's daemon wrote it.
    pub network: Network,
    /// The pod.
    pub pod: Joined,
}

/// What is shown.
pub struct Scene<'a> {
    /// How packets travel.
    pub mode: ClusterMode,
    /// The nodes.
    pub cluster: &'a Cluster,
    /// What is on them, in the same order.
    pub places: &'a [Place],
}

/// Shows a cluster; bad verdicts are counted by the screen.
///
/// # Errors
/// What keeps it from being shown at all.
pub fn show(args: &DemoArgs, nodes: u8, screen: &mut Screen) -> Result<()> {
    let plugins = plugins_directory(args.plugins.as_deref())?;
    let program = daemon_program(args.daemon.as_deref())?;
    lab::own_user_namespace().map_err(failed)?;
    let mode = args.mode;
    screen.title(&format!("A cluster of {nodes} nodes, mode {mode}. Nothing on this machine is touched."));
    let started = Instant::now();
    let shape = match mode {
        ClusterMode::CrossSubnet => Shape::routed(&two_subnets(nodes), Families::Dual),
        ClusterMode::Vxlan | ClusterMode::Routed => Shape::flat(nodes, Families::Dual),
    };
    let cluster = Cluster::new(&shape).map_err(failed)?;
    let subnets = shape.subnets.len();
    let what = format!("{nodes} nodes, {}, a router to the outside", plural(subnets, "subnet"));
    screen.step("network", &what, started.elapsed());
    let _daemons = start_daemons(&cluster, mode, &program, &plugins, screen)?;

    screen.title("Pods, by the configuration that each daemon wrote");
    let mut places = Vec::new();
    for (index, member) in cluster.nodes().iter().enumerate() {
        let network = Network::new(&member.read(lab::cluster::CONFLIST), lab::cluster::PLUGINS.into())?;
        let pod = network.add(member, &format!("pod-{index}"), json!({}))?;
        let ips: Vec<String> = pod.ips.iter().map(ToString::to_string).collect();
        let sentence = format!("on {}: eth0 {}", member.entry().name, ips.join(", "));
        screen.step(&format!("ADD {}", pod.name), &sentence, pod.took());
        places.push(Place { network, pod });
    }

    let scene = Scene { mode, cluster: &cluster, places: &places };
    screen.title("Traffic");
    reach::prove(&scene, screen);
    wire::show(&scene, screen);
    services::prove(&scene, screen);
    screen.title("The cluster");
    let views = drawing::views(&scene);
    let outside: Vec<String> = cluster.outside_ips().iter().map(ToString::to_string).collect();
    screen.block(&drawing::tree(&views, &outside, screen.glyphs()));
    screen.block(&drawing::table(&views));
    reach::check_all(&scene, screen);
    if args.keep {
        return keep(&scene, screen);
    }
    take_down(&scene, screen)
}

fn failed(error: kernel::Error) -> Error {
    Error::from_chain(&error)
}

/// Two thirds of the nodes in the first subnet, the others beyond a router.
fn two_subnets(nodes: u8) -> [u8; 2] {
    let beyond = (nodes / 3).max(1);
    [nodes - beyond, beyond]
}

/// `1 subnet`, `2 subnets`.
pub fn plural(count: usize, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

/// The daemon: as said, else as `make build` lays it beside this program, else where the system has it.
fn daemon_program(said: Option<&Path>) -> Result<PathBuf> {
    let this = std::env::current_exe().unwrap_or_default();
    let beside = this.parent().unwrap_or(Path::new("/")).join("bowlined");
    let places =
        said.map_or_else(|| vec![beside, PathBuf::from("/usr/local/bin/bowlined")], |s| vec![s.into()]);
    let found = places.iter().find(|place| place.is_file()).and_then(|place| place.canonicalize().ok());
    found.ok_or_else(|| {
        let looked: Vec<String> = places.iter().map(|place| place.display().to_string()).collect();
        Error::config(format!("no daemon at {} (make build, or --daemon FILE)", looked.join(", ")))
    })
}

/// Starts all, then waits for each: they have nothing to wait for from each other.
fn start_daemons(
    cluster: &Cluster,
    mode: ClusterMode,
    program: &Path,
    plugins: &Path,
    screen: &mut Screen,
) -> Result<Vec<Daemon>> {
    screen.title("A daemon on each node; all read one directory of Node manifests");
    let hosts: Vec<Host<'_>> =
        cluster.nodes().iter().map(|member| Host::start(cluster, member, mode, program, plugins)).collect();
    let mut daemons = Vec::new();
    for host in hosts {
        let sentence = host.until_ready()?;
        screen.step(&format!("bowlined, {}", host.name()), &sentence, host.since());
        daemons.push(host.into_daemon());
    }
    Ok(daemons)
}

fn take_down(scene: &Scene<'_>, screen: &mut Screen) -> Result<()> {
    screen.title("Taking it down");
    for (member, Place { network, pod }) in scene.cluster.nodes().iter().zip(scene.places) {
        let (what, started) = (format!("DEL {}", pod.name), Instant::now());
        match network.del(member, pod) {
            Ok(_) => {
                let left = network.records(member);
                let sentence = match left.as_slice() {
                    [] => format!("no lease and no result is left on {}", member.entry().name),
                    left => format!("left behind on {}: {}", member.entry().name, left.join(", ")),
                };
                screen.verdict(left.is_empty(), &what, &sentence, started.elapsed());
            }
            Err(error) => screen.verdict(false, &what, &error.to_string(), Duration::ZERO),
        }
    }
    Ok(())
}

/// Waits for Ctrl-C; everything ends with the process.
fn keep(scene: &Scene<'_>, screen: &mut Screen) -> Result<()> {
    if screen.failures() > 0 {
        return Ok(());
    }
    let _servers: Vec<_> = scene.places.iter().map(|place| super::traffic::serve(&place.pod, 80)).collect();
    screen.title("Left running");
    for (member, Place { pod, .. }) in scene.cluster.nodes().iter().zip(scene.places) {
        let enter = enter_command(&node::stand_in(member)?);
        screen.note(&format!("{:<8} {enter} bash", member.entry().name));
        screen.note(&format!("{:<8} {enter} ip netns exec {} bash", pod.name, pod.name));
    }
    let manifests = scene.cluster.manifests().path();
    screen.note(&format!("nodes    {}: change a file, and all daemons follow", manifests.display()));
    screen.note(&format!("end it   Ctrl-C here, or kill {}", std::process::id()));
    loop {
        std::thread::park();
    }
}
