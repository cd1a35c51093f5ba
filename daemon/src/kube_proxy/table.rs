//! Every setting of kube-proxy 1.36: its field, its flag, its default, and whether it does anything here.

use super::value::Kind;

/// One setting.
#[derive(Debug, Clone, Copy)]
pub struct Setting {
    /// Its path in the file; `logging.options.text.infoBufferSize` stands three objects deep.
    pub field: &'static str,
    /// Its flag without dashes; empty when it has none.
    pub flag: &'static str,
    /// What it takes.
    pub kind: Kind,
    /// What it is when nobody says, spelled as a flag's value; empty is nothing at all.
    pub default: &'static str,
    /// What zero, `false` or nothing between the quotes says in the file.
    pub zero: Zero,
    /// Whether it does anything.
    pub effect: Effect,
}

/// What zero says in the file. In kube-proxy most fields can't tell it from silence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Zero {
    /// The same as silence: the default.
    Silent,
    /// Zero.
    Counts,
}

/// Whether a setting does anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// What it does in kube-proxy.
    Same,
    /// The same, but only in these modes; in others it is named in a warning.
    In(&'static [&'static str]),
    /// Nothing, and why. Another value than the default is named in a warning.
    Nothing(&'static str),
}

const fn row(
    field: &'static str,
    flag: &'static str,
    kind: Kind,
    default: &'static str,
    effect: Effect,
) -> Setting {
    Setting { field, flag, kind, default, zero: Zero::Counts, effect }
}

impl Setting {
    const fn zero_is_silent(self) -> Self {
        Setting { zero: Zero::Silent, ..self }
    }
}

use Effect::{In, Nothing, Same};
use Kind::{Bool, Duration, DurationOrNanoseconds, Float, Gates, Int, Patterns, Quantity, Text, Texts};

const WINDOWS: Effect = Nothing("it is for Windows");
const UNBUFFERED: Effect = Nothing("the log is not buffered and goes to stderr");
const IPTABLES: Effect = In(&["iptables"]);
const IPTABLES_OR_IPVS: Effect = In(&["iptables", "ipvs"]);
const IPVS: Effect = In(&["ipvs"]);
const NFTABLES: Effect = In(&["nftables"]);

/// All of them, in the order of kube-proxy's types.
pub const SETTINGS: &[Setting] = &[
    row("featureGates", "feature-gates", Gates, "", Same),
    row("clientConnection.kubeconfig", "kubeconfig", Text, "", Same),
    row("clientConnection.acceptContentTypes", "", Text, "", Nothing("the API is always asked for JSON")),
    row(
        "clientConnection.contentType",
        "kube-api-content-type",
        Text,
        "application/vnd.kubernetes.protobuf",
        Nothing("the API is always asked for JSON"),
    )
    .zero_is_silent(),
    row(
        "clientConnection.qps",
        "kube-api-qps",
        Float,
        "5",
        Nothing("there are only watches, one of each kind"),
    )
    .zero_is_silent(),
    row(
        "clientConnection.burst",
        "kube-api-burst",
        Int,
        "10",
        Nothing("there are only watches, one of each kind"),
    )
    .zero_is_silent(),
    row("logging.format", "logging-format", Text, "text", Same).zero_is_silent(),
    row("logging.flushFrequency", "log-flush-frequency", DurationOrNanoseconds, "5s", UNBUFFERED)
        .zero_is_silent(),
    row("logging.verbosity", "v", Int, "0", Same),
    row("logging.vmodule", "vmodule", Patterns, "", Nothing("it names kube-proxy's source files")),
    row("logging.options.text.splitStream", "log-text-split-stream", Bool, "false", UNBUFFERED),
    row("logging.options.text.infoBufferSize", "log-text-info-buffer-size", Quantity, "0", UNBUFFERED),
    row("logging.options.json.splitStream", "log-json-split-stream", Bool, "false", UNBUFFERED),
    row("logging.options.json.infoBufferSize", "log-json-info-buffer-size", Quantity, "0", UNBUFFERED),
    row("hostnameOverride", "hostname-override", Text, "", Same),
    row("bindAddress", "bind-address", Text, "0.0.0.0", Same).zero_is_silent(),
    row("healthzBindAddress", "healthz-bind-address", Text, "0.0.0.0:10256", Same).zero_is_silent(),
    row("metricsBindAddress", "metrics-bind-address", Text, "127.0.0.1:10249", Same).zero_is_silent(),
    row("bindAddressHardFail", "bind-address-hard-fail", Bool, "false", Same),
    row(
        "enableProfiling",
        "profiling",
        Bool,
        "false",
        Nothing("a program that is not in Go has no pprof to show"),
    ),
    row(
        "showHiddenMetricsForVersion",
        "show-hidden-metrics-for-version",
        Text,
        "",
        Nothing("no metric is hidden"),
    ),
    row("mode", "proxy-mode", Text, "", Same),
    row("iptables.masqueradeBit", "iptables-masquerade-bit", Int, "14", IPTABLES_OR_IPVS),
    row("iptables.masqueradeAll", "masquerade-all", Bool, "false", IPTABLES_OR_IPVS),
    row("iptables.localhostNodePorts", "iptables-localhost-nodeports", Bool, "true", IPTABLES),
    row("iptables.syncPeriod", "iptables-sync-period", Duration, "30s", IPTABLES).zero_is_silent(),
    row("iptables.minSyncPeriod", "iptables-min-sync-period", Duration, "1s", IPTABLES).zero_is_silent(),
    row("ipvs.syncPeriod", "ipvs-sync-period", Duration, "30s", IPVS).zero_is_silent(),
    row("ipvs.minSyncPeriod", "ipvs-min-sync-period", Duration, "0s", IPVS),
    row("ipvs.scheduler", "ipvs-scheduler", Text, "", IPVS),
    row("ipvs.excludeCIDRs", "ipvs-exclude-cidrs", Texts, "", IPVS),
    row("ipvs.strictARP", "ipvs-strict-arp", Bool, "false", IPVS),
    row("ipvs.tcpTimeout", "ipvs-tcp-timeout", Duration, "0s", IPVS),
    row("ipvs.tcpFinTimeout", "ipvs-tcpfin-timeout", Duration, "0s", IPVS),
    row("ipvs.udpTimeout", "ipvs-udp-timeout", Duration, "0s", IPVS),
    row("nftables.masqueradeBit", "", Int, "14", NFTABLES),
    row("nftables.masqueradeAll", "", Bool, "false", NFTABLES),
    row("nftables.syncPeriod", "", Duration, "30s", NFTABLES).zero_is_silent(),
    row("nftables.minSyncPeriod", "", Duration, "1s", NFTABLES).zero_is_silent(),
    row("winkernel.networkName", "", Text, "", WINDOWS),
    row("winkernel.sourceVip", "", Text, "", WINDOWS),
    row("winkernel.enableDSR", "", Bool, "false", WINDOWS),
    row("winkernel.rootHnsEndpointName", "", Text, "", WINDOWS),
    row("winkernel.forwardHealthCheckVip", "", Bool, "false", WINDOWS),
    row("detectLocalMode", "detect-local-mode", Text, "", Same),
    row("detectLocal.bridgeInterface", "pod-bridge-interface", Text, "", Same),
    row("detectLocal.interfaceNamePrefix", "pod-interface-name-prefix", Text, "", Same),
    row("clusterCIDR", "cluster-cidr", Text, "", Same),
    row("nodePortAddresses", "nodeport-addresses", Texts, "", Same),
    row("oomScoreAdj", "oom-score-adj", Int, "-999", Same),
    row("conntrack.maxPerCore", "conntrack-max-per-core", Int, "32768", Same),
    row("conntrack.min", "conntrack-min", Int, "131072", Same),
    row("conntrack.tcpEstablishedTimeout", "conntrack-tcp-timeout-established", Duration, "24h", Same),
    row("conntrack.tcpCloseWaitTimeout", "conntrack-tcp-timeout-close-wait", Duration, "1h", Same),
    row("conntrack.tcpBeLiberal", "conntrack-tcp-be-liberal", Bool, "false", Same),
    row("conntrack.udpTimeout", "conntrack-udp-timeout", Duration, "0s", Same),
    row("conntrack.udpStreamTimeout", "conntrack-udp-timeout-stream", Duration, "0s", Same),
    row(
        "configSyncPeriod",
        "config-sync-period",
        Duration,
        "15m",
        Nothing(
            "what a watch has told is not told again, and what the kernel has is compared every syncPeriod",
        ),
    )
    .zero_is_silent(),
    row("portRange", "", Text, "", Nothing("kube-proxy has no use for it either since 1.26")),
    row("windowsRunAsService", "", Bool, "false", WINDOWS),
];

