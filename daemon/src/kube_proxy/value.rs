//! Values as kube-proxy's flags and file spell them.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use crate::source::manifests::document::{Tree, Value as Yaml};

/// What a setting takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `true`, `false`; as a flag also `1`, `t`, `T`, `TRUE`, `True` and their opposites.
    Bool,
    /// A whole number of 32 bits.
    Int,
    /// A number.
    Float,
    /// Text.
    Text,
    /// Go's durations: `1m30s`, `100ms`.
    Duration,
    /// The same, or a whole number of nanoseconds.
    DurationOrNanoseconds,
    /// Texts: a list in the file, separated by commas as a flag.
    Texts,
    /// Names with true or false: a map in the file, `A=true,B=false` as a flag.
    Gates,
    /// A size such as `4Ki`, as text or number.
    Quantity,
    /// Objects of `filePattern` and `verbosity` in the file, `pattern=1,other=2` as a flag.
    Patterns,
}

/// A value that a setting has.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Of [`Kind::Bool`].
    Bool(bool),
    /// Of [`Kind::Int`].
    Int(i32),
    /// Of [`Kind::Float`].
    Float(f64),
    /// Of [`Kind::Text`] and [`Kind::Quantity`].
    Text(String),
    /// Of [`Kind::Duration`] and [`Kind::DurationOrNanoseconds`].
    Duration(Span),
    /// Of [`Kind::Texts`].
    Texts(Vec<String>),
    /// Of [`Kind::Gates`].
    Gates(BTreeMap<String, bool>),
    /// Of [`Kind::Patterns`].
    Patterns(Vec<(String, i32)>),
}

/// A duration as Go has them: nanoseconds, also less than none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub i64);

impl Span {
    /// Less than none is none.
    pub fn duration(self) -> Duration {
        Duration::from_nanos(u64::try_from(self.0).unwrap_or(0))
    }

    /// From Go's notation.
    pub fn parse(text: &str) -> Option<Span> {
        let (sign, mut rest) = match text.strip_prefix('-') {
            Some(rest) => (-1, rest),
            None => (1, text.strip_prefix('+').unwrap_or(text)),
        };
        if rest == "0" {
            return Some(Span(0));
        }
        let mut total: i64 = 0;
        while !rest.is_empty() || total == 0 {
            let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
            let (number, after) = rest.split_at(digits);
            let letters = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
            let (unit, after) = after.split_at(letters);
            total = total.checked_add(scaled(number, nanoseconds(unit)?)?)?;
            if after.is_empty() {
                break;
            }
            rest = after;
        }
        total.checked_mul(sign).map(Span)
    }
}

fn nanoseconds(unit: &str) -> Option<i64> {
    Some(match unit {
        "ns" => 1,
        "us" | "µs" | "μs" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        _ => return None,
    })
}

fn scaled(number: &str, unit: i64) -> Option<i64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() || fraction.contains('.') {
        return None;
    }
    let whole: i64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    // Nanoseconds of an hour need 13 digits; more say nothing.
    let fraction = &fraction[..fraction.len().min(15)];
    let part: i128 = if fraction.is_empty() { 0 } else { fraction.parse().ok()? };
    let ten = 10_i128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    let part = i64::try_from(part.checked_mul(i128::from(unit))?.checked_div(ten)?).ok()?;
    whole.checked_mul(unit)?.checked_add(part)
}

impl fmt::Display for Span {
    /// `15m0s`, `1.5s`, `100ms`, `0s`: as Go writes them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = self.0.unsigned_abs();
        if self.0 < 0 {
            f.write_str("-")?;
        }
        if all == 0 {
            return f.write_str("0s");
        }
        for (unit, size) in [("ns", 1_000), ("µs", 1_000_000), ("ms", 1_000_000_000)] {
            if all < size {
                return write!(f, "{}{unit}", all as f64 / (size / 1_000) as f64);
            }
        }
        let (hours, minutes) = (all / 3_600_000_000_000, all / 60_000_000_000);
        let seconds = (all % 60_000_000_000) as f64 / 1e9;
        match (hours, minutes) {
            (0, 0) => write!(f, "{seconds}s"),
            (0, _) => write!(f, "{minutes}m{seconds}s"),
            _ => write!(f, "{hours}h{}m{seconds}s", minutes % 60),
        }
    }
}

