//! What iptables-restore is given.

use std::fmt::Write as _;

use kernel::iptables::Table;

use super::names;

/// Chains in one block of a long script. iptables-nft looks every chain of a block up by walking through all of them:
/// with 25,000 at once that takes half a minute, in blocks of a hundred a second.
const BLOCK: usize = 100;

/// Changes of several tables.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Script {
    parts: [Part; 3],
}

/// Changes of one table.
#[derive(Debug, Default, PartialEq, Eq)]
struct Part {
    rewrites: Vec<Rewrite>,
    /// Deletions of single rules, then insertions: none moves another's place.
    edits: Vec<Edit>,
    removals: Vec<String>,
}

#[derive(Debug, PartialEq, Eq)]
struct Rewrite {
    chain: String,
    rules: Vec<String>,
}

#[derive(Debug, PartialEq, Eq)]
struct Edit {
    /// `-A`, `-D` or `-I`.
    verb: &'static str,
    chain: String,
    rule: String,
}

/// The order in which tables change: what rejects comes before what leads there is taken away.
const ORDER: [Table; 3] = [Table::Filter, Table::Nat, Table::Mangle];

impl Script {
    /// Gives a chain these rules, whatever it has; makes it if it is absent.
    pub(super) fn rewrite(&mut self, table: Table, chain: &str, rules: Vec<String>) {
        self.part(table).rewrites.push(Rewrite { chain: chain.to_owned(), rules });
    }

    /// Deletes one rule, which must be there.
    pub(super) fn delete(&mut self, table: Table, chain: &str, rule: &str) {
        self.edit(table, "-D", chain, rule);
    }

    /// Puts a rule at the top.
    pub(super) fn insert(&mut self, table: Table, chain: &str, rule: &str) {
        self.edit(table, "-I", chain, rule);
    }

    /// Puts a rule at the end.
    pub(super) fn append(&mut self, table: Table, chain: &str, rule: &str) {
        self.edit(table, "-A", chain, rule);
    }

    /// Removes a chain with its rules. Nothing but chains that go too may still lead there after all other changes.
    pub(super) fn remove(&mut self, table: Table, chain: &str) {
        self.part(table).removals.push(chain.to_owned());
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lines() == 0
    }

    /// Rules and chains that are written or removed.
    pub(super) fn lines(&self) -> usize {
        let of_part = |part: &Part| {
            let rewritten: usize = part.rewrites.iter().map(|rewrite| 1 + rewrite.rules.len()).sum();
            rewritten + part.edits.len() + part.removals.len()
        };
        self.parts.iter().map(of_part).sum()
    }

    /// Rules that are written to a table.
    pub(super) fn written(&self, table: Table) -> usize {
        let at = ORDER.iter().position(|other| *other == table).unwrap_or(0);
        let Part { rewrites, edits, .. } = &self.parts[at];
        let rewritten: usize = rewrites.iter().map(|rewrite| rewrite.rules.len()).sum();
        rewritten + edits.iter().filter(|edit| edit.verb != "-D").count()
    }

    /// What it does, one sentence each.
    pub(super) fn sentences(&self) -> Vec<String> {
        let mut sentences = Vec::new();
        for (table, part) in ORDER.into_iter().zip(&self.parts) {
            let table = table.name();
            for Rewrite { chain, rules } in &part.rewrites {
                sentences.push(format!("table {table}: chain {chain} gets its {} rules", rules.len()));
            }
            for Edit { verb, chain, rule } in &part.edits {
                let verb = match *verb {
                    "-D" => "loses",
                    _ => "gets",
                };
                sentences.push(format!("table {table}: chain {chain} {verb} the rule {rule}"));
            }
            sentences.extend(part.removals.iter().map(|chain| format!("table {table}: chain {chain} goes")));
        }
        sentences
    }

    /// The text, each table in one block, or with `in_blocks` in several if it is long: then what others lead to comes
    /// first, so that every block leaves a table that works.
    pub(super) fn text(&self, in_blocks: bool) -> String {
        let mut text = String::new();
        for (table, part) in ORDER.into_iter().zip(&self.parts) {
            part.write(&mut text, table, if in_blocks { BLOCK } else { usize::MAX });
        }
        text
    }

