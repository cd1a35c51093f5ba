//! What a table holds, and the words of a rule.

use std::collections::BTreeMap;

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
