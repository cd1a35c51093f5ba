//! Netlink: messages as bytes made by pure functions, and a synchronous socket that pipelines them.

mod answer;
pub mod attr;
mod departure;
pub mod generic;
pub mod message;
pub mod monitor;
mod op;
pub mod socket;
mod sockopt;
mod transaction;

pub use answer::Reply;
pub use attr::{Attrs, attrs};
pub use departure::delete_link_early;
pub use message::{Message, Nest};
pub use monitor::Monitor;
pub use op::Op;
pub use socket::{Protocol, Socket};
pub(crate) use sockopt::set_option;
