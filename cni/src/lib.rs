//! The Container Network Interface, spec 1.1.0: what crosses stdin, stdout and the environment.
//!
//! Both sides live here: the plug-in side ([`dispatch`], [`Call`], [`AddResult`]) and the runtime side
//! ([`list`], [`runtime`]: configuration lists, the result cache, running foreign plug-ins).
//!
//! Nothing here knows Linux networking, and nothing reads the environment, stdin or stdout except
//! [`dispatch::main`].

pub mod args;
pub mod call;
pub mod delegate;
pub mod dispatch;
pub mod error;
pub mod exec;
pub mod json;
pub mod list;
pub mod name;
mod netconf;
pub mod result;
pub mod runtime;
pub mod version;

pub use call::{Attachment, Call, ContainerId, GcCall, IfName, NetConf, Plugin, StatusCall};
pub use error::{Code, Error};
pub use result::{AddResult, Dns, Interface, IpConfig, Route};
pub use version::Version;

/// What every fallible step of a plug-in returns: the spec's error object on failure.
pub type Result<T, E = Error> = std::result::Result<T, E>;
