//! The pod's interface gets what the IPAM result says: addresses, routes; and CHECK finds them again.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use cni::{AddResult, Error, IpConfig, Result};
use ipnetwork::IpNetwork;
use kernel::addr::{self, Address, Dad};
use kernel::link::{self, LinkId, OperState, Switch};
use kernel::netlink::monitor::GROUP_IPV6_ADDR;
use kernel::netlink::{Monitor, Protocol, Socket};
use kernel::sysctl::{self, Keys};
use kernel::{Errno, Mac, Netns, netconf, route};

use crate::kernel_error;

/// How long duplicate address detection may take, as in the reference.
const DAD_PATIENCE: Duration = Duration::from_secs(5);

/// No buffer space: the socket missed announcements.
const ENOBUFS: i32 = 105;
const AF_INET: i32 = 2;
const AF_INET6: i32 = 10;
/// RT_SCOPE_LINK: a neighbour.
const SCOPE_LINK: u8 = 253;

/// How the pod's interface treats new IPv6 addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Duplicates {
    /// Addresses are usable at once: IPAM says that they are ours.
    Trusted,
    /// The kernel probes, with a nonce against its own echo, and ADD waits for it.
    Probed,
}

/// Where a pod's subnet is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subnet {
    /// On the interface itself.
    Connected,
    /// Behind the gateway, which alone is on the interface.
    BehindGateway,
    /// There is none, and only the gateway is on the interface.
    None,
}

/// What a result means for the interface's IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ipv6 {
    /// No address: it is left alone.
    Untouched,
    /// An address; a default route may yet come by a router's advertisement.
    Addressed,
    /// An address and a default route: no router is asked for.
    Routed,
}

impl Ipv6 {
    fn of(result: &AddResult) -> Self {
        let default = |route: &cni::Route| route.dst.is_ipv6() && route.dst.prefix() == 0;
        match families(&result.ips) {
            (_, false) => Ipv6::Untouched,
            _ if result.routes.iter().any(default) => Ipv6::Routed,
            _ => Ipv6::Addressed,
        }
    }
}

/// RFC 8200, section 5.
const IPV6_MIN_MTU: u32 = 1280;

/// A pod's interface, seen through a socket in its namespace.
#[derive(Debug)]
pub struct Inside {
    /// In the pod.
    pub socket: Socket,
    /// The interface.
    pub link: link::Link,
    announcements: Option<Monitor>,
}

/// Enters the pod once, to write the interface's sysctls and to bring a socket out.
///
/// Where `result` has IPv6 addresses, IPv6 is switched on for the interface and for `lo` where it was off, and addresses
/// will survive the link going down.
///
/// # Errors
/// No such interface; a sysctl that the pod forbids to write.
pub fn enter(pod: &Netns, ifname: &str, duplicates: Duplicates, result: &AddResult) -> Result<Inside> {
    let ipv6 = Ipv6::of(result);
    let opened = pod.run(|| {
        let prepared = prepare(ifname, duplicates, ipv6);
        let probed = ipv6 != Ipv6::Untouched && duplicates == Duplicates::Probed;
        let monitor = if probed { Some(Monitor::open(&[GROUP_IPV6_ADDR])?) } else { None };
        Ok::<_, kernel::Error>((prepared, Socket::open(Protocol::Route)?, monitor))
    });
    let (prepared, mut socket, announcements) = opened.and_then(|inner| inner).map_err(kernel_error)?;
    let found = link::find(&mut socket, ifname).map_err(kernel_error)?;
    let link = found.ok_or_else(|| Error::internal(format!("no interface {ifname} in the pod")))?;
    match prepared {
        Ok(()) => Ok(Inside { socket, link, announcements }),
        // The kernel takes IPv6 off such a link.
        Err(_) if link.mtu < IPV6_MIN_MTU => Err(Error::config(format!(
            "mtu: {} of {ifname} is less than the {IPV6_MIN_MTU} bytes that IPv6 needs",
            link.mtu
        ))),
        Err(error) => Err(kernel_error(error)),
    }
}

