//! What becomes of a packet, by plan and kernel.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use kernel::dual::Family;
use kernel::netlink::{Protocol, Socket};
use kernel::{link, sysctl};
use proxy::Mode;
use proxy::engine::Engine;
use proxy::plan::{Fate, FrontendKind, NodePorts, Packet, ServicePlan, Verdict};
use proxy::state::{self, ServiceName};

use super::{Kernel, has_node_ports, read};
use crate::log::chain_of;
use crate::proxy::{Asked, Goal, Origin, TraceAnswer, TracesAnswer};

/// Whether this node has the link by which a packet is to come in, if one is named.
///
/// # Errors
/// A sentence: it has not, or can't be asked.
pub fn has_link(asked: &Asked) -> Result<(), String> {
    let (Origin::Interface(name) | Origin::Address(_, Some(name))) = &asked.from else { return Ok(()) };
    let found = Socket::open(Protocol::Route).and_then(|mut socket| link::find(&mut socket, name));
    match found {
        Ok(Some(_)) => Ok(()),
        Ok(None) => Err(format!("from: this node has no link `{name}`")),
        Err(error) => Err(format!("from: look for link `{name}`: {}", chain_of(&error))),
    }
}

/// Follows a packet of each family and to each port that fits.
///
/// # Errors
/// A sentence: there is no such Service or port, no plan yet, or the families of both ends differ.
pub fn trace(engine: &mut Engine, asked: &Asked) -> Result<TracesAnswer, String> {
    let kernels = read(engine);
    if kernels.is_empty() {
        return Err("nothing is planned yet: the source has not told of all Services and endpoints".into());
    }
    let mut answer = TracesAnswer { node: engine.snapshot().node.name.to_string(), traces: Vec::new() };
    for (family, kernel) in kernels.present() {
        let Some(plan) = engine.plan(family) else { continue };
        let Some((source, interface)) = source(&asked.from, plan) else { continue };
        for (destination, protocol) in destinations(&asked.to, asked.protocol, plan) {
            let packet = Packet { source, interface, destination, protocol };
            answer.traces.push(follow(&asked.from, &packet, plan, kernel));
        }
    }
    if answer.traces.is_empty() { Err(nowhere(asked, engine)) } else { Ok(answer) }
}

/// Address and interface of the sender in a plan's family, if it has one there.
fn source<'a>(from: &'a Origin, plan: &ServicePlan) -> Option<(IpAddr, Option<&'a str>)> {
    let family = plan.site.family;
    match from {
        Origin::Node => {
            plan.site.node_ip.or_else(|| plan.site.addresses.first().copied()).map(|ip| (ip, None))
        }
        Origin::Address(ip, interface) => (Family::of(*ip) == family).then_some((*ip, interface.as_deref())),
        Origin::Interface(name) => {
            let unknown = match family {
                Family::V4 => Ipv4Addr::UNSPECIFIED.into(),
                Family::V6 => Ipv6Addr::UNSPECIFIED.into(),
            };
            Some((unknown, Some(name)))
        }
    }
}

/// Where packets go in a plan's family.
fn destinations(
    to: &Goal,
    protocol: Option<state::Protocol>,
    plan: &ServicePlan,
) -> BTreeSet<(SocketAddr, state::Protocol)> {
    match to {
        Goal::Address(address) if Family::of(address.ip()) == plan.site.family => {
            [(*address, protocol.unwrap_or(state::Protocol::Tcp))].into()
        }
        Goal::Address(_) => BTreeSet::new(),
        Goal::Service(name, port) => {
            let names = plan
                .port_names(name)
                .into_iter()
                .filter(|name| protocol.is_none_or(|it| it == name.protocol));
            let frontends = names.filter_map(|name| {
                let planned = plan.ports.get(&name)?;
                let frontend = planned.wanted().find(|frontend| frontend.kind == FrontendKind::ClusterIp)?;
                let fits = port
                    .as_ref()
                    .is_none_or(|port| **port == *name.port || *port == frontend.port.to_string());
                fits.then_some((SocketAddr::new(frontend.ip?, frontend.port), name.protocol))
            });
            frontends.collect()
        }
    }
}

/// Why there is nothing to follow.
fn nowhere(asked: &Asked, engine: &Engine) -> String {
    match &asked.to {
        Goal::Service(name, port) => nowhere_to(name, port.as_deref(), asked.protocol, engine),
        Goal::Address(address) => {
            let family = Family::of(address.ip());
            if engine.plan(family).is_none() {
                return format!("to: {address}: Services of {family} are not served on this node");
            }
            format!("from: the sender has no {family} address, and {} has no other", address.ip())
        }
    }
}

fn nowhere_to(
    name: &ServiceName,
    port: Option<&str>,
    protocol: Option<state::Protocol>,
    engine: &Engine,
) -> String {
    let Some(service) = engine.snapshot().service(name) else {
        return format!("to: there is no Service {name}");
    };
    let by = protocol.map(|protocol| format!(" by {protocol}")).unwrap_or_default();
    match port {
        _ if !service.is_ours() => format!("to: {name} has nothing that a proxy serves"),
        Some(port) => format!("to: {name} has no port `{port}`{by} in a family of the sender's"),
        None => format!("to: {name} has no port{by} in a family of the sender's"),
    }
}

