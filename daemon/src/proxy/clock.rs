//! When what is due.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use proxy::state::ServiceName;

use super::Config;
use super::census::Census;

/// How soon a failed sync is tried again; doubled each time, up to the sync period.
const RETRY: Duration = Duration::from_secs(1);
/// How many times its own duration passes between two audits: looking costs no more than a hundredth of a processor.
const LEISURE: u32 = 100;
/// The same where somebody else is known to have changed what is ours: whoever does it all the time costs a tenth.
const HASTE: u32 = 10;
/// No longer than this, though.
const WARNED: Duration = Duration::from_secs(5);

/// When a family is due.
#[derive(Debug, Default)]
pub(super) struct Clock {
    /// When the last sync ended.
    pub(super) ended: Option<Instant>,
    /// Failures in a row.
    pub(super) failures: u32,
    pub(super) failure: Option<Arc<str>>,
    pub(super) last_success: Option<SystemTime>,
    pub(super) syncs: u64,
    /// When everything was last compared, and how long that took.
    pub(super) audited: Option<(Instant, Duration)>,
    /// Whether somebody else has changed something of ours since.
    pub(super) is_warned: bool,
    /// When it was last asked whether the rules are still there at all.
    pub(super) asked: Option<Instant>,
    pub(super) census: Census,
    /// When the plan was last counted, and how long that took.
    pub(super) counted: Option<(Instant, Duration)>,
    pub(super) health: Arc<BTreeMap<ServiceName, proxy::plan::HealthCheck>>,
}

impl Clock {
    /// When the next sync of changes may begin.
    pub(super) fn earliest(&self, config: &Config) -> Option<Instant> {
        let pause = match self.failures.checked_sub(1) {
            None => config.min_sync_period,
            Some(doublings) => RETRY.saturating_mul(1 << doublings.min(10)).min(config.sync_period),
        };
        self.ended.map(|ended| ended + pause)
    }

    /// When the plan is due to be counted anew; none while it is the one that was counted.
    pub(super) fn count_due(&self) -> Option<Instant> {
        match (self.counted, self.ended) {
            (Some((at, took)), Some(ended)) if at <= ended => Some(at + took.saturating_mul(LEISURE)),
            (None, ended) => ended,
            _ => None,
        }
    }

    /// When everything is due to be compared.
    pub(super) fn audit_due(&self, config: &Config) -> Option<Instant> {
        let pause = |took: Duration| match self.is_warned {
            true => took.saturating_mul(HASTE).min(WARNED),
            false => config.sync_period.max(took.saturating_mul(LEISURE)),
        };
        self.audited.map(|(at, took)| at + pause(took))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kube_proxy::{Line, decide};

    /// kube-proxy's defaults, with these periods.
    fn config(least: Duration, period: Duration) -> Config {
        let line = Line::parse(&["--proxy-mode=nftables".to_owned()]).expect("a line");
        let decided = decide(&line, "node-a", &mut Vec::new()).expect("decided");
        Config { min_sync_period: least, sync_period: period, ..decided.proxy }
    }

    const LEAST: Duration = Duration::from_secs(2);
    const PERIOD: Duration = Duration::from_secs(30);

    #[test]
    fn syncs_keep_their_distance_and_the_first_comes_at_once() {
        let config = config(LEAST, PERIOD);
        let mut clock = Clock::default();
        assert_eq!(clock.earliest(&config), None, "nothing to wait for");
        let ended = Instant::now();
        clock.ended = Some(ended);
        assert_eq!(
            clock.earliest(&config),
            Some(ended + LEAST),
            "from the end of one to the beginning of the next"
        );
    }

    #[test]
    fn failures_are_tried_again_after_doubling_pauses() {
        let config = config(LEAST, PERIOD);
        let ended = Instant::now();
        let pauses = (1..8).map(|failures| {
            let clock = Clock { ended: Some(ended), failures, ..Clock::default() };
            clock.earliest(&config).map(|at| (at - ended).as_secs())
        });
        assert_eq!(
            pauses.flatten().collect::<Vec<_>>(),
            [1, 2, 4, 8, 16, 30, 30],
            "never later than the period"
        );
    }

    #[test]
    fn everything_is_compared_once_in_a_period_and_sooner_after_a_warning() {
        let config = config(LEAST, PERIOD);
        let at = Instant::now();
        let due = |took: u64, is_warned| {
            let clock =
                Clock { audited: Some((at, Duration::from_millis(took))), is_warned, ..Clock::default() };
            clock.audit_due(&config).map(|due| (due - at).as_millis())
        };
        assert_eq!(Clock::default().audit_due(&config), None, "what was never compared is due now");
        assert_eq!(due(10, false), Some(30_000));
        assert_eq!(due(1_000, false), Some(100_000), "at most a hundredth of a processor");
        assert_eq!(due(10, true), Some(100), "at most a tenth, if somebody else changes our rules");
        assert_eq!(due(1_000, true), Some(5_000), "nobody waits longer than that");
    }
}
