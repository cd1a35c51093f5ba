//! What can be counted and complained of in a plan. A walk through all of it, so it is made when things have calmed down.

use proxy::ServicePlan;
use proxy::plan::{Action, PortPlan};

/// That many Services with problems are named.
const NAMED: usize = 20;

/// Numbers and problems of one family.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Census {
    /// Service ports.
    pub ports: usize,
    /// Those with internal policy Local that drop, although there are endpoints elsewhere.
    pub no_local_internal: usize,
    /// The same for the external policy.
    pub no_local_external: usize,
    /// What is wrong with Services, one sentence each.
    pub problems: Vec<String>,
}

impl Census {
    /// Counts.
    pub fn of(plan: &ServicePlan) -> Self {
        let mut census = Census { ports: plan.ports.len(), ..Census::default() };
        let mut problems: Vec<String> = plan.problems.values().flatten().cloned().collect();
        for port in plan.ports.values() {
            census.no_local_internal += usize::from(port.internal.outside == Action::Drop);
            census.no_local_external +=
                usize::from(has_external(port) && port.external.outside == Action::Drop);
            problems.extend(
                port.lost.iter().map(|lost| {
                    format!("{}: {} is not its own: {} has it", port.name, lost.frontend, lost.to)
                }),
            );
        }
        let more = problems.len().saturating_sub(NAMED);
        problems.truncate(NAMED);
        if more > 0 {
            problems.push(format!("{more} more {} problems of Services", plan.site.family));
        }
        census.problems = problems;
        census
    }
}

fn has_external(port: &PortPlan) -> bool {
    port.wanted().count() > 1
}
