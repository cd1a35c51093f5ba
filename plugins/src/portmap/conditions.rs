//! The match statements of nft that `conditionsV4` and `conditionsV6` may hold, made into rules without running nft.
//!
//! | match | values |
//! |---|---|
//! | `ip saddr`, `ip daddr`, `ip6 saddr`, `ip6 daddr` | address or prefix |
//! | `tcp sport`, `tcp dport`, `udp ..`, `sctp ..` | port or `first-last` |
//! | `meta l4proto`, `ip protocol`, `ip6 nexthdr` | `tcp`, `udp`, `sctp` or a number |
//! | `iifname`, `oifname` (also with `meta` before) | name, quoted or not |
//! | `meta mark` (also `mark`) | number; `meta mark & mask == number` |
//! | `ct state` | `new`, `established`, `related`, `invalid`, `untracked`, joined by commas |
//!
//! Each may have `==` or `!=` before its value, and all but the last two a list, `{ a, b }`. Several matches follow
//! one another; all of them must hold.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use kernel::nft::{Cmp, Ct, Element, Expr, Family, Field, Reg, Rule, Set, Type, Value};

use super::config::Protocol;

/// A parsed condition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    text: String,
    matches: Vec<Match>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Match {
    /// A field of the packet is, or isn't, among these.
    Among { field: Field, op: Cmp, operands: Vec<Operand> },
    /// `meta mark & mask == value`
    Mark { mask: u32, op: Cmp, value: u32 },
    /// `ct state`: any of these bits is set, or none.
    State { bits: u32, op: Cmp },
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Operand {
    Addresses(IpNetwork),
    Ports(u16, u16),
    Protocol(u8),
    Name(String),
}

impl Operand {
    fn element(&self) -> Element {
        match self {
            Operand::Addresses(prefix) => Element::prefix(*prefix),
            Operand::Ports(first, last) => Element::interval(&[Value::Port(*first)], &[Value::Port(*last)]),
            Operand::Protocol(number) => Element::new(&[Value::Proto(*number)]),
            Operand::Name(name) => Element::new(&[Value::IfName(name)]),
        }
    }
}

/// A set that a condition's rule refers to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedValues {
    /// Its name.
    pub name: String,
    /// Its elements.
    pub elements: Vec<Element>,
    key: [Type; 1],
}

impl ListedValues {
    /// Its declaration.
    pub fn set(&self) -> Set<'_> {
        let set = Set::new(&self.name, &self.key);
        if matches!(self.key, [Type::Ipv4 | Type::Ipv6 | Type::Port]) { set.intervals() } else { set }
    }
}

impl Condition {
    /// Its words, single blanks between them.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The sets that its rule refers to, their names beginning with `prefix`.
    pub fn listed(&self, prefix: &str) -> Vec<ListedValues> {
        let among = self.matches.iter().enumerate().filter_map(|(index, one)| match one {
            Match::Among { field, operands, .. } if needs_set(operands) => Some(ListedValues {
                name: format!("{prefix}-{index}"),
                elements: operands.iter().map(Operand::element).collect(),
                key: [field.kind()],
            }),
            _ => None,
        });
        among.collect()
    }

    /// `rule` with the condition added.
    pub fn add_to(&self, mut rule: Rule, prefix: &str) -> Rule {
        for (index, one) in self.matches.iter().enumerate() {
            rule = match one {
                Match::Among { field, op, operands, .. } if needs_set(operands) => {
                    let set = format!("{prefix}-{index}");
                    match op {
                        Cmp::Equal => rule.in_set(&[*field], &set),
                        Cmp::NotEqual => rule.not_in_set(&[*field], &set),
                    }
                }
                Match::Among { field, op, operands, .. } => compare(rule, *field, *op, operands.first()),
                Match::Mark { mask, op, value } => compare_bits(
                    rule.expr(Expr::Meta { key: kernel::nft::Meta::Mark, to: Reg(0) }),
                    *mask,
                    *op,
                    *value,
                ),
                Match::State { bits, op } => {
                    let any = if *op == Cmp::Equal { Cmp::NotEqual } else { Cmp::Equal };
                    compare_bits(rule.expr(Expr::Ct { key: Ct::State, to: Reg(0) }), *bits, any, 0)
                }
            };
        }
        rule
    }
}

