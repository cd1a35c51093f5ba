//! iptables: what a table holds, a script that changes it, and doing so.
//!
//! Observing is one `iptables-save`, changing one `iptables-restore --noflush`: the script is a pure function of what
//! was observed, and the kernel takes it whole or not at all. When somebody else changed the table in between, the
//! script no longer fits (a rule to delete is gone, a chain to make is there): [`Iptables::converge`] then observes and plans
//! again.

use std::net::IpAddr;
use std::path::PathBuf;

use crate::netlink::Socket;
use crate::nft;
use crate::program::{self, Outcome};
use crate::{Errno, Error, Result};

mod host;
mod ruleset;
mod script;

pub use host::{HINTS, Version};
pub use ruleset::{Ruleset, comment_of, quoted, target_of, words};
pub use script::Script;

/// How often a plan is made anew because the table changed under it.
const TRIES: usize = 30;
/// Seconds to wait for the lock that all legacy iptables programs share.
const LOCK_SECONDS: &str = "60";

/// Which of the two programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// iptables.
    V4,
    /// ip6tables.
    V6,
}

/// The table a rule lives in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Table {
    /// Address translation.
    Nat,
    /// Accept and drop.
    Filter,
    /// Changes of packets.
    Mangle,
}

/// Where iptables keeps its rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Variant {
    /// Whatever the host's `iptables` is.
    Host,
    /// nf_tables, by `iptables-nft`.
    Nft,
    /// The kernel's ip_tables, by `iptables-legacy`.
    Legacy,
}

impl Family {
    /// Both, for code that is written for one.
    pub const BOTH: [Family; 2] = [Family::V4, Family::V6];

    /// The family of `ip`.
    pub fn of_ip(ip: IpAddr) -> Self {
        if ip.is_ipv4() { Family::V4 } else { Family::V6 }
    }

    fn prefix(self) -> &'static str {
        match self {
            Family::V4 => "iptables",
            Family::V6 => "ip6tables",
        }
    }
}

impl Table {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Table::Nat => "nat",
            Table::Filter => "filter",
            Table::Mangle => "mangle",
        }
    }
}

/// One of the host's iptables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Iptables {
    /// Family.
    pub family: Family,
    /// Variant.
    pub variant: Variant,
}

impl Iptables {
    /// The host's own iptables of `family`.
    pub fn host(family: Family) -> Self {
        Iptables { family, variant: Variant::Host }
    }

    /// Whether the programs are installed.
    pub fn is_installed(self) -> bool {
        self.program("save").is_ok() && self.program("restore").is_ok()
    }

    /// What `table` holds.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the program is not installed; otherwise what [`classify`] makes of its complaint.
    pub fn observe(self, table: Table) -> Result<Ruleset> {
        let program = self.program("save")?;
        let args = ["-t", table.name()];
        let outcome = program::run(&program, &args, "")?;
        judge(&program::command_line(&program, &args), &outcome)?;
        Ok(Ruleset::parse(&outcome.stdout))
    }

    /// Carries `script` out, whole or not at all.
    ///
    /// # Errors
    /// As [`Iptables::observe`].
    pub fn restore(self, script: &Script) -> Result<()> {
        let program = self.program("restore")?;
        let args = ["--noflush", "-w", LOCK_SECONDS];
        let outcome = program::run(&program, &args, &script.text())?;
        judge(&program::command_line(&program, &args), &outcome)
    }

    /// Observes, plans and applies until the plan is carried out; an empty plan is not applied. The table may change
    /// meanwhile: the plan is then made anew. Says whether there was anything to do.
    ///
    /// # Errors
    /// The last refusal, when the plan never fits.
    pub fn converge(self, table: Table, plan: impl Fn(&Ruleset) -> Script) -> Result<bool> {
        let mut refusal = None;
        let mut last = None;
        for _ in 0..TRIES {
            let observed = self.observe(table)?;
            let script = plan(&observed);
            if script.is_empty() {
                return Ok(refusal.is_some());
            }
            // The same plan on the same table fails again: somebody else is not the reason.
            if last.as_ref() == Some(&observed) {
                break;
            }
            refusal = match self.restore(&script) {
                Ok(()) => return Ok(true),
                Err(error) if error.is_absent() || error.is_present() => Some(error),
                Err(error) => return Err(error),
            };
            last = Some(observed);
        }
        refusal.map_or(Ok(false), Err)
    }

    /// The program for `role`, that without one for none; systems with one variant only may not have it under the variant's name.
    fn program(self, role: &str) -> Result<PathBuf> {
        let prefix = self.family.prefix();
        let suffix = if role.is_empty() { String::new() } else { format!("-{role}") };
        let plain = format!("{prefix}{suffix}");
        let special = match self.variant {
            Variant::Host => None,
            Variant::Nft => program::find(&format!("{prefix}-nft{suffix}")),
            Variant::Legacy => program::find(&format!("{prefix}-legacy{suffix}")),
        };
        special.or_else(|| program::find(&plain)).ok_or_else(|| Error::Invalid {
            what: format!("the program {plain} is not installed (looked in PATH and the sbin directories)"),
        })
    }
}

