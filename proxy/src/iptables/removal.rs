//! Leaving no trace.

use std::collections::BTreeSet;

use kernel::iptables::{Family, Iptables as Program, Table, Variant, legacy_table, nft_table, target_of};
use kernel::netlink::Socket;
use kernel::nft::{self, Batch};
use kernel::{Result, acct, sysctl};

use super::compare::Observed;
use super::script::Script;
use super::{Iptables, TABLES, names, render, skeleton};

/// Removes everything from every variant of iptables that has any of it. For nf_tables no program is needed.
pub(super) fn remove(dataplane: &mut Iptables) -> Result<()> {
    let family = dataplane.program.family;
    let is_guarded = dataplane.inside(|| Ok(family == Family::V4 && is_loopback_routed()))?;
    remove_nft(dataplane, is_guarded)?;
    let legacy = Program { family, variant: Variant::Legacy };
    let has_legacy = dataplane.inside(|| Ok(TABLES.into_iter().any(|table| legacy_table(family, table))))?;
    // Where there is one program only, it may be of the other variant.
    if has_legacy && legacy.version().is_ok_and(|version| !version.is_nft) {
        let saved = dataplane.inside(|| legacy.save())?;
        let script = script(&Observed::parse(&saved), is_guarded);
        if !script.is_empty() {
            dataplane.inside(|| legacy.restore_text(&script.text(false)))?;
        }
    }
    if dataplane.features.counts {
        for counter in [skeleton::INVALID_COUNTER, render::LOCALHOST_COUNTER] {
            acct::remove_unused(&mut dataplane.socket, counter)?;
        }
    }
    Ok(())
}

/// Whether the kernel takes packets of others to this host's loopback addresses. As long as it does, the chain that drops
/// them stays: without it every service that listens on 127.0.0.1 alone could be reached from the link.
fn is_loopback_routed() -> bool {
    sysctl::read("net/ipv4/conf/all/route_localnet").is_ok_and(|value| value != "0")
}

