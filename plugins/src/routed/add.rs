//! ADD: from a configuration to a pod that its node routes to.

use std::net::IpAddr;
use std::path::PathBuf;

use cni::{AddResult, Call, Error, IpConfig, Result};
use ipnetwork::IpNetwork;
use kernel::addr::{self, Dad};
use kernel::link::{self, Link, LinkId, Switch};
use kernel::neigh;
use kernel::netlink::{Protocol, Socket};
use kernel::route;
use kernel::sysctl::Keys;
use overlay::attachment::{GATEWAY_6, SWITCHES_4, gateway_network, route_to};

use super::{GATEWAY_4, host_mac};
use crate::bridge::add_default_routes;
use crate::cluster::{Pods, Static, masquerade};
use crate::configure::{self, Duplicates, Inside, Subnet};
use crate::owner::Owner;
use crate::undo::Undo;
use crate::{dns, ipam, kernel_error, pod, veth};

/// Position of the pod's end among the result's interfaces: after the end on the host.
const CONTAINER: i64 = 1;

/// Makes the attachment; `call` has the configuration as [`crate::cluster::fill_in`] leaves it.
///
/// # Errors
/// Bad configuration, a refusal of the kernel or of the IPAM plug-in, an address that somebody else has.
pub fn add(call: &Call<PathBuf>, peers: Option<&Static>, pods: &Pods) -> Result<AddResult> {
    let dns = dns::Said::parse(&call.conf)?;
    let pod = pod::open(&call.netns)?;
    let (mut result, undo_lease) = lease(call, &dns)?;
    let mut host = Socket::open(Protocol::Route).map_err(kernel_error)?;
    let ifname = &call.attachment.ifname;
    let mac = host_mac();
    let plan = veth::Plan {
        pod: &pod,
        ifname,
        mtu: Some(pods.mtu),
        mac: None,
        host_mac: Some(&mac),
        master: None,
        up: false,
    };
    let host_end = veth::create(&mut host, &plan, veth::random_name)?;
    let undo_pair = veth::undo(&host_end.id);
    let (v4, v6) = configure::families(&result.ips);
    configure::enable_forwarding(&mut host, v4, v6)?;
    face_pod(&host_end.id, v4, v6)?;

    let owner = Owner::new(&call.conf.name, &call.attachment);
    serve(&mut host, &host_end.id, &owner, &result.ips)?;
    let mut inside = configure::enter(&pod, ifname.as_str(), Duplicates::Trusted, &result)?;
    let sandbox = call.netns.to_string_lossy();
    result.interfaces = vec![veth::describe(&host_end, ""), veth::describe(&inside.link, &sandbox)];
    configure::apply(&mut inside, &result, Subnet::None)?;
    introduce_gateway(&mut inside, &result.ips)?;
    let undo_rules = undo_rules(&owner, peers, &result.ips);
    if let Some(peers) = peers.filter(|peers| peers.ip_masq) {
        masquerade::ensure(peers, &owner, &result.ips)?;
    }
    undo_rules.commit();
    undo_pair.commit();
    undo_lease.commit();
    Ok(result)
}

/// The IPAM plug-in's addresses as hosts' behind this node, and the guard that gives the lease back.
fn lease(call: &Call<PathBuf>, dns: &dns::Said) -> Result<(AddResult, Undo<impl FnOnce() + use<>>)> {
    let mut result = ipam::add(call)?;
    let release = call.clone().into_del();
    let undo = Undo::new(move || {
        // The ADD has failed with an error of its own.
        let _ = ipam::del(&release);
    });
    for ip in &mut result.ips {
        ip.interface = Some(CONTAINER);
        ip.address = IpNetwork::from(ip.address.ip());
        ip.gateway = Some(gateway_for(ip.address));
    }
    if let Some((route, gw)) = result.routes.iter().find_map(|route| Some((route, route.gw?))) {
        let what = format!("routed: ipam: route {} via {gw}: a pod's only next hop is its node", route.dst);
        return Err(Error::config(what));
    }
    // One without next hop goes by the node, as the default route does; the same route twice is refused.
    add_default_routes(&mut result);
    result.dns = dns.or(result.dns);
    Ok((result, undo))
}

