//! Netlink: messages as bytes made by pure functions, and a synchronous socket that pipelines them.

pub mod attr;
mod departure;
pub mod generic;
pub mod message;
pub mod monitor;
pub mod socket;
mod sockopt;

pub use attr::{Attrs, attrs};
pub use departure::delete_link_early;
pub use message::{Message, Nest};
pub use monitor::Monitor;
pub use socket::{Op, Protocol, Reply, Socket};
pub(crate) use sockopt::set_option;
