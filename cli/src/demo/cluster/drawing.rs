//! The cluster as a drawing and as a table: text from values.

use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use super::super::glyphs::Glyphs;
use super::super::screen::milliseconds;
use super::Scene;

/// A node as it is shown.
#[derive(Debug, Clone)]
pub struct NodeView {
    /// Its name.
    pub name: String,
    /// In which network between nodes it is: the first 24 and 64 bits of its addresses.
    pub subnet: String,
    /// Its addresses.
    pub ips: Vec<String>,
    /// Its pod CIDRs.
    pub pod_cidrs: Vec<String>,
    /// Links of the daemon's: tunnels.
    pub tunnels: Vec<String>,
    /// The bridge, where there is one.
    pub bridge: Option<String>,
    /// Its pod: name, end of the cable on the node, addresses.
    pub pod: (String, String, Vec<String>),
    /// Routes to pods of other nodes.
    pub routes: usize,
    /// How long ADD took.
    pub took: Duration,
}

/// The nodes as they are now.
pub fn views(scene: &Scene<'_>) -> Vec<NodeView> {
    let nodes = scene.cluster.nodes().iter().zip(scene.places);
    nodes
        .map(|(member, place)| {
            let entry = member.entry();
            let links = |kind: &str| -> Vec<String> {
                let listed = member.sh(&format!("ip -o link show type {kind}"));
                let names = listed.lines().filter_map(|line| line.split(": ").nth(1));
                names.map(|name| name.split('@').next().unwrap_or(name).to_owned()).collect()
            };
            let routes =
                ["-4", "-6"].map(|family| member.sh(&format!("ip {family} route show proto 98"))).concat();
            NodeView {
                name: entry.name.clone(),
                subnet: subnet(&entry.ips),
                ips: entry.ips.iter().map(ToString::to_string).collect(),
                pod_cidrs: entry.pod_cidrs.clone(),
                tunnels: links("vxlan"),
                bridge: links("bridge").into_iter().next(),
                pod: (
                    place.pod.name.clone(),
                    place.pod.host_end.clone(),
                    place.pod.ips.iter().map(ToString::to_string).collect(),
                ),
                routes: routes.lines().filter(|route| route.contains(" via ")).count(),
                took: place.pod.took(),
            }
        })
        .collect()
}

