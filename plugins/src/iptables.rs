//! What the iptables backends of several plug-ins share.

use cni::{Code, Error};
use kernel::netlink::Socket;
use kernel::nft;

use kernel::iptables::{self, Family, Iptables, Table, Variant};

/// iptables refuses longer chain names.
pub const CHAIN_NAME_MAX: usize = 28;

/// What the names of all our chains begin with, as the reference's do.
const CHAIN_PREFIX: &str = "CNI-";

/// An iptables failure as the spec's error object: code 11 where another program holds the lock.
pub fn iptables_error(error: &kernel::Error) -> Error {
    let mut converted = Error::from_chain(error);
    if error.is_busy() {
        converted.code = Code::TRY_AGAIN;
    }
    converted
}

/// Says what is wrong with `chain` as the name of a chain, which ends up in a script for iptables-restore.
pub fn check_chain_name(chain: &str) -> Result<(), String> {
    let odd = |c: char| c.is_whitespace() || c.is_control() || matches!(c, '"' | '\'' | '\\');
    if chain.is_empty() || chain.len() > CHAIN_NAME_MAX {
        return Err(format!("{chain:?} is not 1 to {CHAIN_NAME_MAX} bytes long"));
    }
    if chain.starts_with(['-', '!']) || chain.contains(odd) {
        return Err(format!("{chain:?} is no name for a chain"));
    }
    Ok(())
}

/// The iptables of `family` that may have chains of ours in `table`; found without running or loading anything. Of
/// legacy iptables only the table is seen, not its chains.
pub fn users(host: &mut Socket, family: Family, table: Table) -> kernel::Result<Vec<Iptables>> {
    let mut users = Vec::new();
    if nft::is_supported(host)? {
        let chains = nft::list_chains(host, &iptables::nft_table(family, table))?;
        if chains.iter().any(|chain| chain.starts_with(CHAIN_PREFIX)) {
            users.push(Iptables { family, variant: Variant::Nft });
        }
    }
    if iptables::legacy_table(family, table) {
        users.push(Iptables { family, variant: Variant::Legacy });
    }
    Ok(users)
}

/// A table as text and what iptables-restore makes of it, for tests of plans: `-N CHAIN` and `-A CHAIN rule` lines.
#[cfg(test)]
pub(crate) mod model {
    use kernel::iptables::{Ruleset, Script};

    /// The built-in chains, without rules.
    pub(crate) const EMPTY: &str = "-N FORWARD\n-N OUTPUT\n-N POSTROUTING\n-N PREROUTING\n";

    /// What would be observed.
    pub(crate) fn seen(text: &str) -> Ruleset {
        let saved = text.lines().map(|line| match line.strip_prefix("-N ") {
            Some(chain) => format!(":{chain} - [0:0]\n"),
            None => format!("{line}\n"),
        });
        Ruleset::parse(&saved.collect::<String>())
    }

    /// The table after `script`.
    pub(crate) fn after(text: &str, script: &Script) -> String {
        let mut chains: Vec<(String, Vec<String>)> = Vec::new();
        for line in text.lines().chain(script.text().lines()) {
            let line = match line.strip_prefix(':') {
                Some(declared) => format!(":: {}", declared.split(' ').next().unwrap_or_default()),
                None => line.to_owned(),
            };
            let mut words = line.splitn(3, ' ');
            let (verb, chain, rest) =
                (words.next(), words.next().unwrap_or_default(), words.next().unwrap_or_default());
            let at = chains.iter().position(|(name, _)| name == chain);
            match (verb, at) {
                (Some("-N" | "::"), None) => chains.push((chain.to_owned(), Vec::new())),
                (Some("-A"), Some(at)) => chains[at].1.push(rest.to_owned()),
                (Some("-I"), Some(at)) => chains[at].1.insert(0, rest.trim_start_matches("1 ").to_owned()),
                (Some("-F" | "::"), Some(at)) => chains[at].1.clear(),
                (Some("-D"), Some(at)) => {
                    let place = chains[at].1.iter().position(|rule| rule == rest).expect("the rule is there");
                    chains[at].1.remove(place);
                }
                (Some("-X"), Some(at)) => drop(chains.remove(at)),
                (Some(word), _) if word.starts_with('*') || word == "COMMIT" => {}
                _ => panic!("cannot carry out `{line}`"),
            }
        }
        chains.sort();
        let text = chains.iter().map(|(name, rules)| {
            let rules: String = rules.iter().map(|rule| format!("-A {name} {rule}\n")).collect();
            format!("-N {name}\n{rules}")
        });
        text.collect()
    }
}
