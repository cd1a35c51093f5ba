//! Frontends, and whose they are when two Service ports want the same one.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use super::port::{Lost, PortPlan};
use crate::state::{Protocol, ServicePortName};

/// What makes an address a frontend. Of two claims to one the earlier kind here wins, since the API server or a
/// controller gave it out, while an external IP is what any user wrote; then the earlier name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs, reason = "the glossary's words")]
pub enum FrontendKind {
    ClusterIp,
    NodePort,
    LoadBalancerIp,
    ExternalIp,
}

/// Where clients connect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Frontend {
    /// What it is.
    pub kind: FrontendKind,
    /// Its address; none for a NodePort, which is wherever the site says.
    pub ip: Option<IpAddr>,
    /// Its port.
    pub port: u16,
}

impl fmt::Display for FrontendKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            FrontendKind::ClusterIp => "ClusterIP",
            FrontendKind::NodePort => "NodePort",
            FrontendKind::LoadBalancerIp => "load balancer IP",
            FrontendKind::ExternalIp => "external IP",
        })
    }
}

impl fmt::Display for Frontend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.ip {
            Some(ip) => write!(f, "{} {ip} port {}", self.kind, self.port),
            None => write!(f, "{} {}", self.kind, self.port),
        }
    }
}

/// Address, protocol and port.
type Key = (Option<IpAddr>, Protocol, u16);

/// Who claims which frontend, the winner first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Claims {
    by_key: BTreeMap<Key, Vec<(FrontendKind, ServicePortName)>>,
}

impl Claims {
    /// Adds a claim; returns the others if it changes whose the frontend is.
    pub(super) fn enter(&mut self, frontend: Frontend, name: &ServicePortName) -> Vec<ServicePortName> {
        // There is hardly ever more than one.
        let claims = self.by_key.entry(key(frontend, name)).or_insert_with(|| Vec::with_capacity(1));
        let claim = (frontend.kind, name.clone());
        let at = claims.partition_point(|other| *other < claim);
        claims.insert(at, claim);
        if at > 0 {
            return Vec::new();
        }
        claims.iter().skip(1).map(|(_, other)| other.clone()).collect()
    }

    /// Removes a claim; returns the others if it changes whose the frontend is.
    pub(super) fn withdraw(&mut self, frontend: Frontend, name: &ServicePortName) -> Vec<ServicePortName> {
        let key = key(frontend, name);
        let Some(claims) = self.by_key.get_mut(&key) else { return Vec::new() };
        let was_first = claims.first().is_some_and(|(_, first)| first == name);
        claims.retain(|(kind, other)| (*kind, other) != (frontend.kind, name));
        let others = claims.iter().filter(|_| was_first).map(|(_, other)| other.clone()).collect();
        if claims.is_empty() {
            self.by_key.remove(&key);
        }
        others
    }

    /// The port with its frontends sorted into won and lost; none when they are already.
    pub(super) fn settle(&self, port: &PortPlan) -> Option<PortPlan> {
        let (mut frontends, mut lost) = (Vec::with_capacity(port.frontends.len()), Vec::new());
        for frontend in port.wanted() {
            match self.owner(frontend, &port.name) {
                Some(owner) if *owner != port.name => lost.push(Lost { frontend, to: owner.clone() }),
                _ => frontends.push(frontend),
            }
        }
        frontends.sort_unstable();
        lost.sort_by_key(|lost| lost.frontend);
        let is_settled = frontends == port.frontends && lost == port.lost;
        (!is_settled).then(|| PortPlan { frontends, lost, ..port.clone() })
    }

    fn owner(&self, frontend: Frontend, name: &ServicePortName) -> Option<&ServicePortName> {
        self.by_key.get(&key(frontend, name))?.first().map(|(_, owner)| owner)
    }

    /// Who answers on this address and port; `ip` none asks for NodePorts.
    pub(super) fn find(
        &self,
        ip: Option<IpAddr>,
        protocol: Protocol,
        port: u16,
    ) -> Option<(FrontendKind, &ServicePortName)> {
        self.by_key.get(&(ip, protocol, port))?.first().map(|(kind, name)| (*kind, name))
    }

    /// Whether this is the ClusterIP of anybody.
    pub(super) fn is_cluster_ip(&self, ip: IpAddr) -> bool {
        let from = (Some(ip), Protocol::Tcp, 0);
        let of_address = self.by_key.range(from..).take_while(|((other, ..), _)| *other == Some(ip));
        of_address
            .into_iter()
            .any(|(_, claims)| claims.iter().any(|(kind, _)| *kind == FrontendKind::ClusterIp))
    }
}

fn key(frontend: Frontend, name: &ServicePortName) -> Key {
    (frontend.ip, name.protocol, frontend.port)
}
