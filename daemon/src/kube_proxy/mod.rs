//! Called as `kube-proxy` the program takes the real one's flags and file, and is the Service proxy alone.
//!
//! ```text
//! --flag=value ──── flags ─┐
//!                          ├─ Settings, by field ── decide ─► Decided: the proxy's Config, the API, addresses
//! --config FILE ─── file ──┘   (table.rs: all of them)   └──► a warning for each that has no effect
//! ```
//! As in kube-proxy 1.36 a file puts every flag out of force but `--hostname-override`, those of the log, and
//! those that are no settings of the file.

mod cleanup;
pub mod decided;
pub mod file;
pub mod flags;
pub mod given;
mod reader;
pub mod render;
mod run;
mod serve;
pub mod table;
pub mod value;

pub use decided::{Decided, decide};
pub use flags::Line;
pub use run::{NAME, called, main};

/// Name of the control socket in the run directory: it answers questions about Services, as bowlined's does.
pub const SOCKET: &str = "kube-proxy.sock";
