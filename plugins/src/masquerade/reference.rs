//! The nf_tables layout of newer reference plug-ins: table `inet cni_plugins_masquerade`, one tagged rule per
//! address in chain `masq_checks`. Read and cleaned, never written. The table itself stays: it isn't ours.

use kernel::Result;
use kernel::netlink::Socket;
use kernel::nft::{self, Batch, Family, Table};

use crate::owner::Owner;

const TABLE: Table<'_> = Table::new(Family::Inet, "cni_plugins_masquerade");
const CHAIN: &str = "masq_checks";

/// Whether the reference masquerades something for `owner`.
pub(super) fn masquerades(host: &mut Socket, owner: &Owner) -> Result<bool> {
    Ok(nft::list_rules(host, &TABLE, Some(CHAIN))?.iter().any(|rule| owner.owns(&rule.comment)))
}

/// Deletes the rules whose comment `is_gone` accepts.
pub(super) fn remove(host: &mut Socket, is_gone: impl Fn(&str) -> bool) -> Result<()> {
    if !nft::chain_exists(host, &TABLE, CHAIN)? {
        return Ok(());
    }
    nft::converge(host, |host| {
        let mut batch = Batch::new();
        for rule in nft::list_rules(host, &TABLE, Some(CHAIN))? {
            if is_gone(&rule.comment) {
                batch.delete_rule(&TABLE, CHAIN, rule.handle);
            }
        }
        Ok(batch)
    })
}
