//! Carrying changes out, and counting them.

use std::fmt;
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use kernel::netlink::{Op, Socket};
use kernel::route::{self, Filter, Route};

use super::Report;
use crate::plan::Plan;
use crate::{Family, ROUTE_PROTOCOL};

/// One request that changes something.
#[derive(Debug)]
pub(super) struct Change {
    op: Op,
    /// An address of the peer that it concerns (see [`Plan::nodes`]).
    about: Option<IpAddr>,
    effect: Effect,
}

/// What a change does, for the count and for what is said when it fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Effect {
    Adds,
    /// Adds a route, which is in the way of another's.
    AddsRoute(IpNetwork, u32),
    Removes,
}

impl Change {
    pub(super) fn adds(op: Op, about: impl Into<Option<IpAddr>>) -> Self {
        Change { op, about: about.into(), effect: Effect::Adds }
    }

    /// A new route; one that somebody else has made is not replaced.
    pub(super) fn adds_route(route: &Route) -> Self {
        let effect = Effect::AddsRoute(route.dst, route.table);
        Change { op: route::create(route), about: Some(route.dst.network()), effect }
    }

    /// A removal: what is gone already is no error.
    pub(super) fn removes(op: Op, about: impl Into<Option<IpAddr>>) -> Self {
        Change { op: op.or_absent(), about: about.into(), effect: Effect::Removes }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.op.doing)
    }
}

/// Sends `changes` in one go; those that the kernel refuses become failures.
pub(super) fn apply(
    socket: &mut Socket,
    changes: Vec<Change>,
    plan: &Plan,
    report: &mut Report,
) -> kernel::Result<()> {
    let (ops, rest): (Vec<Op>, Vec<_>) =
        changes.into_iter().map(|change| (change.op, (change.about, change.effect))).unzip();
    report.requests += ops.len();
    // Listed once, when the first clash is met.
    let mut others: Option<Vec<Route>> = None;
    for ((result, op), (about, effect)) in socket.apply_each(&ops)?.into_iter().zip(&ops).zip(rest) {
        let what = match (result, effect) {
            (Ok(()), Effect::Removes) => {
                report.removed += 1;
                continue;
            }
            (Ok(()), Effect::Adds | Effect::AddsRoute(..)) => {
                report.added += 1;
                continue;
            }
            (Err(error), Effect::AddsRoute(dst, table)) if error.is_present() => {
                if others.is_none() {
                    others = Some(route::list(socket, Filter::default())?);
                }
                let others = others.as_deref().unwrap_or_default();
                let other = others.iter().find(|route| {
                    (route.dst, route.table) == (dst, table) && route.protocol != ROUTE_PROTOCOL
                });
                other.map_or_else(|| error.to_string(), |other| clash(&op.doing, other))
            }
            (Err(error), _) => error.to_string(),
        };
        let peer = about.and_then(|ip| plan.nodes.get(&ip)).map_or("", String::as_str);
        report.fail(peer, what);
    }
    Ok(())
}

fn clash(doing: &str, other: &Route) -> String {
    let family = if Family::of_network(other.dst) == Family::V4 { "" } else { "-6 " };
    let via = other.gw.map(|gw| format!("via {gw}, ")).unwrap_or_default();
    format!(
        "{doing}: another route to {} is there ({via}protocol {}), and it is not bowline's: remove it with `ip {family}route del {}`",
        other.dst, other.protocol, other
    )
}
