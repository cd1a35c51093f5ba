//! From the plan of one Service port to chains and rules.

use std::net::{IpAddr, SocketAddr};

use kernel::iptables::Table;

use super::names::{self, PortChains};
use super::rule::{by_sender, comment, from, join, one_of, to};
use crate::Family;
use crate::plan::{Action, Detect, Frontend, FrontendKind, PortPlan, Scope, Target};

/// A chain that all Service ports share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Shared {
    /// Filter: ClusterIPs that nobody serves.
    Unserved,
    /// Filter: other frontends that nobody serves.
    ExternalUnserved,
    /// Filter: what load balancers ask.
    HealthChecks,
    /// Filter: what source ranges have left over.
    Ranged,
    /// Nat: frontends with addresses; last of all, the way to the node ports.
    Services,
    /// Nat: node ports.
    NodePorts,
}

impl Shared {
    pub(super) const ALL: [Shared; 6] = [
        Shared::Unserved,
        Shared::ExternalUnserved,
        Shared::HealthChecks,
        Shared::Ranged,
        Shared::Services,
        Shared::NodePorts,
    ];

    pub(super) fn table(self) -> Table {
        match self {
            Shared::Services | Shared::NodePorts => Table::Nat,
            _ => Table::Filter,
        }
    }

    pub(super) fn chain(self) -> &'static str {
        match self {
            Shared::Unserved | Shared::Services => names::SERVICES,
            Shared::ExternalUnserved => names::EXTERNAL_SERVICES,
            Shared::HealthChecks | Shared::NodePorts => names::NODE_PORTS,
            Shared::Ranged => names::PROXY_FIREWALL,
        }
    }
}

/// What is the same for all Service ports of a family.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Style {
    pub(super) family: Family,
    pub(super) detect: Option<Detect>,
    /// Whether rules about single endpoints have comments: not where there are very many.
    pub(super) is_wordy: bool,
    /// Whether node ports answer on loopback, and with what packets there are counted.
    pub(super) localhost: Localhost,
}

/// Node ports on loopback.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Localhost {
    Off,
    On,
    /// The kernel can count these packets.
    Counted,
}

/// The counter of connections to node ports on loopback.
pub(super) const LOCALHOST_COUNTER: &str = "localhost_nps_accepted_pkts";

/// One Service port in tables nat and filter.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Rendered {
    /// Chains of its own, all in table nat.
    pub(super) chains: Vec<(String, Vec<String>)>,
    /// Its rules in chains of all.
    pub(super) shared: Vec<(Shared, String)>,
}

/// Renders a Service port; `health` is its Service's health check node port.
pub(super) fn port(style: &Style, port: &PortPlan, health: Option<u16>) -> Rendered {
    let title = names::title(&port.name);
    let writer = Writer {
        style,
        port,
        protocol: names::protocol(port.name.protocol),
        title,
        chains: PortChains::new(&port.name),
    };
    let mut rendered = Rendered::default();
    writer.frontends(&mut rendered);
    if let Some(number) = health {
        let words = comment(&format!("{} health check node port", writer.title));
        let rule = join(&["-p tcp", &words, "-m tcp --dport", &number.to_string(), "-j ACCEPT"]);
        rendered.shared.push((Shared::HealthChecks, rule));
    }
    writer.external_chain(&mut rendered);
    writer.ranges_chain(&mut rendered);
    writer.balancing_chains(&mut rendered);
    rendered
}

struct Writer<'a> {
    style: &'a Style,
    port: &'a PortPlan,
    protocol: &'static str,
    title: String,
    chains: PortChains,
}

