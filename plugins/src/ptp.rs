//! `ptp`: a pod on a cable of its own, routed by the host, with no bridge.
//!
//! ```text
//!   pod                      host
//!  eth0 10.1.1.5  ---veth---  vethxxxxxxxx 10.1.1.1/32,  route 10.1.1.5 dev vethxxxxxxxx
//!  10.1.1.1 dev eth0, 10.1.1.0/24 via 10.1.1.1
//! ```

use std::path::PathBuf;

use cni::{AddResult, Call, Error, GcCall, IpConfig, NetConf, Plugin, Result, StatusCall};
use ipnetwork::IpNetwork;
use kernel::addr::{self, Dad};
use kernel::link::Link;
use kernel::netlink::{Protocol, Socket};
use kernel::route;
use serde::Deserialize;

use crate::backend::Choice;
use crate::bridge::{masquerade_usable, parse_mtu};
use crate::cable::{self, Cable};
use crate::configure::{self, Duplicates, Subnet};
use crate::error::gather;
use crate::owner::Owner;
use crate::undo::Undo;
use crate::{dns, drift, ipam, kernel_error, masquerade, pod, veth};

/// Position of the pod's end among the result's interfaces: after the end on the host.
const CONTAINER: i64 = 1;
/// RT_SCOPE_HOST: as the reference gives the route to the pod.
const SCOPE_HOST: u8 = 254;

/// The plug-in.
#[derive(Debug)]
pub struct Ptp;

/// What the configuration means.
struct Conf {
    ip_masq: bool,
    backend: Choice,
    mtu: Option<u32>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Raw {
    ip_masq: bool,
    ip_masq_backend: Option<String>,
    mtu: i64,
}

impl Conf {
    fn parse(conf: &NetConf) -> Result<Conf> {
        let raw: Raw = conf.decode()?;
        if conf.ipam_type.is_empty() {
            return Err(Error::config("ptp: ipam.type: it is required"));
        }
        Ok(Conf {
            ip_masq: raw.ip_masq,
            backend: Choice::parse("ptp", "ipMasqBackend", raw.ip_masq_backend.as_deref())?,
            mtu: parse_mtu("ptp", raw.mtu)?,
        })
    }
}

impl Plugin for Ptp {
    fn name(&self) -> &'static str {
        "ptp"
    }

    fn add(&self, call: &Call<PathBuf>) -> Result<AddResult> {
        add(call)
    }

    fn del(&self, call: &Call<Option<PathBuf>>) -> Result<()> {
        del(call)
    }

    fn check(&self, call: &Call<PathBuf>) -> Result<()> {
        check(call)
    }

    fn gc(&self, call: &GcCall) -> Result<()> {
        let leases = if call.conf.ipam_type.is_empty() { Ok(()) } else { ipam::gc(call) };
        let Some(valid) = &call.valid else { return leases };
        let netfilter = Socket::open(Protocol::Netfilter).map_err(kernel_error);
        let rules =
            netfilter.and_then(|mut netfilter| masquerade::gc(&mut netfilter, &call.conf.name, valid));
        gather([leases, cable::gc(&call.conf.name, valid), rules])
    }

    fn status(&self, call: &StatusCall) -> Result<()> {
        let conf = Conf::parse(&call.conf)?;
        ipam::status(call)?;
        pod::may_attach()?;
        if conf.ip_masq { masquerade_usable(conf.backend) } else { Ok(()) }
    }
}

fn add(call: &Call<PathBuf>) -> Result<AddResult> {
    let conf = Conf::parse(&call.conf)?;
    let dns = dns::Said::parse(&call.conf)?;
    let pod = pod::open(&call.netns)?;
    let (mut result, undo_lease) = lease(call, &dns)?;
    let mut host = Socket::open(Protocol::Route).map_err(kernel_error)?;
    let ifname = &call.attachment.ifname;
    let plan =
        veth::Plan { pod: &pod, ifname, mtu: conf.mtu, mac: None, host_mac: None, master: None, up: true };
    let host_end = veth::create(&mut host, &plan, veth::random_name)?;
    let undo_pair = veth::undo(&host_end.id);
    let (v4, v6) = configure::families(&result.ips);
    configure::enable_forwarding(&mut host, v4, v6)?;
    configure::face_pods(&host_end.id.name);

    let mut inside = configure::enter(&pod, ifname.as_str(), Duplicates::Trusted, &result)?;
    let sandbox = call.netns.to_string_lossy();
    result.interfaces = vec![veth::describe(&host_end, ""), veth::describe(&inside.link, &sandbox)];
    configure::apply(&mut inside, &result, Subnet::BehindGateway)?;
    serve_as_gateway(&mut host, &host_end, &owner(call), &result.ips)?;
    let undo_rules = undo_rules(call, &conf, &result.ips);
    if conf.ip_masq {
        let mut netfilter = Socket::open(Protocol::Netfilter).map_err(kernel_error)?;
        let backend = conf.backend.decide(&mut netfilter);
        masquerade::ensure(&mut netfilter, &owner(call), &result.ips, backend)?;
    }
    undo_rules.commit();
    undo_pair.commit();
    undo_lease.commit();
    Ok(result)
}

