//! iptables: what a table holds, a script that changes it, and doing so.
//!
//! Observing is one `iptables-save`, changing one `iptables-restore --noflush`: the script is a pure function of what
//! was observed, and the kernel takes it whole or not at all. When somebody else changed the table in between, the
//! script no longer fits (a rule to delete is gone, a chain to make is there): [`Iptables::converge`] then observes and plans
//! again.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::PathBuf;

use crate::netlink::Socket;
use crate::nft;
use crate::program::{self, Outcome};
use crate::{Errno, Error, Result};

mod host;

pub use host::{HINTS, Version};

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

/// A table as observed: each chain's rules, in order, as `iptables-save` words them, without `-A CHAIN`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ruleset {
    chains: BTreeMap<String, Chain>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Chain {
    policy: String,
    rules: Vec<String>,
}

impl Ruleset {
    /// Reads the text of `iptables-save -t TABLE`.
    pub fn parse(text: &str) -> Self {
        let mut ruleset = Ruleset::default();
        for line in text.lines() {
            if let Some(declaration) = line.strip_prefix(':') {
                let mut words = declaration.split(' ');
                let chain = ruleset.chains.entry(words.next().unwrap_or_default().to_owned()).or_default();
                chain.policy = words.next().unwrap_or_default().to_owned();
            } else if let Some((chain, rule)) = line.strip_prefix("-A ").and_then(|rest| rest.split_once(' '))
            {
                ruleset.chains.entry(chain.to_owned()).or_default().rules.push(rule.to_owned());
            }
        }
        ruleset
    }

    /// Whether `chain` exists.
    pub fn has_chain(&self, chain: &str) -> bool {
        self.chains.contains_key(chain)
    }

    /// The chains' names, sorted.
    pub fn chains(&self) -> impl Iterator<Item = &str> {
        self.chains.keys().map(String::as_str)
    }

    /// The policy of `chain`: `ACCEPT`, `DROP`, or `-` for a chain of somebody's own.
    pub fn policy(&self, chain: &str) -> Option<&str> {
        self.chains.get(chain).map(|chain| chain.policy.as_str())
    }

    /// The rules of `chain`; none when it is absent.
    pub fn rules(&self, chain: &str) -> &[String] {
        self.chains.get(chain).map_or(&[], |chain| &chain.rules)
    }

    /// Whether `chain` holds `rule`, however its words are quoted.
    pub fn has_rule(&self, chain: &str, rule: &str) -> bool {
        let wanted = words(rule);
        self.rules(chain).iter().any(|rule| words(rule) == wanted)
    }

    /// The rules of `chain` that jump or go to `target`.
    pub fn rules_to<'a>(&'a self, chain: &str, target: &'a str) -> impl Iterator<Item = &'a str> {
        self.rules(chain)
            .iter()
            .map(String::as_str)
            .filter(move |rule| target_of(rule).as_deref() == Some(target))
    }
}

/// The chain or target that `rule` names after `-j` or `-g`.
pub fn target_of(rule: &str) -> Option<String> {
    let words = words(rule);
    let at = words.iter().position(|word| word == "-j" || word == "-g")?;
    words.into_iter().nth(at + 1)
}

/// The comment of `rule`, unquoted.
pub fn comment_of(rule: &str) -> Option<String> {
    let words = words(rule);
    let at = words.iter().position(|word| word == "--comment")?;
    words.into_iter().nth(at + 1)
}

/// `rule` split into words the way iptables-restore does: blanks separate, double quotes hold together, a backslash
/// inside quotes takes the next character as it is.
pub fn words(rule: &str) -> Vec<String> {
    let (mut words, mut word, mut open, mut quoted) = (Vec::new(), String::new(), false, false);
    let mut chars = rule.chars();
    while let Some(c) = chars.next() {
        match c {
            '"' => {
                quoted = !quoted;
                open = true;
            }
            '\\' if quoted => word.extend(chars.next()),
            ' ' | '\t' if !quoted => {
                if open {
                    words.push(std::mem::take(&mut word));
                }
                open = false;
            }
            _ => {
                word.push(c);
                open = true;
            }
        }
    }
    if open {
        words.push(word);
    }
    words
}

/// `text` as one quoted word of a restore script. Control characters, which would end the line, become blanks.
pub fn quoted(text: &str) -> String {
    let mut word = String::with_capacity(text.len() + 2);
    word.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => word.extend(['\\', c]),
            c if c.is_control() => word.push(' '),
            c => word.push(c),
        }
    }
    word.push('"');
    word
}

/// What iptables-restore reads: one table, changes in order, all or nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Script {
    table: Table,
    declarations: String,
    changes: String,
    flushes: String,
    removals: String,
}

impl Script {
    /// No change to `table`.
    pub fn new(table: Table) -> Self {
        Script {
            table,
            declarations: String::new(),
            changes: String::new(),
            flushes: String::new(),
            removals: String::new(),
        }
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.declarations.is_empty() && self.changes.is_empty() && self.removals.is_empty()
    }

    /// Makes `chain` if absent; if present its rules are flushed.
    pub fn rewrite_chain(&mut self, chain: &str) -> &mut Self {
        let _ = writeln!(self.declarations, ":{chain} - [0:0]");
        self
    }

    /// Makes `chain`, which must be absent.
    pub fn create_chain(&mut self, chain: &str) -> &mut Self {
        self.line(&["-N", chain])
    }

    /// Appends `rule` to `chain`.
    pub fn append(&mut self, chain: &str, rule: &str) -> &mut Self {
        self.line(&["-A", chain, rule])
    }

    /// Puts `rule` at the top of `chain`.
    pub fn insert(&mut self, chain: &str, rule: &str) -> &mut Self {
        self.line(&["-I", chain, "1", rule])
    }

    /// Deletes `rule`, which must be in `chain`.
    pub fn delete(&mut self, chain: &str, rule: &str) -> &mut Self {
        self.line(&["-D", chain, rule])
    }

    /// Deletes `chain` with its rules; after all other changes nothing may refer to it any more, other deleted chains
    /// excepted.
    pub fn delete_chain(&mut self, chain: &str) -> &mut Self {
        // All flushes come before all removals, because the chains may refer to each other; and because iptables-nft
        // 1.8.9, where a flush follows, deletes a rule of the flushed chain only then.
        let _ = writeln!(self.flushes, "-F {chain}");
        let _ = writeln!(self.removals, "-X {chain}");
        self
    }

    fn line(&mut self, words: &[&str]) -> &mut Self {
        self.changes.push_str(&words.join(" "));
        self.changes.push('\n');
        self
    }

    /// The script's text.
    pub fn text(&self) -> String {
        let Script { table, declarations, changes, flushes, removals } = self;
        format!("*{}\n{declarations}{changes}{flushes}{removals}COMMIT\n", table.name())
    }
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
