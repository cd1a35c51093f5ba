//! What iptables-restore reads.

use std::fmt::Write as _;

use super::Table;

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
        self.insert_as(chain, 1, rule)
    }

    /// Puts `rule` into `chain` as its `nth`, from 1.
    pub fn insert_as(&mut self, chain: &str, nth: usize, rule: &str) -> &mut Self {
        self.line(&["-I", chain, &nth.to_string(), rule])
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
