//! Leaving no trace.

use std::collections::BTreeSet;

use kernel::iptables::{Iptables as Program, Table, Variant, legacy_table, nft_table, target_of};
use kernel::nft::{self, Batch};
use kernel::{Result, acct};

use super::compare::Observed;
use super::script::Script;
use super::{Iptables, TABLES, names, render, skeleton};

/// Removes everything from every variant of iptables that has any of it.
pub(super) fn remove(dataplane: &mut Iptables) -> Result<()> {
    let family = dataplane.program.family;
    for variant in [Variant::Nft, Variant::Legacy] {
        let is_used = match variant {
            Variant::Legacy => {
                dataplane.inside(|| Ok(TABLES.into_iter().any(|table| legacy_table(family, table))))?
            }
            _ => has_nft_chains(dataplane)?,
        };
        let program = Program { family, variant };
        // Where there is one program only, it is that of its own variant.
        let Ok(version) = program.version() else { continue };
        let is_nft = variant != Variant::Legacy;
        if is_used && version.is_nft == is_nft {
            remove_variant(dataplane, program, is_nft)?;
        }
    }
    for counter in [skeleton::INVALID_COUNTER, render::LOCALHOST_COUNTER] {
        if dataplane.features.counts {
            acct::remove_unused(&mut dataplane.socket, counter)?;
        }
    }
    Ok(())
}

fn has_nft_chains(dataplane: &mut Iptables) -> Result<bool> {
    let family = dataplane.program.family;
    if !nft::is_supported(&mut dataplane.socket)? {
        return Ok(false);
    }
    for table in TABLES {
        let chains = nft::list_chains(&mut dataplane.socket, &nft_table(family, table))?;
        if chains.iter().any(|chain| names::is_ours(chain)) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn remove_variant(dataplane: &mut Iptables, program: Program, is_nft: bool) -> Result<()> {
    let saved = dataplane.inside(|| program.save())?;
    let observed = Observed::parse(&saved);
    let script = script(&observed);
    if script.is_empty() {
        return Ok(());
    }
    let text = script.text(is_nft);
    dataplane.inside(|| program.restore_text(&text))?;
    if !is_nft {
        return Ok(());
    }
    let saved = dataplane.inside(|| program.save())?;
    let left = Observed::parse(&saved);
    for table in TABLES.into_iter().filter(|table| is_bare(&saved, &left, *table)) {
        Batch::new().delete_table(&nft_table(program.family, table)).commit(&mut dataplane.socket)?;
    }
    Ok(())
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
fn script(observed: &Observed<'_>) -> Script {
    let mut script = Script::default();
    let has_firewall = is_firewall_ours(observed);
    let is_ours = |chain: &str| names::is_ours(chain) || has_firewall && chain == names::FIREWALL;
    for table in TABLES {
        let kept = kept(observed, table);
        let mut chains: Vec<_> = observed.chains(table).collect();
        chains.sort_unstable();
        for (chain, rules) in chains {
            if is_ours(chain) {
                if !kept.contains(chain) {
                    script.remove(table, chain);
                }
                continue;
            }
            for rule in rules.iter().filter(|_| is_built_in(chain)) {
                if target_of(rule).is_some_and(|target| is_ours(&target) && !kept.contains(&target)) {
                    script.delete(table, chain, rule);
                }
            }
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

/// Our chains that chains of others lead to, straight or through each other.
fn kept(observed: &Observed<'_>, table: Table) -> BTreeSet<String> {
    let mut kept = BTreeSet::new();
    let mut next: Vec<String> = observed
        .chains(table)
        .filter(|(chain, _)| !names::is_ours(chain) && !is_built_in(chain))
        .flat_map(|(_, rules)| rules.iter().filter_map(|rule| target_of(rule)))
        .filter(|target| names::is_ours(target))
        .collect();
    while let Some(chain) = next.pop() {
        let rules = observed.chain(table, &chain).unwrap_or_default();
        next.extend(
            rules
                .iter()
                .filter_map(|rule| target_of(rule))
                .filter(|target| names::is_ours(target) && !kept.contains(target)),
        );
        kept.insert(chain);
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
    fn what_others_lead_to_stays() {
        let saved = "*nat\n:PREROUTING ACCEPT [0:0]\n:KUBE-SERVICES - [0:0]\n:KUBE-MARK-MASQ - [0:0]\n:CNI-DN - [0:0]\n\
             -A PREROUTING -j KUBE-SERVICES\n-A PREROUTING -j CNI-DN\n-A CNI-DN -s 10.0.0.1/32 -j KUBE-MARK-MASQ\n\
             -A KUBE-SERVICES -j KUBE-MARK-MASQ\nCOMMIT\n";
        let text = script(&Observed::parse(saved)).text(true);
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
