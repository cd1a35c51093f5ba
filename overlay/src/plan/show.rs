//! A plan as text, in the words of ip(8): one line for each thing.

use std::fmt;

use kernel::route::MAIN;

use super::{
    Diversion, Forward, Hop, LAST_RESORT, Neighbour, Plan, Problem, Route, Rule, Tunnel, TunnelKind,
    WireguardPeer,
};

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "mtu {}", self.mtu)?;
        lines(f, "link", &self.tunnels)?;
        lines(f, "neighbour", &self.neighbours)?;
        lines(f, "fdb", &self.fdb)?;
        lines(f, "wireguard", &self.wireguard)?;
        lines(f, "route", &self.routes)?;
        lines(f, "rule", &self.rules)?;
        lines(f, "diversion", self.diversion.as_slice())?;
        lines(f, "problem", &self.problems)
    }
}

fn lines(f: &mut fmt::Formatter<'_>, word: &str, things: &[impl fmt::Display]) -> fmt::Result {
    things.iter().try_for_each(|thing| writeln!(f, "{word} {thing}"))
}

impl fmt::Display for Tunnel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} mtu {} address {}", self.name, self.kind, self.mtu, self.address)?;
        self.mac.iter().try_for_each(|mac| write!(f, " mac {mac}"))
    }
}

impl fmt::Display for TunnelKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TunnelKind::Vxlan { vni, port, local, underlay, checksum_offload } => {
                write!(f, "vxlan id {vni} local {local} dev {underlay} dstport {port} nolearning")?;
                let word = |on: &bool| if *on { "on" } else { "off" };
                checksum_offload.iter().try_for_each(|on| write!(f, " checksum-offload {}", word(on)))
            }
            TunnelKind::Ipip { local, underlay } => {
                if local.is_ipv4() {
                    write!(f, "ipip local {local} dev {underlay}")
                } else {
                    f.write_str("ip6tnl external")
                }
            }
            TunnelKind::Wireguard { port } => write!(f, "wireguard port {port}"),
        }
    }
}

impl fmt::Display for Neighbour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} lladdr {} dev {}", self.ip, self.mac, self.device)
    }
}

impl fmt::Display for Forward {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} dst {} dev {}", self.mac, self.to, self.device)
    }
}

impl fmt::Display for WireguardPeer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} peer ", self.device)?;
        self.key.iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
        write!(f, " endpoint {} allowed", self.endpoint)?;
        self.allowed.iter().try_for_each(|network| write!(f, " {network}"))
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.hop {
            Hop::Direct { device, gateway } => write!(f, "{} via {gateway} dev {device}", self.dst),
            Hop::Tunnel { device, gateway: Some(gateway) } => {
                let onlink = if gateway.is_ipv4() { " onlink" } else { "" };
                write!(f, "{} via {gateway} dev {device}{onlink}", self.dst)
            }
            Hop::Encapsulated { device, from, to } => {
                write!(f, "{} encap ip6 src {from} dst {to} dev {device}", self.dst)
            }
            Hop::Tunnel { device, gateway: None } => write!(f, "{} dev {device}", self.dst),
            Hop::Unreachable => write!(f, "unreachable {} metric {LAST_RESORT}", self.dst),
        }?;
        self.from.iter().try_for_each(|from| write!(f, " from {from}"))?;
        if self.table == MAIN { Ok(()) } else { write!(f, " table {}", self.table) }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "from {} lookup {}", self.from, self.table)
    }
}

impl fmt::Display for Diversion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "from {} out of {} into {}", self.from, self.uplink, self.device)?;
        self.nodes.iter().try_for_each(|(node, next)| write!(f, ", to {node} via {next}"))
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let who = if self.peer.is_empty() { "this node" } else { &self.peer };
        write!(f, "{who}: {}", self.what)
    }
}