fn follow(from: &Origin, packet: &Packet<'_>, plan: &ServicePlan, kernel: &Kernel) -> TraceAnswer {
    let meant = loopback_node_port(from, packet, plan, kernel);
    let mut fate = match &meant {
        Some(meant) => {
            let mut fate = plan.trace(meant);
            let port = packet.destination.port();
            fate.reasons.insert(0, format!("mode iptables serves NodePort {port} on loopback too"));
            fate
        }
        None => plan.trace(packet),
    };
    if kernel.mode == Mode::Iptables && fate.service.is_none() && fate.verdict != Verdict::NotOurs {
        // A deviation of that mode, kube-proxy's too.
        fate.verdict = Verdict::NotOurs;
        fate.reasons.push("mode iptables has no rules for that: it follows the routes".into());
    }
    let does = done(meant.as_ref().unwrap_or(packet), plan, kernel).or_else(|| {
        // An unknown port of a ClusterIP is a matter of the whole address.
        let is_ours = matches!(fate.verdict, Verdict::Reject) && fate.service.is_none();
        let ip = Some(packet.destination.ip());
        is_ours.then(|| kernel.words(|served| served.ip == ip && served.port.is_none())).flatten()
    });
    let shown = match from {
        Origin::Interface(name) => name.clone(),
        Origin::Address(ip, Some(interface)) => format!("{ip} by {interface}"),
        Origin::Node | Origin::Address(_, None) => packet.source.to_string(),
    };
    let differences = match &kernel.failure {
        Some(failure) => vec![format!("the kernel can't be read: {failure}")],
        None => differences(&fate, does.as_deref()),
    };
    let (verdict, endpoints) = match fate.verdict {
        Verdict::NotOurs => ("not a Service", Vec::new()),
        Verdict::Reject => ("reject", Vec::new()),
        Verdict::Drop => ("drop", Vec::new()),
        Verdict::Endpoints(endpoints) => ("endpoints", endpoints),
    };
    TraceAnswer {
        from: shown,
        to: packet.destination.to_string(),
        protocol: packet.protocol.to_string(),
        mode: kernel.mode.to_string(),
        verdict: verdict.to_owned(),
        endpoints,
        masquerade: fate.masquerade,
        service: fate.service.map(|name| name.to_string()),
        affinity_seconds: fate.affinity.map(|timeout| timeout.as_secs()),
        reasons: fate.reasons,
        kernel: does,
        differences,
        drift: kernel.drift.clone(),
    }
}

/// A packet of this node to a NodePort on 127.0.0.0/8, where these are served: the same to its own address.
fn loopback_node_port<'a>(
    from: &Origin,
    packet: &Packet<'a>,
    plan: &ServicePlan,
    kernel: &Kernel,
) -> Option<Packet<'a>> {
    let is_local =
        *from == Origin::Node && packet.destination.is_ipv4() && packet.destination.ip().is_loopback();
    let is_served = kernel.mode == Mode::Iptables && plan.site.has_loopback_node_ports;
    // The dataplane's caller sets it where NodePorts on loopback are wanted.
    let is_routed = || sysctl::read("net/ipv4/conf/all/route_localnet").is_ok_and(|value| value != "0");
    let own = match &plan.site.node_ports {
        NodePorts::Everywhere => plan.site.addresses.first(),
        NodePorts::On(ips) => ips.first(),
    };
    let own = *own.filter(|_| is_local && is_served && is_routed())?;
    Some(Packet { destination: SocketAddr::new(own, packet.destination.port()), ..*packet })
}

/// What the kernel does with a packet to this address, in the dataplane's words.
fn done(packet: &Packet<'_>, plan: &ServicePlan, kernel: &Kernel) -> Option<String> {
    let (ip, port) = (packet.destination.ip(), packet.destination.port());
    let to = |ip| {
        kernel.words(move |served| {
            (served.protocol, served.ip, served.port) == (Some(packet.protocol), ip, Some(port))
        })
    };
    to(Some(ip)).or_else(|| has_node_ports(plan, ip).then(|| to(None)).flatten())
}

/// Where the kernel does otherwise. Its words name every endpoint that it leads to.
fn differences(fate: &Fate, does: Option<&str>) -> Vec<String> {
    match (&fate.verdict, does) {
        (Verdict::NotOurs, None) => Vec::new(),
        // Addresses of service CIDRs that are no Service's are nothing that a dataplane lists.
        (Verdict::Drop, None) if fate.service.is_none() => Vec::new(),
        (_, None) => vec!["the kernel has nothing for this address and port".to_owned()],
        (Verdict::Endpoints(endpoints), Some(does)) => {
            let missing = endpoints.iter().filter(|(endpoint, _)| !names(does, *endpoint));
            missing.map(|(endpoint, _)| format!("the kernel does not lead to {endpoint}")).collect()
        }
        (Verdict::NotOurs, Some(does)) => vec![format!("the kernel has this for it: {does}")],
        _ => Vec::new(),
    }
}

/// Whether a text names an address: not as the beginning or end of another.
fn names(text: &str, address: SocketAddr) -> bool {
    let address = address.to_string();
    let goes_on = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric() || c == '.');
    text.match_indices(&address).any(|(at, _)| {
        let (before, after) = (text[..at].chars().next_back(), text[at + address.len()..].chars().next());
        !goes_on(before) && !goes_on(after)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_not_the_beginning_of_another() {
        let address: SocketAddr = "10.1.0.1:80".parse().expect("an address");
        for (text, is_named) in [
            ("pick-2 [10.1.0.1:80, 10.1.0.2:80]", true),
            ("pick-1 [10.1.0.1:8080]", false),
            ("pick-1 [110.1.0.1:80]", false),
            ("-> 10.1.0.1:80 Masq 1", true),
            ("", false),
        ] {
            assert_eq!(names(text, address), is_named, "{text}");
        }
    }
}
