//! Kernel settings that a Service proxy makes.

use std::path::{Path, PathBuf};
use std::time::Duration;

use kernel::{Result, sysctl};
use proxy::plan::NodePortAddresses;
use proxy::{DualStack, Family};

use super::{Config, Conntrack};

/// No more entries than this are asked for, however many processors there are.
const MOST_ENTRIES: u64 = 1_048_576;
/// Entries to a bucket of conntrack's hash table.
const ENTRIES_PER_BUCKET: u64 = 4;
/// Whether packets with loopback addresses are routed at all: what node ports on 127.0.0.1 need.
const ROUTE_LOCALNET: &str = "net/ipv4/conf/all/route_localnet";
const HASH_SIZE: &str = "/sys/module/nf_conntrack/parameters/hashsize";

/// Makes everything as `config` wants it, for the families that are served, and returns what was changed and what can't
/// be. Must come after the first sync: only rules that translate addresses load conntrack.
pub fn ensure(config: &Config, families: &DualStack<bool>, is_iptables: bool) -> Outcome {
    let mut outcome = Outcome::default();
    if families.v4 {
        outcome.ensure("net/ipv4/ip_forward", "1");
        if is_iptables && wants_localhost(config) {
            outcome.route_localnet(&config.state_dir);
        }
    }
    outcome.conntrack(&config.conntrack);
    outcome
}

/// Sets `route_localnet` back where [`ensure`] has set it, as is written down in `state_dir`. Must come before the chains go
/// that guard loopback meanwhile: these stay where it is on.
///
/// # Errors
/// A sentence: it can't be set back.
pub fn give_back_localnet(state_dir: &Path) -> std::result::Result<(), String> {
    let record = localnet_record(state_dir);
    if !record.exists() {
        return Ok(());
    }
    sysctl::ensure(ROUTE_LOCALNET, "0").map_err(|error| crate::log::chain_of(&error))?;
    crate::file::remove(&record).map(drop)
}

/// The file whose presence says that `route_localnet` was 0 before this proxy.
pub fn localnet_record(state_dir: &Path) -> PathBuf {
    state_dir.join("route-localnet")
}

/// What came of it, sentences.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// What was changed.
    pub changes: Vec<String>,
    /// What can't be changed.
    pub problems: Vec<String>,
}

fn wants_localhost(config: &Config) -> bool {
    let is_within = match &config.settings.node_port_addresses {
        NodePortAddresses::Primary => false,
        NodePortAddresses::Within(networks) => {
            let of_v4: Vec<_> =
                networks.iter().filter(|network| Family::of_network(**network) == Family::V4).collect();
            let loopback = std::net::IpAddr::from([127, 0, 0, 1]);
            of_v4.is_empty() || of_v4.iter().any(|network| network.contains(loopback))
        }
    };
    config.options.iptables.localhost_node_ports && is_within
}

impl Outcome {
    /// Written down before it is set, so that a kill between leaves nothing unknown.
    fn route_localnet(&mut self, state_dir: &Path) {
        if sysctl::read(ROUTE_LOCALNET).is_ok_and(|value| value == "0")
            && let Err(sentence) = crate::file::ensure(&localnet_record(state_dir), b"0\n", 0o644)
        {
            self.problems.push(sentence);
        }
        self.ensure(ROUTE_LOCALNET, "1");
    }

    fn ensure(&mut self, key: &str, value: &str) {
        match sysctl::ensure(key, value) {
            Ok(true) => self.changes.push(format!("set sysctl {key} to {value}")),
            Ok(false) => {}
            Err(error) => self.problems.push(crate::log::chain_of(&error)),
        }
    }

    fn conntrack(&mut self, wishes: &Conntrack) {
        if let Some(wanted) = wanted_entries(wishes, processors())
            && let Err(error) = self.raise_entries(wanted)
        {
            // A container has no say in this; its host has.
            if !error.is_absent() {
                self.problems.push(crate::log::chain_of(&error));
            }
        }
        let seconds = |time: Option<Duration>| time.map(|time| time.as_secs().to_string());
        let wishes = [
            ("nf_conntrack_tcp_timeout_established", seconds(wishes.tcp_established)),
            ("nf_conntrack_tcp_timeout_close_wait", seconds(wishes.tcp_close_wait)),
            ("nf_conntrack_tcp_be_liberal", wishes.tcp_be_liberal.then(|| "1".to_owned())),
            ("nf_conntrack_udp_timeout", seconds(wishes.udp)),
            ("nf_conntrack_udp_timeout_stream", seconds(wishes.udp_stream)),
        ];
        for (name, value) in wishes {
            if let Some(value) = value {
                self.ensure(&format!("net/netfilter/{name}"), &value);
            }
        }
    }

    /// Never lowers: whoever has set more has a reason.
    fn raise_entries(&mut self, wanted: u64) -> Result<()> {
        const KEY: &str = "net/netfilter/nf_conntrack_max";
        let present: u64 = sysctl::read(KEY)?.parse().unwrap_or(0);
        if present >= wanted {
            return Ok(());
        }
        let buckets =
            std::fs::read_to_string(HASH_SIZE).ok().and_then(|text| text.trim().parse::<u64>().ok());
        if let Some(buckets) = buckets.filter(|buckets| *buckets < wanted / ENTRIES_PER_BUCKET) {
            let larger = (wanted / ENTRIES_PER_BUCKET).to_string();
            match std::fs::write(HASH_SIZE, &larger) {
                Ok(()) => self.changes.push(format!("raised {HASH_SIZE} from {buckets} to {larger}")),
                Err(error) => self.problems.push(format!("raise {HASH_SIZE} to {larger}: {error}")),
            }
        }
        self.ensure(KEY, &wanted.to_string());
        Ok(())
    }
}

fn wanted_entries(wishes: &Conntrack, processors: u64) -> Option<u64> {
    let per_core = u64::from(wishes.max_per_core.filter(|per_core| *per_core > 0)?);
    Some(per_core.saturating_mul(processors).max(u64::from(wishes.min)).min(MOST_ENTRIES))
}

fn processors() -> u64 {
    std::thread::available_parallelism().map_or(1, |count| count.get() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_follow_the_processors_between_floor_and_cap() {
        let wishes = |max_per_core, min| Conntrack { max_per_core, min, ..Conntrack::default() };
        let rows = [
            (Some(32_768), 131_072, 2, Some(131_072)),
            (Some(32_768), 131_072, 8, Some(262_144)),
            (Some(32_768), 131_072, 64, Some(1_048_576)),
            (Some(1), 2_000_000, 1, Some(1_048_576)),
            (Some(0), 131_072, 2, None),
            (None, 131_072, 2, None),
        ];
        for (per_core, min, processors, expected) in rows {
            assert_eq!(wanted_entries(&wishes(per_core, min), processors), expected, "{per_core:?} {min}");
        }
    }
}
