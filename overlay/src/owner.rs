//! Whose a kernel object is, in 33 bytes: what every alias and comment of the plug-ins begins with. The plug-ins write it;
//! the daemon knows a pod's link by it.

use std::fmt::Write as _;

use sha2::{Digest, Sha512};

/// The first `digits` hexadecimal digits of the SHA-512 of `text`; the reference derives all its names so.
pub fn digest(text: &str, digits: usize) -> String {
    let mut hex = String::with_capacity(128);
    for byte in Sha512::digest(text.as_bytes()) {
        let _ = write!(hex, "{byte:02x}");
    }
    hex.truncate(digits);
    hex
}

/// 16 digits for the network and a dash: how the tags of all its attachments begin.
pub fn network_tag(network: &str) -> String {
    digest(network, 16) + "-"
}

/// 16 digits for the attachment of a container by an interface.
pub fn attachment_tag(container_id: &str, ifname: &str) -> String {
    digest(&format!("{ifname}:{container_id}"), 16)
}
