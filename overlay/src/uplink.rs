//! By which link and address this node talks to the others.
//!
//! The node's addresses are what its peers send to, so the link that has one of them is the uplink, whatever the routes
//! say. Where none has (a cloud that translates addresses, a Node object without any yet), the default route decides.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnetwork::IpNetwork;
use kernel::addr::{self, Address};
use kernel::link::{self, Link};
use kernel::netlink::Socket;
use kernel::route::{self, Filter, MAIN, Route, masked};

use crate::topology::Uplink;
use crate::{ALIAS, DualStack, Family};

/// How an administrator says which link it is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Choice {
    /// By the node's addresses, else by the default route.
    #[default]
    Auto,
    /// The link with this name.
    Name(String),
    /// The link with this address, which is then the node's.
    Ip(IpAddr),
    /// The link with an address in this network.
    Network(IpNetwork),
}

impl FromStr for Choice {
    type Err = String;

    /// Reads `auto` or nothing, a link's name, an address, or a network in CIDR form.
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "" | "auto" => Ok(Choice::Auto),
            _ if text.contains('/') => match text.parse() {
                Ok(network) => Ok(Choice::Network(masked(network))),
                Err(_) => {
                    Err(format!("`{text}` is no network in CIDR form, and no link has a name with a slash"))
                }
            },
            _ => match text.parse() {
                Ok(ip) => Ok(Choice::Ip(ip)),
                Err(_) if text.len() <= 15 && !text.contains(char::is_whitespace) => {
                    Ok(Choice::Name(text.to_owned()))
                }
                Err(_) => Err(format!("`{text}` is no link's name (at most 15 bytes), address, or network")),
            },
        }
    }
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Choice::Auto => f.write_str("auto"),
            Choice::Name(name) => f.write_str(name),
            Choice::Ip(ip) => ip.fmt(f),
            Choice::Network(network) => network.fmt(f),
        }
    }
}

/// Finds the uplink of each family; a family is absent where the node has no address for others in it.
///
/// `node_ips` are the addresses that peers know this node by. When there are some, only their families have uplinks,
/// unless `choice` names a link.
///
/// # Errors
/// One sentence that names the choice: no link has that name or address. Or what the kernel refused to list.
pub fn find(
    socket: &mut Socket,
    choice: &Choice,
    node_ips: &DualStack<Option<IpAddr>>,
) -> Result<DualStack<Option<Uplink>>, String> {
    let failed = |error: kernel::Error| format!("cannot look for the uplink: {error}");
    let host = Host {
        links: link::list(socket).map_err(failed)?.into_iter().filter(is_candidate).collect(),
        addresses: addr::list(socket, None).map_err(failed)?.into_iter().filter(is_usable).collect(),
    };
    let found = host.chosen(choice, node_ips)?;
    let wanted = |family| match choice {
        Choice::Auto => node_ips.is_empty() || node_ips.of(family).is_some(),
        Choice::Name(_) | Choice::Ip(_) | Choice::Network(_) => true,
    };
    let missing = found.iter().any(|(family, uplink)| wanted(family) && uplink.is_none());
    if *choice != Choice::Auto || !missing {
        return Ok(found);
    }
    let filter = Filter { table: Some(MAIN), ..Filter::default() };
    let routes = route::list(socket, filter).map_err(failed)?;
    Ok(DualStack::from_fn(|family| {
        let known = found.of(family).clone();
        known.or_else(|| wanted(family).then(|| host.by_default_route(family, &routes)).flatten())
    }))
}

/// Loopback links and our own are never the way to other nodes.
fn is_candidate(link: &Link) -> bool {
    let ours = link.alias == ALIAS || link.id.name.starts_with("bowline");
    !link.is_loopback() && !ours && link.is_up()
}

/// An address that others can send to and that is there to stay.
fn is_usable(address: &Address) -> bool {
    address.is_global() && !address.is_tentative() && !address.is_duplicate()
}

/// What this node has.
struct Host {
    links: Vec<Link>,
    addresses: Vec<Address>,
}

impl Host {
    fn chosen(
        &self,
        choice: &Choice,
        node_ips: &DualStack<Option<IpAddr>>,
    ) -> Result<DualStack<Option<Uplink>>, String> {
        let by_link = |link: &Link, first: &dyn Fn(IpAddr) -> bool| {
            DualStack::from_fn(|family| {
                self.best_of(link, family, |ip| (first(ip), *node_ips.of(family) == Some(ip)))
            })
        };
        match choice {
            Choice::Auto => Ok(DualStack::from_fn(|family| {
                let ip = (*node_ips.of(family))?;
                self.uplink(self.addresses.iter().find(|address| address.ip.ip() == ip)?)
            })),
            Choice::Name(name) => {
                let link = self.links.iter().find(|link| link.id.name == *name);
                let link = link.ok_or_else(|| format!("uplink: there is no link `{name}` that is up"))?;
                Ok(by_link(link, &|_| false))
            }
            Choice::Ip(ip) => {
                let link = self.link_with(|address| address.ip() == *ip);
                let link = link.ok_or_else(|| format!("uplink: no link that is up has the address {ip}"))?;
                Ok(by_link(link, &|other| other == *ip))
            }
            Choice::Network(network) => {
                let link = self.link_with(|address| network.contains(address.ip()));
                let link =
                    link.ok_or_else(|| format!("uplink: no link that is up has an address in {network}"))?;
                Ok(by_link(link, &|other| network.contains(other)))
            }
        }
    }

    fn link_with(&self, matches: impl Fn(IpNetwork) -> bool) -> Option<&Link> {
        let mut with = self.addresses.iter().filter(|address| matches(address.ip));
        with.find_map(|address| self.links.iter().find(|link| link.id.index == address.link))
    }

    /// The address of `link` that `preferred` puts first; among equals a lasting one, then the kernel's order.
    fn best_of<P: Ord>(
        &self,
        link: &Link,
        family: Family,
        preferred: impl Fn(IpAddr) -> P,
    ) -> Option<Uplink> {
        let of_link = self
            .addresses
            .iter()
            .filter(|address| address.link == link.id.index && Family::of_network(address.ip) == family);
        // min_by_key keeps the first of equals, max_by_key the last.
        let best = of_link.min_by_key(|address| {
            let lasting = (!address.is_deprecated(), !address.is_temporary(), !address.is_secondary());
            std::cmp::Reverse((preferred(address.ip.ip()), lasting))
        })?;
        self.uplink(best)
    }

    fn uplink(&self, address: &Address) -> Option<Uplink> {
        let link = self.links.iter().find(|link| link.id.index == address.link)?;
        Some(Uplink {
            link: link.id.clone(),
            ip: address.ip.ip(),
            prefix: address.ip.prefix(),
            mtu: link.mtu,
        })
    }

    fn by_default_route(&self, family: Family, routes: &[Route]) -> Option<Uplink> {
        let mut defaults: Vec<_> = routes
            .iter()
            .filter(|route| route.dst.prefix() == 0 && Family::of_network(route.dst) == family)
            .filter(|route| route.kind == route::UNICAST)
            .collect();
        defaults.sort_by_key(|route| route.priority);
        defaults.iter().find_map(|route| {
            let index = route.link.or_else(|| route.hops.first().map(|hop| hop.link))?;
            let link = self.links.iter().find(|link| link.id.index == index)?;
            self.best_of(link, family, |ip| Some(ip) == route.src)
        })
    }
}
