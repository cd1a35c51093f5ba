//! kube-proxy's command line.
//!
//! Go's pflag: `--flag=value`, `--flag value`, `-v2`, `-v=2`; a bool needs no value, and takes one behind `=` only.
//! Underscores are dashes. One dash before a long name is understood too, as Go's older flags have it.

use super::table::{SPECIALS, Setting, Special, of_flag};
use super::value::{Kind, Value};

/// What was typed.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Line {
    /// Settings in the order in which they were given.
    pub settings: Vec<(&'static str, Value)>,
    /// Flags that are no settings.
    pub specials: Vec<(Special, String)>,
    /// Flags that nobody knows and that nothing needs any more, a sentence each.
    pub warnings: Vec<String>,
}

/// What a flag is.
enum Known {
    Setting(&'static Setting),
    Special(Kind, Special),
}

impl Known {
    fn named(name: &str) -> Option<Known> {
        let special = SPECIALS.iter().find(|(flag, ..)| *flag == name);
        special
            .map(|(_, kind, special)| Known::Special(*kind, *special))
            .or_else(|| of_flag(name).map(Known::Setting))
    }

    fn kind(&self) -> Kind {
        match self {
            Known::Setting(setting) => setting.kind,
            Known::Special(kind, _) => *kind,
        }
    }

    /// What it is without a value; none where there must be one.
    fn bare(&self) -> Option<&'static str> {
        match self {
            Known::Special(_, Special::Version) => Some("true"),
            known => (known.kind() == Kind::Bool).then_some("true"),
        }
    }
}

impl Line {
    /// Reads the arguments behind the program's name.
    ///
    /// # Errors
    /// A sentence that names the flag and the value.
    pub fn parse(args: &[String]) -> Result<Line, String> {
        let mut line = Line::default();
        let mut rest = args.iter();
        while let Some(word) = rest.next() {
            if word == "--" {
                break;
            }
            let Some((name, attached)) = split(word) else {
                return Err(format!("kube-proxy takes flags only, not `{word}`"));
            };
            let known = Known::named(&name);
            let value = match (&known, attached) {
                (_, Some(value)) => Some(value),
                (Some(known), None) => match known.bare() {
                    Some(value) => Some(value.to_owned()),
                    None => Some(rest.next().ok_or_else(|| format!("--{name}: needs a value"))?.clone()),
                },
                // Whether it takes a value nobody knows; a word alone means nothing to kube-proxy.
                (None, None) => {
                    rest.as_slice().first().filter(|next| !next.starts_with('-')).and(rest.next()).cloned()
                }
            };
            line.take(&name, known, value)?;
        }
        if let Some(word) = rest.next() {
            return Err(format!("kube-proxy takes flags only, not `{word}`"));
        }
        Ok(line)
    }

    fn take(&mut self, name: &str, known: Option<Known>, value: Option<String>) -> Result<(), String> {
        let text = value.clone().unwrap_or_default();
        let Some(known) = known else {
            let value = value.map(|value| format!(" with value `{value}`")).unwrap_or_default();
            self.warnings.push(format!("--{name}{value} is no flag of kube-proxy 1.36 and has no effect"));
            return Ok(());
        };
        let kind = known.kind();
        let parsed = kind.of_flag(&text).ok_or_else(|| format!("--{name}: `{text}` is {}", kind.wanted()))?;
        match known {
            Known::Setting(setting) => self.settings.push((setting.flag, parsed)),
            Known::Special(_, Special::Former) => {
                self.warnings.push(format!("--{name} was a flag of older kube-proxies and has no effect"))
            }
            Known::Special(_, special) => self.specials.push((special, text)),
        }
        Ok(())
    }

    /// The last value of a special flag.
    pub fn special(&self, special: Special) -> Option<&str> {
        let given = self.specials.iter().rev().find(|(other, _)| *other == special);
        given.map(|(_, value)| value.as_str())
    }

    /// Whether a special flag was given, and not with `=false`.
    pub fn wants(&self, special: Special) -> bool {
        self.special(special).is_some_and(|value| super::value::boolean(value) != Some(false))
    }

    /// The last value of a setting's flag; flags that gather (`--feature-gates`) have all of theirs.
    pub fn setting(&self, flag: &str) -> Option<Value> {
        let mut given = self.settings.iter().filter(|(name, _)| *name == flag).map(|(_, value)| value);
        let first = given.next()?.clone();
        Some(given.fold(first, |sum, next| match (sum, next) {
            (Value::Gates(mut sum), Value::Gates(next)) => {
                sum.extend(next.clone());
                Value::Gates(sum)
            }
            (Value::Texts(mut sum), Value::Texts(next)) => {
                sum.extend(next.iter().cloned());
                Value::Texts(sum)
            }
            (Value::Patterns(mut sum), Value::Patterns(next)) => {
                sum.extend(next.iter().cloned());
                Value::Patterns(sum)
            }
            (_, next) => next.clone(),
        }))
    }
}

