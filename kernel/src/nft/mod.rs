//! nf_tables by netlink: typed tables, chains, sets and rules, sent as atomic batches.
//!
//! ```no_run
//! use kernel::netlink::{Protocol, Socket};
//! use kernel::nft::{Base, Batch, Chain, ChainKind, Element, Family, Field, Hook, Rule, Set, Table, Type};
//!
//! const TABLE: Table<'_> = Table::new(Family::Inet, "example");
//! let mut socket = Socket::open(Protocol::Netfilter)?;
//! let pod: std::net::IpAddr = "10.1.0.5".parse().expect("an address");
//! let mut batch = Batch::new();
//! batch
//!     .add_table(&TABLE)
//!     .add_set(&TABLE, &Set::new("pods", &[Type::Ipv4]))
//!     .add_chain(&TABLE, &Chain::base("postrouting", Base::new(ChainKind::Nat, Hook::Postrouting, 100)))
//!     .add_rule(&TABLE, "postrouting", &Rule::new().in_set(&[Field::Saddr(Family::Ip)], "pods").masquerade())
//!     .add_elements(&TABLE, "pods", &[Element::new(&[pod.into()]).comment("who owns it")]);
//! batch.commit(&mut socket)?;
//! # Ok::<(), kernel::Error>(())
//! ```
//!
//! What `nft list ruleset` prints of it is as readable as if `nft` had made it: sets carry nft's datatype numbers
//! and byte orders, comments are stored the way nft stores them.
//!
//! Costs worth knowing (measured on Linux 6.18): one element is added in 40 us whatever the set's size, unless its
//! data is a verdict that jumps (see [`MapData::Verdict`]); a refused batch costs 5 to 20 ms.

mod batch;
mod converge;
pub mod dialect;
mod encode;
mod expr;
mod object;
mod observe;
mod registers;
mod rule;
mod value;
mod wire;

pub use batch::Batch;
pub use converge::converge;
pub use expr::{Change, Cmp, Ct, Expr, Header, Meta, Nat, Reg, Reject};
pub use object::{Base, Chain, ChainKind, Data, Element, End, Family, Hook, MapData, Policy, Set, Table};
pub use observe::{
    RuleInfo, chain_exists, generation, get_element, is_empty, is_outdated, is_supported, list_chains,
    list_elements, list_elements_until, list_intervals, list_rules, list_sets, list_tables, probe,
    set_exists, table_exists, visit_elements,
};
pub use rule::{Field, Ports, Rule};
pub use value::{Type, Value, Verdict, fields, key};
