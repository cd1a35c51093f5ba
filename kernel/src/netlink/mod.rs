//! Netlink: messages as bytes made by pure functions, and a synchronous socket that pipelines them.

pub mod attr;
pub mod message;
pub mod socket;

pub use attr::{Attrs, attrs};
pub use message::{Message, Nest};
pub use socket::{Op, Protocol, Reply, Socket};
