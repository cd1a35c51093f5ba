//! Every dataplane that runs here, for tests that are the same for all.

use std::collections::BTreeSet;

use kernel::iptables::Variant;
use lab::Space;
use proxy::iptables::Iptables;
use proxy::ipvs::Ipvs;
use proxy::nftables::Nftables;
use proxy::plan::ServicePlan;
use proxy::state::ServicePortName;
use proxy::{Dataplane, Family, IptablesOptions, IpvsOptions, Mode, Report, Served};

/// A dataplane, and with iptables which variant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    Nftables,
    IptablesNft,
    IptablesLegacy,
    /// In a kernel that has it: see `lab::vm::run_with_ipvs`.
    Ipvs,
}

impl Backend {
    /// Those that every kernel has.
    pub const ALL: [Backend; 3] = [Backend::Nftables, Backend::IptablesNft, Backend::IptablesLegacy];

    /// Opens it in a node.
    pub fn open(self, space: &Space, family: Family) -> Inside {
        let options = IptablesOptions::default();
        let iptables = |variant| {
            let opened = Iptables::open_variant(family, variant, &options).expect("iptables");
            let boxed: Box<dyn Dataplane> = Box::new(opened);
            boxed
        };
        let dataplane = space.run(|| match self {
            Backend::Nftables => Box::new(Nftables::open(family).expect("nf_tables")),
            Backend::IptablesNft => iptables(Variant::Nft),
            Backend::IptablesLegacy => iptables(Variant::Legacy),
            Backend::Ipvs => Box::new(Ipvs::open(family, &IpvsOptions::default()).expect("IPVS")),
        });
        Inside { space: space.clone(), dataplane }
    }

    /// What a cleanup has left in a node, besides built-in chains: the legacy variant has no way to unload its tables.
    pub fn traces(self, space: &Space) -> String {
        let ruleset = match self {
            Backend::Nftables | Backend::IptablesNft => return space.sh("nft list ruleset"),
            Backend::Ipvs => {
                let servers = space.read("/proc/net/ip_vs").lines().skip(3).collect::<Vec<_>>().join("\n");
                let rest =
                    ["nft list ruleset", "ip -o link show type dummy"].map(|command| space.sh(command));
                return rest.concat() + &servers;
            }
            Backend::IptablesLegacy => {
                ["iptables-legacy-save", "ip6tables-legacy-save"].map(|program| space.sh(program)).concat()
            }
        };
        let is_left = |line: &&str| {
            let is_built_in = line.starts_with(':') && !line.contains(" - ");
            let is_frame = line.starts_with(['#', '*']) || *line == "COMMIT" || line.is_empty();
            !is_frame && !is_built_in
        };
        let lines: Vec<&str> = ruleset.lines().filter(is_left).collect();
        lines.join("\n")
    }
}

/// A dataplane that does everything in the space it was opened in, mounts included: iptables' lock is there.
#[derive(Debug)]
pub struct Inside {
    space: Space,
    dataplane: Box<dyn Dataplane>,
}

impl Dataplane for Inside {
    fn mode(&self) -> Mode {
        self.dataplane.mode()
    }

    fn sync(
        &mut self,
        plan: &ServicePlan,
        changed: Option<&BTreeSet<ServicePortName>>,
    ) -> kernel::Result<Report> {
        self.space.run(|| self.dataplane.sync(plan, changed))
    }

    fn drift(&mut self, plan: &ServicePlan) -> kernel::Result<Vec<String>> {
        self.space.run(|| self.dataplane.drift(plan))
    }

    fn list(&mut self) -> kernel::Result<Vec<Served>> {
        self.space.run(|| self.dataplane.list())
    }

    fn is_flushed(&mut self) -> kernel::Result<bool> {
        self.space.run(|| self.dataplane.is_flushed())
    }

    fn rule_counts(&self) -> Vec<proxy::RuleCount> {
        self.dataplane.rule_counts()
    }

    fn cleanup(&mut self) -> kernel::Result<()> {
        self.space.run(|| self.dataplane.cleanup())
    }
}
