//! What was typed: flags and the keys of the file, one declaration for both, nothing understood yet.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use clap::Args;
use serde::de::{Deserialize, Deserializer, Error as _, SeqAccess, Visitor};

use super::services::ServicesTyped;

/// Where the configuration is looked for when nobody says so.
pub const DEFAULT_FILE: &str = "/etc/bowline/bowline.yaml";

/// One value as text: `1450`, `true` and `vxlan` alike.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Word(pub String);

/// Several: a list in YAML, separated by commas on the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Words(pub Vec<Word>);

/// Every setting, as a flag `--mode` and as a key `mode` of the file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args, serde::Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Typed {
    /// Name of this node's Node object [NODE_NAME].
    #[arg(long)]
    pub node_name: Option<Word>,
    /// How packets travel between nodes: vxlan, routed, cross-subnet, ipip, wireguard [vxlan].
    #[arg(long)]
    pub mode: Option<Word>,
    /// Directory of manifests to read Nodes from, instead of the API.
    #[arg(long)]
    pub manifests: Option<Word>,
    /// How to reach the API; without it the ServiceAccount of the pod.
    #[arg(long)]
    pub kubeconfig: Option<Word>,
    /// URLs of API servers, tried in turn, whatever the kubeconfig or the pod's environment say.
    #[arg(long)]
    pub api_server: Option<Words>,
    /// Link, address or network by which this node talks to the others [the Node's address].
    #[arg(long)]
    pub uplink: Option<Word>,
    /// All pods' addresses, one or more networks.
    #[arg(long)]
    #[serde(alias = "clusterCIDR")]
    pub cluster_cidr: Option<Words>,
    /// All Services' addresses.
    #[arg(long)]
    #[serde(alias = "serviceCIDR")]
    pub service_cidr: Option<Words>,
    /// Further networks that shall see the addresses of pods.
    #[arg(long)]
    #[serde(alias = "nonMasqueradeCIDR")]
    pub non_masquerade_cidr: Option<Words>,
    /// Whether what leaves the cluster carries the node's address: true, false, ipv4, ipv6 [true].
    #[arg(long)]
    pub masquerade: Option<Word>,
    /// MTU of pods in bytes [what fits].
    #[arg(long)]
    pub mtu: Option<Word>,
    /// VXLAN network identifier [1].
    #[arg(long)]
    pub vni: Option<Word>,
    /// UDP port of VXLAN [8472].
    #[arg(long)]
    pub vxlan_port: Option<Word>,
    /// UDP port of WireGuard; IPv6 has the next one [51820].
    #[arg(long)]
    pub wireguard_port: Option<Word>,
    /// Whether VXLAN leaves checksums to the network card: auto, on, off [auto].
    #[arg(long)]
    pub vxlan_checksum_offload: Option<Word>,
    /// When a routing rule leads pods to nodes beyond a tunnel: auto (where the kernel has no better way), always [auto].
    #[arg(long)]
    pub routing_rules: Option<Word>,
    /// Where the container runtime looks for plug-ins [/opt/cni/bin].
    #[arg(long)]
    pub cni_bin_dir: Option<Word>,
    /// Where the container runtime looks for networks [/etc/cni/net.d].
    #[arg(long)]
    pub cni_conf_dir: Option<Word>,
    /// The program that has all plug-ins, to be installed [bowline-cni beside bowlined].
    #[arg(long)]
    pub plugins: Option<Word>,
    /// Address of /healthz, /livez and /readyz, or off [127.0.0.1:9810].
    #[arg(long)]
    pub healthz_address: Option<Word>,
    /// Address of /metrics, or off [127.0.0.1:9811].
    #[arg(long)]
    pub metrics_address: Option<Word>,
    /// text or json [text].
    #[arg(long)]
    pub log_format: Option<Word>,
    /// error, warn, info, debug, trace, or per module: info,daemon::agent=debug [info].
    #[arg(long)]
    pub log_level: Option<Word>,
    /// What must outlive a reboot [/var/lib/bowline].
    #[arg(long)]
    pub state_dir: Option<Word>,
    /// What must not [/run/bowline].
    #[arg(long)]
    pub run_dir: Option<Word>,
    /// Whether and how this node serves Services.
    #[command(flatten)]
    pub proxy: ServicesTyped,
}