fn owner<N>(call: &Call<N>) -> Owner {
    Owner::new(&call.conf.name, &call.attachment)
}

/// The IPAM plug-in's result, every address with a gateway, and the guard that gives the lease back.
fn lease(call: &Call<PathBuf>, dns: &dns::Said) -> Result<(AddResult, Undo<impl FnOnce() + use<>>)> {
    let mut result = ipam::add(call)?;
    let release = call.clone().into_del();
    let undo = Undo::new(move || {
        // The ADD has failed with an error of its own.
        let _ = ipam::del(&release);
    });
    if let Some(ip) = result.ips.iter().find(|ip| ip.gateway.is_none()) {
        let name = &call.conf.ipam_type;
        return Err(Error::config(format!("ptp: ipam: {name} gave {} without a gateway", ip.address)));
    }
    result.ips.iter_mut().for_each(|ip| ip.interface = Some(CONTAINER));
    result.dns = dns.or(result.dns);
    Ok((result, undo))
}

fn undo_rules(call: &Call<PathBuf>, conf: &Conf, ips: &[IpConfig]) -> Undo<impl FnOnce() + use<>> {
    let (owner, masq, ips) = (owner(call), conf.ip_masq, ips.to_vec());
    Undo::new(move || {
        if masq && let Ok(mut netfilter) = Socket::open(Protocol::Netfilter) {
            // The ADD has failed with an error of its own.
            let _ = masquerade::remove(&mut netfilter, &owner, &ips);
        }
    })
}

/// The gateway's addresses on the host end, and a route to each of the pod's.
fn serve_as_gateway(host: &mut Socket, host_end: &Link, owner: &Owner, ips: &[IpConfig]) -> Result<()> {
    let id = &host_end.id;
    let mut ops = vec![veth::label(id, owner)];
    for ip in ips {
        if let Some(gateway) = ip.gateway {
            ops.push(addr::add(id, gateway.into(), Dad::Skip).or_present());
        }
        ops.push(route::add(&route_to(host_end, ip)).or_present());
    }
    host.apply(&ops).map_err(kernel_error)
}

fn route_to(host_end: &Link, ip: &IpConfig) -> route::Route {
    let dst = IpNetwork::from(ip.address.ip());
    route::Route { scope: SCOPE_HOST, ..route::Route::new(dst, host_end.id.index) }
}

fn del(call: &Call<Option<PathBuf>>) -> Result<()> {
    let (cable, mut outcomes) = Cable::find(call);
    if !call.conf.ipam_type.is_empty() {
        outcomes.push(ipam::del(call));
    }
    outcomes.push(cable.delete());
    // A configuration that ADD would refuse counts as one that masquerades.
    if Conf::parse(&call.conf).map_or(true, |conf| conf.ip_masq) {
        let netfilter = Socket::open(Protocol::Netfilter).map_err(kernel_error);
        let removed = netfilter.and_then(|mut s| masquerade::remove(&mut s, &owner(call), &cable.ips));
        outcomes.push(removed);
    }
    gather(outcomes)
}

fn check(call: &Call<PathBuf>) -> Result<()> {
    let conf = Conf::parse(&call.conf)?;
    let Some(prev) = &call.conf.prev_result else {
        return Err(Error::config("ptp: prevResult: CHECK needs it"));
    };
    ipam::check(call)?;
    let pod = pod::open(&call.netns)?;
    let mut host = Socket::open(Protocol::Route).map_err(kernel_error)?;
    let mut inside = Socket::open_in(&pod, Protocol::Route).map_err(kernel_error)?;
    let container = drift::container_end("ptp", &mut inside, prev, call.attachment.ifname.as_str())?;
    drift::is_up(&container)?;
    configure::check(&mut inside, &container.id, prev)?;
    check_host_end(&mut host, &container, prev)?;
    if conf.ip_masq {
        let mut netfilter = Socket::open(Protocol::Netfilter).map_err(kernel_error)?;
        let backend = conf.backend.decide(&mut netfilter);
        masquerade::check(
            &mut netfilter,
            &owner(call),
            &configure::own_ips(prev, &container.id.name),
            backend,
        )?;
    }
    Ok(())
}

/// The host forwards, and its end is up and leads to each of the pod's addresses.
fn check_host_end(host: &mut Socket, container: &Link, prev: &AddResult) -> Result<()> {
    let host_end = drift::host_end(host, container)?;
    drift::is_up(&host_end)?;
    let own = configure::own_ips(prev, &container.id.name);
    drift::forwarding(host, &own)?;
    let link = Some(host_end.id.index);
    let filter = route::Filter { table: Some(route::MAIN), link, ..route::Filter::default() };
    let routes = route::list(host, filter).map_err(kernel_error)?;
    for ip in own {
        let dst = IpNetwork::from(ip.address.ip());
        if !routes.iter().any(|route| route.dst == dst) {
            return drift::drift(format!("the host's route to {dst} by {} is gone", host_end.id));
        }
    }
    Ok(())
}
