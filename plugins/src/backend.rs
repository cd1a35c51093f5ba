//! Which of the kernel's two packet filters a plug-in programs.

use kernel::iptables;
use kernel::netlink::Socket;
use kernel::nft::{self, Family};

/// What a configuration asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Choice {
    /// nf_tables by netlink; also when the key is unset.
    #[default]
    Nftables,
    /// The reference's chains by `iptables-restore`.
    Iptables,
    /// Whatever this host uses already.
    Auto,
}

/// What is programmed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    /// nf_tables by netlink.
    Nftables,
    /// The reference's chains by `iptables-restore`.
    Iptables,
}

impl Choice {
    /// Parses the value of `key` in the configuration of `plugin`; absent and empty mean nftables.
    ///
    /// # Errors
    /// An invalid configuration, naming key and value.
    pub fn parse(plugin: &str, key: &str, value: Option<&str>) -> cni::Result<Self> {
        match value.unwrap_or_default() {
            "" | "nftables" => Ok(Choice::Nftables),
            "iptables" => Ok(Choice::Iptables),
            "auto" => Ok(Choice::Auto),
            other => Err(cni::Error::config(format!(
                "{plugin}: {key}: {other:?} is none of \"nftables\", \"iptables\", \"auto\""
            ))),
        }
    }

    /// Decides. `Auto` is iptables where the host has iptables' NAT or filter tables, of either kind, or no
    /// nf_tables at all.
    pub fn decide(self, host: &mut Socket) -> Backend {
        match self {
            Choice::Nftables => Backend::Nftables,
            Choice::Iptables => Backend::Iptables,
            Choice::Auto if host_uses_iptables(host) => Backend::Iptables,
            Choice::Auto => Backend::Nftables,
        }
    }
}

/// Whether this host's rules are iptables rules: iptables-nft shows by its table names, legacy iptables in /proc.
fn host_uses_iptables(host: &mut Socket) -> bool {
    let kinds = [iptables::Table::Nat, iptables::Table::Filter];
    let legacy = |family| kinds.iter().any(|table| iptables::legacy_table(family, *table));
    if legacy(iptables::Family::V4) || legacy(iptables::Family::V6) {
        return true;
    }
    let tables = [Family::Ip, Family::Ip6].map(|family| nft::list_tables(host, family));
    tables.iter().any(|names| match names {
        Ok(names) => names.iter().any(|name| name == "nat" || name == "filter"),
        Err(_) => true,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backend_is_named_or_refused_by_name() {
        let parse = |value| Choice::parse("bridge", "ipMasqBackend", value);
        assert_eq!(parse(None), Ok(Choice::Nftables));
        assert_eq!(parse(Some("")), Ok(Choice::Nftables));
        assert_eq!(parse(Some("iptables")), Ok(Choice::Iptables));
        assert_eq!(parse(Some("auto")), Ok(Choice::Auto));
        let error = parse(Some("ipfw")).unwrap_err();
        assert_eq!(
            error.msg,
            "bridge: ipMasqBackend: \"ipfw\" is none of \"nftables\", \"iptables\", \"auto\""
        );
    }
}
