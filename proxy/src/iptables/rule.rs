//! Rules as `iptables-save` words them, so that what is read can be compared with what was meant.

use std::net::IpAddr;

use kernel::iptables::{quoted, words};

use crate::Family;
use crate::plan::Detect;

/// Bytes of a comment that the kernel takes.
const COMMENT_MAX: usize = 255;

/// Joins parts that are not empty.
pub(super) fn join(parts: &[&str]) -> String {
    let mut rule = String::with_capacity(parts.iter().map(|part| part.len() + 1).sum());
    for part in parts.iter().filter(|part| !part.is_empty()) {
        if !rule.is_empty() {
            rule.push(' ');
        }
        rule.push_str(part);
    }
    rule
}

/// The match that is a comment.
pub(super) fn comment(text: &str) -> String {
    let mut end = text.len().min(COMMENT_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("-m comment --comment {}", quoted(&text[..end]))
}

/// To one address.
pub(super) fn to(ip: IpAddr) -> String {
    format!("-d {ip}/{}", Family::of(ip).bits())
}

/// From one address.
pub(super) fn from(ip: IpAddr) -> String {
    format!("-s {ip}/{}", Family::of(ip).bits())
}

/// Whether a packet is a pod's, where the source stands in a rule and where the interface does.
pub(super) fn by_sender(detect: &Detect, is_pod: bool) -> (String, String) {
    let not = if is_pod { "" } else { "! " };
    match detect {
        Detect::Source(network) => {
            (format!("{not}-s {}/{}", network.network(), network.prefix()), String::new())
        }
        Detect::Interface(name) => (String::new(), format!("{not}-i {name}")),
        Detect::InterfacePrefix(prefix) => (String::new(), format!("{not}-i {prefix}+")),
    }
}

/// The match that is true for one packet of `n`, as a chance that the kernel can express: 31 bits of a fraction that was
/// written with ten digits. Nothing for the last one.
pub(super) fn one_of(n: usize) -> String {
    const UNIT: f64 = 2_147_483_648.0;
    if n <= 1 {
        return String::new();
    }
    let written = (1e10 / n as f64).round() / 1e10;
    let kept = (written * UNIT).round() / UNIT;
    format!("-m statistic --mode random --probability {kept:.11}")
}

/// Whether two rules do the same, whatever their comments say and however their words are quoted.
pub(super) fn is_same(a: &str, b: &str) -> bool {
    a == b || essence(a) == essence(b)
}

/// A rule's words without its comment.
pub(super) fn essence(rule: &str) -> Vec<String> {
    let mut words = words(rule);
    while let Some(at) = words.iter().position(|word| word == "--comment") {
        let from = at.saturating_sub(2);
        words.drain(from..(at + 2).min(words.len()));
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chances_are_printed_as_the_kernel_keeps_them() {
        let rows = [
            (2, "0.50000000000"),
            (3, "0.33333333349"),
            (4, "0.25000000000"),
            (5, "0.20000000019"),
            (6, "0.16666666651"),
            (7, "0.14285714272"),
        ];
        for (n, expected) in rows {
            assert_eq!(one_of(n), format!("-m statistic --mode random --probability {expected}"));
        }
        assert_eq!(one_of(1), "");
    }

    #[test]
    fn comments_and_quotes_make_no_difference() {
        let rows = [
            ("-m comment --comment \"a b\" -j X", "-j X", true),
            (
                "-d 10.0.0.1/32 -m comment --comment a -j X",
                "-d 10.0.0.1/32 -m comment --comment \"b c\" -j X",
                true,
            ),
            ("-m nfacct --nfacct-name  n -j X", "-m nfacct --nfacct-name n -j X", true),
            ("-m comment --comment a -j X", "-m comment --comment a -j Y", false),
            ("-m comment --comment", "", true),
        ];
        for (a, b, expected) in rows {
            assert_eq!(is_same(a, b), expected, "{a} | {b}");
        }
    }

    #[test]
    fn a_comment_fits_whatever_a_name_is() {
        for text in ["é".repeat(200), "\"\\\n".repeat(300)] {
            let words = words(&comment(&text));
            assert_eq!(words[..3], ["-m", "comment", "--comment"]);
            assert!(words.len() == 4 && words[3].len() <= COMMENT_MAX, "{words:?}");
        }
    }
}
