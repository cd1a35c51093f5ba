//! What flags and file mean, decided.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use super::file;
use super::flags::Line;
use super::given::{Given, Settings};
use super::reader::Reader;
use super::table::{Effect, Special, of_field};
use super::value::Value;
use crate::config::LogFormat;
use crate::proxy::Config;

/// Ports of the two servers where an address names none.
const HEALTHZ_PORT: u16 = 10256;
const METRICS_PORT: u16 = 10249;
/// The one feature gate that says what is served.
pub(super) const EXTERNAL_IPS: &str = "AllowServiceExternalIPs";

/// What a kube-proxy does, decided.
#[derive(Debug, Clone, PartialEq)]
pub struct Decided {
    /// The proxy itself.
    pub proxy: Config,
    /// A kubeconfig; none is the ServiceAccount of the pod.
    pub kubeconfig: Option<PathBuf>,
    /// URL of the API server, whatever the kubeconfig says.
    pub master: Option<String>,
    /// A directory of manifests to read objects from, in place of the API.
    pub manifests: Option<PathBuf>,
    /// Where health is told; none nowhere.
    pub healthz: Option<SocketAddr>,
    /// Where metrics are told; none nowhere.
    pub metrics: Option<SocketAddr>,
    /// Whether an address that can't be listened on is the end. Else it is tried again.
    pub bind_hard_fail: bool,
    /// How readily the kernel kills this process when memory runs out, -1000 to 1000.
    pub oom_score_adj: i32,
    /// Form of the log.
    pub log_format: LogFormat,
    /// What is logged, in the words of `tracing`'s `EnvFilter`.
    pub log_level: String,
    /// The file, which a change of ends the program.
    pub file: Option<PathBuf>,
    /// Everything that was given, defaults apart.
    pub settings: Settings,
}

/// Understands a command line and the file that it names. `warnings` gets a sentence for every setting that has no
/// effect; `host` is the machine's name.
///
/// # Errors
/// One sentence that names the flag, or the file with line and field, and the value.
pub fn decide(line: &Line, host: &str, warnings: &mut Vec<String>) -> Result<Decided, String> {
    warnings.extend(line.warnings.iter().cloned());
    let path = line.special(Special::Config).filter(|path| !path.is_empty()).map(PathBuf::from);
    let settings = match &path {
        Some(path) => of_file(line, path, warnings)?,
        None => of_flags(line, warnings),
    };
    let mode = mode(&settings)?;
    warn_of_idle(&settings, mode, warnings);
    let reader = Reader { settings: &settings, mode };
    Ok(Decided {
        proxy: reader.proxy(host, warnings)?,
        kubeconfig: reader.text("clientConnection.kubeconfig").map(PathBuf::from),
        master: line.special(Special::Master).filter(|url| !url.is_empty()).map(str::to_owned),
        manifests: line.special(Special::Manifests).filter(|path| !path.is_empty()).map(PathBuf::from),
        healthz: reader.address("healthzBindAddress", HEALTHZ_PORT)?,
        metrics: reader.address("metricsBindAddress", METRICS_PORT)?,
        bind_hard_fail: reader.bool("bindAddressHardFail"),
        oom_score_adj: reader.int("oomScoreAdj", -1000..=1000)?,
        log_format: reader.log_format()?,
        log_level: reader.log_level()?,
        file: path,
        settings,
    })
}

/// The file's settings, with those few flags that count beside it.
fn of_file(line: &Line, path: &Path, warnings: &mut Vec<String>) -> Result<Settings, String> {
    let mut settings = file::read(path, warnings)?;
    for (field, given) in Settings::of_flags(line).iter() {
        if field == "hostnameOverride" || field.starts_with("logging.") {
            settings.set(field, given.clone());
        } else {
            warnings.push(format!("{} has no effect beside --config", given.place));
        }
    }
    for (special, flag) in
        [(Special::HealthzPort, "--healthz-port"), (Special::MetricsPort, "--metrics-port")]
    {
        if line.special(special).is_some() {
            warnings.push(format!("{flag} has no effect beside --config"));
        }
    }
    Ok(settings)
}

/// The flags' settings. Those of the sync periods and of masqueradeAll have the name of one mode and count in others.
fn of_flags(line: &Line, warnings: &mut Vec<String>) -> Settings {
    let mut settings = Settings::of_flags(line);
    let mode = settings.of("mode").map(|given| given.value.to_string()).unwrap_or_default();
    if mode == "nftables" {
        for (from, to) in [
            ("iptables.syncPeriod", "nftables.syncPeriod"),
            ("iptables.minSyncPeriod", "nftables.minSyncPeriod"),
            ("iptables.masqueradeAll", "nftables.masqueradeAll"),
        ] {
            if let Some(given) = settings.take(from) {
                settings.set(to, given);
            }
        }
    }
    if mode == "ipvs" && settings.of("ipvs.minSyncPeriod").is_none() {
        // The real one's flags have one default for all modes.
        let value = Value::Duration(super::value::Span(1_000_000_000));
        settings.set("ipvs.minSyncPeriod", Given { value, place: "--ipvs-min-sync-period".into() });
    }
    for (special, flag, field) in [
        (Special::HealthzPort, "--healthz-port", "healthzBindAddress"),
        (Special::MetricsPort, "--metrics-port", "metricsBindAddress"),
    ] {
        let Some(port) = line.special(special) else { continue };
        let address = settings.of(field).map(|given| given.value.to_string());
        let value = match (port, address) {
            ("0", _) => String::new(),
            (port, Some(address)) if !address.is_empty() && address.parse::<SocketAddr>().is_err() => {
                with_port(&address, port)
            }
            _ => {
                warnings.push(format!("{flag} has no effect beside an address that has a port"));
                continue;
            }
        };
        settings.set(field, Given { value: Value::Text(value), place: flag.to_owned() });
    }
    settings
}

fn with_port(ip: &str, port: &str) -> String {
    if ip.contains(':') && !ip.starts_with('[') { format!("[{ip}]:{port}") } else { format!("{ip}:{port}") }
}

fn mode(settings: &Settings) -> Result<&'static str, String> {
    let name = settings.value("mode").map(|value| value.to_string()).unwrap_or_default();
    match name.as_str() {
        // kube-proxy's default, whatever the kernel could do: whoever swaps it finds the same chains again.
        "" | "iptables" => Ok("iptables"),
        "ipvs" => Ok("ipvs"),
        "nftables" => Ok("nftables"),
        _ => Err(format!("{}: `{name}` is none of iptables, ipvs, nftables", settings.place("mode"))),
    }
}

/// Names everything that was given and does nothing.
fn warn_of_idle(settings: &Settings, mode: &str, warnings: &mut Vec<String>) {
    for (field, given) in settings.iter() {
        let Some(setting) = of_field(field) else { continue };
        if setting.kind.of_flag(setting.default).as_ref() == Some(&given.value)
            || given.value.to_string() == setting.default
        {
            continue;
        }
        match setting.effect {
            Effect::Same => {}
            Effect::In(modes) if modes.contains(&mode) => {}
            Effect::In(_) => warnings.push(format!("{} has no effect in mode {mode}", given.place)),
            Effect::Nothing(why) => warnings.push(format!("{} has no effect: {why}", given.place)),
        }
    }
    if let Some(Given { value: Value::Gates(gates), place }) = settings.of("featureGates") {
        for gate in gates.keys().filter(|gate| *gate != EXTERNAL_IPS) {
            warnings.push(format!("{place}: {gate} has no effect: no other gate switches anything here"));
        }
    }
}
