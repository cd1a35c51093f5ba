//! The configuration: what an administrator typed, and what it means.
//!
//! ```text
//! bowline.yaml ─┐
//!               ├─ Typed ── understand ─► Config, or one sentence that names the flag or key and the value
//! command line ─┘
//! ```
//! A flag wins over the file. Whatever can be refused without looking at the node is refused here.

pub mod services;
pub mod typed;

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use ipnetwork::IpNetwork;
use kernel::dual::overlap;
use overlay::uplink::Choice;
use overlay::{DualStack, Family, Mode, Settings};

pub use typed::{DEFAULT_FILE, Typed, Word, Words};

/// What the daemon does, decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Name of this node's Node object.
    pub node_name: String,
    /// How packets travel.
    pub settings: Settings,
    /// Where Nodes come from.
    pub source: Source,
    /// By which link this node talks to the others.
    pub uplink: Choice,
    /// What lies inside the cluster.
    pub ranges: Ranges,
    /// In which families what leaves the cluster carries the node's address.
    pub masquerade: DualStack<bool>,
    /// How Services are served; `None` where this node serves none.
    pub proxy: Option<crate::proxy::Config>,
    /// Where things are.
    pub paths: Paths,
    /// Where health is told; `None` nowhere.
    pub healthz: Option<SocketAddr>,
    /// Where metrics are told; `None` nowhere.
    pub metrics: Option<SocketAddr>,
    /// Form of the log.
    pub log_format: LogFormat,
    /// What is logged, in the words of `tracing`'s `EnvFilter`.
    pub log_level: String,
}

/// Where Nodes come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A directory of manifests.
    Manifests(PathBuf),
    /// The Kubernetes API.
    Api {
        /// A kubeconfig; `None` is the ServiceAccount of the pod.
        kubeconfig: Option<PathBuf>,
        /// URLs of servers, tried in turn, whatever else says.
        servers: Vec<String>,
    },
}

/// Networks that have a meaning in the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ranges {
    /// All pods; empty when nobody said so.
    pub cluster: Vec<IpNetwork>,
    /// All Services.
    pub service: Vec<IpNetwork>,
    /// What else shall see the addresses of pods.
    pub non_masquerade: Vec<IpNetwork>,
}

/// Where things are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paths {
    /// Plug-ins.
    pub cni_bin: PathBuf,
    /// Network configurations.
    pub cni_conf: PathBuf,
    /// The program that has all plug-ins; `None` is `bowline-cni` beside this one.
    pub plugins: Option<PathBuf>,
    /// What must outlive a reboot.
    pub state: PathBuf,
    /// What must not.
    pub run: PathBuf,
}

impl Default for Paths {
    fn default() -> Self {
        Paths {
            cni_bin: "/opt/cni/bin".into(),
            cni_conf: "/etc/cni/net.d".into(),
            plugins: None,
            state: "/var/lib/bowline".into(),
            run: "/run/bowline".into(),
        }
    }
}

/// Form of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// An object to a line.
    Json,
}

/// A value with the place it was typed at, as errors name it: `--mtu`, or `bowline.yaml: mtu`.
struct Given<T> {
    place: String,
    value: T,
}

/// Flags over file.
struct Layers<'a> {
    flags: &'a Typed,
    file: &'a Typed,
    path: &'a Path,
}

