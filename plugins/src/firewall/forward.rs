//! Accepting pods where somebody else drops.
//!
//! nf_tables asks every chain on the forward hook, and one drop is enough: Docker and ufw set the policy of iptables'
//! FORWARD chain to DROP, administrators write `policy drop`, or `drop` and `reject` as last rules, into tables of
//! their own. So ADD looks for chains that may drop (a table that only counts or clamps is let be) and accepts the pod
//! there too:
//!
//! * **iptables-nft** (table `ip filter`, chain FORWARD): the rules of [`super::iptables`], written by netlink in the
//!   words that `iptables-save` understands ([`kernel::nft::dialect`]);
//! * **legacy iptables**: the same rules, by `iptables-legacy-restore`; the only case that runs a program, and only
//!   where /proc says that the filter table is in use;
//! * **any other chain**: two rules at its top, with the owner's comment. Rules of another program may be rewritten at
//!   any time (`nft -f /etc/nftables.conf`); CHECK says so then.
//!
//! These rules have no sets to be elements of, so here DEL looks through the rules of all pods of such a host.

use std::net::IpAddr;

use kernel::Result;
use kernel::iptables::{
    self, Family as Iptables4or6, Iptables, Table as IptablesTable, Variant, legacy_table,
};
use kernel::netlink::Socket;
use kernel::nft::dialect::{self, ForwardChain, Reading};
use kernel::nft::{self, Batch, Chain, Family, Field, Rule, Table};

use super::config::{ADMIN_CHAIN, Config, IngressPolicy, Pod};
use super::iptables::{ADMIN_COMMENT, CNI_FORWARD, COMMENT, STAGE_1, families};
use crate::owner::Owner;

const FORWARD: &str = "FORWARD";
const DROP: &str = "DROP";
/// firewalld's table is left alone: it has a backend of its own, and a reload would undo us.
const SPARED: [&str; 1] = ["firewalld"];

fn filter_table(family: Iptables4or6) -> Table<'static> {
    iptables::nft_table(family, IptablesTable::Filter)
}

/// Accepts the pod wherever forwarded packets are dropped by policy.
pub(super) fn ensure(host: &mut Socket, owner: &Owner, config: &Config, pod: &Pod) -> Result<()> {
    let ips = pod.ips();
    nft::converge(host, |host| {
        let mut batch = Batch::new();
        plan(host, &mut batch, owner, &ips)?;
        Ok(batch)
    })?;
    for iptables in legacy_drops(&ips)? {
        super::iptables::ensure(iptables, &without_policy(config), pod)?;
    }
    Ok(())
}

/// The ingress policy is carried out by nf_tables; here only accepting matters.
fn without_policy(config: &Config) -> Config {
    Config { policy: IngressPolicy::Open, admin_chain: ADMIN_CHAIN.to_owned(), ..config.clone() }
}

/// What [`ensure`] would add, one sentence; none when all is there.
pub(super) fn find_missing(
    host: &mut Socket,
    owner: &Owner,
    config: &Config,
    pod: &Pod,
) -> Result<Option<String>> {
    let ips = pod.ips();
    let mut batch = Batch::new();
    plan(host, &mut batch, owner, &ips)?;
    if !batch.is_empty() {
        return Ok(Some("a chain that drops forwarded packets does not accept the pod".into()));
    }
    for iptables in legacy_drops(&ips)? {
        let seen = iptables.observe(IptablesTable::Filter)?;
        let missing = super::iptables::find_missing(&seen, iptables.family, &without_policy(config), pod);
        if missing.is_some() {
            return Ok(missing);
        }
    }
    Ok(None)
}

/// Removes the rules for `ips`, and from other chains those whose comment `is_gone` accepts.
pub(super) fn remove(
    host: &mut Socket,
    ips: &[IpAddr],
    pod: &Pod,
    is_gone: impl Fn(&str) -> bool,
) -> Result<()> {
    let has_nftables = nft::is_supported(host)?;
    for family in families(ips) {
        let table = filter_table(family);
        if has_nftables && nft::chain_exists(host, &table, STAGE_1)? {
            super::iptables::remove(Iptables { family, variant: Variant::Nft }, ips, pod)?;
        } else if has_nftables {
            nft::converge(host, |host| plan_remove(host, &table, ips))?;
        }
        if legacy_table(family, IptablesTable::Filter) {
            super::iptables::remove(Iptables { family, variant: Variant::Legacy }, ips, pod)?;
        }
    }
    if !has_nftables {
        return Ok(());
    }
    nft::converge(host, |host| {
        let mut batch = Batch::new();
        for ForwardChain { family, table, chain, .. } in dialect::list_other_forward_chains(host, &SPARED)? {
            let table = Table::new(family, &table);
            for rule in nft::list_rules(host, &table, Some(&chain))? {
                if is_gone(&rule.comment) {
                    batch.delete_rule(&table, &chain, rule.handle);
                }
            }
        }
        Ok(batch)
    })
}

/// Legacy iptables of the pod's families whose FORWARD chain drops.
fn legacy_drops(ips: &[IpAddr]) -> Result<Vec<Iptables>> {
    let mut drops = Vec::new();
    for family in families(ips).filter(|family| legacy_table(*family, IptablesTable::Filter)) {
        let iptables = Iptables { family, variant: Variant::Legacy };
        if iptables.observe(IptablesTable::Filter)?.policy(FORWARD) == Some(DROP) {
            drops.push(iptables);
        }
    }
    Ok(drops)
}

