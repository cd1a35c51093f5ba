//! The spec's error object and its codes (spec 1.1.0, section 5, "Error").

use std::fmt;

/// A well-known or private CNI error code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Code(pub u32);

impl Code {
    /// Incompatible CNI version.
    pub const INCOMPATIBLE_VERSION: Code = Code(1);
    /// Unsupported field in the network configuration; the message names key and value.
    pub const UNSUPPORTED_FIELD: Code = Code(2);
    /// Container unknown or gone: the runtime need not send DEL.
    pub const UNKNOWN_CONTAINER: Code = Code(3);
    /// A required environment variable is missing or malformed.
    pub const INVALID_ENVIRONMENT: Code = Code(4);
    /// Reading or writing failed.
    pub const IO: Code = Code(5);
    /// The configuration or a result cannot be decoded.
    pub const DECODE: Code = Code(6);
    /// The network configuration is invalid.
    pub const INVALID_CONFIG: Code = Code(7);
    /// The network namespace is unusable (a library code of the reference).
    pub const INVALID_NETNS: Code = Code(8);
    /// A transient condition: the runtime should try again later.
    pub const TRY_AGAIN: Code = Code(11);
    /// STATUS: the plug-in cannot serve ADD.
    pub const NOT_AVAILABLE: Code = Code(50);
    /// STATUS: the plug-in cannot serve ADD and existing containers may be degraded.
    pub const NOT_AVAILABLE_DEGRADED: Code = Code(51);
    /// Anything without a code of its own.
    pub const INTERNAL: Code = Code(999);
}

/// A failed verb: what the plug-in prints on stdout with exit status 1.
///
/// `msg` is one sentence that names what was tried, the key and the value; `details` is for the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    /// The spec's code.
    pub code: Code,
    /// One sentence.
    pub msg: String,
    /// More, or empty.
    pub details: String,
}

impl Error {
    /// An error with `code` and `msg` and no details.
    pub fn new(code: Code, msg: impl Into<String>) -> Self {
        Error { code, msg: msg.into(), details: String::new() }
    }

    /// An invalid network configuration (code 7).
    pub fn config(msg: impl Into<String>) -> Self {
        Self::new(Code::INVALID_CONFIG, msg)
    }

    /// Any failure without a code of its own (code 999).
    pub fn internal(msg: impl Into<String>) -> Self {
        Self::new(Code::INTERNAL, msg)
    }

    /// Walks a source chain (`a: b: c`) into an internal error.
    pub fn from_chain(error: &dyn std::error::Error) -> Self {
        let mut msg = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            msg.push_str(": ");
            msg.push_str(&cause.to_string());
            source = cause.source();
        }
        Self::internal(msg)
    }

    /// The same error with details added.
    #[must_use]
    pub fn with_details(mut self, details: impl Into<String>) -> Self {
        self.details = details.into();
        self
    }

    /// The same error, its message prefixed by what was being done.
    #[must_use]
    pub fn context(mut self, doing: impl fmt::Display) -> Self {
        self.msg = format!("{doing}: {}", self.msg);
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.msg)?;
        if !self.details.is_empty() {
            write!(f, "; {}", self.details)?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {}