/// A flag that is no setting of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Special {
    /// The file of settings.
    Config,
    /// Write the defaults into a file, and end.
    WriteConfigTo,
    /// Remove all rules, and end.
    Cleanup,
    /// Do what needs most rights, and end.
    InitOnly,
    /// Say the version, and end.
    Version,
    /// Say the flags, and end.
    Help,
    /// URL of the API server.
    Master,
    /// Directory of manifests to read objects from in place of the API. Not kube-proxy's.
    Manifests,
    /// Port of [`Setting`] `healthzBindAddress`; 0 is none.
    HealthzPort,
    /// Port of [`Setting`] `metricsBindAddress`; 0 is none.
    MetricsPort,
    /// One that old versions had; it is named in a warning.
    Former,
}

/// The flags that are no settings of the file, with what they take.
pub const SPECIALS: &[(&str, Kind, Special)] = &[
    ("config", Text, Special::Config),
    ("write-config-to", Text, Special::WriteConfigTo),
    ("cleanup", Bool, Special::Cleanup),
    ("init-only", Bool, Special::InitOnly),
    ("version", Text, Special::Version),
    ("help", Bool, Special::Help),
    ("master", Text, Special::Master),
    ("manifests", Text, Special::Manifests),
    ("healthz-port", Int, Special::HealthzPort),
    ("metrics-port", Int, Special::MetricsPort),
    ("add-dir-header", Bool, Special::Former),
    ("alsologtostderr", Bool, Special::Former),
    ("log-backtrace-at", Text, Special::Former),
    ("log-dir", Text, Special::Former),
    ("log-file", Text, Special::Former),
    ("log-file-max-size", Int, Special::Former),
    ("logtostderr", Bool, Special::Former),
    ("one-output", Bool, Special::Former),
    ("skip-headers", Bool, Special::Former),
    ("skip-log-headers", Bool, Special::Former),
    ("stderrthreshold", Text, Special::Former),
    ("cleanup-ipvs", Bool, Special::Former),
    ("proxy-port-range", Text, Special::Former),
    ("udp-timeout", Duration, Special::Former),
];

/// The setting of a field.
pub fn of_field(field: &str) -> Option<&'static Setting> {
    SETTINGS.iter().find(|setting| setting.field == field)
}

/// The setting of a flag.
pub fn of_flag(flag: &str) -> Option<&'static Setting> {
    SETTINGS.iter().find(|setting| setting.flag == flag && !flag.is_empty())
}
