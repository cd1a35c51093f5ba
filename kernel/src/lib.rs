//! The only crate of bowline that touches Linux.
//!
//! # Why our own netlink encoder
//! Plug-ins live for two milliseconds and send some thirty messages. They need one thing that the general
//! crates don't give together: requests for one socket written back to back in a single `sendmsg`, with every
//! acknowledgement matched to the sentence that says what was tried, and a message's bytes made by a pure function
//! that golden tests can read. `rtnetlink` needs an async runtime, which is right in a daemon and wrong here;
//! `netlink-packet-route` models every attribute of every link kind as owned enums; `netlink-bindings` covers
//! everything but is some 8 MB of generated source. What is left is an attribute writer, an attribute reader and a
//! socket: [`netlink`].

pub mod acct;
pub mod addr;
pub mod bridge;
pub mod conntrack;
pub mod dual;
pub mod error;
pub mod ethtool;
pub mod fdb;
pub mod file;
pub mod iptables;
pub mod ipvs;
pub mod linger;
pub mod link;
pub mod listen;
pub mod lock;
pub mod mac;
pub mod neigh;
pub mod netconf;
pub mod netlink;
pub mod netns;
pub mod nft;
pub mod program;
pub mod random;
pub mod route;
pub mod rule;
pub mod sysctl;
pub mod tc;
pub mod wireguard;

pub use error::{Errno, Error, Result};
pub use mac::Mac;
pub use netns::Netns;