impl fmt::Display for Value {
    /// As errors quote it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Bool(value) => write!(f, "{value}"),
            Value::Int(value) => write!(f, "{value}"),
            Value::Float(value) => write!(f, "{value}"),
            Value::Text(value) => f.write_str(value),
            Value::Duration(value) => write!(f, "{value}"),
            Value::Texts(values) => f.write_str(&values.join(",")),
            Value::Gates(gates) => {
                let gates: Vec<String> = gates.iter().map(|(name, on)| format!("{name}={on}")).collect();
                f.write_str(&gates.join(","))
            }
            Value::Patterns(patterns) => {
                let patterns: Vec<String> =
                    patterns.iter().map(|(p, level)| format!("{p}={level}")).collect();
                f.write_str(&patterns.join(","))
            }
        }
    }
}

impl Kind {
    /// What is wanted, for errors.
    pub fn wanted(self) -> &'static str {
        match self {
            Kind::Bool => "neither true nor false",
            Kind::Int => "no whole number of 32 bits",
            Kind::Float => "no number",
            Kind::Text => "no text",
            Kind::Duration | Kind::DurationOrNanoseconds => "no duration such as 30s or 1m30s",
            Kind::Texts => "no list of texts",
            Kind::Gates => "no list of names with true or false, such as A=true,B=false",
            Kind::Quantity => "no size such as 4096 or 4Ki",
            Kind::Patterns => "no list of file patterns with a level, such as proxy=2,client*=4",
        }
    }

    /// A flag's value.
    pub fn of_flag(self, text: &str) -> Option<Value> {
        Some(match self {
            Kind::Bool => Value::Bool(boolean(text)?),
            Kind::Int => Value::Int(text.parse().ok()?),
            Kind::Float => Value::Float(text.parse().ok().filter(|number: &f64| number.is_finite())?),
            Kind::Text => Value::Text(text.to_owned()),
            Kind::Duration | Kind::DurationOrNanoseconds => Value::Duration(Span::parse(text)?),
            Kind::Texts => Value::Texts(split(text)),
            Kind::Gates => {
                let gate = |pair: String| {
                    let (name, on) = pair.split_once('=')?;
                    Some((name.trim().to_owned(), boolean(on.trim())?))
                };
                Value::Gates(split(text).into_iter().map(gate).collect::<Option<_>>()?)
            }
            Kind::Quantity => Value::Text(quantity(text)?),
            Kind::Patterns => {
                let pattern = |pair: String| {
                    let (pattern, level) = pair.split_once('=')?;
                    Some((pattern.to_owned(), level.parse().ok()?))
                };
                Value::Patterns(split(text).into_iter().map(pattern).collect::<Option<_>>()?)
            }
        })
    }

    /// A field's value. `Ok(None)` for null.
    ///
    /// # Errors
    /// What it is not, as [`Kind::wanted`] says it.
    pub fn of_field(self, tree: &Tree) -> Result<Option<Value>, &'static str> {
        let whole = |number: &i64| i32::try_from(*number).ok();
        let value = match (self, &tree.value) {
            (_, Yaml::Null) => return Ok(None),
            (Kind::Bool, Yaml::Bool(value)) => Some(Value::Bool(*value)),
            (Kind::Int, Yaml::Int(number)) => whole(number).map(Value::Int),
            (Kind::Float, Yaml::Int(number)) => Some(Value::Float(*number as f64)),
            (Kind::Float, Yaml::Float(number)) => Some(Value::Float(*number)),
            (Kind::Text, Yaml::Text(text)) => Some(Value::Text(text.clone())),
            (Kind::Duration | Kind::DurationOrNanoseconds, Yaml::Text(text)) => {
                Span::parse(text).map(Value::Duration)
            }
            (Kind::DurationOrNanoseconds, Yaml::Int(number)) => Some(Value::Duration(Span(*number))),
            (Kind::Texts, Yaml::List(items)) => {
                let texts: Option<Vec<String>> =
                    items.iter().map(|item| item.text().map(str::to_owned)).collect();
                texts.map(Value::Texts)
            }
            (Kind::Gates, Yaml::Map(entries)) => {
                let gate = |(name, tree): &(String, Tree)| match tree.value {
                    Yaml::Bool(on) => Some((name.clone(), on)),
                    _ => None,
                };
                entries.iter().map(gate).collect::<Option<_>>().map(Value::Gates)
            }
            (Kind::Quantity, Yaml::Text(text)) => quantity(text).map(Value::Text),
            (Kind::Quantity, Yaml::Int(number)) => Some(Value::Text(number.to_string())),
            (Kind::Patterns, Yaml::List(items)) => {
                let pattern =
                    |item: &Tree| match (&item.get("filePattern")?.value, &item.get("verbosity")?.value) {
                        (Yaml::Text(pattern), Yaml::Int(level)) => Some((pattern.clone(), whole(level)?)),
                        _ => None,
                    };
                items.iter().map(pattern).collect::<Option<_>>().map(Value::Patterns)
            }
            _ => None,
        };
        value.map(Some).ok_or(self.wanted())
    }
}