fn plan(host: &mut Socket, batch: &mut Batch, owner: &Owner, ips: &[IpAddr]) -> Result<()> {
    for family in families(ips) {
        let table = filter_table(family);
        let chain = dialect::forward_chain(host, &table, FORWARD)?;
        let may_drop = chain.map(|chain| chain.may_drop(host)).transpose()?;
        if may_drop == Some(true) {
            let of_family: Vec<IpAddr> =
                ips.iter().copied().filter(|ip| Iptables4or6::of_ip(*ip) == family).collect();
            plan_iptables(host, batch, &table, &of_family)?;
        }
    }
    for other in dialect::list_other_forward_chains(host, &SPARED)? {
        if !other.may_drop(host)? {
            continue;
        }
        let ForwardChain { family, table, chain, .. } = other;
        let table = Table::new(family, &table);
        let present = nft::list_rules(host, &table, Some(&chain))?;
        let fits = |ip: &&IpAddr| family == Family::Inet || family == Family::of_ip(**ip);
        let wanted: Vec<&IpAddr> = ips.iter().filter(fits).collect();
        let own: Vec<_> = present.iter().filter(|rule| owner.owns(&rule.comment)).collect();
        if own.len() == 2 * wanted.len() {
            continue;
        }
        for rule in own {
            batch.delete_rule(&table, &chain, rule.handle);
        }
        for ip in wanted {
            for rule in native_rules(family, *ip) {
                batch.insert_rule(&table, &chain, &rule.comment(owner.comment()));
            }
        }
    }
    Ok(())
}

fn native_rules(table: Family, ip: IpAddr) -> [Rule; 2] {
    let family = Family::of_ip(ip);
    let rule = || if table == Family::Inet { Rule::new() } else { Rule::in_family(family) };
    [
        rule().is(Field::Saddr(family), ip.into()).accept(),
        rule().ct_established_or_related().is(Field::Daddr(family), ip.into()).accept(),
    ]
}

/// The same steps as `iptables`' own, see [`super::iptables`].
fn plan_iptables(host: &mut Socket, batch: &mut Batch, table: &Table<'_>, ips: &[IpAddr]) -> Result<()> {
    for chain in [CNI_FORWARD, ADMIN_CHAIN] {
        if !nft::chain_exists(host, table, chain)? {
            batch.create_chain(table, &Chain::regular(chain));
        }
    }
    let entries = dialect::read_rules(host, table, FORWARD)?;
    if !entries.iter().any(|rule| rule.jumps_to(CNI_FORWARD)) {
        batch.insert_rule(table, FORWARD, &dialect::jump(CNI_FORWARD, COMMENT));
    }
    let present = dialect::read_rules(host, table, CNI_FORWARD)?;
    if !present.iter().any(is_jump) {
        batch.insert_rule(table, CNI_FORWARD, &dialect::jump(ADMIN_CHAIN, ADMIN_COMMENT));
    }
    for ip in ips {
        if !present.iter().any(|rule| rule.accepts_answers_to(*ip)) {
            batch.add_rule(table, CNI_FORWARD, &dialect::accept_answers_to(*ip));
        }
        if !present.iter().any(|rule| rule.accepts_from(*ip)) {
            batch.add_rule(table, CNI_FORWARD, &dialect::accept_from(*ip));
        }
    }
    Ok(())
}

fn is_jump(rule: &Reading) -> bool {
    matches!(rule.verdict, Some(nft::Verdict::Jump(_)))
}

fn plan_remove(host: &mut Socket, table: &Table<'_>, ips: &[IpAddr]) -> Result<Batch> {
    let mut batch = Batch::new();
    let present = dialect::read_rules(host, table, CNI_FORWARD)?;
    let is_gone =
        |rule: &&Reading| ips.iter().any(|ip| rule.accepts_from(*ip) || rule.accepts_answers_to(*ip));
    let (gone, left): (Vec<&Reading>, Vec<&Reading>) = present.iter().partition(is_gone);
    for rule in &gone {
        batch.delete_rule(table, CNI_FORWARD, rule.handle);
    }
    if gone.is_empty() || !left.iter().all(|rule| is_jump(rule)) {
        return Ok(batch);
    }
    let mut admin_in_use = false;
    for rule in &left {
        if let Some(nft::Verdict::Jump(chain)) = &rule.verdict {
            admin_in_use |= !nft::list_rules(host, table, Some(chain))?.is_empty();
        }
    }
    if admin_in_use {
        return Ok(batch);
    }
    for rule in dialect::read_rules(host, table, FORWARD)?.iter().filter(|rule| rule.jumps_to(CNI_FORWARD)) {
        batch.delete_rule(table, FORWARD, rule.handle);
    }
    batch.delete_chain(table, CNI_FORWARD);
    let is_ours = left.iter().any(|rule| rule.jumps_to(ADMIN_CHAIN));
    let elsewhere = dialect::read_rules(host, table, FORWARD)?.iter().any(|rule| rule.jumps_to(ADMIN_CHAIN));
    if is_ours && !elsewhere {
        batch.delete_chain(table, ADMIN_CHAIN);
    }
    Ok(batch)
}