/// The iptables that may hold `chain` of `table`, found without running or loading anything: iptables-nft's chains
/// are seen by netlink; of legacy iptables only the tables are, so its `table` in use means perhaps. `netfilter` and
/// the calling thread must be in the same network namespace.
pub fn holders(netfilter: &mut Socket, family: Family, table: Table, chain: &str) -> Result<Vec<Iptables>> {
    let mut holders = Vec::new();
    if nft::is_supported(netfilter)? && nft::chain_exists(netfilter, &nft_table(family, table), chain)? {
        holders.push(Iptables { family, variant: Variant::Nft });
    }
    if legacy_table(family, table) {
        holders.push(Iptables { family, variant: Variant::Legacy });
    }
    Ok(holders)
}

/// The nf_tables table in which iptables-nft keeps `table`.
pub fn nft_table(family: Family, table: Table) -> nft::Table<'static> {
    let family = match family {
        Family::V4 => nft::Family::Ip,
        Family::V6 => nft::Family::Ip6,
    };
    nft::Table::new(family, table.name())
}

/// Whether the kernel's own (legacy) iptables has `table` loaded in the calling thread's network namespace. This is
/// one file read; it loads nothing and runs nothing.
pub fn legacy_table(family: Family, table: Table) -> bool {
    let file = match family {
        Family::V4 => "/proc/thread-self/net/ip_tables_names",
        Family::V6 => "/proc/thread-self/net/ip6_tables_names",
    };
    std::fs::read_to_string(file).is_ok_and(|names| names.lines().any(|name| name == table.name()))
}

fn judge(command: &str, outcome: &Outcome) -> Result<()> {
    if outcome.status == 0 {
        return Ok(());
    }
    let stderr = outcome.stderr.trim().to_owned();
    match classify(outcome.status, &stderr) {
        Some(errno) => Err(Error::Kernel { doing: command.to_owned(), errno, hint: stderr }),
        None => Err(Error::Program { command: command.to_owned(), status: outcome.status, stderr }),
    }
}

/// The error number behind a failed iptables program, where its words leave no doubt: ENOENT for a chain or rule that
/// is absent, EEXIST for a chain that is present, EBUSY for a chain that is still referred to, EAGAIN for a lock that
/// somebody holds or a ruleset that changed, EPERM for lack of privilege, EOPNOTSUPP for a kernel without the table.
///
/// This is the only place that reads a program's prose. It is safe because LC_ALL is C, because these sentences have
/// been the same since iptables 1.4 (or 1.8 for the nft variant's), and because a sentence that is not recognised
/// stays an error with its text.
pub fn classify(status: i32, stderr: &str) -> Option<Errno> {
    const SENTENCES: [(&str, i32); 17] = [
        ("holding the xtables lock", libc::EAGAIN),
        ("can't initialize ip", libc::EOPNOTSUPP),
        ("Table does not exist", libc::EOPNOTSUPP),
        ("Could not fetch rule set generation id: Operation not supported", libc::EOPNOTSUPP),
        ("Could not fetch rule set generation id: Invalid argument", libc::EOPNOTSUPP),
        ("Failed to initialize nft: Protocol not supported", libc::EOPNOTSUPP),
        ("Permission denied (you must be root)", libc::EPERM),
        ("Operation not permitted", libc::EPERM),
        ("Bad rule (does a matching rule exist in that chain?)", libc::ENOENT),
        ("No chain/target/match by that name", libc::ENOENT),
        ("RULE_DELETE failed (No such file or directory)", libc::ENOENT),
        ("CHAIN_USER_DEL failed (No such file or directory)", libc::ENOENT),
        ("Couldn't load target `CNI-", libc::ENOENT),
        ("Chain already exists", libc::EEXIST),
        ("File exists", libc::EEXIST),
        ("Too many links", libc::EBUSY),
        ("Device or resource busy", libc::EBUSY),
    ];
    if status == 0 {
        return None;
    }
    if let Some((_, errno)) = SENTENCES.iter().find(|(sentence, _)| stderr.contains(sentence)) {
        return Some(Errno(*errno));
    }
    let missing_chain = stderr.contains("Chain '") && stderr.contains("' does not exist");
    // Exit status 4 is "resource problem": the lock, or a generation that moved.
    match status {
        _ if missing_chain => Some(Errno(libc::ENOENT)),
        4 => Some(Errno(libc::EAGAIN)),
        _ => None,
    }
}

#[cfg(test)]
#[path = "iptables_test.rs"]
mod tests;