impl Layers<'_> {
    fn of<T: Clone>(&self, key: &str, field: impl Fn(&Typed) -> &Option<T>) -> Option<Given<T>> {
        let flag = field(self.flags).clone().map(|value| Given { place: format!("--{}", kebab(key)), value });
        flag.or_else(|| {
            let place = || format!("{}: {key}", self.path.display());
            field(self.file).clone().map(|value| Given { place: place(), value })
        })
    }

    fn word<T>(
        &self,
        key: &str,
        field: impl Fn(&Typed) -> &Option<Word>,
        read: impl Fn(&str) -> Result<T, String>,
    ) -> Result<Option<T>, String> {
        let Some(given) = self.of(key, field) else { return Ok(None) };
        let text = &given.value.0;
        let refused = |why: String| format!("{}: {why}", given.place);
        if text.is_empty() {
            return Err(refused("the value is empty".into()));
        }
        read(text).map(Some).map_err(refused)
    }

    fn words<T>(
        &self,
        key: &str,
        field: impl Fn(&Typed) -> &Option<Words>,
        read: impl Fn(&str) -> Result<T, String>,
    ) -> Result<Vec<T>, String> {
        let Some(given) = self.of(key, field) else { return Ok(Vec::new()) };
        let read = |word: &Word| read(&word.0).map_err(|why| format!("{}: {why}", given.place));
        given.value.0.iter().map(read).collect()
    }

    fn path(&self, key: &str, field: impl Fn(&Typed) -> &Option<Word>) -> Result<Option<PathBuf>, String> {
        self.word(key, field, |text| {
            let path = PathBuf::from(text);
            path.is_absolute().then_some(path).ok_or_else(|| format!("`{text}` does not begin with /"))
        })
    }
}

/// `vxlanPort` as `vxlan-port`, `proxy.mode` as `proxy-mode`.
fn kebab(key: &str) -> String {
    let mut flag = String::new();
    for letter in key.chars() {
        if letter == '.' || letter.is_ascii_uppercase() {
            flag.push('-');
        }
        flag.extend(Some(letter.to_ascii_lowercase()).filter(|letter| *letter != '.'));
    }
    flag
}

impl Config {
    /// Understands what was typed. `path` is what errors call the file, `variable` reads the environment.
    ///
    /// # Errors
    /// One sentence that names the place and the value.
    pub fn understand(
        flags: &Typed,
        file: &Typed,
        path: &Path,
        variable: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Config, String> {
        let typed = Layers { flags, file, path };
        let paths = paths(&typed)?;
        let node_name = node_name(&typed, variable)?;
        let ranges = Ranges {
            cluster: typed.words("clusterCidr", |t| &t.cluster_cidr, network)?,
            service: typed.words("serviceCidr", |t| &t.service_cidr, network)?,
            non_masquerade: typed.words("nonMasqueradeCidr", |t| &t.non_masquerade_cidr, network)?,
        };
        let config = Config {
            settings: settings(&typed)?,
            source: source(&typed)?,
            uplink: typed.word("uplink", |t| &t.uplink, Choice::from_str)?.unwrap_or_default(),
            proxy: services::understand(&typed, &node_name, &ranges, &paths)?,
            node_name,
            ranges,
            masquerade: typed
                .word("masquerade", |t| &t.masquerade, masquerade)?
                .unwrap_or(DualStack { v4: true, v6: true }),
            paths,
            healthz: typed
                .word("healthzAddress", |t| &t.healthz_address, listen)?
                .unwrap_or(Some(SocketAddr::from(([127, 0, 0, 1], 9810)))),
            metrics: typed
                .word("metricsAddress", |t| &t.metrics_address, listen)?
                .unwrap_or(Some(SocketAddr::from(([127, 0, 0, 1], 9811)))),
            log_format: typed.word("logFormat", |t| &t.log_format, log_format)?.unwrap_or(LogFormat::Text),
            log_level: typed.word("logLevel", |t| &t.log_level, log_level)?.unwrap_or_else(|| "info".into()),
        };
        config.ranges.check()?;
        Ok(config)
    }
}

impl Ranges {
    fn check(&self) -> Result<(), String> {
        let named = |name: &'static str, networks: &[IpNetwork]| {
            networks.iter().map(move |network| (name, *network)).collect::<Vec<_>>()
        };
        let mut all = named("clusterCidr", &self.cluster);
        all.extend(named("serviceCidr", &self.service));
        for (index, (name, network)) in all.iter().enumerate() {
            if let Some((other, with)) = all[..index].iter().find(|(_, with)| overlap(*with, *network)) {
                return Err(format!("{other} {with} and {name} {network} overlap"));
            }
        }
        Ok(())
    }

