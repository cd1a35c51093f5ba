//! Kernel settings that this dataplane needs, and what they were before.

use kernel::{Result, sysctl};

use crate::{Family, IpvsOptions};

const PREFIX: &str = "bowline; before: ";

/// What is set, by the names that [`before`] uses.
fn wanted(options: &IpvsOptions) -> Vec<(&'static str, &'static str)> {
    // conntrack: masquerading and the filter need to know the flows. The expiries: a client whose endpoint is gone
    // gets another one, with its next packet, and whatever it was remembered by.
    let mut wanted =
        vec![("vs/conntrack", "1"), ("vs/expire_nodest_conn", "1"), ("vs/expire_quiescent_template", "1")];
    if reuses_badly(&sysctl::read("kernel/osrelease").unwrap_or_default()) {
        wanted.push(("vs/conn_reuse_mode", "0"));
    }
    if options.strict_arp {
        wanted.extend([("conf/all/arp_ignore", "1"), ("conf/all/arp_announce", "2")]);
    }
    wanted
}

/// Whether this Linux makes a client that uses a port again wait for a second (4.1 to 5.8).
fn reuses_badly(release: &str) -> bool {
    let mut numbers = release.split(['.', '-']).map(|part| part.parse::<u32>().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    ((4, 1)..(5, 9)).contains(&version)
}

/// Sets what is not yet so.
pub(super) fn ensure(options: &IpvsOptions, family: Family) -> Result<usize> {
    let mut written = 0;
    for (key, value) in wanted(options) {
        written += usize::from(sysctl::ensure(&format!("net/ipv4/{key}"), value)?);
    }
    if family == Family::V4 {
        written += usize::from(sysctl::ensure("net/ipv4/ip_forward", "1")?);
    }
    Ok(written)
}

/// Everything that [`ensure`] may change as it is now, in words to be kept where [`restore`] finds them.
pub(super) fn before(options: &IpvsOptions) -> Result<String> {
    let mut words = Vec::new();
    let mut keys = wanted(&IpvsOptions { strict_arp: true, ..options.clone() });
    keys.sort_unstable();
    for (key, _) in keys {
        words.push(format!("{key}={}", sysctl::read(&format!("net/ipv4/{key}"))?));
    }
    Ok(format!("{PREFIX}{}", words.join(" ")))
}

/// Sets everything back to what `before` says; nothing for words that are not [`before`]'s.
pub(super) fn restore(before: &str) -> Result<()> {
    let known = wanted(&IpvsOptions { strict_arp: true, ..IpvsOptions::default() });
    for word in before.strip_prefix(PREFIX).unwrap_or_default().split_whitespace() {
        let Some((key, value)) = word.split_once('=') else { continue };
        if known.iter().any(|(other, _)| *other == key) {
            sysctl::ensure(&format!("net/ipv4/{key}"), value)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_kernels_that_need_it_keep_connections_for_reused_ports() {
        let rows = [
            ("3.10.0-1160.el7", false),
            ("4.1.0", true),
            ("4.19.0-27-amd64", true),
            ("5.8.18", true),
            ("5.9.0", false),
            ("6.1.0-56-cloud-amd64", false),
            ("odd", false),
        ];
        for (release, expected) in rows {
            assert_eq!(reuses_badly(release), expected, "{release}");
        }
    }
}
