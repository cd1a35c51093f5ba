//! Every line of the flow table, for one judge.

use proxy::{Dataplane as _, Family, ServicePlan};

use super::backend::Backend;
use super::lab::{World, judge};
use super::row::{Expected, Row, SENDERS};
use super::{destination, settings, snapshot};

/// Calls `check` for every row, family, frontend and sender that is asked for, and fails with every complaint at once.
/// What is expected is the trace's, or what `backend` does instead.
pub fn for_every_flow(
    backend: Option<Backend>,
    family: Family,
    rows: &[Row],
    mut check: impl FnMut(&Row, &str, &str, &Expected) -> Option<String>,
) {
    let mut wrong = Vec::new();
    let mut flows = 0;
    for row in rows {
        for frontend in &row.frontends {
            for (sender, expected) in SENDERS.iter().zip(row.expected_by(backend, family)) {
                let Some(expected) = expected else { continue };
                flows += 1;
                if let Some(complaint) = check(row, frontend, sender, &expected) {
                    let options: Vec<String> = row.options.iter().map(|(k, v)| format!("{k}={v}")).collect();
                    wrong.push(format!(
                        "flows.txt:{} {family} {frontend} from {sender} {}: expected {expected:?}, got {complaint}",
                        row.line,
                        options.join(" ")
                    ));
                }
            }
        }
    }
    assert!(flows > 4 * rows.len(), "the table has {flows} flows");
    assert!(wrong.is_empty(), "{} of {flows} flows\n{}", wrong.len(), wrong.join("\n"));
}

/// Sends packets through a dataplane as `rows` ask for it.
pub fn packets_agree(backend: Backend, family: Family, rows: &[Row]) {
    let world = World::new();
    let mut dataplane = backend.open(&world.node, family);
    let mut line = 0;
    let mut disturbed = Vec::new();
    for_every_flow(Some(backend), family, rows, |row, frontend, sender, expected| {
        if line != row.line {
            line = row.line;
            let plan = ServicePlan::new(&snapshot(row), &settings(row), family);
            dataplane.sync(&plan, None).expect("a sync");
            let again = dataplane.sync(&plan, None).expect("a second sync");
            assert_eq!((again.requests, again.elements), (0, 0), "line {line}: a second sync emits nothing");
        }
        let look = || judge(&world, sender, family, destination(family, frontend), expected);
        let first = look()?;
        // A node port was refused once in some ten thousand connections, on a machine with all these tests at a time. What
        // is programmed wrong is wrong twice.
        let second = look();
        disturbed.extend(second.is_none().then(|| format!("line {line}: {frontend} from {sender}: {first}")));
        second
    });
    assert!(disturbed.len() < 2, "wrong at first, then right: {disturbed:?}");
    // As long as loopback is routed the iptables dataplane leaves its guard (tests/iptables.rs).
    world.node.write("/proc/sys/net/ipv4/conf/all/route_localnet", "0");
    dataplane.cleanup().expect("a cleanup");
    assert_eq!(backend.traces(&world.node), "", "cleanup leaves no trace");
}
