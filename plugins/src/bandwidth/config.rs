//! What a bandwidth configuration means.

use cni::{Error, NetConf, Result, json};
use serde::Deserialize;

use super::shape::{BitsPerSecond, BurstBits, Limit, Shaping};

/// The limits of both directions, seen from the pod.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Config {
    /// What the pod may receive.
    pub ingress: Option<Limit>,
    /// What the pod may send.
    pub egress: Option<Limit>,
    /// How limits become buckets.
    pub shaping: Shaping,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Raw {
    runtime_config: RawRuntimeConfig,
    cap_burst: Option<bool>,
    latency_ms: Option<u32>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawRuntimeConfig {
    bandwidth: RawLimits,
}

/// The limits' keys, at the top level and in the capability alike.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct RawLimits {
    ingress_rate: Option<u64>,
    ingress_burst: Option<u64>,
    egress_rate: Option<u64>,
    egress_burst: Option<u64>,
}

impl Config {
    /// Reads a configuration. Any limit at its top level makes what the runtime sent count for nothing.
    ///
    /// # Errors
    /// A rate without a burst, or the reverse; a rate below a byte per second; a burst of 4 GiB or more, or of less
    /// than a microsecond at the rate.
    pub fn parse(conf: &NetConf) -> Result<Self> {
        let raw: Raw = json::decode(&conf.object)?;
        let at_top: RawLimits = json::decode(&conf.object)?;
        let (prefix, limits) = match at_top {
            RawLimits { ingress_rate: None, ingress_burst: None, egress_rate: None, egress_burst: None } => {
                ("runtimeConfig.bandwidth.", raw.runtime_config.bandwidth)
            }
            at_top => ("", at_top),
        };
        let default = Shaping::default();
        Ok(Config {
            ingress: limit(&format!("{prefix}ingress"), limits.ingress_rate, limits.ingress_burst)?,
            egress: limit(&format!("{prefix}egress"), limits.egress_rate, limits.egress_burst)?,
            shaping: Shaping {
                cap_burst: raw.cap_burst.unwrap_or(default.cap_burst),
                latency_ms: raw.latency_ms.unwrap_or(default.latency_ms),
            },
        })
    }

    /// Whether there is nothing to limit.
    pub fn is_empty(&self) -> bool {
        self.ingress.is_none() && self.egress.is_none()
    }
}

fn limit(direction: &str, rate: Option<u64>, burst: Option<u64>) -> Result<Option<Limit>> {
    let refuse = |msg: String| Err(Error::config(msg));
    match (rate.unwrap_or(0), burst.unwrap_or(0)) {
        (0, 0) => Ok(None),
        (rate, 0) => refuse(format!("{direction}Burst: 0 with {direction}Rate {rate}: a rate needs a burst")),
        (0, burst) => {
            refuse(format!("{direction}Rate: 0 with {direction}Burst {burst}: a burst needs a rate"))
        }
        (rate, _) if rate < 8 => refuse(format!("{direction}Rate: {rate} is below 8 bits per second")),
        (_, burst) if burst < 8 => refuse(format!("{direction}Burst: {burst} is below 8 bits")),
        (_, burst) if burst / 8 >= u64::from(u32::MAX) => refuse(format!(
            "{direction}Burst: {burst} is 4 GiB or more; it must be below {} bits",
            u64::from(u32::MAX) * 8
        )),
        // The kernel takes no empty bucket.
        (rate, burst) if u128::from(burst) * 1_000_000 < u128::from(rate) => refuse(format!(
            "{direction}Burst: {burst} is less than what {direction}Rate {rate} lets through in a microsecond"
        )),
        (rate, burst) => Ok(Some(Limit { rate: BitsPerSecond(rate), burst: BurstBits(burst) })),
    }
}
