//! Network namespaces that nodes stand in, set up and looked at with ip(8) and bridge(8).
#![allow(dead_code, reason = "each test program uses some of it")]

use lab::Space;
use overlay::sync::Report;
use overlay::{Dataplane, Local, Plan};

use crate::cluster;

/// Runs a line of shell in `space`; every command of it must succeed.
#[track_caller]
pub fn sh(space: &Space, line: &str) -> String {
    let output = space.output("sh", &["-ec", line], b"");
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A namespace with node `n`'s eth0, which leads to nobody.
pub fn node(n: u16) -> Space {
    let space = Space::new_node().expect("namespaces need root");
    sh(
        &space,
        "ip link set lo up; ip link add eth0 address 02:00:00:00:00:01 type veth peer name far0 address 02:00:00:00:00:02; ip link set eth0 addrgenmode none; ip link set far0 addrgenmode none; ip link set far0 up; ip link set eth0 up",
    );
    address(&space, n);
    lab::wait::until("both ends have a carrier", || {
        (sh(&space, "ip -o link show up").matches("state UP").count() == 2).then_some(())
    });
    space
}

/// Gives eth0 node `n`'s addresses.
pub fn address(space: &Space, n: u16) {
    sh(space, &format!("ip addr add 192.0.2.{n}/24 dev eth0; ip addr add 2001:db8::{n}/64 dev eth0 nodad"));
}

/// Node `n` with the uplinks that its namespace really has.
pub fn local(space: &Space, n: u16) -> Local {
    let index = sh(space, "cat /sys/class/net/eth0/ifindex").trim().parse().expect("an index");
    let mut local = cluster::local(n);
    for uplink in [&mut local.uplinks.v4, &mut local.uplinks.v6].into_iter().flatten() {
        uplink.link.index = index;
    }
    local
}

/// Syncs with a fresh data plane, as a daemon that just started does.
pub fn sync(space: &Space, plan: &Plan) -> Report {
    space.run(|| Dataplane::open().expect("sockets").sync(plan)).expect("the kernel can be talked to")
}

/// Syncs; nothing may fail.
#[track_caller]
pub fn sync_wholly(space: &Space, plan: &Plan) -> Report {
    let report = sync(space, plan);
    assert_eq!(report.failures, [], "{plan}");
    report
}

/// All that a sync could change, as ip(8) and bridge(8) show it.
pub fn picture(space: &Space) -> String {
    let mut lines: Vec<String> = [
        "ip -o -d link | sed 's/^[0-9]*: //; s/link-netnsid [0-9]*//; s/ifindex [0-9]*//'",
        "ip -o addr | sed 's/^[0-9]*: //'",
        "ip route show table all",
        "ip -6 route show table all",
        "ip rule",
        "ip -6 rule",
        "ip neigh show nud permanent",
        "bridge fdb show | grep -v '^33:33\\|^01:00:5e'",
    ]
    .into_iter()
    .flat_map(|command| {
        sh(space, &format!("{command} || true")).lines().map(str::to_owned).collect::<Vec<_>>()
    })
    .filter(|line| !line.contains("ff00::/8"))
    .collect();
    lines.sort();
    lines.dedup();
    lines.join("\n")
}

/// The lines that are in one picture only.
pub fn difference(before: &str, after: &str) -> Vec<String> {
    let only = |sign, a: &str, b: &str| -> Vec<String> {
        let others: Vec<&str> = b.lines().collect();
        a.lines().filter(|line| !others.contains(line)).map(|line| format!("{sign} {line}")).collect()
    };
    let mut lines = only('-', before, after);
    lines.extend(only('+', after, before));
    lines
}

/// Asserts that two pictures show the same.
#[track_caller]
pub fn assert_alike(before: &str, after: &str, about: &str) {
    assert_eq!(difference(before, after), Vec::<String>::new(), "{about}");
}
