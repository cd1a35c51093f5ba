//! What an administrator decides for single dataplanes. None of it is in a plan.

use std::time::Duration;

use ipnetwork::IpNetwork;

/// Settings of single dataplanes; the others take no notice of them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Options {
    /// Of the iptables dataplane.
    pub iptables: IptablesOptions,
    /// Of the IPVS dataplane.
    pub ipvs: IpvsOptions,
}

/// Settings of the iptables dataplane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IptablesOptions {
    /// Whether NodePorts of IPv4 answer on 127.0.0.1 too, as far as the NodePort addresses include it. Needs the sysctl
    /// `route_localnet`.
    pub localhost_node_ports: bool,
}

impl Default for IptablesOptions {
    /// kube-proxy's.
    fn default() -> Self {
        IptablesOptions { localhost_node_ports: true }
    }
}

/// Settings of the IPVS dataplane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IpvsOptions {
    /// The kernel's name of the scheduler for Services that name none themselves.
    pub scheduler: String,
    /// Whether the node answers ARP for the addresses of Services only on the link that has them, as load balancers on
    /// layer 2 need.
    pub strict_arp: bool,
    /// Virtual servers on these addresses belong to others and are left alone.
    pub exclude_cidrs: Vec<IpNetwork>,
    /// How long an idle TCP connection is remembered; none leaves the kernel's.
    pub tcp_timeout: Option<Duration>,
    /// The same after a FIN.
    pub tcp_fin_timeout: Option<Duration>,
    /// The same for UDP.
    pub udp_timeout: Option<Duration>,
}

impl Default for IpvsOptions {
    /// kube-proxy's.
    fn default() -> Self {
        IpvsOptions {
            scheduler: "rr".to_owned(),
            strict_arp: false,
            exclude_cidrs: Vec::new(),
            tcp_timeout: None,
            tcp_fin_timeout: None,
            udp_timeout: None,
        }
    }
}