/// Whether iptables-nft has any chain of ours.
pub(super) fn is_in_nft(socket: &mut Socket, family: Family) -> Result<bool> {
    if !nft::is_supported(socket)? {
        return Ok(false);
    }
    for table in TABLES {
        let chains = nft::list_chains(socket, &nft_table(family, table))?;
        if chains.iter().any(|chain| names::is_ours(chain)) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn remove_nft(dataplane: &mut Iptables, is_guarded: bool) -> Result<()> {
    let family = dataplane.program.family;
    // A guard that an earlier cleanup had to leave may be all that there is.
    let filter = nft_table(family, Table::Filter);
    let may_guard = nft::is_supported(&mut dataplane.socket)?
        && nft::chain_exists(&mut dataplane.socket, &filter, names::FIREWALL)?;
    if !may_guard && !is_in_nft(&mut dataplane.socket, family)? {
        return Ok(());
    }
    let nft = Program { family, variant: Variant::Nft };
    let has_program = nft.version().is_ok_and(|version| version.is_nft);
    let has_firewall = !is_guarded && has_program && !has_hint(&mut dataplane.socket, family)? && {
        let saved = dataplane.inside(|| nft.save_table(Table::Filter))?;
        is_firewall_ours(&Observed::parse(&saved))
    };
    for table in TABLES {
        remove_from_table(&mut dataplane.socket, &nft_table(family, table), has_firewall)?;
    }
    if !has_program {
        return Ok(());
    }
    let saved = dataplane.inside(|| nft.save())?;
    let left = Observed::parse(&saved);
    for table in TABLES.into_iter().filter(|table| is_bare(&saved, &left, *table)) {
        Batch::new().delete_table(&nft_table(family, table)).commit(&mut dataplane.socket)?;
    }
    Ok(())
}

/// Whether a kubelet has left its mark.
fn has_hint(socket: &mut Socket, family: Family) -> Result<bool> {
    for table in TABLES {
        for hint in kernel::iptables::HINTS {
            if nft::chain_exists(socket, &nft_table(family, table), hint)? {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// In one step.
fn remove_from_table(socket: &mut Socket, table: &nft::Table<'_>, has_firewall: bool) -> Result<()> {
    let is_ours = |chain: &str| names::is_ours(chain) || has_firewall && chain == names::FIREWALL;
    let mut chains = nft::list_chains(socket, table)?;
    if !chains.iter().any(|chain| is_ours(chain)) {
        return Ok(());
    }
    let rules = nft::list_rules(socket, table, None)?;
    let jumps: Vec<Jump<'_>> = rules
        .iter()
        .filter_map(|rule| Some((rule.chain.as_str(), rule.target.as_deref()?)))
        .filter(|(_, to)| is_ours(to))
        .collect();
    let kept = kept(&jumps);
    let goes = |chain: &str| is_ours(chain) && !kept.contains(chain);
    let mut batch = Batch::new();
    for rule in
        rules.iter().filter(|rule| is_built_in(&rule.chain) && rule.target.as_deref().is_some_and(goes))
    {
        batch.delete_rule(table, &rule.chain, rule.handle);
    }
    chains.retain(|chain| goes(chain));
    chains.iter().for_each(|chain| {
        batch.flush_chain(table, chain);
    });
    chains.iter().for_each(|chain| {
        batch.delete_chain(table, chain);
    });
    batch.commit(socket)
}

/// Whether nothing is left of a table but built-in chains that let everything pass.
fn is_bare(saved: &str, left: &Observed<'_>, table: Table) -> bool {
    let start = format!("*{}", table.name());
    let mut lines =
        saved.lines().skip_while(|line| *line != start).skip(1).take_while(|line| *line != "COMMIT");
    let mut chains = left.chains(table).peekable();
    chains.peek().is_some()
        && chains.all(|(_, rules)| rules.is_empty())
        && lines.all(|line| !line.starts_with(':') || line.split(' ').nth(1) == Some("ACCEPT"))
}

/// What removes our chains and what leads to them, but for chains that somebody else's lead to.
fn script(observed: &Observed<'_>, is_guarded: bool) -> Script {
    let mut script = Script::default();
    let has_firewall = !is_guarded && is_firewall_ours(observed);
    let is_ours = |chain: &str| names::is_ours(chain) || has_firewall && chain == names::FIREWALL;
    for table in TABLES {
        let mut chains: Vec<_> = observed.chains(table).collect();
        chains.sort_unstable();
        let targets: Vec<(&str, &str, String)> = chains
            .iter()
            .flat_map(|(chain, rules)| {
                rules.iter().filter_map(|rule| Some((*chain, *rule, target_of(rule)?)))
            })
            .filter(|(_, _, target)| is_ours(target))
            .collect();
        let jumps: Vec<Jump<'_>> = targets.iter().map(|(from, _, to)| (*from, to.as_str())).collect();
        let kept = kept(&jumps);
        for (chain, rule, _) in
            targets.iter().filter(|(from, _, to)| is_built_in(from) && !kept.contains(to.as_str()))
        {
            script.delete(table, chain, rule);
        }
        for (chain, _) in chains.into_iter().filter(|(chain, _)| is_ours(chain) && !kept.contains(chain)) {
            script.remove(table, chain);
        }
    }
    script
}

/// Whether nobody but a Service proxy can have made KUBE-FIREWALL: where a kubelet is, it is the kubelet's too, and there it
/// has more rules.
fn is_firewall_ours(observed: &Observed<'_>) -> bool {
    let is_kubelets =
        |table| kernel::iptables::HINTS.iter().any(|hint| observed.chain(table, hint).is_some());
    let guard = skeleton::localhost_guard();
    let rules = observed.chain(Table::Filter, names::FIREWALL);
    !TABLES.into_iter().any(is_kubelets)
        && rules.is_some_and(|rules| rules.iter().all(|rule| super::rule::is_same(rule, &guard)))
}

/// From one chain to one of ours.
type Jump<'a> = (&'a str, &'a str);

/// Our chains that chains of others lead to, straight or through each other.
fn kept<'a>(jumps: &[Jump<'a>]) -> BTreeSet<&'a str> {
    let is_foreign = |chain: &str| !names::is_ours(chain) && chain != names::FIREWALL && !is_built_in(chain);
    let mut next: Vec<&str> = jumps.iter().filter(|(from, _)| is_foreign(from)).map(|(_, to)| *to).collect();
    let mut kept = BTreeSet::new();
    while let Some(chain) = next.pop() {
        if kept.insert(chain) {
            next.extend(jumps.iter().filter(|(from, _)| *from == chain).map(|(_, to)| *to));
        }
    }
    kept
}

fn is_built_in(chain: &str) -> bool {
    matches!(chain, "PREROUTING" | "INPUT" | "FORWARD" | "OUTPUT" | "POSTROUTING")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_firewall_chain_is_ours_where_no_kubelet_is() {
        let guard = skeleton::localhost_guard();
        let rows = [
            (format!("*filter\n:KUBE-FIREWALL - [0:0]\n-A KUBE-FIREWALL {guard}\nCOMMIT\n"), true),
            ("*filter\n:KUBE-FIREWALL - [0:0]\nCOMMIT\n".to_owned(), true),
            ("*filter\n:KUBE-FIREWALL - [0:0]\n-A KUBE-FIREWALL -j DROP\nCOMMIT\n".to_owned(), false),
            (
                "*mangle\n:KUBE-KUBELET-CANARY - [0:0]\n*filter\n:KUBE-FIREWALL - [0:0]\nCOMMIT\n".to_owned(),
                false,
            ),
            ("*filter\n:INPUT ACCEPT [0:0]\nCOMMIT\n".to_owned(), false),
        ];
        for (saved, expected) in rows {
            assert_eq!(is_firewall_ours(&Observed::parse(&saved)), expected, "{saved}");
        }
    }

    #[test]
    fn the_guard_of_loopback_stays_while_it_guards() {
        let guard = skeleton::localhost_guard();
        let saved = format!(
            "*filter\n:INPUT ACCEPT [0:0]\n:KUBE-FIREWALL - [0:0]\n-A INPUT -j KUBE-FIREWALL\n\
             -A KUBE-FIREWALL {guard}\nCOMMIT\n"
        );
        assert!(script(&Observed::parse(&saved), true).is_empty());
        assert!(!script(&Observed::parse(&saved), false).is_empty());
    }

    #[test]
    fn what_others_lead_to_stays() {
        let saved = "*nat\n:PREROUTING ACCEPT [0:0]\n:KUBE-SERVICES - [0:0]\n:KUBE-MARK-MASQ - [0:0]\n:CNI-DN - [0:0]\n\
             -A PREROUTING -j KUBE-SERVICES\n-A PREROUTING -j CNI-DN\n-A CNI-DN -s 10.0.0.1/32 -j KUBE-MARK-MASQ\n\
             -A KUBE-SERVICES -j KUBE-MARK-MASQ\nCOMMIT\n";
        let text = script(&Observed::parse(saved), false).text(true);
        assert_eq!(
            text,
            "*nat\n-D PREROUTING -j KUBE-SERVICES\n-F KUBE-SERVICES\n-X KUBE-SERVICES\nCOMMIT\n"
        );
    }

    #[test]
    fn a_table_is_bare_without_rules_and_policies() {
        let rows = [
            ("*nat\n:INPUT ACCEPT [3:4]\nCOMMIT\n", true),
            ("*nat\n:INPUT DROP [0:0]\nCOMMIT\n", false),
            ("*nat\n:INPUT ACCEPT [0:0]\n:X - [0:0]\nCOMMIT\n", false),
            ("*nat\n:INPUT ACCEPT [0:0]\n-A INPUT -j DROP\nCOMMIT\n", false),
            ("*filter\n:INPUT ACCEPT [0:0]\nCOMMIT\n", false),
        ];
        for (saved, expected) in rows {
            assert_eq!(is_bare(saved, &Observed::parse(saved), Table::Nat), expected, "{saved}");
        }
    }
}
