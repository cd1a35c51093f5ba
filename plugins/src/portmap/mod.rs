//! `portmap`: ports of the host that lead to ports of a pod. A chained plug-in: it changes nothing of the result.
//!
//! Configuration: `backend`, `snat`, `masqAll`, `conditionsV4`, `conditionsV6`, and for iptables `markMasqBit` and
//! `externalSetMarkChain`; the ports come in `runtimeConfig.portMappings`. See [`config::Config::parse`].
//!
//! Two dataplanes: `nftables` and `iptables`. DEL and GC clean both, and what the reference left in either, because
//! the configuration may have changed, or the reference may have made the pod. Only where iptables chains of the pod
//! are (or may be, see [`kernel::iptables::holders`]) is iptables run.

pub mod conditions;
pub mod config;
mod iptables;
mod layout;
mod nftables;
mod reference;
mod removal;
mod sources;
mod waiting;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;

use cni::{AddResult, Call, Code, Error, GcCall, Plugin, Result, StatusCall};
use kernel::netlink::{Protocol as Netlink, Socket};
use kernel::{conntrack, link, nft, route, sysctl};

use crate::backend::Backend;
use crate::error::gather;
use crate::kernel_error;
use crate::owner::{Keep, Owner};
use config::{Config, PodAddresses};

/// The plug-in.
#[derive(Debug)]
pub struct Portmap;

impl Plugin for Portmap {
    fn name(&self) -> &'static str {
        "portmap"
    }

    fn add(&self, call: &Call<PathBuf>) -> Result<AddResult> {
        let config = Config::parse(&call.conf)?;
        let prev = call.conf.prev_result.as_ref();
        let prev =
            prev.ok_or_else(|| Error::config("portmap: prevResult: it must follow a plug-in that made one"))?;
        let pods = PodAddresses::of(prev, &call.attachment.ifname);
        if !config.mappings.is_empty() {
            add_ports(call, &config, pods)?;
        }
        Ok(prev.clone())
    }

    fn del(&self, call: &Call<Option<PathBuf>>) -> Result<()> {
        let config = Config::parse(&call.conf)?;
        let pods = match &call.conf.prev_result {
            Some(prev) => PodAddresses::of(prev, &call.attachment.ifname),
            None => PodAddresses::default(),
        };
        let mut host = open_host()?;
        let owner = Owner::new(&call.conf.name, &call.attachment);
        let container_id = call.attachment.container_id.as_str();
        let has_nftables = nft::is_supported(&mut host).map_err(failed)?;
        let ours = match has_nftables {
            true => removal::remove(&mut host, &owner, &config, pods).map_err(failed),
            false => Ok(Vec::new()),
        };
        let (released, ours) = ours.map_or_else(|e| (Vec::new(), Err(e)), |released| (released, Ok(())));
        let reference = match has_nftables {
            true => reference::remove(&mut host, container_id).map_err(failed),
            false => Ok(()),
        };
        let rules = iptables::remove(&mut host, &call.conf.name, container_id);
        let mapped = lasting_ports(&config).collect();
        let flows = forget_flows(&mut host, mapped, pods.iter().map(|pod| pod.ip()).collect(), &released);
        gather([ours, reference, rules, flows])
    }

    fn check(&self, call: &Call<PathBuf>) -> Result<()> {
        let config = Config::parse(&call.conf)?;
        let prev = call.conf.prev_result.as_ref();
        let prev = prev.ok_or_else(|| Error::config("portmap: prevResult: CHECK needs the result of ADD"))?;
        if config.mappings.is_empty() {
            return Ok(());
        }
        let pods = PodAddresses::of(prev, &call.attachment.ifname);
        check_ports(call, &config, pods)?;
        match pods.v4.filter(|_| config.snat) {
            Some(v4) => check_loopback(v4.ip()),
            None => Ok(()),
        }
    }

    fn gc(&self, call: &GcCall) -> Result<()> {
        let Some(valid) = &call.valid else { return Ok(()) };
        let mut host = open_host()?;
        let ours = match nft::is_supported(&mut host).map_err(failed)? {
            true => removal::gc(&mut host, &Keep::new(&call.conf.name, valid)).map_err(failed),
            false => Ok(Vec::new()),
        };
        let ours = ours.and_then(|released| forget_flows(&mut host, Vec::new(), Vec::new(), &released));
        gather([ours, iptables::gc(&mut host, &call.conf.name, valid)])
    }

    fn status(&self, call: &StatusCall) -> Result<()> {
        let config = Config::parse(&call.conf)?;
        let mut host = open_host()?;
        let usable = match config.choice.decide(&mut host) {
            Backend::Nftables => nft::probe(&mut host).map_err(failed),
            Backend::Iptables => iptables::status(),
        };
        usable.map_err(|error| Error { code: Code::NOT_AVAILABLE, ..error })
    }
}

fn open_host() -> Result<Socket> {
    Socket::open(Netlink::Netfilter).map_err(kernel_error)
}

fn failed(error: kernel::Error) -> Error {
    kernel_error(error).context("portmap")
}