/// Runs inside the pod. Where it gets no IPv6 address its IPv6 is left alone.
fn prepare(ifname: &str, duplicates: Duplicates, ipv6: Ipv6) -> kernel::Result<()> {
    if ipv6 == Ipv6::Untouched {
        return Ok(());
    }
    let keys = Keys::fresh();
    let key = |name: &str| format!("net/ipv6/conf/{ifname}/{name}");
    match duplicates {
        Duplicates::Trusted => keys.write_if_known(&key("accept_dad"), "0")?,
        Duplicates::Probed => {
            keys.write_if_known(&key("accept_dad"), "1")?;
            keys.write_if_known(&key("enhanced_dad"), "1")?;
        }
    }
    for disabled in ["net/ipv6/conf/lo/disable_ipv6".to_owned(), key("disable_ipv6")] {
        keys.ensure_if_known(&disabled, "0")?;
    }
    if ipv6 == Ipv6::Routed {
        keys.write_if_known(&key("router_solicitations"), "0")?;
    }
    keys.write(&key("keep_addr_on_down"), "1")
}

/// Readies a link of the host that faces pods, whose hardware address we made ourselves. Where IPv6 is off there is
/// nothing to do.
///
/// A pod must not be able to give the host a route, so router advertisements stay out. And there is no duplicate address
/// detection: until a gateway's link-local address is settled the kernel asks for no neighbour in the name of others,
/// so for a second or two nothing forwarded over IPv6 would reach a fresh pod.
pub fn face_pods(link: &str) {
    let keys = Keys::fresh();
    for (name, value) in [("accept_ra", "0"), ("accept_dad", "0")] {
        let _ = keys.write_if_known(&format!("net/ipv6/conf/{link}/{name}"), value);
    }
}

/// Readies a link of the host that only passes frames on: a bridge's port, an ifb. Without IPv6 of its own, which would be
/// routes to the same few prefixes for each of a thousand pods, and the kernel walks all of them whenever a link comes
/// or goes. Where it cannot be written, or IPv6 is off, nothing is lost.
pub fn pass_frames_only(link: &str) {
    let _ = Keys::fresh().write_if_known(&format!("net/ipv6/conf/{link}/disable_ipv6"), "1");
}

/// Gives the interface its addresses and routes, and sets it up, in one pipelined go; then waits for duplicate
/// address detection where that is on.
///
/// Addresses without an interface index are left alone. A route without next hop goes by the first gateway of its
/// family.
///
/// # Errors
/// The result lists no interfaces, or an address is for another one; the kernel's first refusal; a duplicate.
pub fn apply(inside: &mut Inside, result: &AddResult, subnet: Subnet) -> Result<()> {
    let link = inside.link.id.clone();
    let ips = own_addresses(&link.name, result)?;
    let dad = if inside.announcements.is_some() { Dad::Probe } else { Dad::Skip };
    let add = if subnet == Subnet::Connected { addr::add } else { addr::add_without_route };
    let mut ops = vec![link::set_arp_notify(&link, Switch::On)];
    ops.extend(ips.iter().map(|ip| add(&link, ip.address, dad)));
    if dad == Dad::Skip && ips.iter().any(|ip| ip.address.is_ipv6()) {
        let link_local = inside.link.mac.as_ref().and_then(Mac::link_local);
        ops.extend(link_local.map(|address| addr::add(&link, address, dad).or_present()));
    }
    ops.push(link::set_up(&link, Switch::On));
    let by_gateway = ips.iter().flat_map(|ip| match subnet {
        Subnet::Connected => Vec::new(),
        Subnet::BehindGateway => by_gateway(&link, ip),
        Subnet::None => to_gateway(&link, ip).into_iter().collect(),
    });
    ops.extend(by_gateway.map(|route| route::add(&route)));
    ops.extend(routes(&link, result, &ips).iter().map(route::add));
    inside.socket.apply(&ops).map_err(kernel_error)?;
    match inside.announcements.take() {
        Some(monitor) if ips.iter().any(|ip| ip.address.is_ipv6()) => settle(inside, monitor),
        _ => Ok(()),
    }
}

