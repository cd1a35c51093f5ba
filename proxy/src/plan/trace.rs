//! What becomes of one packet, and why: the plan read the way a packet reads it.

use std::net::{IpAddr, SocketAddr};

use super::ServicePlan;
use super::access::{Access, Action};
use super::claims::FrontendKind;
use super::port::PortPlan;
use super::settings::{Detect, NodePorts};
use crate::state::{Protocol, ServicePortName};

/// Who sends, as far as the plan distinguishes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "see `Access`")]
pub enum Sender {
    Pod,
    Node,
    Outside,
}

/// The first packet of a flow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet<'a> {
    /// Its source.
    pub source: IpAddr,
    /// The interface it came in by; none when a process of this node sends it.
    pub interface: Option<&'a str>,
    /// Where to.
    pub destination: SocketAddr,
    /// By which protocol.
    pub protocol: Protocol,
}

/// How it ends.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// No Service: it follows the routes.
    NotOurs,
    /// One of these, with this probability, unless affinity knows the client.
    Endpoints(Vec<(SocketAddr, f64)>),
    /// Rejected: connection refused.
    Reject,
    /// Dropped: the sender waits in vain.
    Drop,
}

/// What becomes of a packet.
#[derive(Debug, Clone, PartialEq)]
pub struct Fate {
    /// How it ends.
    pub verdict: Verdict,
    /// Whether every endpoint sees this node as the source. An endpoint that is the client itself always does.
    pub masquerade: bool,
    /// Of which Service port.
    pub service: Option<ServicePortName>,
    /// How long the choice will be remembered.
    pub affinity: Option<std::time::Duration>,
    /// Why, step by step.
    pub reasons: Vec<String>,
}

impl ServicePlan {
    /// Follows a packet.
    pub fn trace(&self, packet: &Packet<'_>) -> Fate {
        let mut fate = Fate {
            verdict: Verdict::NotOurs,
            masquerade: false,
            service: None,
            affinity: None,
            reasons: Vec::new(),
        };
        let Some((kind, port)) = self.find_frontend(packet) else {
            fate.verdict = self.without_frontend(packet.destination.ip(), &mut fate.reasons);
            return fate;
        };
        fate.service = Some(port.name.clone());
        fate.reasons.push(format!("{} is a {} of {}", packet.destination, kind, port.name));
        if kind == FrontendKind::LoadBalancerIp
            && !port.sources.as_ref().is_none_or(|s| s.iter().any(|r| r.contains(packet.source)))
        {
            fate.reasons.push(format!("{} is outside loadBalancerSourceRanges", packet.source));
            fate.verdict = Verdict::Drop;
            return fate;
        }
        let sender = self.sender(packet);
        fate.reasons.push(format!("the sender is {}", describe(sender)));
        self.act(port, port.access(kind).of(sender), &mut fate);
        fate
    }

    fn act(&self, port: &PortPlan, action: Action, fate: &mut Fate) {
        match action {
            Action::Reject => {
                fate.reasons.push("no endpoint serves anywhere".into());
                fate.verdict = Verdict::Reject;
            }
            Action::Drop => {
                fate.reasons.push("traffic policy Local, and no endpoint on this node serves".into());
                fate.verdict = Verdict::Drop;
            }
            Action::Balance { scope, masquerade } => {
                let targets = port.targets(scope);
                let share = 1.0 / targets.len().max(1) as f64;
                fate.reasons.push(format!("{scope:?} endpoints: {}", targets.len()));
                if masquerade {
                    fate.reasons.push("the source becomes this node's".into());
                }
                fate.verdict = Verdict::Endpoints(targets.iter().map(|t| (t.address, share)).collect());
                fate.masquerade = masquerade;
                fate.affinity = port.affinity;
            }
        }
    }

    fn find_frontend(&self, packet: &Packet<'_>) -> Option<(FrontendKind, &PortPlan)> {
        let (ip, port) = (packet.destination.ip(), packet.destination.port());
        let by_ip = self.claims.find(Some(ip), packet.protocol, port);
        let found = by_ip.or_else(|| {
            self.has_node_ports(ip).then(|| self.claims.find(None, packet.protocol, port)).flatten()
        });
        found.and_then(|(kind, name)| Some((kind, &**self.ports.get(name)?)))
    }

    fn has_node_ports(&self, ip: IpAddr) -> bool {
        match &self.site.node_ports {
            NodePorts::Everywhere => self.site.addresses.contains(&ip),
            NodePorts::On(ips) => ips.contains(&ip),
        }
    }

    /// Who sends a packet.
    pub fn sender(&self, packet: &Packet<'_>) -> Sender {
        let is_pod = match &self.site.detect {
            None => false,
            Some(Detect::Source(network)) => network.contains(packet.source),
            Some(Detect::Interface(name)) => packet.interface == Some(name),
            Some(Detect::InterfacePrefix(prefix)) => {
                packet.interface.is_some_and(|name| name.starts_with(&**prefix))
            }
        };
        if is_pod {
            Sender::Pod
        } else if packet.source.is_loopback() || self.site.addresses.contains(&packet.source) {
            Sender::Node
        } else {
            Sender::Outside
        }
    }

    fn without_frontend(&self, ip: IpAddr, reasons: &mut Vec<String>) -> Verdict {
        if self.claims.is_cluster_ip(ip) {
            reasons.push(format!("{ip} is a ClusterIP without this port"));
            Verdict::Reject
        } else if let Some(network) = self.site.service_cidrs.iter().find(|n| n.contains(ip)) {
            reasons.push(format!("{ip} of service CIDR {network} is no Service's"));
            Verdict::Drop
        } else {
            reasons.push("no frontend of a Service".into());
            Verdict::NotOurs
        }
    }
}

impl Access {
    /// What a sender gets.
    pub fn of(&self, sender: Sender) -> Action {
        match sender {
            Sender::Pod => self.pod,
            Sender::Node => self.node,
            Sender::Outside => self.outside,
        }
    }
}

fn describe(sender: Sender) -> &'static str {
    match sender {
        Sender::Pod => "a pod",
        Sender::Node => "this node",
        Sender::Outside => "neither a pod nor this node",
    }
}
