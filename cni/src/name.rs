//! Names that cross the protocol: container IDs, interface names, network names.

use std::fmt;

use crate::{Code, ContainerId, Error, IfName, Result};

impl ContainerId {
    /// Accepts what the spec allows: first an ASCII letter or digit, then also `_`, `.` and `-`.
    ///
    /// # Errors
    /// Code 3 when empty, 4 otherwise (details: the ID).
    pub fn parse(text: &str) -> Result<Self> {
        if text.is_empty() {
            return Err(Error::new(Code::UNKNOWN_CONTAINER, "missing containerID"));
        }
        if !is_word(text) {
            let e = Error::new(Code::INVALID_ENVIRONMENT, "invalid characters in containerID");
            return Err(e.with_details(text));
        }
        Ok(ContainerId(text.to_owned()))
    }

    /// The ID as given.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl IfName {
    /// The longest name that the kernel takes, in bytes.
    pub const MAX_LEN: usize = 15;

    /// Accepts what the kernel accepts as a link's name.
    ///
    /// # Errors
    /// Code 4, one message for each rule.
    pub fn parse(text: &str) -> Result<Self> {
        let refuse = |msg: &str| Err(Error::new(Code::INVALID_ENVIRONMENT, msg).with_details(text));
        if text.is_empty() {
            return refuse("interface name is empty");
        }
        if text.len() > Self::MAX_LEN {
            return refuse("interface name is longer than 15 bytes");
        }
        if text == "." || text == ".." {
            return refuse("interface name is . or ..");
        }
        if text.contains(|c: char| c == '/' || c == ':' || c == '\0' || c.is_whitespace()) {
            return refuse("interface name contains / or : or whitespace characters");
        }
        if text.contains('%') {
            return refuse("interface name contains %, which the kernel takes for a pattern");
        }
        if text == "all" || text == "default" {
            return refuse(
                "interface name is one under which the kernel keeps the settings of every interface",
            );
        }
        Ok(IfName(text.to_owned()))
    }

    /// The name as given.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Checks a network's name against the spec's alphabet (that of a container ID).
///
/// # Errors
/// Code 7, naming the name.
pub fn check_network_name(name: &str) -> Result<()> {
    if name.is_empty() {
        return Err(Error::config("missing network name"));
    }
    if !is_word(name) {
        return Err(Error::config("invalid characters found in network name").with_details(name));
    }
    Ok(())
}

fn is_word(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}

impl fmt::Display for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for IfName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
