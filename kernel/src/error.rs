//! One error type: what was tried, on what, and the errno behind it.

use std::fmt;
use std::io;

/// A kernel error number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Errno(pub i32);

impl Errno {
    /// The calling thread's last error.
    pub fn last() -> Self {
        Errno(io::Error::last_os_error().raw_os_error().unwrap_or(0))
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        io::Error::from_raw_os_error(self.0).fmt(f)
    }
}

/// Why a kernel operation failed.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// The kernel refused. `hint` is its extended acknowledgement, empty when it gave none.
    Kernel {
        /// What was tried, on what: "add address 10.1.0.1/24 to cni0".
        doing: String,
        /// The kernel's answer.
        errno: Errno,
        /// NLMSGERR_ATTR_MSG.
        hint: String,
    },
    /// A system call or file operation failed.
    Io {
        /// What was tried, on what.
        doing: String,
        /// The cause.
        source: io::Error,
    },
    /// The kernel or a program answered something that cannot be understood.
    Malformed {
        /// What was being read.
        doing: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A program ended unsuccessfully.
    Program {
        /// The command line.
        command: String,
        /// Its exit status, -1 when killed by a signal.
        status: i32,
        /// What it said on stderr.
        stderr: String,
    },
    /// The path is not a network namespace.
    NotANetns {
        /// The path.
        path: std::path::PathBuf,
    },
    /// What was asked for does not exist.
    NotFound {
        /// What.
        what: String,
    },
    /// The request cannot be expressed.
    Invalid {
        /// What is wrong, naming the value.
        what: String,
    },
}

/// What every operation of this crate returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An I/O error with the sentence that says what was tried.
    pub fn io(doing: impl Into<String>, source: io::Error) -> Self {
        Error::Io { doing: doing.into(), source }
    }

    /// The errno behind it, where there is one.
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Error::Kernel { errno, .. } => Some(*errno),
            Error::Io { source, .. } => source.raw_os_error().map(Errno),
            _ => None,
        }
    }

    /// Whether the thing was absent: ENOENT, ENODEV, ESRCH, EADDRNOTAVAIL or [`Error::NotFound`].
    pub fn is_absent(&self) -> bool {
        matches!(self, Error::NotFound { .. })
            || matches!(
                self.errno(),
                Some(Errno(libc::ENOENT | libc::ENODEV | libc::ESRCH | libc::EADDRNOTAVAIL | libc::ENXIO))
            )
    }

    /// Whether it may work later: EAGAIN.
    pub fn is_busy(&self) -> bool {
        self.errno() == Some(Errno(libc::EAGAIN))
    }

    /// Whether this kernel cannot do it: EOPNOTSUPP or EAFNOSUPPORT.
    pub fn is_unsupported(&self) -> bool {
        matches!(self.errno(), Some(Errno(libc::EOPNOTSUPP | libc::EAFNOSUPPORT)))
    }

    /// Whether somebody else uses it: EADDRINUSE.
    pub fn is_in_use(&self) -> bool {
        self.errno() == Some(Errno(libc::EADDRINUSE))
    }

    /// Whether the thing existed already.
    pub fn is_present(&self) -> bool {
        self.errno() == Some(Errno(libc::EEXIST))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Kernel { doing, errno, hint } if hint.is_empty() => write!(f, "{doing}: {errno}"),
            Error::Kernel { doing, errno, hint } => write!(f, "{doing}: {errno} ({hint})"),
            Error::Io { doing, .. } => f.write_str(doing),
            Error::Malformed { doing, why } => write!(f, "{doing}: {why}"),
            Error::Program { command, status, stderr } => {
                write!(f, "`{command}` ended with status {status}: {}", stderr.trim())
            }
            Error::NotANetns { path } => write!(f, "{} is not a network namespace", path.display()),
            Error::NotFound { what } => write!(f, "{what} not found"),
            Error::Invalid { what } => f.write_str(what),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Io { source, .. } => Some(source),
            _ => None,
        }
    }
}