    fn edit(&mut self, table: Table, verb: &'static str, chain: &str, rule: &str) {
        self.part(table).edits.push(Edit { verb, chain: chain.to_owned(), rule: rule.to_owned() });
    }

    fn part(&mut self, table: Table) -> &mut Part {
        let at = ORDER.iter().position(|other| *other == table).unwrap_or(0);
        &mut self.parts[at]
    }
}

impl Part {
    fn write(&self, text: &mut String, table: Table, most: usize) {
        if self.rewrites.is_empty() && self.edits.is_empty() && self.removals.is_empty() {
            return;
        }
        let mut rewrites: Vec<&Rewrite> = self.rewrites.iter().collect();
        rewrites.sort_by_key(|rewrite| names::rank(&rewrite.chain));
        let mut removals: Vec<&String> = self.removals.iter().collect();
        removals.sort_by_key(|chain| std::cmp::Reverse(names::rank(chain)));
        let mut blocks = rewrites.chunks(most).peekable();
        let mut removals = removals.chunks(most);
        begin(text, table);
        while let Some(block) = blocks.next() {
            write_chains(text, block);
            if blocks.peek().is_some() {
                next(text, table);
            }
        }
        for Edit { verb, chain, rule } in &self.edits {
            let _ = writeln!(text, "{verb} {chain} {rule}");
        }
        remove_chains(text, removals.next().unwrap_or_default());
        for block in removals {
            next(text, table);
            remove_chains(text, block);
        }
        text.push_str("COMMIT\n");
    }
}

fn begin(text: &mut String, table: Table) {
    let _ = writeln!(text, "*{}", table.name());
}

fn next(text: &mut String, table: Table) {
    text.push_str("COMMIT\n");
    begin(text, table);
}

fn write_chains(text: &mut String, block: &[&Rewrite]) {
    for Rewrite { chain, .. } in block {
        let _ = writeln!(text, ":{chain} - [0:0]");
    }
    for Rewrite { chain, rules } in block {
        for rule in rules {
            let _ = writeln!(text, "-A {chain} {rule}");
        }
    }
}

/// All flushes come before all removals, because the chains may lead to each other.
fn remove_chains(text: &mut String, chains: &[&String]) {
    for verb in ["-F", "-X"] {
        for chain in chains {
            let _ = writeln!(text, "{verb} {chain}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_come_in_the_order_of_leading() {
        let mut script = Script::default();
        script.remove(Table::Nat, "KUBE-SVC-OLD");
        script.rewrite(Table::Nat, names::SERVICES, vec!["-j KUBE-SVC-0".to_owned()]);
        for number in 0..60 {
            script.rewrite(Table::Nat, &format!("KUBE-SVC-{number}"), vec![format!("-j KUBE-SEP-{number}")]);
            script.rewrite(Table::Nat, &format!("KUBE-SEP-{number}"), Vec::new());
        }
        script.insert(Table::Nat, "PREROUTING", "-j KUBE-SERVICES");
        script.rewrite(Table::Filter, names::FORWARD, Vec::new());
        let text = script.text(true);
        assert!(
            text.starts_with("*filter\n:KUBE-FORWARD - [0:0]\nCOMMIT\n*nat\n:KUBE-SEP-0 - [0:0]\n"),
            "{text}"
        );
        assert!(
            text.ends_with("-I PREROUTING -j KUBE-SERVICES\n-F KUBE-SVC-OLD\n-X KUBE-SVC-OLD\nCOMMIT\n"),
            "{text}"
        );
        let of_nat: Vec<&str> = text.split("*nat\n").skip(1).collect();
        assert_eq!(of_nat.len(), 2, "{text}");
        assert!(of_nat[0].contains("-A KUBE-SVC-39 ") && of_nat[1].contains("-A KUBE-SERVICES "), "{text}");
        assert_eq!(script.text(false).matches("COMMIT").count(), 2);
    }

    #[test]
    fn nothing_is_no_text() {
        assert_eq!((Script::default().text(true).as_str(), Script::default().is_empty()), ("", true));
    }
}
