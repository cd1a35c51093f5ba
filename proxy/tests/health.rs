//! What load balancers are told, as far as it is planned.

mod support;

use proxy::plan::HealthCheck;
use proxy::state::ServiceKind;
use proxy::{Family, ServicePlan, Snapshot};
use support::row::Row;
use support::{service, service_name, settings, snapshot};

fn health(options: &str, change: impl FnOnce(&mut Snapshot, &Row)) -> (Option<HealthCheck>, usize) {
    let row = Row::with_options(options);
    let mut snapshot = snapshot(&row);
    change(&mut snapshot, &row);
    let plan = ServicePlan::new(&snapshot, &settings(&row), Family::V4);
    (plan.health.get(&service_name()).copied(), plan.problems.len())
}

#[test]
fn only_ready_endpoints_of_this_node_count() {
    let rows = [
        ("etp=local", Some(1)),
        ("etp=local eps=remote", Some(0)),
        ("etp=local eps=local!,remote", Some(0)),
        ("etp=local eps=none", Some(0)),
        ("etp=local ingress=proxy", Some(1)),
        ("", None),
        ("itp=local", None),
        ("etp=local type=cluster-ip", None),
    ];
    for (options, endpoints) in rows {
        let expected = endpoints.map(|endpoints| HealthCheck { port: 31000, endpoints });
        assert_eq!(health(options, |_, _| {}), (expected, 0), "{options}");
    }
}

#[test]
fn a_health_check_without_a_port_is_reported() {
    let (check, problems) = health("etp=local", |snapshot, row| {
        snapshot.set_service(proxy::state::Service { health_check_node_port: 0, ..service(row) });
    });
    assert_eq!((check, problems), (None, 1));
    let (check, problems) = health("etp=local", |snapshot, row| {
        snapshot.set_service(proxy::state::Service { kind: ServiceKind::NodePort, ..service(row) });
    });
    assert_eq!((check, problems), (None, 0));
}
