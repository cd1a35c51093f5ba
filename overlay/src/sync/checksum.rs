//! Kernels that send bad outer checksums when a VXLAN packet was masqueraded.
//!
//! Cured in 5.7, 5.6.13, 5.4.41, 4.19.123 and 4.14.181. Until then connections to Services on other nodes stall, unless
//! the device computes checksums itself, which costs throughput.

use kernel::ethtool;
use kernel::link::Switch;

use super::{Dataplane, Report};
use crate::plan::{Tunnel, TunnelKind};

/// Whether the kernel of this release (`uname -r`) has the defect. One that cannot be read has not.
pub(super) fn are_broken(release: &str) -> bool {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
    let mut next = || numbers.next().and_then(Result::ok);
    let Some(major) = next() else { return false };
    let (minor, patch) = (next().unwrap_or(0), next().unwrap_or(0));
    match (major, minor) {
        (4, 14) => patch < 181,
        (4, 19) => patch < 123,
        (5, 4) => patch < 41,
        (5, 6) => patch < 13,
        version => version < (5, 7),
    }
}

impl Dataplane {
    /// Turns checksum offload of a VXLAN device off where it was asked for or the kernel needs it, on where it was asked
    /// for, and leaves it otherwise.
    pub(super) fn settle_checksums(&self, tunnel: &Tunnel, report: &mut Report) {
        let TunnelKind::Vxlan { checksum_offload, .. } = tunnel.kind else { return };
        let wanted = match checksum_offload {
            Some(offload) => Switch::from(offload),
            None if self.checksums_are_broken => Switch::Off,
            None => return,
        };
        let outcome = ethtool::tx_checksum(&tunnel.name).and_then(|there| {
            if there == wanted {
                return Ok(());
            }
            report.requests += 1;
            ethtool::set_tx_checksum(&tunnel.name, wanted).map(|()| report.added += 1)
        });
        if let Err(error) = outcome {
            report.fail("", error.to_string());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::are_broken;

    #[test]
    fn kernels_with_the_defect() {
        for (release, broken) in [
            ("4.14.180", true),
            ("4.14.181", false),
            ("4.19.0-18-amd64", true),
            ("4.19.123", false),
            ("4.20.1", true),
            ("5.4.40", true),
            ("5.4.41-generic", false),
            ("5.5.19", true),
            ("5.6.13", false),
            ("5.7.0", false),
            ("5.10.0-28-amd64", false),
            ("6.1", false),
            ("3.10.0-1160.el7", true),
            ("", false),
            ("unknown", false),
        ] {
            assert_eq!(are_broken(release), broken, "{release}");
        }
    }
}