    /// Whether `pods`, the pod CIDR of a node, can be one: within the cluster's, apart from the Services'.
    ///
    /// # Errors
    /// A sentence without the node's name.
    pub fn check_pod_cidr(&self, pods: IpNetwork) -> Result<(), String> {
        let within = |range: &IpNetwork| range.contains(pods.network()) && range.prefix() <= pods.prefix();
        let of_family = |range: &&IpNetwork| range.is_ipv4() == pods.is_ipv4();
        if let Some(service) = self.service.iter().find(|service| overlap(**service, pods)) {
            return Err(format!("pod CIDR {pods} overlaps serviceCidr {service}"));
        }
        let family = Family::of_network(pods);
        let cluster: Vec<&IpNetwork> = self.cluster.iter().filter(of_family).collect();
        if !self.cluster.is_empty() && cluster.is_empty() {
            return Err(format!("pod CIDR {pods} is {family}, but clusterCidr names no {family} network"));
        }
        if !cluster.is_empty() && !cluster.iter().any(|range| within(range)) {
            let ranges: Vec<String> = cluster.iter().map(ToString::to_string).collect();
            return Err(format!("pod CIDR {pods} lies outside clusterCidr {}", ranges.join(", ")));
        }
        Ok(())
    }
}

fn node_name(typed: &Layers<'_>, variable: &dyn Fn(&str) -> Option<String>) -> Result<String, String> {
    let name = typed.word("nodeName", |t| &t.node_name, |text| Ok(text.to_owned()))?;
    name.or_else(|| variable("NODE_NAME").filter(|name| !name.is_empty())).ok_or_else(|| {
        "the name of this node's Node object is missing: set --node-name, or the variable NODE_NAME".into()
    })
}

fn settings(typed: &Layers<'_>) -> Result<Settings, String> {
    let default = Settings::default();
    let between =
        |what: &'static str, least: u32, most: u32| move |text: &str| number(text, what, least, most);
    let port = |least, most| {
        move |text: &str| {
            let number = number(text, "a UDP port", least, most)?;
            u16::try_from(number).map_err(|_| format!("`{text}` is no UDP port"))
        }
    };
    Ok(Settings {
        mode: typed.word("mode", |t| &t.mode, Mode::from_str)?.unwrap_or(default.mode),
        vni: typed
            .word("vni", |t| &t.vni, between("a VXLAN network identifier", 1, 0xff_ffff))?
            .unwrap_or(default.vni),
        vxlan_port: typed.word("vxlanPort", |t| &t.vxlan_port, port(1, 65535))?.unwrap_or(default.vxlan_port),
        wireguard_port: typed
            .word("wireguardPort", |t| &t.wireguard_port, port(1, 65534))?
            .unwrap_or(default.wireguard_port),
        mtu: typed.word("mtu", |t| &t.mtu, between("a number of bytes", 576, 65535))?,
        always_by_rule: typed
            .word("routingRules", |t| &t.routing_rules, routing_rules)?
            .unwrap_or(default.always_by_rule),
        vxlan_checksum_offload: typed
            .word(
                "vxlanChecksumOffload",
                |t| &t.vxlan_checksum_offload,
                |text| match text {
                    "auto" => Ok(None),
                    "on" | "true" => Ok(Some(true)),
                    "off" | "false" => Ok(Some(false)),
                    _ => Err(format!("`{text}` is none of auto, on, off")),
                },
            )?
            .flatten(),
    })
}

fn routing_rules(text: &str) -> Result<bool, String> {
    match text {
        "auto" => Ok(false),
        "always" => Ok(true),
        _ => Err(format!("`{text}` is none of auto, always")),
    }
}

