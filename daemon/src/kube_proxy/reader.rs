//! Settings as what they mean.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ipnetwork::IpNetwork;
use kernel::dual::{DualStack, Family};
use proxy::plan::{DetectLocal, NodePortAddresses};
use proxy::{IpvsOptions, Mode, Options, state};

use super::decided::EXTERNAL_IPS;
use super::given::Settings;
use super::value::Value;
use crate::config::LogFormat;
use crate::proxy::{Config, Conntrack, Leftovers};

/// Reads settings as what they mean.
pub(super) struct Reader<'a> {
    pub(super) settings: &'a Settings,
    pub(super) mode: &'static str,
}

impl Reader<'_> {
    fn wrong(&self, field: &str, what: &str) -> String {
        let value = self.settings.value(field).map(|value| value.to_string()).unwrap_or_default();
        format!("{}: `{value}` {what}", self.settings.place(field))
    }

    pub(super) fn text(&self, field: &str) -> Option<String> {
        match self.settings.value(field) {
            Some(Value::Text(text)) if !text.is_empty() => Some(text),
            _ => None,
        }
    }

    fn texts(&self, field: &str) -> Vec<String> {
        match self.settings.value(field) {
            Some(Value::Texts(texts)) => texts,
            _ => Vec::new(),
        }
    }

    pub(super) fn bool(&self, field: &str) -> bool {
        matches!(self.settings.value(field), Some(Value::Bool(true)))
    }

    pub(super) fn int(&self, field: &str, range: std::ops::RangeInclusive<i32>) -> Result<i32, String> {
        match self.settings.value(field) {
            Some(Value::Int(number)) if range.contains(&number) => Ok(number),
            _ if *range.end() == i32::MAX => {
                Err(self.wrong(field, &format!("is less than {}", range.start())))
            }
            _ => Err(self.wrong(field, &format!("is not {} to {}", range.start(), range.end()))),
        }
    }

    /// None where it is zero.
    fn duration(&self, field: &str) -> Result<Option<Duration>, String> {
        match self.settings.value(field) {
            Some(Value::Duration(span)) if span.0 < 0 => Err(self.wrong(field, "is less than 0")),
            Some(Value::Duration(span)) if span.0 > 0 => Ok(Some(span.duration())),
            _ => Ok(None),
        }
    }

    fn networks(&self, field: &str, texts: &[String]) -> Result<Vec<IpNetwork>, String> {
        let read = |text: &String| {
            let why = "is no CIDR such as 10.244.0.0/16 or fd00:244::/56";
            state::network(text).ok_or_else(|| format!("{}: `{text}` {why}", self.settings.place(field)))
        };
        texts.iter().map(read).collect()
    }

    pub(super) fn proxy(&self, host: &str, warnings: &mut Vec<String>) -> Result<Config, String> {
        self.check_clients()?;
        let mode = self.mode;
        let section = |name: &str| format!("{mode}.{name}");
        // IPVS has none of its own and takes those of iptables.
        let masquerade = |name: &str| format!("{}.{name}", if mode == "ipvs" { "iptables" } else { mode });
        let (sync_period, min_sync_period) =
            self.periods(&section("syncPeriod"), &section("minSyncPeriod"))?;
        let settings = proxy::Settings {
            detect_local: self.detect_local(warnings)?,
            masquerade_all: self.bool(&masquerade("masqueradeAll")),
            node_port_addresses: self.node_port_addresses()?,
            masquerade_bit: u8::try_from(self.int(&masquerade("masqueradeBit"), 0..=31)?).unwrap_or(14),
            serves_external_ips: self.gate(EXTERNAL_IPS).unwrap_or(true),
        };
        Ok(Config {
            node_name: self.node_name(host)?,
            mode: Mode::named(mode),
            settings,
            options: self.options()?,
            min_sync_period,
            sync_period,
            conntrack: self.conntrack()?,
            leftovers: Leftovers::KubeProxy,
            state_dir: crate::config::Paths::default().state,
            node_ip: self.bind_address()?.filter(|ip| !ip.is_unspecified()),
        })
    }

    /// What a feature gate was set to.
    fn gate(&self, name: &str) -> Option<bool> {
        match &self.settings.of("featureGates")?.value {
            Value::Gates(gates) => gates.get(name).copied(),
            _ => None,
        }
    }

    fn node_name(&self, host: &str) -> Result<String, String> {
        let name = self.text("hostnameOverride").unwrap_or_else(|| host.to_owned());
        match name.trim() {
            "" => Err(self.wrong("hostnameOverride", "is no name of a node")),
            name => Ok(name.to_lowercase()),
        }
    }

    fn bind_address(&self) -> Result<Option<IpAddr>, String> {
        let Some(text) = self.text("bindAddress") else { return Ok(None) };
        state::ip(&text).map(Some).ok_or_else(|| self.wrong("bindAddress", "is no IP address"))
    }

    fn periods(&self, sync: &str, min: &str) -> Result<(Duration, Duration), String> {
        let period = self.duration(sync)?.ok_or_else(|| self.wrong(sync, "is not more than 0"))?;
        let least = self.duration(min)?.unwrap_or(Duration::ZERO);
        if least > period {
            let longer = format!(
                "is longer than {sync}, {}",
                self.settings.value(sync).map(|v| v.to_string()).unwrap_or_default()
            );
            return Err(self.wrong(min, &longer));
        }
        Ok((period, least))
    }

    /// Settings that have no effect and could be wrong all the same.
    fn check_clients(&self) -> Result<(), String> {
        self.int("clientConnection.burst", 0..=i32::MAX)?;
        let period = self.duration("configSyncPeriod")?;
        period.map(|_| ()).ok_or_else(|| self.wrong("configSyncPeriod", "is not more than 0"))
    }

    fn detect_local(&self, warnings: &mut Vec<String>) -> Result<DetectLocal, String> {
        let needed = |field: &str, mode: &str| {
            let name = self.text(field);
            name.ok_or_else(|| {
                format!("{}: is empty, but detectLocalMode {mode} needs it", self.settings.place(field))
            })
        };
        match self.text("detectLocalMode").as_deref() {
            None | Some("ClusterCIDR") => self.cluster_cidr(warnings),
            Some("NodeCIDR") => Ok(DetectLocal::NodeCidr),
            Some(mode @ "BridgeInterface") => {
                Ok(DetectLocal::Interface(needed("detectLocal.bridgeInterface", mode)?.into()))
            }
            Some(mode @ "InterfaceNamePrefix") => {
                Ok(DetectLocal::InterfacePrefix(needed("detectLocal.interfaceNamePrefix", mode)?.into()))
            }
            Some(_) => {
                let why = "is none of ClusterCIDR, NodeCIDR, BridgeInterface, InterfaceNamePrefix";
                Err(self.wrong("detectLocalMode", why))
            }
        }
    }

    fn cluster_cidr(&self, warnings: &mut Vec<String>) -> Result<DetectLocal, String> {
        const FIELD: &str = "clusterCIDR";
        let Some(text) = self.text(FIELD) else {
            warnings.push(
                "clusterCIDR is not set: pods are not told from others, and nobody is masqueraded towards a ClusterIP"
                    .into(),
            );
            return Ok(DetectLocal::Off);
        };
        let texts: Vec<String> = text.split(',').map(|text| text.trim().to_owned()).collect();
        let networks = self.networks(FIELD, &texts)?;
        let mut found = DualStack::default();
        for network in networks {
            let slot: &mut Option<IpNetwork> = match Family::of_network(network) {
                Family::V4 => &mut found.v4,
                Family::V6 => &mut found.v6,
            };
            if slot.replace(network).is_some() {
                return Err(self.wrong(FIELD, "has two of one family; one, or one of each family, is wanted"));
            }
        }
        Ok(DetectLocal::ClusterCidr(found))
    }

    fn node_port_addresses(&self) -> Result<NodePortAddresses, String> {
        const FIELD: &str = "nodePortAddresses";
        let texts = self.texts(FIELD);
        let is_primary = |text: &String| text == "primary";
        match (&texts[..], self.mode) {
            ([], "nftables") => Ok(NodePortAddresses::Primary),
            ([only], _) if is_primary(only) => Ok(NodePortAddresses::Primary),
            (texts, _) if texts.iter().any(is_primary) => {
                Err(self.wrong(FIELD, "has networks beside `primary`, which stands alone"))
            }
            (texts, _) => self.networks(FIELD, texts).map(NodePortAddresses::Within),
        }
    }

    fn options(&self) -> Result<Options, String> {
        let mut options = Options::default();
        if self.mode == "iptables" {
            options.iptables.localhost_node_ports = self.bool("iptables.localhostNodePorts");
        }
        if self.mode != "ipvs" {
            return Ok(options);
        }
        options.ipvs = IpvsOptions {
            scheduler: self.text("ipvs.scheduler").unwrap_or_else(|| IpvsOptions::default().scheduler),
            strict_arp: self.bool("ipvs.strictARP"),
            exclude_cidrs: self.networks("ipvs.excludeCIDRs", &self.texts("ipvs.excludeCIDRs"))?,
            tcp_timeout: self.duration("ipvs.tcpTimeout")?,
            tcp_fin_timeout: self.duration("ipvs.tcpFinTimeout")?,
            udp_timeout: self.duration("ipvs.udpTimeout")?,
        };
        Ok(options)
    }

    fn conntrack(&self) -> Result<Conntrack, String> {
        let whole = |field: &str| self.int(field, 0..=i32::MAX).map(i32::unsigned_abs);
        Ok(Conntrack {
            max_per_core: Some(whole("conntrack.maxPerCore")?).filter(|per_core| *per_core > 0),
            min: whole("conntrack.min")?,
            tcp_established: self.duration("conntrack.tcpEstablishedTimeout")?,
            tcp_close_wait: self.duration("conntrack.tcpCloseWaitTimeout")?,
            tcp_be_liberal: self.bool("conntrack.tcpBeLiberal"),
            udp: self.duration("conntrack.udpTimeout")?,
            udp_stream: self.duration("conntrack.udpStreamTimeout")?,
        })
    }

    /// An address to listen on; without a port it gets `port`. Nothing given is every address for health and loopback
    /// for metrics, of the family of bindAddress; an empty flag is nowhere.
    pub(super) fn address(&self, field: &str, port: u16) -> Result<Option<SocketAddr>, String> {
        let Some(given) = self.settings.of(field) else {
            let is_v6 = self.bind_address()?.is_some_and(|ip| ip.is_ipv6());
            let ip = match (field, is_v6) {
                ("healthzBindAddress", false) => IpAddr::from([0, 0, 0, 0]),
                ("healthzBindAddress", true) => IpAddr::from([0; 16]),
                (_, false) => std::net::Ipv4Addr::LOCALHOST.into(),
                (_, true) => std::net::Ipv6Addr::LOCALHOST.into(),
            };
            return Ok(Some(SocketAddr::new(ip, port)));
        };
        let text = given.value.to_string();
        if text.is_empty() {
            return Ok(None);
        }
        let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(&text);
        let address = match state::ip(bare) {
            Some(ip) => Some(SocketAddr::new(ip, port)),
            None => text.parse().ok().or_else(|| {
                let (ip, port) = text.rsplit_once(':')?;
                Some(SocketAddr::new(state::ip(ip)?, port.parse().ok()?))
            }),
        };
        address
            .filter(|address| address.port() != 0)
            .map(Some)
            .ok_or_else(|| self.wrong(field, &format!("is no address to listen on, such as 0.0.0.0:{port}")))
    }

    pub(super) fn log_format(&self) -> Result<LogFormat, String> {
        match self.text("logging.format").as_deref() {
            None | Some("text") => Ok(LogFormat::Text),
            Some("json") => Ok(LogFormat::Json),
            Some(_) => Err(self.wrong("logging.format", "is neither text nor json")),
        }
    }

    /// kube-proxy tells of single changes from 4 on, of everything from 6 on.
    pub(super) fn log_level(&self) -> Result<String, String> {
        let level = match self.int("logging.verbosity", 0..=i32::MAX)? {
            0..=3 => "info",
            4..=5 => "info,daemon=debug,proxy=debug",
            _ => "info,daemon=trace,proxy=trace,kernel=trace",
        };
        Ok(level.to_owned())
    }
}
