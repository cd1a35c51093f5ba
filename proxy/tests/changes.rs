//! Laws: planning changes is planning everything; syncing changes is syncing everything.

mod support;

use std::collections::BTreeSet;

use proptest::prelude::*;
use proxy::{Family, ServicePlan};
use support::backend::Backend;
use support::changes::{make, nothing, settings, steps, syncing_changes_is_syncing_everything};

proptest! {
    #[test]
    fn planning_changes_is_planning_everything(steps in steps()) {
        let mut snapshot = nothing();
        let mut plan = ServicePlan::new(&snapshot, &settings(), Family::V4);
        for step in steps {
            let before = plan.clone();
            let changed = make(&mut snapshot, step);
            let touched = plan.update(&snapshot, &changed);
            prop_assert_eq!(&plan, &ServicePlan::new(&snapshot, &settings(), Family::V4));
            let names: BTreeSet<_> = before.ports.keys().chain(plan.ports.keys()).collect();
            for name in names {
                let differs = before.ports.get(name) != plan.ports.get(name);
                prop_assert_eq!(touched.contains(name), differs, "{}", name);
            }
        }
    }
}

#[test]
fn syncing_changes_by_nftables_is_syncing_everything() {
    syncing_changes_is_syncing_everything(Backend::Nftables, 80);
}

#[test]
fn syncing_changes_by_iptables_is_syncing_everything() {
    syncing_changes_is_syncing_everything(Backend::IptablesNft, 20);
}

#[test]
fn syncing_changes_by_legacy_iptables_is_syncing_everything() {
    syncing_changes_is_syncing_everything(Backend::IptablesLegacy, 20);
}