fn source(typed: &Layers<'_>) -> Result<Source, String> {
    let directory = typed.path("manifests", |t| &t.manifests)?;
    let kubeconfig = typed.path("kubeconfig", |t| &t.kubeconfig)?;
    let servers = typed.words(
        "apiServer",
        |t| &t.api_server,
        |text| {
            let is_url = text.starts_with("https://") || text.starts_with("http://");
            is_url.then(|| text.to_owned()).ok_or_else(|| format!("`{text}` does not begin with https://"))
        },
    )?;
    let Some(directory) = directory else { return Ok(Source::Api { kubeconfig, servers }) };
    let place = |key, field: fn(&Typed) -> bool| typed.of(key, |t| if field(t) { &Some(()) } else { &None });
    let api = place("kubeconfig", |t| t.kubeconfig.is_some())
        .or_else(|| place("apiServer", |t| t.api_server.is_some()));
    let own = place("manifests", |t| t.manifests.is_some());
    match (own, api) {
        (Some(own), Some(api)) => {
            Err(format!("{} and {} exclude each other: Nodes come from one place", own.place, api.place))
        }
        _ => Ok(Source::Manifests(directory)),
    }
}

impl Paths {
    /// The directories alone, as [`Config::understand`].
    ///
    /// # Errors
    /// As [`Config::understand`].
    pub fn understand(flags: &Typed, file: &Typed, path: &Path) -> Result<Paths, String> {
        paths(&Layers { flags, file, path })
    }
}

fn paths(typed: &Layers<'_>) -> Result<Paths, String> {
    let default = Paths::default();
    Ok(Paths {
        cni_bin: typed.path("cniBinDir", |t| &t.cni_bin_dir)?.unwrap_or(default.cni_bin),
        cni_conf: typed.path("cniConfDir", |t| &t.cni_conf_dir)?.unwrap_or(default.cni_conf),
        plugins: typed.path("plugins", |t| &t.plugins)?,
        state: typed.path("stateDir", |t| &t.state_dir)?.unwrap_or(default.state),
        run: typed.path("runDir", |t| &t.run_dir)?.unwrap_or(default.run),
    })
}

fn masquerade(text: &str) -> Result<DualStack<bool>, String> {
    match text {
        "true" => Ok(DualStack { v4: true, v6: true }),
        "false" => Ok(DualStack { v4: false, v6: false }),
        "ipv4" => Ok(DualStack { v4: true, v6: false }),
        "ipv6" => Ok(DualStack { v4: false, v6: true }),
        _ => Err(format!("`{text}` is none of true, false, ipv4, ipv6")),
    }
}

fn listen(text: &str) -> Result<Option<SocketAddr>, String> {
    if text == "off" {
        return Ok(None);
    }
    text.parse().map(Some).map_err(|_| format!("`{text}` is neither ADDRESS:PORT nor off"))
}

fn log_format(text: &str) -> Result<LogFormat, String> {
    match text {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        _ => Err(format!("`{text}` is none of text, json")),
    }
}

fn log_level(text: &str) -> Result<String, String> {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    let is_level = |part: &str| LEVELS.contains(&part.rsplit('=').next().unwrap_or_default());
    match text.split(',').all(is_level) {
        true => Ok(text.to_owned()),
        false => Err(format!("`{text}` is none of error, warn, info, debug, trace, nor MODULE=LEVEL,...")),
    }
}

fn number(text: &str, what: impl fmt::Display, least: u32, most: u32) -> Result<u32, String> {
    let value = text.parse::<u32>().ok().filter(|value| (least..=most).contains(value));
    value.ok_or_else(|| format!("`{text}` is not {what} from {least} to {most}"))
}

fn network(text: &str) -> Result<IpNetwork, String> {
    let network =
        Some(text).filter(|text| text.contains('/')).and_then(|text| text.parse::<IpNetwork>().ok());
    let Some(network) = network else {
        return Err(format!("`{text}` is not a network (ADDRESS/LENGTH)"));
    };
    if network.network() != network.ip() {
        let meant = format!("{}/{}", network.network(), network.prefix());
        return Err(format!("`{text}` has bits set beyond its length; {meant} is the network"));
    }
    Ok(network)
}

#[cfg(test)]
mod tests;
