//! The daemon is killed just before every single step of its start. What it promised until then is true, the next one
//! brings the rest about, and `bowline cleanup` finds all of it.

use lab::cluster::{CONFLIST, Families, Shape};
use lab::scenario::{self, Leftovers};
use lab::wait::until_nothing;
use lab::{Cluster, Node, Snapshot, daemon};

use crate::repair::{difference, state};

/// A node as its daemon leaves it, in the kernel and in files.
fn whole(node: &Node) -> String {
    let files = [CONFLIST, "/run/bowline/node.json"].map(|path| format!("{path}\n{}\n", node.read(path)));
    let plugins = node.sh("ls /opt/cni/bin");
    format!("{}{}{plugins}", state(node), files.concat())
}

#[test]
fn killed_at_every_step_of_its_start_it_converges() {
    let cluster = Cluster::new(&Shape::flat(2, Families::Dual)).unwrap();
    let (node, flags) = (cluster.node(0), ["--mode", "vxlan"]);
    let started = || {
        let daemon = cluster.start(0, &flags);
        node.until_ready(&daemon);
        daemon
    };
    let clean_up = || node.sh(&format!("{} cleanup", daemon::program("bowline").display()));
    let before = Snapshot::quick(node);
    let daemon = started();
    let reference = whole(node);
    daemon.kill();
    clean_up();
    scenario::no_trace(node, &before, Leftovers::Nothing);
    let mut steps: Vec<&str> = Vec::new();
    while let Some(step) = cluster.killed_at_start(0, &flags, steps.len() as u32 + 1) {
        steps.push(step);
        let title = format!("killed at step {} ({step})", steps.len());
        if !node.read(CONFLIST).is_empty() {
            let difference = difference(&reference, &whole(node));
            assert_eq!(difference, "", "{title}: pods are promised too early");
        }
        // Every other time at once, without another start.
        if !steps.len().is_multiple_of(2) {
            let daemon = started();
            until_nothing(&format!("{title}: the next to bring the rest about"), || {
                difference(&reference, &whole(node))
            });
            daemon.kill();
        }
        clean_up();
        scenario::no_trace(node, &before, Leftovers::Nothing);
    }
    for what in ["flock", "sendto", "execve", "linkat", "rename"] {
        assert!(steps.contains(&what), "no {what} among {steps:?}");
    }
    assert!(steps.len() > 50, "only {steps:?}");
}
