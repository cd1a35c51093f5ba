//! Syncs without a kernel.

use std::collections::BTreeSet;

use kernel::ipvs::{Connections, Scheduler, Served as Destination, Stats};
use kernel::link::LinkId;

use super::layout::Elements;
use super::observe::{Filter, Servers};
use super::state::State;
use super::steps::Desired;
use super::translate::{Terms, destination};
use super::{LINK, list};
use crate::IpvsOptions;
use crate::dataplane::Served;
use crate::plan::ServicePlan;
use crate::state::ServicePortName;

/// What syncs of these plans, one after the other, leave in a kernel that has every scheduler and no connections: what
/// [`crate::Dataplane::list`] would say. With a plan come the Service ports that are not what they were in the one
/// before; none is a full sync.
pub fn rehearse<'a>(
    plans: impl IntoIterator<Item = (&'a ServicePlan, Option<&'a BTreeSet<ServicePortName>>)>,
    options: &IpvsOptions,
) -> Vec<Served> {
    let mut kernel = Model::default();
    let mut state: Option<State> = None;
    let mut family = crate::Family::V4;
    for (plan, changed) in plans {
        family = plan.site.family;
        let former = state.take().filter(|state| state.terms.site == plan.site);
        let updated = former.zip(changed).and_then(|(mut state, changed)| {
            let changes = state.update(plan, changed)?;
            Some((state, changes))
        });
        state = Some(match updated {
            Some((state, changes)) => {
                kernel.elements.retain(|which, _| !changes.old.contains_key(which));
                kernel.elements.extend(changes.new);
                kernel.serve(changes.desired);
                state
            }
            None => kernel.replace(plan, options),
        });
    }
    let filter = Filter { exists: true, elements: kernel.elements, ..Filter::default() };
    list::served(&kernel.servers, &filter, family)
}

#[derive(Debug, Default)]
struct Model {
    servers: Servers,
    elements: Elements,
}

impl Model {
    fn replace(&mut self, plan: &ServicePlan, options: &IpvsOptions) -> State {
        let scheduler = Scheduler::named(&options.scheduler).unwrap_or_default();
        let terms = Terms::of_plan(plan, options, (scheduler, BTreeSet::new()));
        let known = BTreeSet::from(Scheduler::ALL);
        let (state, desired, elements) =
            State::full(plan, terms, (known, LinkId { index: 0, name: LINK.into() }));
        *self = Model { servers: Servers::new(), elements };
        self.serve(desired);
        state
    }

    fn serve(&mut self, desired: Desired) {
        for (key, server) in desired {
            let Some(server) = server else {
                self.servers.remove(&key);
                continue;
            };
            let served = server.destinations.iter().map(|(to, weight)| Destination {
                destination: destination(*to, *weight),
                connections: Connections::default(),
                stats: Stats::default(),
            });
            self.servers.insert(key, (server.service, served.collect()));
        }
    }
}