/// Sets the interface up without addresses (layer 2).
///
/// # Errors
/// The kernel's refusal.
pub fn set_up(inside: &mut Inside) -> Result<()> {
    let link = &inside.link.id;
    let ops = [link::set_arp_notify(link, Switch::On), link::set_up(link, Switch::On)];
    inside.socket.apply(&ops).map_err(kernel_error)
}

/// The gateway on the link, and the subnet by the gateway, both from the address.
fn by_gateway(link: &LinkId, ip: &IpConfig) -> Vec<route::Route> {
    let Some(gw) = ip.gateway else { return Vec::new() };
    let src = Some(ip.address.ip());
    let host = route::Route { src, scope: SCOPE_LINK, ..route::Route::new(gw.into(), link.index) };
    let subnet = route::Route { src, gw: Some(gw), ..route::Route::new(ip.address, link.index) };
    vec![host, subnet]
}

/// The gateway on the link. A link-local IPv6 one needs no route, for every link has that of its prefix.
fn to_gateway(link: &LinkId, ip: &IpConfig) -> Option<route::Route> {
    let gw = ip.gateway.filter(IpAddr::is_ipv4)?;
    Some(route::Route { scope: SCOPE_LINK, ..route::Route::new(gw.into(), link.index) })
}

fn own_addresses<'a>(ifname: &str, result: &'a AddResult) -> Result<Vec<&'a IpConfig>> {
    if result.interfaces.is_empty() {
        return Err(Error::internal(format!("no interfaces in the result to configure {ifname} from")));
    }
    let mut own = Vec::new();
    for ip in &result.ips {
        match result.interface_of(ip) {
            None => {}
            Some(Some(interface)) if interface.name == ifname => own.push(ip),
            Some(Some(other)) => {
                let what = format!("address {} is for {}, not for {ifname}", ip.address, other.name);
                return Err(Error::internal(what));
            }
            Some(None) => {
                let (index, known) = (ip.interface.unwrap_or_default(), result.interfaces.len());
                let what = format!("address {}: interface {index} is outside 0..{known}", ip.address);
                return Err(Error::internal(what));
            }
        }
    }
    Ok(own)
}

fn routes(link: &LinkId, result: &AddResult, ips: &[&IpConfig]) -> Vec<route::Route> {
    let gateway_for = |dst: IpNetwork| {
        ips.iter().filter(|ip| ip.address.is_ipv4() == dst.is_ipv4()).find_map(|ip| ip.gateway)
    };
    let planned = result.routes.iter().map(|wanted| route::Route {
        gw: wanted.gw.or_else(|| gateway_for(wanted.dst)),
        table: wanted.table.unwrap_or(route::MAIN),
        priority: wanted.priority,
        scope: wanted.scope.unwrap_or(0),
        mtu: wanted.mtu,
        advmss: wanted.advmss,
        ..route::Route::new(wanted.dst, link.index)
    });
    planned.collect()
}

/// Waits until no IPv6 address is tentative any more. A deadline that passes is an error only where the link can carry
/// packets at all.
fn settle(inside: &mut Inside, mut monitor: Monitor) -> Result<()> {
    let deadline = Instant::now() + DAD_PATIENCE;
    let Inside { socket, link, .. } = inside;
    loop {
        let addresses = addr::list(socket, Some(link.id.index)).map_err(kernel_error)?;
        if let Some(taken) = addresses.iter().find(|a| a.is_duplicate()) {
            return Err(Error::internal(format!("{} is in use by somebody else on the link", taken.ip)));
        }
        let Some(pending) = addresses.iter().find(|a| a.is_tentative()) else { return Ok(()) };
        let announced = match monitor.wait(deadline, |_| true) {
            // Announcements were lost: look again.
            Err(error) if error.errno() == Some(Errno(ENOBUFS)) => true,
            other => other.map_err(kernel_error)?,
        };
        if !announced {
            let now = link::find_index(socket, link.id.index).map_err(kernel_error)?;
            if now.is_some_and(|l| l.operstate != OperState::Up) {
                return Ok(());
            }
            let seconds = DAD_PATIENCE.as_secs();
            return Err(Error::internal(format!("{} is still tentative after {seconds} s", pending.ip)));
        }
    }
}

