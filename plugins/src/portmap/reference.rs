//! The nf_tables layout of newer reference plug-ins: tables `ip cni_hostport` and `ip6 cni_hostport`, rules whose
//! comment is the container's ID. Read and cleaned, never written; the tables stay, for they aren't ours.

use kernel::Result;
use kernel::netlink::Socket;
use kernel::nft::{self, Batch, Family, RuleInfo, Table};

use super::config::{Config, PodAddresses};

const NAME: &str = "cni_hostport";
const MASQUERADING: &str = "masquerading";

fn table_of(family: Family) -> Table<'static> {
    Table::new(family, NAME)
}

/// The rules of one container. nft cuts a comment at 128 bytes, and refused longer ones when the reference made it.
fn rules_of(host: &mut Socket, table: &Table<'_>, container_id: &str) -> Result<Vec<RuleInfo>> {
    if !nft::table_exists(host, table)? {
        return Ok(Vec::new());
    }
    let mut rules = nft::list_rules(host, table, None)?;
    rules.retain(|rule| rule.comment == container_id);
    Ok(rules)
}

/// Deletes the container's rules.
pub(super) fn remove(host: &mut Socket, container_id: &str) -> Result<()> {
    nft::converge(host, |host| {
        let mut batch = Batch::new();
        for table in [table_of(Family::Ip), table_of(Family::Ip6)] {
            for rule in rules_of(host, &table, container_id)? {
                batch.delete_rule(&table, &rule.chain, rule.handle);
            }
        }
        Ok(batch)
    })
}

/// Whether the reference's rules for the container are all there: one per mapping, and those that masquerade.
pub(super) fn check(
    host: &mut Socket,
    container_id: &str,
    config: &Config,
    pods: PodAddresses,
) -> Result<bool> {
    for pod in pods.iter() {
        let mappings = config.mappings.iter().filter(|mapping| mapping.is_for(pod.ip())).count();
        if mappings == 0 {
            continue;
        }
        let rules = rules_of(host, &table_of(Family::of_ip(pod.ip())), container_id)?;
        let masquerading = rules.iter().filter(|rule| rule.chain == MASQUERADING).count();
        let sources = match (config.snat, config.masq_all || pod.is_ipv6()) {
            (false, _) => 0,
            (true, true) => 1,
            (true, false) => 2,
        };
        if rules.len() - masquerading < mappings || masquerading < sources {
            return Ok(false);
        }
    }
    Ok(true)
}
