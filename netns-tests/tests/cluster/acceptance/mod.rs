//! What clusters ask of their Service proxy, through the whole daemon, in the words of Kubernetes' own acceptance tests
//! (tests/e2e.txt says which story is which). Each story is told with nftables and with iptables.

mod clients;
mod datagrams;
mod ground;
mod lifetimes;
mod outside;
mod places;
mod ports;

/// `stories! { fn name(mode) { ... } }`: one test for each mode.
macro_rules! stories {
    ($($(#[$doc:meta])* fn $name:ident($mode:ident) $body:block)*) => {$(
        $(#[$doc])*
        mod $name {
            use super::*;
            fn story($mode: &'static str) $body
            #[test]
            fn nftables() {
                story("nftables");
            }
            #[test]
            fn iptables() {
                story("iptables");
            }
        }
    )*};
}
use stories;
