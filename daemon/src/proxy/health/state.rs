//! Whether the proxy keeps up, and whether traffic may come here.

use std::time::{Duration, Instant, SystemTime};

use k8s_openapi::jiff::Timestamp;
use kernel::dual::Family;
use serde_json::{Map, Value, json};

use crate::proxy::Published;

/// How a proxy is at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct Health {
    /// That moment.
    pub now: SystemTime,
    /// Whether the API has this Node and it is not about to go.
    pub node_eligible: bool,
    /// Each family that has been served once.
    pub families: Vec<(Family, FamilyHealth)>,
}

/// How a family is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FamilyHealth {
    /// When the kernel was last as it should be.
    pub last_success: SystemTime,
    /// Whether no change waits for too long.
    pub is_well: bool,
}

impl Health {
    /// Judges what is published; a change may wait for `patience`.
    pub fn of(published: &Published, patience: Duration, instant: Instant, now: SystemTime) -> Self {
        let families = published.families.present().filter_map(|(family, state)| {
            let waits = state.waiting_since.map(|since| instant.saturating_duration_since(since));
            let is_well = waits.is_none_or(|waits| waits < patience);
            Some((family, FamilyHealth { last_success: state.last_success?, is_well }))
        });
        Health {
            now,
            // A Node that nobody has told of is one that load balancers had better not count on.
            node_eligible: published.node_eligible.unwrap_or(false),
            families: families.collect(),
        }
    }

    /// Whether every family keeps up.
    pub fn is_well(&self) -> bool {
        self.families.iter().all(|(_, family)| family.is_well)
    }

    /// kube-proxy's JSON. With `node`, as `/healthz` has it: whether the node is eligible, too.
    pub fn json(&self, node: bool) -> String {
        let is_well = self.is_well() && (!node || self.node_eligible);
        // Probes of old read "recent" as "well", and nothing else from it.
        let last = self.families.iter().map(|(_, family)| family.last_success).max();
        let last = if is_well { Some(self.now) } else { last };
        let mut all = Map::new();
        all.insert("lastUpdated".into(), last.map_or("0001-01-01T00:00:00Z".into(), rfc3339).into());
        all.insert("currentTime".into(), rfc3339(self.now).into());
        if node {
            all.insert("nodeEligible".into(), self.node_eligible.into());
        }
        all.insert("healthy".into(), self.is_well().into());
        if !self.families.is_empty() {
            let family = |(family, health): &(Family, FamilyHealth)| {
                let health = json!({"lastUpdated": rfc3339(health.last_success), "healthy": health.is_well});
                (family.to_string(), health)
            };
            all.insert("status".into(), self.families.iter().map(family).collect());
        }
        Value::Object(all).to_string()
    }
}

fn rfc3339(time: SystemTime) -> String {
    Timestamp::try_from(time).map(|time| time.to_string()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use kernel::dual::DualStack;
    use proxy::Mode;
    use proxy::plan::NodePorts;

    use super::*;
    use crate::proxy::FamilyState;

    fn family(last_success: Option<u64>, waits: Option<u64>, now: Instant) -> Option<FamilyState> {
        Some(FamilyState {
            mode: Mode::Nftables,
            last_success: last_success.map(|at| SystemTime::UNIX_EPOCH + Duration::from_secs(at)),
            waiting_since: waits.and_then(|seconds| now.checked_sub(Duration::from_secs(seconds))),
            failure: None,
            health: Arc::default(),
            node_ports: NodePorts::Everywhere,
            ports: 0,
            syncs: 1,
        })
    }

    #[test]
    fn only_a_change_that_waits_too_long_is_unhealthy() {
        let now = Instant::now() + Duration::from_secs(1000);
        let rows = [
            ("nothing has begun", None, None, true),
            ("the first sync never succeeds", Some((None, Some(500))), None, true),
            ("idle", Some((Some(100), None)), None, true),
            ("busy", Some((Some(100), Some(59))), None, true),
            ("stuck", Some((Some(100), Some(60))), None, false),
            ("one family stuck", Some((Some(100), None)), Some((Some(100), Some(61))), false),
        ];
        for (name, v4, v6, is_well) in rows {
            let state =
                |row: Option<(Option<u64>, Option<u64>)>| row.and_then(|(at, waits)| family(at, waits, now));
            let families = DualStack { v4: state(v4), v6: state(v6) };
            let published = Published { families, ..Published::default() };
            let health = Health::of(&published, Duration::from_secs(60), now, SystemTime::UNIX_EPOCH);
            assert_eq!(health.is_well(), is_well, "{name}");
        }
    }

    #[test]
    fn json_is_kube_proxys() {
        let now = Instant::now() + Duration::from_secs(1000);
        let families = DualStack { v4: family(Some(100), None, now), v6: family(Some(200), Some(100), now) };
        let published = Published { families, node_eligible: Some(true), ..Published::default() };
        let at = SystemTime::UNIX_EPOCH + Duration::from_millis(300_500);
        let mut health = Health::of(&published, Duration::from_secs(60), now, at);
        assert_eq!(
            health.json(true),
            r#"{"lastUpdated":"1970-01-01T00:03:20Z","currentTime":"1970-01-01T00:05:00.5Z","nodeEligible":true,"healthy":false,"status":{"IPv4":{"lastUpdated":"1970-01-01T00:01:40Z","healthy":true},"IPv6":{"lastUpdated":"1970-01-01T00:03:20Z","healthy":false}}}"#
        );
        health.families.pop();
        assert_eq!(
            health.json(false),
            r#"{"lastUpdated":"1970-01-01T00:05:00.5Z","currentTime":"1970-01-01T00:05:00.5Z","healthy":true,"status":{"IPv4":{"lastUpdated":"1970-01-01T00:01:40Z","healthy":true}}}"#
        );
        health.node_eligible = false;
        assert!(
            health.json(true).starts_with(r#"{"lastUpdated":"1970-01-01T00:01:40Z""#),
            "{}",
            health.json(true)
        );
    }
}