fn add_ports(call: &Call<PathBuf>, config: &Config, pods: PodAddresses) -> Result<()> {
    if let (Some(v4), true) = (pods.v4, config.snat) {
        route_loopback(v4.ip())?;
    }
    let mut host = open_host()?;
    let owner = Owner::new(&call.conf.name, &call.attachment);
    let made = match config.choice.decide(&mut host) {
        Backend::Nftables => nftables::ensure(&mut host, &owner, config, pods).map_err(failed),
        Backend::Iptables => iptables::ensure(&owner.network, &call.attachment, config, pods),
    };
    if let Err(error) = made {
        // nf_tables took nothing; iptables may have taken one family of two.
        let _ = iptables::remove(&mut host, &owner.network, call.attachment.container_id.as_str());
        return Err(error);
    }
    if let Some(flows) = flows_to(lasting_ports(config)) {
        // Flows that the new ports should have got. Not worth failing for: at worst they end by themselves.
        let _ = conntrack::flush(&mut host, &flows);
    }
    Ok(())
}

/// Lets the host's loopback address reach the pod: `127.0.0.1:port` is translated on its way out of the link to it.
fn route_loopback(pod: IpAddr) -> Result<()> {
    let Some(key) = route_localnet(pod)? else { return Ok(()) };
    sysctl::ensure(&key, "1").map(|_| ()).map_err(failed)
}

/// That [`route_loopback`]'s work is still there.
fn check_loopback(pod: IpAddr) -> Result<()> {
    let Some(key) = route_localnet(pod)? else { return Ok(()) };
    match sysctl::read(&key).map_err(failed)?.as_str() {
        "1" => Ok(()),
        other => Err(Error::internal(format!("portmap: sysctl {key} is {other}, not 1"))),
    }
}

/// The sysctl of the link to the pod. A pod that is only reached over a gateway has none: an uplink never takes
/// loopback addresses because of us.
fn route_localnet(pod: IpAddr) -> Result<Option<String>> {
    let mut host = Socket::open(Netlink::Route).map_err(kernel_error)?;
    let Some(index) = route::attached_link(&mut host, pod).map_err(failed)? else { return Ok(None) };
    let link = link::find_index(&mut host, index).map_err(failed)?;
    Ok(link.map(|link| format!("net/ipv4/conf/{}/route_localnet", link.id.name)))
}

/// The mapped ports whose flows never end by themselves.
fn lasting_ports(config: &Config) -> impl Iterator<Item = u16> {
    let lasting = config.mappings.iter().filter(|mapping| is_lasting(mapping.protocol.number()));
    lasting.map(|mapping| mapping.host_port)
}

/// Lasting flows to `ports`; none without any, for no condition would mean all flows there are.
fn flows_to(ports: impl Iterator<Item = u16>) -> Option<conntrack::Filter> {
    let ports: Vec<u16> = ports.collect::<BTreeSet<u16>>().into_iter().collect();
    let filter = conntrack::Filter { protocols: LASTING.to_vec(), ports, ..conntrack::Filter::default() };
    (!filter.ports.is_empty()).then_some(filter)
}

/// Protocols whose flows outlive a change of rules: UDP has no end, SCTP can move to another path.
const LASTING: [u8; 2] = [17, 132];

fn is_lasting(protocol: u8) -> bool {
    LASTING.contains(&protocol)
}

/// Ends the lasting flows by `ports` to `pods`, and those by ports that were given back.
fn forget_flows(
    host: &mut Socket,
    ports: Vec<u16>,
    pods: Vec<IpAddr>,
    released: &[removal::Released],
) -> Result<()> {
    let released_ports = released.iter().filter(|r| is_lasting(r.protocol)).map(|r| r.port);
    let Some(mut filter) = flows_to(ports.into_iter().chain(released_ports)) else { return Ok(()) };
    filter.addresses.extend(pods.into_iter().chain(released.iter().map(|r| r.pod)));
    if filter.addresses.is_empty() {
        return Ok(());
    }
    conntrack::flush(host, &filter).map(|_| ()).map_err(failed)
}

/// The rules of the backend in use, or else those that the other backend or the reference made.
fn check_ports(call: &Call<PathBuf>, config: &Config, pods: PodAddresses) -> Result<()> {
    let mut host = open_host()?;
    let owner = Owner::new(&call.conf.name, &call.attachment);
    let container_id = call.attachment.container_id.as_str();
    let by_iptables = |host: &mut Socket| -> Result<()> {
        if iptables::may_hold(host, &owner.network, container_id, pods)? {
            return iptables::check(&owner.network, &call.attachment, config, pods);
        }
        Err(Error::internal(format!("portmap: iptables has no rules for container {container_id}")))
    };
    let by_nftables = |host: &mut Socket| -> Result<()> {
        let Some(missing) = nftables::check(host, &owner, config, pods).map_err(failed)? else {
            return Ok(());
        };
        match reference::check(host, container_id, config, pods).map_err(failed)? {
            true => Ok(()),
            false => Err(Error::internal(format!("portmap: {missing}"))),
        }
    };
    match config.choice.decide(&mut host) {
        Backend::Nftables => {
            by_nftables(&mut host).or_else(|error| by_iptables(&mut host).map_err(|_| error))
        }
        Backend::Iptables => {
            by_iptables(&mut host).or_else(|error| by_nftables(&mut host).map_err(|_| error))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::config::Protocol;
    use super::*;

    #[test]
    fn without_ports_no_flow_is_forgotten() {
        assert_eq!(flows_to([].into_iter()), None);
        assert_eq!(flows_to([53, 53, 7].into_iter()).map(|filter| filter.ports), Some(vec![7, 53]));
    }

    #[test]
    fn only_flows_that_last_are_forgotten() {
        assert!(Protocol::ALL.map(|p| (p, is_lasting(p.number()))).contains(&(Protocol::Tcp, false)));
        assert!(is_lasting(Protocol::Udp.number()) && is_lasting(Protocol::Sctp.number()));
    }
}
