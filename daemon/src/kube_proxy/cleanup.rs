//! `--cleanup`: the rules of every mode go, ours and the real kube-proxy's.

use std::path::Path;

use kernel::dual::Family;
use proxy::engine::open;
use proxy::nftables::remove_kube_proxy;
use proxy::{Mode, Options};

use crate::log::chain_of;
use crate::proxy::{may_have_left, record, sysctls};

/// Removes everything. A mode that this machine has not has left nothing.
///
/// # Errors
/// All that failed, a sentence each; the rest is done all the same.
pub(super) fn everything(state_dir: &Path) -> Result<(), Vec<String>> {
    let mut failures = Vec::new();
    failures.extend(sysctls::give_back_localnet(state_dir).err());
    for mode in Mode::ALL {
        for family in Family::BOTH {
            if !may_have_left(mode, family) {
                continue;
            }
            match open(mode, family, &Options::default()).and_then(|mut dataplane| dataplane.cleanup()) {
                Ok(()) => tracing::info!("removed what mode {mode} has for {family}"),
                Err(error) if is_missing(&error) => {
                    tracing::info!("mode {mode} is not used for {family} here: {}", chain_of(&error));
                }
                Err(error) => failures.push(format!("mode {mode}, {family}: {}", chain_of(&error))),
            }
        }
    }
    for family in Family::BOTH {
        // Its tables in mode nftables; those of its other modes are ours by name.
        if let Err(error) = remove_kube_proxy(family)
            && !is_missing(&error)
        {
            failures.push(format!("table of kube-proxy, {family}: {}", chain_of(&error)));
        }
    }
    if failures.is_empty() {
        failures.extend(crate::file::remove(&record(state_dir)).err());
    }
    if failures.is_empty() { Ok(()) } else { Err(failures) }
}

/// Whether a mode can't have left anything: its program, its kernel module or its family is not there.
fn is_missing(error: &kernel::Error) -> bool {
    error.is_unsupported() || error.is_absent()
}
