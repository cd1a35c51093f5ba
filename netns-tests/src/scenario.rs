//! A scenario: a story told on a fresh node, which must afterwards be as it was before.

use crate::{Node, Snapshot, Subject};

/// What may remain of a story.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leftovers {
    /// Nothing at all: rulesets, links, addresses, routes, rules, qdiscs, sysctls, files.
    Nothing,
    /// The packet filter's shared scaffolding: the reference's top chains stay for ever, and so do ours when the
    /// iptables backend speaks its dialect. No rule of an attachment may remain.
    SharedChains,
}

/// Tells `story` on a fresh node with `subject`'s plug-ins and looks for traces afterwards.
///
/// # Panics
/// When the story does, or when it leaves a trace.
pub fn run(name: &str, subject: &Subject, leftovers: Leftovers, story: impl FnOnce(&Node, &Subject)) {
    let node = Node::new(name).expect("a node can be made (the lab's tests need root)");
    let before = Snapshot::of(&node);
    story(&node, subject);
    let leftovers = if subject.is_reference { Leftovers::SharedChains } else { leftovers };
    no_trace(&node, &before, leftovers);
}

/// Asserts that `node` is as `before`, once forwarding is off again.
///
/// # Panics
/// With the difference.
pub fn no_trace(node: &Node, before: &Snapshot, leftovers: Leftovers) {
    node.switch_off_forwarding();
    let before = match leftovers {
        Leftovers::Nothing => before.clone(),
        Leftovers::SharedChains => {
            let rules = rules_of_attachments(node);
            assert!(rules.is_empty(), "rules of attachments remain:\n{rules}");
            before.clone().without(&["nft", "iptables", "ip6tables"])
        }
    };
    let difference = before.difference(node);
    assert!(difference.is_empty(), "the node is not as before:\n{difference}");
}

/// The iptables rules that name a pod's address, a container, or a chain of one attachment.
pub fn rules_of_attachments(node: &Node) -> String {
    let saved = node.sh("iptables-save") + &node.sh("ip6tables-save") + &node.sh("nft -s list ruleset");
    let of_attachment = |line: &&str| {
        let words: Vec<&str> = line.split([' ', '"', ':', ',']).collect();
        words.iter().any(|w| is_attachment_chain(w) || is_pod_address(w)) || line.contains(" id: ")
    };
    saved.lines().filter(of_attachment).flat_map(|line| [line, "\n"]).collect()
}

/// `CNI-` or `CNI-DN-` or `CNI-SN-` and the hash of an attachment.
fn is_attachment_chain(word: &str) -> bool {
    let Some(rest) = word.strip_prefix("CNI-") else { return false };
    let hash = rest.strip_prefix("DN-").or(rest.strip_prefix("SN-")).unwrap_or(rest);
    hash.len() >= 21 && hash.bytes().all(|b| b.is_ascii_hexdigit())
}

/// Scenarios give pods addresses of 10.0.0.0/8 and fd00::/8 only.
fn is_pod_address(word: &str) -> bool {
    let address = word.split('/').next().unwrap_or_default();
    match address.parse() {
        Ok(std::net::IpAddr::V4(v4)) => v4.octets()[0] == 10,
        Ok(std::net::IpAddr::V6(v6)) => v6.octets()[0] == 0xfd,
        Err(_) => address.starts_with("fd00:"),
    }
}

/// A story for both subjects, as two tests: `<story>::bowline` and `<story>::reference`.
#[macro_export]
macro_rules! on_both {
    ($($(#[$doc:meta])* fn $name:ident($node:ident, $subject:ident) $body:block)*) => {$(
        $(#[$doc])*
        mod $name {
            use super::*;
            fn story($node: &$crate::Node, $subject: &$crate::Subject) $body
            #[test]
            fn bowline() {
                let nothing = $crate::scenario::Leftovers::Nothing;
                $crate::scenario::run(stringify!($name), &$crate::Subject::bowline(), nothing, story);
            }
            #[test]
            fn reference() {
                let chains = $crate::scenario::Leftovers::SharedChains;
                $crate::scenario::run(stringify!($name), &$crate::Subject::reference(), chains, story);
            }
        }
    )*};
}

/// A story for our plug-ins alone: what the reference lacks or does wrong.
#[macro_export]
macro_rules! on_bowline {
    ($($(#[$doc:meta])* fn $name:ident($node:ident, $subject:ident) $body:block)*) => {$(
        $(#[$doc])*
        #[test]
        fn $name() {
            let nothing = $crate::scenario::Leftovers::Nothing;
            $crate::scenario::run(stringify!($name), &$crate::Subject::bowline(), nothing, |$node, $subject| $body);
        }
    )*};
}

/// A story for our plug-ins with the iptables backend, whose shared chains stay.
#[macro_export]
macro_rules! on_bowline_iptables {
    ($($(#[$doc:meta])* fn $name:ident($node:ident, $subject:ident) $body:block)*) => {$(
        $(#[$doc])*
        #[test]
        fn $name() {
            let chains = $crate::scenario::Leftovers::SharedChains;
            $crate::scenario::run(stringify!($name), &$crate::Subject::bowline(), chains, |$node, $subject| $body);
        }
    )*};
}
