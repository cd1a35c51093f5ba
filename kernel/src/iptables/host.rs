//! Which of a host's iptables is in use, and whole rulesets as text.

use super::{Family, Iptables, LOCK_SECONDS, Table, Variant, judge, legacy_table, nft_table};
use crate::netlink::Socket;
use crate::nft;
use crate::program;
use crate::{Error, Result};

/// Chains in table mangle by which a kubelet says which variant it uses.
pub const HINTS: [&str; 2] = ["KUBE-IPTABLES-HINT", "KUBE-KUBELET-CANARY"];

/// What an iptables program says about itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Version {
    /// Major, minor and patch level.
    pub number: [u16; 3],
    /// Whether it keeps its rules in nf_tables.
    pub is_nft: bool,
}

impl Version {
    /// Reads `iptables v1.8.9 (nf_tables)`.
    fn parse(text: &str) -> Option<Self> {
        let number = text.split_whitespace().find_map(|word| word.strip_prefix('v'))?;
        let mut parts = number.split('.').map(|part| part.parse().unwrap_or(0));
        let mut next = || parts.next().unwrap_or(0);
        Some(Version { number: [next(), next(), next()], is_nft: text.contains("nf_tables") })
    }
}

impl Iptables {
    /// The iptables of `family` that this host's Kubernetes uses, by the rule of its iptables wrappers: where the kubelet
    /// has left its mark; else where there are more rules; else nf_tables. `netfilter` and the calling thread must be in
    /// the same network namespace. A variant without its own program is not chosen.
    ///
    /// # Errors
    /// When neither the kernel nor a program can be asked.
    pub fn in_use(netfilter: &mut Socket, family: Family) -> Result<Self> {
        let [nft, legacy] = [Variant::Nft, Variant::Legacy].map(|variant| Iptables { family, variant });
        match (nft.is_own(), legacy.is_own()) {
            (false, false) => return Ok(Iptables::host(family)),
            (true, false) => return Ok(nft),
            (false, true) => return Ok(legacy),
            (true, true) => {}
        }
        if !nft::is_supported(netfilter)? {
            return Ok(legacy);
        }
        for family in Family::BOTH {
            for hint in HINTS {
                if nft::chain_exists(netfilter, &nft_table(family, Table::Mangle), hint)? {
                    return Ok(nft);
                }
            }
        }
        let legacy_families: Vec<Family> = Family::BOTH.into_iter().filter(has_legacy).collect();
        if legacy_families.is_empty() {
            return Ok(nft);
        }
        let mut legacy_rules = 0;
        for family in legacy_families {
            let text = Iptables { family, variant: Variant::Legacy }.save()?;
            if HINTS.iter().any(|hint| text.contains(&format!("\n:{hint} "))) {
                return Ok(legacy);
            }
            legacy_rules += rules(&text);
        }
        let mut nft_rules = 0;
        for family in Family::BOTH {
            nft_rules += rules(&Iptables { family, variant: Variant::Nft }.save()?);
        }
        Ok(if legacy_rules > nft_rules { legacy } else { nft })
    }

    /// What the program says about itself.
    ///
    /// # Errors
    /// When it is not installed, fails, or says nothing that can be understood.
    pub fn version(self) -> Result<Version> {
        let program = self.program("")?;
        let args = ["--version"];
        let outcome = program::run(&program, &args, "")?;
        let command = program::command_line(&program, &args);
        judge(&command, &outcome)?;
        Version::parse(&outcome.stdout)
            .ok_or(Error::Malformed { doing: command, why: "there is no version in its answer" })
    }

    /// Every table that is in use, as `iptables-save` prints it.
    ///
    /// # Errors
    /// As [`Iptables::observe`].
    pub fn save(self) -> Result<String> {
        let program = self.program("save")?;
        let outcome = program::run(&program, &[], "")?;
        judge(&program::command_line(&program, &[]), &outcome)?;
        Ok(outcome.stdout)
    }

    /// One table, as `iptables-save` prints it.
    ///
    /// # Errors
    /// As [`Iptables::observe`].
    pub fn save_table(self, table: Table) -> Result<String> {
        let program = self.program("save")?;
        let args = ["-t", table.name()];
        let outcome = program::run(&program, &args, "")?;
        judge(&program::command_line(&program, &args), &outcome)?;
        Ok(outcome.stdout)
    }

    /// Carries `script` out, block by block: each up to its COMMIT is taken whole or not at all. Chains that it does not
    /// name stay as they are.
    ///
    /// # Errors
    /// As [`Iptables::observe`]. Blocks before the one that failed are in force.
    pub fn restore_text(self, script: &str) -> Result<()> {
        let program = self.program("restore")?;
        let args = ["--noflush", "-w", LOCK_SECONDS];
        let outcome = program::run(&program, &args, script)?;
        judge(&program::command_line(&program, &args), &outcome)
    }

    /// Whether the variant has a program of its own name.
    fn is_own(self) -> bool {
        let middle = match self.variant {
            Variant::Host => return false,
            Variant::Nft => "nft",
            Variant::Legacy => "legacy",
        };
        program::find(&format!("{}-{middle}-restore", self.family.prefix())).is_some()
    }
}

fn has_legacy(family: &Family) -> bool {
    [Table::Nat, Table::Filter, Table::Mangle].into_iter().any(|table| legacy_table(*family, table))
}

fn rules(saved: &str) -> usize {
    saved.lines().filter(|line| line.starts_with("-A ")).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_say_their_version() {
        let rows = [
            ("iptables v1.8.9 (nf_tables)\n", Some(([1, 8, 9], true))),
            ("ip6tables v1.8.9 (legacy)\n", Some(([1, 8, 9], false))),
            ("iptables v1.6.1\n", Some(([1, 6, 1], false))),
            ("iptables v1.10\n", Some(([1, 10, 0], false))),
            ("", None),
        ];
        for (text, expected) in rows {
            assert_eq!(Version::parse(text).map(|v| (v.number, v.is_nft)), expected, "{text}");
        }
    }
}