/// One value is compared in the rule; several, and ranges of ports, are elements of a set.
fn needs_set(operands: &[Operand]) -> bool {
    match operands {
        [Operand::Ports(first, last)] => first != last,
        [_] => false,
        _ => true,
    }
}

fn compare(rule: Rule, field: Field, op: Cmp, operand: Option<&Operand>) -> Rule {
    let value = match operand {
        None => return rule,
        Some(Operand::Addresses(prefix)) if op == Cmp::Equal => return rule.within(field, *prefix),
        Some(Operand::Addresses(prefix)) => return rule.outside(field, *prefix),
        Some(Operand::Ports(port, _)) => Value::Port(*port),
        Some(Operand::Protocol(number)) => Value::Proto(*number),
        Some(Operand::Name(name)) => Value::IfName(name),
    };
    if op == Cmp::Equal { rule.is(field, value) } else { rule.is_not(field, value) }
}

fn compare_bits(rule: Rule, mask: u32, op: Cmp, value: u32) -> Rule {
    let rule = if mask == u32::MAX {
        rule
    } else {
        rule.expr(Expr::Bitwise { reg: Reg(0), mask: mask.to_ne_bytes().to_vec(), xor: vec![0; 4] })
    };
    rule.expr(Expr::Compare { reg: Reg(0), op, with: value.to_ne_bytes().to_vec() })
}

/// Parses `text` for a rule of IPv4 or IPv6.
///
/// # Errors
/// A sentence that quotes what isn't understood.
pub fn parse(text: &str, v4: bool) -> Result<Condition, String> {
    let mut words = Words { words: split(text), at: 0, text, v4 };
    let mut matches = Vec::new();
    while words.at < words.words.len() {
        words.parse_match(&mut matches)?;
    }
    Ok(Condition { text: words.words.join(" "), matches })
}

/// Words, with braces and commas as words of their own.
fn split(text: &str) -> Vec<String> {
    let spaced = text.replace('{', " { ").replace('}', " } ").replace(',', " , ");
    spaced.split_whitespace().map(|word| word.trim_matches('"').to_owned()).collect()
}

struct Words<'a> {
    words: Vec<String>,
    at: usize,
    text: &'a str,
    v4: bool,
}