/// The gateway of a pod's `address`.
fn gateway_for(address: IpNetwork) -> IpAddr {
    if address.is_ipv4() { GATEWAY_4 } else { GATEWAY_6 }
}

fn undo_rules(owner: &Owner, peers: Option<&Static>, ips: &[IpConfig]) -> Undo<impl FnOnce() + use<>> {
    let (owner, masq, ips) = (owner.clone(), peers.is_some_and(|peers| peers.ip_masq), ips.to_vec());
    Undo::new(move || {
        if masq {
            // The ADD has failed with an error of its own.
            let _ = masquerade::remove(&owner, &ips);
        }
    })
}

/// The host end before it comes up: it forwards, answers for the gateway at once, and takes no routes from the pod.
/// Reverse path filtering is the administrator's.
fn face_pod(host_end: &LinkId, v4: bool, v6: bool) -> Result<()> {
    let keys = Keys::fresh();
    let name = &host_end.name;
    if v4 {
        for (tree, key, value) in SWITCHES_4 {
            keys.ensure(&format!("net/ipv4/{tree}/{name}/{key}"), value).map_err(kernel_error)?;
        }
    }
    if !v6 {
        configure::pass_frames_only(name);
        return Ok(());
    }
    for (key, value) in [("disable_ipv6", "0"), ("accept_ra", "0"), ("accept_dad", "0"), ("forwarding", "1")]
    {
        keys.ensure_if_known(&format!("net/ipv6/conf/{name}/{key}"), value).map_err(kernel_error)?;
    }
    Ok(())
}

/// The gateway's link-local address, and a route to each of the pod's addresses.
fn serve(host: &mut Socket, host_end: &LinkId, owner: &Owner, ips: &[IpConfig]) -> Result<()> {
    let mut ops = vec![veth::label(host_end, owner)];
    if ips.iter().any(|ip| ip.address.is_ipv6()) {
        ops.push(link::set_no_link_local(host_end));
        ops.push(addr::add(host_end, gateway_network(), Dad::Skip).or_present());
    }
    ops.push(link::set_up(host_end, Switch::On));
    host.apply(&ops).map_err(kernel_error)?;
    for ip in ips {
        match host.apply(&[route::create(&route_to(ip.address, host_end.index))]) {
            Err(error) if error.is_present() => return Err(taken(host, ip.address)?),
            outcome => outcome.map_err(kernel_error)?,
        }
    }
    Ok(())
}

/// Who has `address`, where the kernel says that somebody has.
fn taken(host: &mut Socket, address: IpNetwork) -> Result<Error> {
    let index = route::attached_link(host, address.ip()).map_err(kernel_error)?;
    let link = index.map(|index| link::find_index(host, index)).transpose().map_err(kernel_error)?.flatten();
    let owner = link.map_or_else(
        || "another route".to_owned(),
        |Link { id, alias, .. }| if alias.is_empty() { id.to_string() } else { format!("{id} ({alias})") },
    );
    Ok(Error::internal(format!("routed: {} belongs to {owner} already", address.ip())))
}

/// Tells the pod its gateways' hardware address, so that it need not ask.
fn introduce_gateway(inside: &mut Inside, ips: &[IpConfig]) -> Result<()> {
    let mac = host_mac();
    let (v4, v6) = configure::families(ips);
    let gateways = [(v4, GATEWAY_4), (v6, GATEWAY_6)].into_iter().filter(|(used, _)| *used);
    let ops: Vec<_> =
        gateways.map(|(_, gateway)| neigh::set_permanent(&inside.link.id, gateway, &mac)).collect();
    inside.socket.apply(&ops).map_err(kernel_error)
}
