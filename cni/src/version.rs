//! The seven released versions of the protocol and their order.

use std::fmt;

use crate::{Code, Error, Result};

/// A version of the CNI protocol that bowline speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Version {
    /// 0.1.0: `ip4`/`ip6` results. Also what a configuration without `cniVersion` means.
    V0_1_0,
    /// 0.2.0: VERSION.
    V0_2_0,
    /// 0.3.0: `interfaces` and `ips` results, chaining.
    V0_3_0,
    /// 0.3.1.
    V0_3_1,
    /// 0.4.0: CHECK, prevResult on DEL.
    V0_4_0,
    /// 1.0.0: `ips` without `version`.
    V1_0_0,
    /// 1.1.0: GC, STATUS, more fields in interfaces and routes.
    V1_1_0,
}

impl Version {
    /// Every version, oldest first.
    pub const ALL: [Version; 7] = [
        Version::V0_1_0,
        Version::V0_2_0,
        Version::V0_3_0,
        Version::V0_3_1,
        Version::V0_4_0,
        Version::V1_0_0,
        Version::V1_1_0,
    ];
    /// The newest.
    pub const NEWEST: Version = Version::V1_1_0;

    /// The version's exact text on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Version::V0_1_0 => "0.1.0",
            Version::V0_2_0 => "0.2.0",
            Version::V0_3_0 => "0.3.0",
            Version::V0_3_1 => "0.3.1",
            Version::V0_4_0 => "0.4.0",
            Version::V1_0_0 => "1.0.0",
            Version::V1_1_0 => "1.1.0",
        }
    }

    /// The version whose text is exactly `text`; empty means 0.1.0.
    pub fn exact(text: &str) -> Option<Version> {
        if text.is_empty() {
            return Some(Version::V0_1_0);
        }
        Version::ALL.into_iter().find(|v| v.as_str() == text)
    }

    /// The version as three numbers, for comparison with versions that are not released.
    pub fn number(self) -> Number {
        match self {
            Version::V0_1_0 => Number(0, 1, 0),
            Version::V0_2_0 => Number(0, 2, 0),
            Version::V0_3_0 => Number(0, 3, 0),
            Version::V0_3_1 => Number(0, 3, 1),
            Version::V0_4_0 => Number(0, 4, 0),
            Version::V1_0_0 => Number(1, 0, 0),
            Version::V1_1_0 => Number(1, 1, 0),
        }
    }

    /// The newest released version that is not above `number`, at least 0.1.0.
    pub fn at_most(number: Number) -> Version {
        Version::ALL.into_iter().rev().find(|v| v.number() <= number).unwrap_or(Version::V0_1_0)
    }

    /// Versions of one family share a result format and may follow one another in `prevResult`.
    pub fn family(self) -> Family {
        match self {
            Version::V0_1_0 | Version::V0_2_0 => Family::V0_2,
            Version::V0_3_0 | Version::V0_3_1 | Version::V0_4_0 => Family::V0_4,
            Version::V1_0_0 | Version::V1_1_0 => Family::V1,
        }
    }
}

/// The three formats of results.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// 0.1.0 and 0.2.0.
    V0_2,
    /// 0.3.0 to 0.4.0.
    V0_4,
    /// 1.0.0 and 1.1.0.
    V1,
}

/// Any version as three numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Number(pub u64, pub u64, pub u64);

impl Number {
    /// Parses one to three numbers with dots; missing ones are 0; empty text is 0.1.0.
    ///
    /// # Errors
    /// Code 6, quoting the text.
    pub fn parse(text: &str) -> Result<Number> {
        if text.is_empty() {
            return Ok(Number(0, 1, 0));
        }
        let invalid = |why: &str| Error::new(Code::DECODE, format!("invalid version {text:?}: {why}"));
        let mut numbers = [0; 3];
        for (index, part) in text.split('.').enumerate() {
            let slot = numbers.get_mut(index).ok_or_else(|| invalid("more than three parts"))?;
            if part.is_empty() || !part.bytes().all(|b| b.is_ascii_digit()) {
                return Err(invalid("a part is not a number"));
            }
            *slot = part.parse().map_err(|_| invalid("a part is too large"))?;
        }
        let [major, minor, micro] = numbers;
        Ok(Number(major, minor, micro))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
