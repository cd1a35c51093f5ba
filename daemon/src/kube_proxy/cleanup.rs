//! `--cleanup`: the rules of every mode go, ours and the real kube-proxy's.

use kernel::dual::Family;
use kernel::netlink::{Protocol, Socket};
use kernel::nft::{self, Batch, Table};
use proxy::engine::open;
use proxy::{Mode, Options};

use crate::log::chain_of;

/// The tables of the real kube-proxy in mode nftables. Those of its other modes are ours by name.
const TABLES: [Table<'static>; 2] =
    [Table::new(nft::Family::Ip, "kube-proxy"), Table::new(nft::Family::Ip6, "kube-proxy")];

/// Removes everything. A mode that this machine has not has left nothing.
///
/// # Errors
/// All that failed, a sentence each; the rest is done all the same.
pub(super) fn everything() -> Result<(), Vec<String>> {
    let mut failures = Vec::new();
    for mode in Mode::ALL {
        for family in Family::BOTH {
            match open(mode, family, &Options::default()).and_then(|mut dataplane| dataplane.cleanup()) {
                Ok(()) => tracing::info!("removed what mode {mode} has for {family}"),
                Err(error) if is_missing(&error) => {
                    tracing::info!("mode {mode} is not used for {family} here: {}", chain_of(&error));
                }
                Err(error) => failures.push(format!("mode {mode}, {family}: {}", chain_of(&error))),
            }
        }
    }
    failures.extend(tables().err());
    if failures.is_empty() { Ok(()) } else { Err(failures) }
}

/// Whether a mode can't have left anything: its program, its kernel module or its family is not there.
fn is_missing(error: &kernel::Error) -> bool {
    error.is_unsupported() || error.is_absent()
}

/// Removes the tables of the real one.
///
/// # Errors
/// A sentence.
pub(super) fn tables() -> Result<(), String> {
    remove_tables().map_err(|error| chain_of(&error))
}

fn remove_tables() -> kernel::Result<()> {
    let mut socket = Socket::open(Protocol::Netfilter)?;
    if !nft::is_supported(&mut socket)? {
        return Ok(());
    }
    for table in &TABLES {
        if nft::table_exists(&mut socket, table)? {
            Batch::new().delete_table(table).commit(&mut socket)?;
            tracing::info!("removed table {table} of another kube-proxy");
        }
    }
    Ok(())
}
