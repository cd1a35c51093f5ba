//! The flow table, judged by the plan's trace, and by packets through every dataplane.

mod support;

use std::collections::BTreeSet;

use proxy::plan::{Fate, Packet, Verdict};
use proxy::state::Protocol;
use proxy::{Family, ServicePlan};
use support::backend::Backend;
use support::flows::{for_every_flow, packets_agree};
use support::row::{Expected, rows};
use support::{Place, destination, ip, settings, snapshot};

fn packet<'a>(family: Family, frontend: &str, sender: &str, protocol: Protocol) -> Packet<'a> {
    let destination = destination(family, frontend);
    let (source, interface) = match sender {
        "pod" => (Place::Pod, Some("cali0")),
        "endpoint" => (Place::LocalEndpoint, Some("cali1")),
        "outside" => (Place::Outside, Some("eth0")),
        _ => (Place::Node, None),
    };
    Packet { source: ip(family, source), interface, destination, protocol }
}

fn expected_of(fate: &Fate, family: Family, source: std::net::IpAddr) -> Expected {
    let endpoints = match &fate.verdict {
        Verdict::NotOurs => return Expected::NotOurs,
        Verdict::Reject => return Expected::Reject,
        Verdict::Drop => return Expected::Drop,
        Verdict::Endpoints(endpoints) => endpoints,
    };
    let total: f64 = endpoints.iter().map(|(_, share)| share).sum();
    assert!((total - 1.0).abs() < 1e-9, "probabilities sum up to {total}");
    let name = |at: std::net::IpAddr| if at == ip(family, Place::LocalEndpoint) { "local" } else { "remote" };
    let one = |at: std::net::IpAddr| (name(at).to_owned(), fate.masquerade || at == source);
    Expected::Endpoints(endpoints.iter().map(|(at, _)| one(at.ip())).collect::<BTreeSet<_>>())
}

#[test]
fn trace_agrees_with_every_row() {
    for family in Family::BOTH {
        for protocol in Protocol::ALL {
            for_every_flow(None, family, &rows(), |row, frontend, sender, expected| {
                let plan = ServicePlan::new(&snapshot(row), &settings(row), family);
                let packet = packet(family, frontend, sender, protocol);
                let fate = plan.trace(&packet);
                let got = expected_of(&fate, family, packet.source);
                (got != *expected).then(|| format!("{got:?}: {}", fate.reasons.join("; ")))
            });
        }
    }
}

#[test]
fn packets_agree_with_every_row_of_ipv4() {
    packets_agree(Backend::Nftables, Family::V4, &rows());
}

#[test]
fn packets_agree_with_every_row_of_ipv6() {
    packets_agree(Backend::Nftables, Family::V6, &rows());
}

#[test]
fn packets_through_iptables_agree_with_every_row_of_ipv4() {
    packets_agree(Backend::IptablesNft, Family::V4, &rows());
}

#[test]
fn packets_through_iptables_agree_with_every_row_of_ipv6() {
    packets_agree(Backend::IptablesNft, Family::V6, &rows());
}

/// The same rules in the kernel's other iptables.
#[test]
fn packets_through_legacy_iptables_agree_with_every_row_of_ipv4() {
    packets_agree(Backend::IptablesLegacy, Family::V4, &rows());
}

#[test]
fn packets_through_legacy_iptables_agree_with_every_row_of_ipv6() {
    packets_agree(Backend::IptablesLegacy, Family::V6, &rows());
}

#[test]
fn deviations_say_why() {
    for row in rows() {
        for deviation in &row.deviations {
            assert!(deviation.reason.split(' ').count() > 3, "flows.txt:{}: {deviation:?}", row.line);
        }
    }
}
