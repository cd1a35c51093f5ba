//! Answers to questions, from plan and kernel both: what is planned, what the kernel has, and where these differ.

mod services;
mod trace;

use std::collections::BTreeSet;
use std::net::IpAddr;

use kernel::dual::{DualStack, Family};
use proxy::engine::Engine;
use proxy::plan::{Frontend, NodePorts, ServicePlan};
use proxy::state::Protocol;
use proxy::{Mode, Served};

use crate::log::chain_of;

pub use services::services;
pub use trace::{has_link, trace};

/// What the kernel has, in one family.
#[derive(Debug)]
struct Kernel {
    mode: Mode,
    served: Vec<Served>,
    drift: Vec<String>,
    failure: Option<String>,
}

/// Reads the kernel of every family that is served and planned.
fn read(engine: &mut Engine) -> DualStack<Option<Kernel>> {
    let mut kernels = DualStack::default();
    for family in Family::BOTH {
        let Some((dataplane, plan)) = engine.parts(family) else { continue };
        let mut failure = None;
        let mut failed = |error: kernel::Error| failure = Some(chain_of(&error));
        let served = dataplane.list().unwrap_or_else(|error| {
            failed(error);
            Vec::new()
        });
        let drift = dataplane.drift(plan).unwrap_or_else(|error| {
            failed(error);
            Vec::new()
        });
        *kernels.of_mut(family) = Some(Kernel { mode: dataplane.mode(), served, drift, failure });
    }
    kernels
}

impl Kernel {
    /// What is done for a frontend. A NodePort may be listed as such, or on each address.
    fn of(&self, frontend: Frontend, protocol: Protocol, plan: &ServicePlan) -> Option<String> {
        let here = |ip: Option<IpAddr>| match frontend.ip {
            Some(_) => ip == frontend.ip,
            None => ip.is_none_or(|ip| has_node_ports(plan, ip)),
        };
        self.words(|served| {
            (served.protocol, served.port) == (Some(protocol), Some(frontend.port)) && here(served.ip)
        })
    }

    /// All that is done where `fits`, each once.
    fn words(&self, fits: impl Fn(&Served) -> bool) -> Option<String> {
        let all: BTreeSet<&str> =
            self.served.iter().filter(|served| fits(served)).map(|served| served.does.as_str()).collect();
        (!all.is_empty()).then(|| all.into_iter().collect::<Vec<_>>().join("; "))
    }
}

/// Whether NodePorts answer on an address.
fn has_node_ports(plan: &ServicePlan, ip: IpAddr) -> bool {
    match &plan.site.node_ports {
        NodePorts::Everywhere => plan.site.addresses.contains(&ip),
        NodePorts::On(ips) => ips.contains(&ip),
    }
}
