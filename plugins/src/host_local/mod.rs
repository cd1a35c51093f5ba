//! host-local: addresses from ranges on this node.
//!
//! ```text
//! config ──parse──> range sets, requested addresses ─┐
//! lease directory ──observe (index, else files)──────┴─plan──> picks ──apply──> lease files ──report──> ips
//! ```
//!
//! [`allocate`] is the policy, [`store`] the directory, which is the reference's to the byte, so the two can be
//! swapped under running pods at any moment. What is better here: no file is ever half-written, no operation reads
//! all files unless somebody else changed the directory, and leases of before a reboot come back to life or give way.

pub mod allocate;
pub mod config;
pub mod index;
pub mod lease;
pub mod range;
pub mod resolv;
pub mod store;

use std::net::IpAddr;
use std::path::PathBuf;

use cni::{AddResult, Call, Code, Error, GcCall, IpConfig, Plugin, Result, StatusCall};

use allocate::Pick;
use config::Config;
use store::Store;

/// The plug-in.
pub struct HostLocal;

impl Plugin for HostLocal {
    fn name(&self) -> &'static str {
        "host-local"
    }

    fn add(&self, call: &Call<PathBuf>) -> Result<AddResult> {
        let config = Config::parse(&call.conf, &call.args)?;
        let dns = config.dns()?;
        let store = Store::new(&config.data_dir, &call.conf.name);
        let picks = store.reserve(&call.attachment, &config.sets, &config.requested)?;
        Ok(AddResult { ips: ips(&config, &picks), routes: config.routes, dns, ..AddResult::default() })
    }

    fn del(&self, call: &Call<Option<PathBuf>>) -> Result<()> {
        let data_dir = Config::parse_data_dir(&call.conf)?;
        Store::new(&data_dir, &call.conf.name).release(&call.attachment)
    }

    /// Every address of `prevResult` that is from this network's ranges and on this interface must be leased to this
    /// attachment; there must be a lease at all.
    fn check(&self, call: &Call<PathBuf>) -> Result<()> {
        let config = Config::parse(&call.conf, &call.args)?;
        let store = Store::new(&config.data_dir, &call.conf.name);
        let held = store.held_by(&call.attachment)?;
        let holder =
            format!("{} of {}", call.attachment.ifname.as_str(), call.attachment.container_id.as_str());
        if held.is_empty() {
            return Err(Error::internal(format!(
                "host-local: no address in {} is leased to {holder}",
                store.dir.display()
            )));
        }
        let expected = call.conf.prev_result.iter().flat_map(|result| own_addresses(result, call));
        for address in expected {
            let ours = config.sets.iter().any(|set| set.range_of(address).is_some());
            if ours && !held.contains(&address) {
                return Err(Error::internal(format!(
                    "host-local: {address} in {} is not leased to {holder}",
                    store.dir.display()
                )));
            }
        }
        Ok(())
    }

    fn gc(&self, call: &GcCall) -> Result<()> {
        let Some(valid) = &call.valid else { return Ok(()) };
        let data_dir = Config::parse_data_dir(&call.conf)?;
        Store::new(&data_dir, &call.conf.name).retain(valid)
    }

    fn status(&self, call: &StatusCall) -> Result<()> {
        let config = Config::parse(&call.conf, "")?;
        let available = Store::new(&config.data_dir, &call.conf.name).ensure_available(&config.sets);
        available.map_err(|error| Error { code: Code::NOT_AVAILABLE, ..error })
    }
}

fn ips(config: &Config, picks: &[Pick]) -> Vec<IpConfig> {
    let picked = picks.iter().zip(config.sets.iter());
    let with_range = picked.filter_map(|(pick, set)| Some((pick.address, set.range_of(pick.address)?)));
    with_range
        .map(|(address, range)| IpConfig {
            interface: None,
            address: range.with_prefix(address),
            gateway: Some(range.gateway()),
        })
        .collect()
}

/// The addresses that a result doesn't give to another interface.
fn own_addresses<'a>(result: &'a AddResult, call: &'a Call<PathBuf>) -> impl Iterator<Item = IpAddr> + 'a {
    let ours = |ip: &&IpConfig| match result.interface_of(ip) {
        Some(Some(interface)) => interface.name == call.attachment.ifname.as_str(),
        Some(None) | None => true,
    };
    result.ips.iter().filter(ours).map(|ip| ip.address.ip())
}