/// The addresses of a finished result that are the pod interface's own; those of a result without any index all are.
pub fn own_ips(result: &AddResult, ifname: &str) -> Vec<IpConfig> {
    let any_index = result.ips.iter().any(|ip| ip.interface.is_some());
    let own = |ip: &&IpConfig| match result.interface_of(ip) {
        None => !any_index,
        Some(interface) => interface.is_some_and(|i| i.name == ifname && !i.sandbox.is_empty()),
    };
    result.ips.iter().filter(own).cloned().collect()
}

/// Finds the addresses and routes of `result` on the interface.
///
/// A route with a table of its own must be there; one without may be in any table, for `sbr` and `vrf` move them.
/// The next hop of a default route may have been changed by a later plug-in.
///
/// # Errors
/// The first that is missing.
pub fn check(socket: &mut Socket, link: &LinkId, result: &AddResult) -> Result<()> {
    let addresses = addr::list(socket, Some(link.index)).map_err(kernel_error)?;
    for ip in own_ips(result, &link.name) {
        if !addresses.iter().any(|a: &Address| a.ip == ip.address) {
            return Err(Error::internal(format!("{link} has lost address {}", ip.address)));
        }
    }
    if result.routes.is_empty() {
        return Ok(());
    }
    let routes = route::list(socket, route::Filter::default()).map_err(kernel_error)?;
    let missing = result.routes.iter().find(|wanted| !routes.iter().any(|seen| serves(seen, wanted)));
    missing.map_or(Ok(()), |route| {
        let via = route.gw.map(|gw| format!(" via {gw}")).unwrap_or_default();
        Err(Error::internal(format!("route {}{via} of {link} is gone", route.dst)))
    })
}

fn serves(seen: &route::Route, wanted: &cni::Route) -> bool {
    let by_gateway = |gw: IpAddr| wanted.dst.prefix() == 0 || seen.goes_by(gw);
    seen.dst == route::masked(wanted.dst)
        && wanted.table.is_none_or(|table| seen.table == table)
        && wanted.gw.is_none_or(by_gateway)
}

/// Lets the host forward the families in use; written only where it is off.
///
/// # Errors
/// The sysctl cannot be written.
pub fn enable_forwarding(host: &mut Socket, v4: bool, v6: bool) -> Result<()> {
    let lacking = lacking_forwarding(host, v4, v6)?;
    lacking.into_iter().try_for_each(|key| sysctl::write(key, "1").map_err(kernel_error))
}

/// The sysctls that keep the host from forwarding the families in use.
///
/// # Errors
/// The kernel does not say.
pub fn lacking_forwarding(host: &mut Socket, v4: bool, v6: bool) -> Result<Vec<&'static str>> {
    let families = [(v4, AF_INET, "net/ipv4/ip_forward"), (v6, AF_INET6, "net/ipv6/conf/all/forwarding")];
    let mut lacking = Vec::new();
    for (_, family, key) in families.into_iter().filter(|(wanted, ..)| *wanted) {
        if !netconf::forwards(host, family).map_err(kernel_error)? {
            lacking.push(key);
        }
    }
    Ok(lacking)
}

/// Which families `ips` has: IPv4, IPv6.
pub fn families(ips: &[IpConfig]) -> (bool, bool) {
    (ips.iter().any(|ip| ip.address.is_ipv4()), ips.iter().any(|ip| ip.address.is_ipv6()))
}