impl Words<'_> {
    fn peek(&self) -> &str {
        self.words.get(self.at).map_or("", String::as_str)
    }

    fn next(&mut self) -> String {
        let word = self.peek().to_owned();
        self.at += 1;
        word
    }

    fn take(&mut self, word: &str) -> bool {
        let found = self.peek() == word;
        self.at += usize::from(found);
        found
    }

    fn unknown(&self, word: &str) -> String {
        let word = if word.is_empty() { "its end".to_owned() } else { format!("{word:?}") };
        format!("{:?} is not understood at {word}", self.text)
    }

    fn parse_match(&mut self, matches: &mut Vec<Match>) -> Result<(), String> {
        let mut subject = self.next();
        if subject == "meta" {
            subject = self.next();
        }
        match subject.as_str() {
            "ip" | "ip6" => return self.parse_ip(&subject, matches),
            "tcp" | "udp" | "sctp" => {
                let number = self.protocol(&subject)?;
                let field = match self.next().as_str() {
                    "sport" => Field::Sport,
                    "dport" => Field::Dport,
                    other => return Err(self.unknown(other)),
                };
                let protocol = vec![Operand::Protocol(number)];
                matches.push(Match::Among { field: Field::L4proto, op: Cmp::Equal, operands: protocol });
                matches.push(self.among(field, Self::ports)?);
            }
            "l4proto" => matches.push(self.among(Field::L4proto, Self::protocol_operand)?),
            "iifname" => matches.push(self.among(Field::Iifname, Self::name)?),
            "oifname" => matches.push(self.among(Field::Oifname, Self::name)?),
            "mark" => matches.push(self.mark()?),
            "ct" if self.take("state") => matches.push(self.state()?),
            other => return Err(self.unknown(other)),
        }
        Ok(())
    }

    fn parse_ip(&mut self, family: &str, matches: &mut Vec<Match>) -> Result<(), String> {
        if (family == "ip") != self.v4 {
            return Err(format!(
                "{:?} can never hold: {family} in a condition of the other family",
                self.text
            ));
        }
        let in_family = if self.v4 { Family::Ip } else { Family::Ip6 };
        let field = match self.next().as_str() {
            "saddr" => Field::Saddr(in_family),
            "daddr" => Field::Daddr(in_family),
            "protocol" if self.v4 => Field::L4proto,
            "nexthdr" if !self.v4 => Field::L4proto,
            other => return Err(self.unknown(other)),
        };
        let operand = if field == Field::L4proto { Self::protocol_operand } else { Self::addresses };
        matches.push(self.among(field, operand)?);
        Ok(())
    }

    fn op(&mut self) -> Cmp {
        if self.take("!=") {
            return Cmp::NotEqual;
        }
        self.take("==");
        Cmp::Equal
    }

    fn among(
        &mut self,
        field: Field,
        operand: fn(&Self, &str) -> Result<Operand, String>,
    ) -> Result<Match, String> {
        let op = self.op();
        let listed = self.take("{");
        let mut operands = Vec::new();
        loop {
            let word = self.next();
            operands.push(operand(self, &word)?);
            if !listed || self.take("}") {
                break;
            }
            if !self.take(",") {
                return Err(self.unknown(self.peek()));
            }
            if self.take("}") {
                break;
            }
        }
        operands.dedup();
        Ok(Match::Among { field, op, operands })
    }

    fn addresses(&self, word: &str) -> Result<Operand, String> {
        let prefix: IpNetwork = word.parse().map_err(|_| self.unknown(word))?;
        if prefix.is_ipv4() != self.v4 {
            return Err(format!("{word:?} is an address of the other family"));
        }
        let address: IpAddr = prefix.network();
        IpNetwork::new(address, prefix.prefix()).map(Operand::Addresses).map_err(|_| self.unknown(word))
    }

    fn ports(&self, word: &str) -> Result<Operand, String> {
        let (first, last) = word.split_once('-').unwrap_or((word, word));
        match (first.parse(), last.parse()) {
            (Ok(first), Ok(last)) if first <= last => Ok(Operand::Ports(first, last)),
            _ => Err(self.unknown(word)),
        }
    }

    fn protocol(&self, word: &str) -> Result<u8, String> {
        let known = Protocol::ALL.iter().find(|protocol| protocol.name() == word).map(|p| p.number());
        known.or_else(|| word.parse().ok()).ok_or_else(|| self.unknown(word))
    }

    fn protocol_operand(&self, word: &str) -> Result<Operand, String> {
        self.protocol(word).map(Operand::Protocol)
    }

    fn name(&self, word: &str) -> Result<Operand, String> {
        let plain =
            !word.is_empty() && word.len() <= 15 && !word.contains(['{', '}', ',', '*', '$', '@', '/']);
        if plain { Ok(Operand::Name(word.to_owned())) } else { Err(self.unknown(word)) }
    }

    fn mark(&mut self) -> Result<Match, String> {
        let mask = if self.take("&") || self.take("and") {
            let word = self.next();
            self.number(&word)?
        } else {
            u32::MAX
        };
        let op = self.op();
        let word = self.next();
        Ok(Match::Mark { mask, op, value: self.number(&word)? })
    }

    fn number(&self, word: &str) -> Result<u32, String> {
        let parsed = match word.strip_prefix("0x") {
            Some(hex) => u32::from_str_radix(hex, 16),
            None => word.parse(),
        };
        parsed.map_err(|_| self.unknown(word))
    }

    fn state(&mut self) -> Result<Match, String> {
        let op = self.op();
        let braced = self.take("{");
        let mut bits = 0;
        loop {
            let word = self.next();
            bits |= match word.as_str() {
                "invalid" => 1,
                "established" => 2,
                "related" => 4,
                "new" => 8,
                "untracked" => 64,
                other => return Err(self.unknown(other)),
            };
            if !self.take(",") {
                break;
            }
        }
        if braced && !self.take("}") {
            return Err(self.unknown(self.peek()));
        }
        Ok(Match::State { bits, op })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn conditions_of_every_kind_are_understood() {
        let rows = [
            ("ip saddr 192.168.0.0/16", true),
            ("ip  saddr != 192.168.1.1", true),
            ("ip daddr { 10.0.0.0/8, 192.168.0.1 }", true),
            ("ip6 saddr fd00::/8 ip6 daddr != fd00::1", false),
            ("tcp dport { 80, 8000-8100, }", true),
            ("udp sport != 53 meta l4proto udp", true),
            ("ip protocol tcp", true),
            ("ip6 nexthdr sctp", false),
            ("iifname \"eth0\" oifname != lo", true),
            ("meta iifname { eth0, eth1 }", false),
            ("meta mark 0x10 mark != 3 meta mark & 0xff == 0x1", true),
            ("ct state new,established ct state != invalid", true),
        ];
        for (text, v4) in rows {
            let condition = parse(text, v4).expect(text);
            assert_eq!(parse(condition.text(), v4).as_ref(), Ok(&condition), "{text}");
            assert!(!condition.add_to(Rule::new(), "x").exprs.is_empty(), "{text}");
        }
    }

    #[test]
    fn conditions_not_understood_quote_the_word() {
        let rows = [
            ("ip saddr", true, "at its end"),
            ("ip saddr 1.2.3.4.5", true, "at \"1.2.3.4.5\""),
            ("ip saddr @set", true, "at \"@set\""),
            ("ip6 saddr fd00::1", true, "other family"),
            ("ip saddr 1.2.3.4", false, "other family"),
            ("ip saddr fd00::1", true, "other family"),
            ("ip ttl 1", true, "at \"ttl\""),
            ("tcp dport 80-10", true, "at \"80-10\""),
            ("tcp dport http", true, "at \"http\""),
            ("tcp flags syn", true, "at \"flags\""),
            ("iifname eth*", true, "at \"eth*\""),
            ("iifname averyveryverylongname", true, "at \"averyveryverylongname\""),
            ("ct state open", true, "at \"open\""),
            ("ct mark 1", true, "at \"ct\""),
            ("ip saddr { 1.2.3.4 5.6.7.8 }", true, "at \"5.6.7.8\""),
            ("ip saddr { 1.2.3.4", true, "at its end"),
            ("drop", true, "at \"drop\""),
        ];
        for (text, v4, expected) in rows {
            let error = parse(text, v4).expect_err(text);
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn conditions_with_lists_have_sets() {
        let condition =
            parse("ip saddr { 10.0.0.0/8, 192.168.0.1 } tcp dport 80-90 tcp sport 1", true).expect("good");
        let listed = condition.listed("when");
        assert_eq!(listed.iter().map(|l| l.name.as_str()).collect::<Vec<_>>(), ["when-0", "when-2"]);
        assert!(listed[0].set().interval);
        assert_eq!(listed[0].elements.len(), 2);
    }

    proptest! {
        #[test]
        fn any_condition_is_parsed_without_panic(text in "[a-z0-9 .,:/{}!=&\"-]{0,60}", v4 in any::<bool>()) {
            if let Ok(condition) = parse(&text, v4) {
                let _ = (condition.listed("x"), condition.add_to(Rule::new(), "x"));
            }
        }
    }
}