/// A word's flag and what is attached to it. None for a word that is no flag.
fn split(word: &str) -> Option<(String, Option<String>)> {
    let body = word.strip_prefix('-')?;
    let long = body.strip_prefix('-');
    let (name, value) = match long.unwrap_or(body).split_once('=') {
        Some((name, value)) => (name, Some(value.to_owned())),
        None => (long.unwrap_or(body), None),
    };
    if name.is_empty() {
        return None;
    }
    let name = name.replace('_', "-");
    if long.is_some() || Known::named(&name).is_some() {
        return Some((name, value));
    }
    match body.split_at_checked(1) {
        Some(("h", "")) => Some(("help".to_owned(), None)),
        Some(("v", level)) => Some(("v".to_owned(), Some(level.trim_start_matches('=').to_owned()))),
        _ => Some((name, value)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(words: &[&str]) -> Result<Line, String> {
        Line::parse(&words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn every_notation_of_go_is_understood() {
        let rows: [(&[&str], &str, &str); 14] = [
            (&["--proxy-mode=ipvs"], "proxy-mode", "ipvs"),
            (&["--proxy-mode", "ipvs"], "proxy-mode", "ipvs"),
            (&["-proxy-mode=ipvs"], "proxy-mode", "ipvs"),
            (&["--proxy_mode=ipvs"], "proxy-mode", "ipvs"),
            (&["--masquerade-all"], "masquerade-all", "true"),
            (&["--masquerade-all=false"], "masquerade-all", "false"),
            (&["--masquerade-all=F"], "masquerade-all", "false"),
            (&["-v=4"], "v", "4"),
            (&["-v", "4"], "v", "4"),
            (&["-v4"], "v", "4"),
            (&["--v=4"], "v", "4"),
            (&["--v=2", "--v=4"], "v", "4"),
            (
                &["--nodeport-addresses=10.0.0.0/8", "--nodeport-addresses=::/0"],
                "nodeport-addresses",
                "10.0.0.0/8,::/0",
            ),
            (
                &["--feature-gates=A=true", "--feature-gates=A=false,B=true"],
                "feature-gates",
                "A=false,B=true",
            ),
        ];
        for (words, flag, value) in rows {
            let line = parsed(words).unwrap_or_else(|error| panic!("{words:?}: {error}"));
            assert_eq!(
                line.setting(flag).map(|value| value.to_string()).as_deref(),
                Some(value),
                "{words:?}"
            );
            assert!(line.warnings.is_empty(), "{words:?}: {:?}", line.warnings);
        }
    }

    #[test]
    fn wrong_ones_are_named() {
        let rows: [(&[&str], &str); 7] = [
            (
                &["--iptables-sync-period=5"],
                "--iptables-sync-period: `5` is no duration such as 30s or 1m30s",
            ),
            (&["--masquerade-all=maybe"], "--masquerade-all: `maybe` is neither true nor false"),
            // A bool takes no second word, so this is one of its own.
            (&["--masquerade-all", "false"], "kube-proxy takes flags only, not `false`"),
            (&["--oom-score-adj", "x"], "--oom-score-adj: `x` is no whole number of 32 bits"),
            (&["--config"], "--config: needs a value"),
            (&["run"], "kube-proxy takes flags only, not `run`"),
            (&["--", "x"], "kube-proxy takes flags only, not `x`"),
        ];
        for (words, error) in rows {
            assert_eq!(parsed(words).expect_err("wrong"), error, "{words:?}");
        }
    }

    #[test]
    fn unknown_and_former_ones_are_warned_of_and_take_their_value_along() {
        let line =
            parsed(&["--new-thing", "x", "--logtostderr=true", "--other=1", "--cleanup"]).expect("parses");
        assert_eq!(
            line.warnings,
            [
                "--new-thing with value `x` is no flag of kube-proxy 1.36 and has no effect",
                "--logtostderr was a flag of older kube-proxies and has no effect",
                "--other with value `1` is no flag of kube-proxy 1.36 and has no effect",
            ]
        );
        assert!(line.wants(Special::Cleanup) && !line.wants(Special::InitOnly));
        assert!(!parsed(&["--cleanup=false"]).expect("parses").wants(Special::Cleanup));
        assert!(parsed(&["--version"]).expect("parses").wants(Special::Version));
    }
}