impl Typed {
    /// Reads a file.
    ///
    /// # Errors
    /// One sentence with the file and, where there is one, the line: it can't be read, is no YAML, has an unknown key.
    pub fn read(path: &Path) -> Result<Self, String> {
        let shown = path.display();
        let text = std::fs::read_to_string(path).map_err(|error| format!("{shown}: {error}"))?;
        Typed::parse(&text).map_err(|error| format!("{shown}{error}"))
    }

    /// Reads the file that was named, or the default one if there is any.
    ///
    /// # Errors
    /// As [`Typed::read`].
    pub fn read_or_default(named: Option<&Path>) -> Result<(PathBuf, Self), String> {
        let default = PathBuf::from(DEFAULT_FILE);
        match named {
            Some(path) => Ok((path.to_owned(), Typed::read(path)?)),
            None if default.exists() => Typed::read(&default).map(|typed| (default, typed)),
            None => Ok((default, Typed::default())),
        }
    }

    /// `:LINE: what is wrong`
    fn parse(text: &str) -> Result<Self, String> {
        if text.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#')) {
            return Ok(Typed::default());
        }
        serde_saphyr::from_str(text).map_err(|error| {
            let error = error.without_snippet();
            let what = match error {
                serde_saphyr::Error::SerdeUnknownField { field, .. } => format!("unknown key `{field}`"),
                other => first_line(&other.to_string()),
            };
            match error.location() {
                Some(at) => format!(":{}: {what}", at.line()),
                None => format!(": {what}"),
            }
        })
    }
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().to_owned()
}

impl FromStr for Word {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Word(text.trim().to_owned()))
    }
}

impl FromStr for Words {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Words(text.split(',').map(|word| Word(word.trim().to_owned())).collect()))
    }
}

struct WordVisitor;

impl Visitor<'_> for WordVisitor {
    type Value = Word;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a single value")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Word, E> {
        Ok(Word(text.trim().to_owned()))
    }

    fn visit_bool<E: serde::de::Error>(self, value: bool) -> Result<Word, E> {
        Ok(Word(value.to_string()))
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<Word, E> {
        Ok(Word(value.to_string()))
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<Word, E> {
        Ok(Word(value.to_string()))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Word, E> {
        Ok(Word(value.to_string()))
    }
}

impl<'de> Deserialize<'de> for Word {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(WordVisitor)
    }
}

struct WordsVisitor;

impl<'de> Visitor<'de> for WordsVisitor {
    type Value = Words;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value or a list of values")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Words, E> {
        text.parse().map_err(E::custom)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Words, A::Error> {
        let mut words = Vec::new();
        while let Some(word) = list.next_element()? {
            words.push(word);
        }
        Ok(Words(words))
    }
}

impl<'de> Deserialize<'de> for Words {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let words = deserializer.deserialize_any(WordsVisitor)?;
        match words.0.iter().any(|word| word.0.is_empty()) {
            true => Err(D::Error::custom("an empty value in a list")),
            false => Ok(words),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scalars_and_lists_in_every_form() {
        let typed = Typed::parse(
            "mode: vxlan\nmtu: 1450\nmasquerade: false\nclusterCIDR: [10.0.0.0/8, \"fd00::/8\"]\nserviceCidr: 10.96.0.0/12\n",
        )
        .expect("parses");
        assert_eq!(typed.mtu, Some(Word("1450".into())));
        assert_eq!(typed.masquerade, Some(Word("false".into())));
        assert_eq!(typed.cluster_cidr.map(|words| words.0.len()), Some(2));
        assert_eq!(typed.service_cidr.map(|words| words.0.len()), Some(1));
    }

    #[test]
    fn a_mistake_names_its_line() {
        for (text, message) in [
            ("mode: vxlan\nmodee: x\n", ":2: unknown key `modee`"),
            ("mode: [a]\n", ":1: "),
            ("mode: vxlan\n  x: [\n", ":2: "),
            ("- a\n", ":1: "),
        ] {
            let error = Typed::parse(text).expect_err(text);
            assert!(error.starts_with(message), "{text:?}: {error}");
            assert_eq!(error.lines().count(), 1, "{error}");
        }
        assert_eq!(Typed::parse("# nothing\n\n").expect("empty"), Typed::default());
    }
}
