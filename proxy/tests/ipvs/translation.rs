//! From plans to virtual servers and elements, without a kernel.

use std::collections::BTreeSet;
use std::time::Duration;

use proptest::prelude::*;
use proxy::ipvs::rehearse;
use proxy::state::Service;
use proxy::{Family, IpvsOptions, ServicePlan};

use super::support::changes::{make, nothing, settings as changing_settings, steps};
use super::support::row::Row;
use super::support::{service, settings, snapshot};

fn lines(plan: &ServicePlan, options: &IpvsOptions) -> Vec<String> {
    rehearse([(plan, None)], options).iter().map(ToString::to_string).collect()
}

/// The virtual servers, one line each, of a row's Service on TCP.
fn servers(options: &str, more: impl FnOnce(&mut Service), ipvs: &IpvsOptions) -> Vec<String> {
    let row = Row::with_options(options);
    let mut world = snapshot(&row);
    let mut service = service(&row);
    service.ports.truncate(1);
    more(&mut service);
    world.set_service(service);
    let plan = ServicePlan::new(&world, &settings(&row), Family::V4);
    lines(&plan, ipvs).into_iter().filter(|line| line.contains(" to [")).collect()
}

#[test]
fn the_translation_reads_well() {
    let mut text = String::new();
    for options in ["", "etp=local ranges=outside", "itp=local etp=local", "eps=remote etp=local", "eps=none"]
    {
        for family in Family::BOTH {
            let row = Row::with_options(options);
            let plan = ServicePlan::new(&snapshot(&row), &settings(&row), family);
            text += &format!("# {options} {family}\n");
            for line in lines(&plan, &IpvsOptions::default()) {
                text += &format!("{line}\n");
            }
        }
    }
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/ipvs.txt");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(path, &text).expect("the golden file can be written");
    }
    let golden = std::fs::read_to_string(path).unwrap_or_default();
    assert_eq!(text, golden, "differs from {path}; UPDATE_GOLDEN=1 rewrites it");
}

#[test]
fn schedulers_are_the_services_own_or_the_default() {
    let wlc = IpvsOptions { scheduler: "wlc".into(), ..IpvsOptions::default() };
    let rows = [("", "wlc"), ("mh", "mh"), ("ovf", "ovf"), ("nonsense", "wlc")];
    for (named, expected) in rows {
        let all = servers("", |service| service.scheduler = named.into(), &wlc);
        assert_eq!(all.len(), 4, "{all:?}");
        assert!(
            all.iter().all(|line| line.contains(&format!(": {expected} to [10.1.0.6:8080, 10.2.0.6:8080]"))
                || line.contains(&format!("; {expected} to ["))),
            "{all:?}"
        );
    }
}

#[test]
fn affinity_is_persistence() {
    let sticky = |seconds| {
        servers("", |service| service.affinity = Some(Duration::from_secs(seconds)), &IpvsOptions::default())
    };
    assert!(sticky(10800).iter().all(|line| line.contains("rr for 10800s to [")), "{:?}", sticky(10800));
    assert!(sticky(u64::MAX).iter().all(|line| line.contains("rr for 4294967295s to [")));
}

#[test]
fn what_others_serve_is_left_out() {
    let excluded = ["10.96.0.0/16", "192.0.2.1/32"].map(|text| text.parse().expect("a network"));
    let options = IpvsOptions { exclude_cidrs: excluded.to_vec(), ..IpvsOptions::default() };
    let all = servers("", |_| {}, &options);
    assert_eq!(all.len(), 2, "{all:?}");
    assert!(all[0].starts_with("203.0.113.10 TCP 80: ") && all[1].starts_with("203.0.113.20 TCP 80: "));
}

/// An external IP that is the node's own, with the NodePort's number: the address says more than the number.
#[test]
fn an_address_of_the_node_takes_its_node_port() {
    let row = Row::with_options("");
    let mut world = snapshot(&row);
    let mut thief = service(&row);
    thief.name = proxy::state::ServiceName::new("default", "thief");
    thief.cluster_ips.v4 = "10.96.0.77".parse().ok();
    thief.external_ips = vec!["192.0.2.1".parse().expect("an address")];
    thief.ports.truncate(1);
    thief.ports[0].port = 30080;
    thief.ports[0].node_port = 0;
    thief.ingress.clear();
    let before = ServicePlan::new(&world, &settings(&row), Family::V4);
    world.set_service(thief.clone());
    let mut after = before.clone();
    let changed = after.update(&world, &BTreeSet::from([thief.name]));
    let options = IpvsOptions::default();
    let partial = rehearse([(&before, None), (&after, Some(&changed))], &options);
    assert_eq!(partial, rehearse([(&after, None)], &options));
    let at = partial.iter().find(|line| line.to_string().starts_with("192.0.2.1 TCP 30080")).expect("a line");
    assert!(at.does.contains("reject"), "the thief has no endpoints: {at}");
}

proptest! {
    #[test]
    fn syncing_changes_is_syncing_everything(steps in steps()) {
        let mut world = nothing();
        let mut plan = ServicePlan::new(&world, &changing_settings(), Family::V4);
        let mut history = vec![(plan.clone(), None)];
        for step in steps {
            let changed = make(&mut world, step);
            let touched = plan.update(&world, &changed);
            history.push((plan.clone(), Some(touched)));
        }
        let options = IpvsOptions::default();
        let partial = rehearse(history.iter().map(|(plan, changed)| (plan, changed.as_ref())), &options);
        prop_assert_eq!(partial, rehearse([(&plan, None)], &options));
    }
}