/// Go's ParseBool.
pub fn boolean(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

fn split(text: &str) -> Vec<String> {
    if text.is_empty() { Vec::new() } else { text.split(',').map(str::to_owned).collect() }
}

/// Digits with a unit of the API's quantities behind them.
fn quantity(text: &str) -> Option<String> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let is_unit = ["", "k", "M", "G", "T", "P", "E", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"].contains(&unit);
    (is_unit && number.parse::<f64>().is_ok()).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_gos() {
        let rows = [
            ("0", Some("0s")),
            ("0s", Some("0s")),
            ("30s", Some("30s")),
            ("1m30s", Some("1m30s")),
            ("15m", Some("15m0s")),
            ("24h", Some("24h0m0s")),
            ("1.5h", Some("1h30m0s")),
            (".5s", Some("500ms")),
            ("100ms", Some("100ms")),
            ("1500ms", Some("1.5s")),
            ("250us", Some("250µs")),
            ("3ns", Some("3ns")),
            ("-5s", Some("-5s")),
            ("+5s", Some("5s")),
            ("0h0m0s", Some("0s")),
            ("5", None),
            ("s", None),
            ("", None),
            ("-", None),
            (".s", None),
            ("1.2.3s", None),
            ("1d", None),
            ("9999999999h", None),
            ("1s ", None),
        ];
        for (text, expected) in rows {
            assert_eq!(Span::parse(text).map(|span| span.to_string()).as_deref(), expected, "{text:?}");
        }
    }

    #[test]
    fn flags_of_every_kind_are_shown_as_they_were_given() {
        let rows = [
            (Kind::Bool, "true", true),
            (Kind::Bool, "yes", false),
            (Kind::Int, "-999", true),
            (Kind::Int, "3000000000", false),
            (Kind::Float, "5.5", true),
            (Kind::Float, "inf", false),
            (Kind::Texts, "a,b", true),
            (Kind::Gates, "A=true,B=false", true),
            (Kind::Gates, "A", false),
            (Kind::Gates, "A=maybe", false),
            (Kind::Quantity, "4Ki", true),
            (Kind::Quantity, "Ki", false),
            (Kind::Patterns, "proxy=2,x*=4", true),
            (Kind::Patterns, "proxy", false),
        ];
        for (kind, text, is_good) in rows {
            let value = kind.of_flag(text);
            assert_eq!(
                value.map(|value| value.to_string()),
                is_good.then(|| text.to_owned()),
                "{kind:?} {text}"
            );
        }
    }
}
