//! The node as a drawing and as a table: text from values.

use std::time::Duration;

use super::glyphs::Glyphs;
use super::screen::milliseconds;

/// A pod as it is shown.
#[derive(Debug, Clone)]
pub struct PodView {
    /// Its name.
    pub name: String,
    /// Its veth's end on the node.
    pub host_end: String,
    /// Its addresses.
    pub addresses: Vec<String>,
    /// `8080/tcp → 80`, when a node port leads to it.
    pub port: Option<String>,
    /// `20 Mbit/s`, when it is limited.
    pub limit: Option<String>,
    /// How long its ADD took.
    pub took: Duration,
}

/// The node's side of the network.
#[derive(Debug, Clone)]
pub struct NodeView {
    /// The uplink's addresses.
    pub uplink: Vec<String>,
    /// The outside host's addresses.
    pub outside: Vec<String>,
    /// The bridge.
    pub bridge: String,
    /// Its addresses.
    pub gateways: Vec<String>,
    /// The pods' subnets.
    pub subnets: Vec<String>,
}

/// The outside, the node with its bridge, and a line for each pod.
pub fn node(pods: &[PodView], node: &NodeView, glyphs: &Glyphs) -> String {
    let Glyphs { horizontal, vertical, corners, tee, last, down, up } = glyphs;
    let dash = |n: usize| horizontal.to_string().repeat(n);
    let ports =
        pods.iter().filter_map(|pod| pod.port.as_ref().map(|port| format!("port {port} of {}", pod.name)));
    let mut inside = vec![format!("eth0 {}", node.uplink.join("  "))];
    inside
        .extend(node.subnets.iter().zip(&node.uplink).map(|(from, to)| format!("masquerade {from} → {to}")));
    inside.extend(ports);
    inside.push(String::new());
    inside.push(format!("{} {}  {}", node.bridge, down, node.gateways.join("  ")));
    let stem = " ".repeat(node.bridge.chars().count() + 1);
    for (index, pod) in pods.iter().enumerate() {
        let branch = if index + 1 == pods.len() { last } else { tee };
        let limit = pod.limit.as_ref().map_or(String::new(), |limit| format!("  {limit} each way"));
        let (host_end, name) = (&pod.host_end, &pod.name);
        let addresses = pod.addresses.join("  ");
        inside.push(format!(
            "{stem}{branch}{} {host_end} {} {name:<8} eth0 {addresses}{limit}",
            dash(1),
            dash(2)
        ));
    }
    let width = inside.iter().map(|line| line.chars().count()).max().unwrap_or(0) + 2;
    let mut text = format!("     outside  {}\n        {vertical}\n", node.outside.join("  "));
    text.push_str(&format!("  {}{}{up}{} node {}\n", corners[0], dash(5), dash(width - 12), corners[1]));
    for line in inside {
        let padding = " ".repeat(width - 2 - line.chars().count());
        text.push_str(&format!("  {vertical} {line}{padding} {vertical}\n"));
    }
    text.push_str(&format!("  {}{}{}\n", corners[2], dash(width), corners[3]));
    text
}

/// A row for each pod.
pub fn table(pods: &[PodView]) -> String {
    let head = ["pod", "addresses", "node port", "limit", "on the node", "ADD"].map(str::to_owned);
    let none = || "none".to_owned();
    let rows = pods.iter().map(|pod| {
        [
            pod.name.clone(),
            pod.addresses.join(", "),
            pod.port.clone().unwrap_or_else(none),
            pod.limit.clone().unwrap_or_else(none),
            pod.host_end.clone(),
            milliseconds(pod.took),
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

    fn pods() -> [PodView; 2] {
        let pod = |name: &str, last: u8, port: Option<&str>, limit: Option<&str>| PodView {
            name: name.into(),
            host_end: format!("veth000{last}"),
            addresses: vec![format!("10.77.0.{last}"), format!("fd00:77::{last}")],
            port: port.map(str::to_owned),
            limit: limit.map(str::to_owned),
            took: Duration::from_micros(3140),
        };
        [pod("web", 2, Some("8080/tcp → 80"), None), pod("slow", 3, None, Some("20 Mbit/s"))]
    }

    #[test]
    fn drawing_shows_every_pod_in_a_closed_box() {
        let view = NodeView {
            uplink: vec!["203.0.113.2".into(), "2001:db8::2".into()],
            outside: vec!["203.0.113.1".into()],
            bridge: "bowline0".into(),
            gateways: vec!["10.77.0.1/24".into()],
            subnets: vec!["10.77.0.0/24".into(), "fd00:77::/64".into()],
        };
        let drawn = node(&pods(), &view, &Glyphs::ASCII);
        assert_eq!(
            drawn.lines().collect::<Vec<_>>(),
            [
                "     outside  203.0.113.1",
                "        |",
                "  +-----+--------------------------------------------------------------------- node +",
                "  | eth0 203.0.113.2  2001:db8::2                                                   |",
                "  | masquerade 10.77.0.0/24 → 203.0.113.2                                           |",
                "  | masquerade fd00:77::/64 → 2001:db8::2                                           |",
                "  | port 8080/tcp → 80 of web                                                       |",
                "  |                                                                                 |",
                "  | bowline0 +  10.77.0.1/24                                                        |",
                "  |          +- veth0002 -- web      eth0 10.77.0.2  fd00:77::2                     |",
                "  |          +- veth0003 -- slow     eth0 10.77.0.3  fd00:77::3  20 Mbit/s each way |",
                "  +---------------------------------------------------------------------------------+",
            ]
        );
    }

    #[test]
    fn table_has_a_row_for_every_pod() {
        let text = table(&pods());
        assert_eq!(
            text.lines().nth(1),
            Some("  web   10.77.0.2, fd00:77::2  8080/tcp → 80  none       veth0002     3.1 ms")
        );
        assert_eq!(text.lines().count(), 3);
    }
}