/// The networks of these addresses, as the lab makes them: /24 and /64.
fn subnet(ips: &[IpAddr]) -> String {
    let networks = ips.iter().map(|ip| match ip {
        IpAddr::V4(ip) => {
            let [a, b, c, _] = ip.octets();
            format!("{a}.{b}.{c}.0/24")
        }
        IpAddr::V6(ip) => {
            let [a, b, c, d, ..] = ip.segments();
            format!("{}/64", Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
    });
    networks.collect::<Vec<_>>().join("  ")
}

/// The outside, the networks between nodes, and under each its nodes with their pods.
pub fn tree(nodes: &[NodeView], outside: &[String], glyphs: &Glyphs) -> String {
    let Glyphs { horizontal, vertical, tee, last, .. } = glyphs;
    let mut text = format!("  outside  {}\n     {vertical}\n  router\n", outside.join("  "));
    let mut subnets: Vec<&String> = nodes.iter().map(|node| &node.subnet).collect();
    subnets.dedup();
    for (index, subnet) in subnets.iter().enumerate() {
        let is_last_subnet = index + 1 == subnets.len();
        let branch = if is_last_subnet { last } else { tee };
        text.push_str(&format!("     {branch}{horizontal} network {subnet}\n"));
        let stem = if is_last_subnet { ' ' } else { *vertical };
        let members: Vec<&NodeView> = nodes.iter().filter(|node| node.subnet == **subnet).collect();
        for (index, node) in members.iter().enumerate() {
            let is_last = index + 1 == members.len();
            let (branch, inner) = if is_last { (last, ' ') } else { (tee, *vertical) };
            let tunnels =
                if node.tunnels.is_empty() { String::new() } else { format!("  {}", node.tunnels.join(" ")) };
            let ips = node.ips.join("  ");
            text.push_str(&format!(
                "     {stem}    {branch}{horizontal} {}  eth0 {ips}{tunnels}\n",
                node.name
            ));
            let (pod, end, addresses) = &node.pod;
            let bridge = node
                .bridge
                .as_ref()
                .map_or(String::new(), |bridge| format!("{bridge} {horizontal}{horizontal} "));
            let addresses = addresses.join("  ");
            let line = format!("{bridge}{end} {horizontal}{horizontal} {pod}  eth0 {addresses}");
            text.push_str(&format!("     {stem}    {inner}    {last}{horizontal} {line}\n"));
        }
    }
    text
}

/// A row for each node.
pub fn table(nodes: &[NodeView]) -> String {
    let head = ["node", "pod CIDRs", "routes", "pod", "addresses", "ADD"].map(str::to_owned);
    let rows = nodes.iter().map(|node| {
        let (pod, _, addresses) = &node.pod;
        [
            node.name.clone(),
            node.pod_cidrs.join(", "),
            node.routes.to_string(),
            pod.clone(),
            addresses.join(", "),
            milliseconds(node.took),
        ]
    });
    let rows: Vec<[String; 6]> = std::iter::once(head).chain(rows).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; 6] = std::array::from_fn(width);
    let line = |row: &[String; 6]| {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}"));
        format!("  {}\n", cells.collect::<Vec<_>>().join("  ").trim_end())
    };
    rows.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn three() -> Vec<NodeView> {
        let node = |index: u8, subnet: u8| NodeView {
            name: format!("node-{index}"),
            subnet: format!("172.16.{subnet}.0/24  2001:db8:{subnet}::/64"),
            ips: vec![format!("172.16.{subnet}.{}", 10 + index), format!("2001:db8:{subnet}::{index:x}")],
            pod_cidrs: vec![format!("10.244.{index}.0/24"), format!("fd00:244:{index}::/64")],
            tunnels: vec!["bowline.1".into(), "bowline6.1".into()],
            bridge: (index > 0).then(|| "bowline0".into()),
            pod: (
                format!("pod-{index}"),
                format!("veth000{index}"),
                vec![format!("10.244.{index}.2"), format!("fd00:244:{index}::2")],
            ),
            routes: 4,
            took: Duration::from_micros(2510),
        };
        vec![node(0, 0), node(1, 0), node(2, 1)]
    }

    #[test]
    fn every_node_hangs_on_its_network() {
        let drawn = tree(&three(), &["203.0.113.1".into()], &Glyphs::ASCII);
        assert_eq!(
            drawn.lines().collect::<Vec<_>>(),
            [
                "  outside  203.0.113.1",
                "     |",
                "  router",
                "     +- network 172.16.0.0/24  2001:db8:0::/64",
                "     |    +- node-0  eth0 172.16.0.10  2001:db8:0::0  bowline.1 bowline6.1",
                "     |    |    +- veth0000 -- pod-0  eth0 10.244.0.2  fd00:244:0::2",
                "     |    +- node-1  eth0 172.16.0.11  2001:db8:0::1  bowline.1 bowline6.1",
                "     |         +- bowline0 -- veth0001 -- pod-1  eth0 10.244.1.2  fd00:244:1::2",
                "     +- network 172.16.1.0/24  2001:db8:1::/64",
                "          +- node-2  eth0 172.16.1.12  2001:db8:1::2  bowline.1 bowline6.1",
                "               +- bowline0 -- veth0002 -- pod-2  eth0 10.244.2.2  fd00:244:2::2",
            ]
        );
    }

    #[test]
    fn every_node_has_a_row() {
        let text = table(&three());
        assert_eq!(
            text.lines().nth(1),
            Some(
                "  node-0  10.244.0.0/24, fd00:244:0::/64  4       pod-0  10.244.0.2, fd00:244:0::2  2.5 ms"
            )
        );
        assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");
    }
}