impl Writer<'_> {
    fn frontends(&self, rendered: &mut Rendered) {
        for frontend in &self.port.frontends {
            let access = self.port.access(frontend.kind);
            match access.outside {
                Action::Reject => self.unserved(frontend, true, rendered),
                Action::Drop => self.unserved(frontend, false, rendered),
                Action::Balance { .. } => {}
            }
            let is_internal = frontend.kind == FrontendKind::ClusterIp;
            // Where those outside get nothing because no endpoint is here, pods and the node may still get through.
            if access.outside == Action::Reject || is_internal && access.outside == Action::Drop {
                continue;
            }
            match (frontend.kind, frontend.ip) {
                (FrontendKind::ClusterIp, Some(ip)) => {
                    self.lead((ip, frontend.port), "cluster IP", self.internal_chain(), rendered);
                }
                (FrontendKind::ExternalIp, Some(ip)) => {
                    self.lead((ip, frontend.port), "external IP", &self.chains.external, rendered);
                }
                (FrontendKind::LoadBalancerIp, Some(ip)) => self.load_balancer((ip, frontend.port), rendered),
                (_, _) => self.node_port(frontend.port, rendered),
            }
        }
    }

    /// To an address and port, by this port's protocol, in the words of `what`.
    fn matching(&self, source: &str, (ip, port): (IpAddr, u16), (interface, what): (&str, &str)) -> String {
        let protocol = format!("-p {}", self.protocol);
        let dport = format!("-m {} --dport {port}", self.protocol);
        let words = comment(&format!("{} {what}", self.title));
        join(&[source, &to(ip), interface, &protocol, &words, &dport])
    }

    fn lead(&self, at: (IpAddr, u16), what: &str, chain: &str, rendered: &mut Rendered) {
        let rule = format!("{} -j {chain}", self.matching("", at, ("", what)));
        rendered.shared.push((Shared::Services, rule));
    }

    fn load_balancer(&self, at: (IpAddr, u16), rendered: &mut Rendered) {
        if self.port.sources.is_none() {
            self.lead(at, "loadbalancer IP", &self.chains.external, rendered);
            return;
        }
        self.lead(at, "loadbalancer IP", &self.chains.ranges, rendered);
        let what = format!("traffic not accepted by {}", self.chains.ranges);
        let rule = format!("{} -j DROP", self.matching("", at, ("", &what)));
        rendered.shared.push((Shared::Ranged, rule));
    }

    fn node_port(&self, port: u16, rendered: &mut Rendered) {
        let protocol = format!("-p {}", self.protocol);
        let dport = format!("-m {} --dport {port}", self.protocol);
        let words = comment(&self.title);
        let target = format!("-j {}", self.chains.external);
        if self.style.localhost == Localhost::Counted {
            let counter = format!("-m nfacct --nfacct-name  {LOCALHOST_COUNTER}");
            let rule = join(&["-d 127.0.0.0/8", &protocol, &words, &dport, &counter, &target]);
            rendered.shared.push((Shared::NodePorts, rule));
        }
        let rule = join(&[&protocol, &words, &dport, &target]);
        rendered.shared.push((Shared::NodePorts, rule));
    }

    fn unserved(&self, frontend: &Frontend, is_anywhere: bool, rendered: &mut Rendered) {
        let what = if is_anywhere { "has no endpoints" } else { "has no local endpoints" };
        let target = match (is_anywhere, self.style.family) {
            (false, _) => "-j DROP",
            (true, Family::V4) => "-j REJECT --reject-with icmp-port-unreachable",
            (true, Family::V6) => "-j REJECT --reject-with icmp6-port-unreachable",
        };
        let Some(ip) = frontend.ip else {
            let protocol = format!("-p {}", self.protocol);
            let dport = format!("-m {} --dport {}", self.protocol, frontend.port);
            let words = comment(&format!("{} {what}", self.title));
            let rule = join(&[&protocol, &words, "-m addrtype --dst-type LOCAL", &dport, target]);
            rendered.shared.push((Shared::ExternalUnserved, rule));
            return;
        };
        let rule = format!("{} {target}", self.matching("", (ip, frontend.port), ("", what)));
        if frontend.kind == FrontendKind::ClusterIp {
            rendered.shared.push((Shared::Unserved, rule));
            return;
        }
        if is_anywhere {
            // Of the two chains, output leads only to this one: else the node itself would wait in vain.
            rendered.shared.push((Shared::Unserved, rule.clone()));
        }
        rendered.shared.push((Shared::ExternalUnserved, rule));
    }

    fn internal_chain(&self) -> &str {
        self.chain_of(match self.port.internal.outside {
            Action::Balance { scope, .. } => scope,
            Action::Reject | Action::Drop => Scope::Cluster,
        })
    }

    fn chain_of(&self, scope: Scope) -> &str {
        match scope {
            Scope::Cluster => &self.chains.cluster,
            Scope::Local => &self.chains.local,
        }
    }

    fn has(&self, wanted: impl Fn(FrontendKind) -> bool) -> bool {
        self.port.frontends.iter().any(|frontend| wanted(frontend.kind))
    }

    /// What comes by any frontend but the ClusterIP.
    fn external_chain(&self, rendered: &mut Rendered) {
        let is_served = self.port.external.outside != Action::Reject;
        if !is_served || !self.has(|kind| kind != FrontendKind::ClusterIp) {
            return;
        }
        let mut rules = Vec::new();
        let about = |what: &str| comment(&format!("{what} traffic for {} external destinations", self.title));
        let cluster = format!("-j {}", self.chains.cluster);
        let mark = format!("-j {}", names::MARK_MASQ);
        if self.port.external.outside == (Action::Balance { scope: Scope::Cluster, masquerade: true }) {
            rules.push(join(&[&about("masquerade"), &mark]));
            rules.push(cluster);
        } else {
            if let Some(detect) = &self.style.detect {
                let (source, interface) = by_sender(detect, true);
                rules.push(join(&[&source, &interface, &about("pod"), &cluster]));
            }
            let local = "-m addrtype --src-type LOCAL";
            rules.push(join(&[&about("masquerade LOCAL"), local, &mark]));
            rules.push(join(&[&about("route LOCAL"), local, &cluster]));
            if !self.port.local.is_empty() {
                rules.push(format!("-j {}", self.chains.local));
            }
        }
        rendered.chains.push((self.chains.external.clone(), rules));
    }

    /// Who may use the load balancer's IPs; others leave the chain as they came and are dropped in table filter.
    fn ranges_chain(&self, rendered: &mut Rendered) {
        let Some(sources) = &self.port.sources else { return };
        let is_served = self.port.external.outside != Action::Reject;
        if !is_served || !self.has(|kind| kind == FrontendKind::LoadBalancerIp) {
            return;
        }
        let words = comment(&format!("{} loadbalancer IP", self.title));
        let target = format!("-j {}", self.chains.external);
        let of_range = |range: &ipnetwork::IpNetwork| {
            join(&[&format!("-s {}/{}", range.network(), range.prefix()), &words, &target])
        };
        let mut rules: Vec<String> = sources.iter().map(of_range).collect();
        let rest = format!("other traffic to {} will be dropped by {}", self.title, names::PROXY_FIREWALL);
        rules.push(comment(&rest));
        rendered.chains.push((self.chains.ranges.clone(), rules));
    }

    fn balancing_chains(&self, rendered: &mut Rendered) {
        let mut endpoints: Vec<SocketAddr> = Vec::new();
        for scope in [Scope::Cluster, Scope::Local] {
            let targets = self.port.targets(scope);
            if targets.is_empty() {
                continue;
            }
            let mut rules = Vec::with_capacity(targets.len() + 1);
            if self.chain_of(scope) == self.internal_chain() {
                rules.extend(self.internal_mark());
            }
            self.balance(targets, &mut rules);
            rendered.chains.push((self.chain_of(scope).to_owned(), rules));
            endpoints.extend(targets.iter().map(|target| target.address));
        }
        endpoints.sort_unstable();
        endpoints.dedup();
        rendered.chains.extend(endpoints.into_iter().map(|endpoint| self.endpoint(endpoint)));
    }

    /// Marks for masquerade what comes by the ClusterIP from elsewhere than a pod.
    fn internal_mark(&self) -> Option<String> {
        let of_ip = |frontend: &&Frontend| frontend.kind == FrontendKind::ClusterIp;
        let frontend = self.port.frontends.iter().find(of_ip)?;
        let (source, interface) = match (self.port.internal.pod, self.port.internal.outside) {
            (Action::Balance { masquerade: true, .. }, _) => Default::default(),
            (_, Action::Balance { masquerade: true, .. }) => by_sender(self.style.detect.as_ref()?, false),
            _ => return None,
        };
        let rule = self.matching(&source, (frontend.ip?, frontend.port), (&interface, "cluster IP"));
        Some(format!("{rule} -j {}", names::MARK_MASQ))
    }

    fn balance(&self, targets: &[Target], rules: &mut Vec<String>) {
        let lead: Vec<(String, String)> = targets
            .iter()
            .map(|target| {
                let words = self.wordy(|| format!("{} -> {}", self.title, target.address));
                let chain = names::endpoint_chain(&self.title, self.port.name.protocol, target.address);
                (words, chain)
            })
            .collect();
        if let Some(timeout) = self.port.affinity {
            let seconds = timeout.as_secs().max(1);
            rules.extend(lead.iter().map(|(words, chain)| {
                let known = format!("-m recent --rcheck --seconds {seconds} --reap --name {chain}");
                join(&[words, &known, self.recent_mask(), "-j", chain])
            }));
        }
        let left = (1..=lead.len()).rev();
        rules.extend(
            lead.iter().zip(left).map(|((words, chain), left)| join(&[words, &one_of(left), "-j", chain])),
        );
    }

    fn endpoint(&self, endpoint: SocketAddr) -> (String, Vec<String>) {
        let chain = names::endpoint_chain(&self.title, self.port.name.protocol, endpoint);
        let words = self.wordy(|| self.title.clone());
        let hairpin = join(&[&from(endpoint.ip()), &words, "-j", names::MARK_MASQ]);
        let remember = match self.port.affinity {
            Some(_) => join(&["-m recent --set --name", &chain, self.recent_mask()]),
            None => String::new(),
        };
        let protocol = format!("-p {}", self.protocol);
        let matching = format!("-m {}", self.protocol);
        let target = format!("-j DNAT --to-destination {endpoint}");
        let dnat = join(&[&protocol, &words, &remember, &matching, &target]);
        (chain, vec![hairpin, dnat])
    }

    fn recent_mask(&self) -> &'static str {
        match self.style.family {
            Family::V4 => "--mask 255.255.255.255 --rsource",
            Family::V6 => "--mask ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff --rsource",
        }
    }

    /// A comment about a single endpoint.
    fn wordy(&self, text: impl Fn() -> String) -> String {
        if self.style.is_wordy { comment(&text()) } else { String::new() }
    }
}
