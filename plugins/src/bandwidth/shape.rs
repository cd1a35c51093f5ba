//! From the rate and burst that were asked for to the token bucket that gives them.

use kernel::tc::Tbf;

/// A rate in bits per second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct BitsPerSecond(pub u64);

/// A burst in bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct BurstBits(pub u64);

/// A direction's limit: the rate at least 8 bits per second, the burst below 2^32-1 bytes and not zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    /// The rate.
    pub rate: BitsPerSecond,
    /// The burst.
    pub burst: BurstBits,
}

/// How limits become buckets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shaping {
    /// Whether a burst that nobody chose gives way to one that limits.
    pub cap_burst: bool,
    /// How long a packet may wait beyond the burst, in milliseconds.
    pub latency_ms: u32,
}

impl Default for Shaping {
    fn default() -> Self {
        Shaping { cap_burst: true, latency_ms: 25 }
    }
}

/// Bursts from here on are what runtimes send when the user gave none: 2^31-1 (kubelet), 2^32-1 (containerd),
/// (2^32-1)*8-1 (CRI-O). A bucket of that size lets everything through for seconds or hours.
const NOBODY_CHOSE: BurstBits = BurstBits(i32::MAX as u64);
/// What a burst that nobody chose is worth in time.
const DEFAULT_BURST_MS: u64 = 100;
/// The smallest default, in bytes: some twenty packets, so that TCP reaches a low rate too.
const SMALLEST_DEFAULT: u64 = 32 * 1024;

/// The bucket for `limit` on a link of this MTU.
///
/// A burst somebody chose is taken as it is. One that nobody chose becomes what passes in 100 ms, at least 32 KiB and
/// two packets.
pub fn bucket(limit: &Limit, mtu: u32, shaping: &Shaping) -> Tbf {
    let rate = limit.rate.0 / 8;
    let mut burst = limit.burst.0 / 8;
    if shaping.cap_burst && limit.burst >= NOBODY_CHOSE {
        let default = rate / 1000 * DEFAULT_BURST_MS;
        burst = burst.min(default.max(SMALLEST_DEFAULT).max(2 * u64::from(mtu)));
    }
    Tbf { rate, buffer: ticks(burst, rate), limit: queue(burst, rate, shaping) }
}

/// Whether `observed` is the bucket for `limit`: ours, or the reference's, which caps nothing and whose sums run over.
pub fn is_bucket_for(observed: &Tbf, limit: &Limit, mtu: u32, shaping: &Shaping) -> bool {
    let ours = bucket(limit, mtu, shaping);
    let (rate, burst) = (limit.rate.0 / 8, limit.burst.0 / 8);
    let reference = |buffer| Tbf { rate, buffer, limit: queue(burst, rate, &Shaping::default()) };
    let wrapped = {
        let micros = (u128::from(burst) * 1_000_000 / u128::from(rate.max(1))) as u32;
        (u64::from(micros) * 125 / 8) as u32
    };
    let theirs = [reference(wrapped), reference(ticks(burst, rate))];
    [ours].iter().chain(&theirs).any(|expected| {
        let kept = expected.buffer.min(LONGEST);
        observed.rate == expected.rate
            && observed.limit == expected.limit
            && (observed.buffer == kept || observed.buffer == expected.buffer)
    })
}

/// The kernel keeps a bucket as nanoseconds in 32 bits; a tick is 64 of them.
const LONGEST: u32 = u32::MAX / 64;

/// The time that `bytes` take, as the reference counts it: whole microseconds of 15.625 ticks.
fn ticks(bytes: u64, rate: u64) -> u32 {
    let micros = u128::from(bytes) * 1_000_000 / u128::from(rate.max(1));
    u32::try_from(micros * 125 / 8).unwrap_or(u32::MAX)
}

fn queue(burst: u64, rate: u64, shaping: &Shaping) -> u32 {
    let waiting = u128::from(rate) * u128::from(shaping.latency_ms) / 1000;
    u32::try_from(waiting + u128::from(burst)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(rate: u64, burst: u64) -> Limit {
        Limit { rate: BitsPerSecond(rate), burst: BurstBits(burst) }
    }

    #[test]
    fn buckets_as_a_table() {
        let uncapped = Shaping { cap_burst: false, ..Shaping::default() };
        for (name, rate, burst, shaping, expected) in [
            ("the smallest", 8, 8, Shaping::default(), (1, 15_625_000, 1)),
            ("a chosen burst", 1_000_000, 200_000, Shaping::default(), (125_000, 3_125_000, 28_125)),
            (
                "a chosen burst of minutes",
                1_000_000,
                1 << 30,
                Shaping::default(),
                (125_000, u32::MAX, 134_220_853),
            ),
            ("kubelet's", 1_000_000, (1 << 31) - 1, Shaping::default(), (125_000, 4_096_000, 35_893)),
            ("containerd's", 1_000_000, (1 << 32) - 1, Shaping::default(), (125_000, 4_096_000, 35_893)),
            (
                "kubelet's at a high rate",
                10_000_000_000,
                (1 << 31) - 1,
                Shaping::default(),
                (1_250_000_000, 1_562_500, 156_250_000),
            ),
            (
                "kubelet's, taken as it is",
                8_000_000_000,
                (1 << 31) - 1,
                uncapped,
                (1_000_000_000, 4_194_296, 293_435_455),
            ),
            (
                "more latency",
                1_000_000,
                200_000,
                Shaping { latency_ms: 100, ..Shaping::default() },
                (125_000, 3_125_000, 37_500),
            ),
        ] {
            let tbf = bucket(&limit(rate, burst), 1500, &shaping);
            assert_eq!((tbf.rate, tbf.buffer, tbf.limit), expected, "{name}");
            assert!(is_bucket_for(&tbf, &limit(rate, burst), 1500, &shaping), "{name}");
        }
    }

    #[test]
    fn default_burst_passes_about_the_rate_over_ten_seconds() {
        for rate in [1_000_000, 10_000_000, 1_000_000_000, 40_000_000_000] {
            let tbf = bucket(&limit(rate, i32::MAX as u64), 1500, &Shaping::default());
            let burst = kernel::tc::bytes_of(tbf.buffer, tbf.rate);
            let passed = burst + tbf.rate * 10;
            assert!(passed * 100 <= tbf.rate * 10 * 104, "{rate}: {passed} bytes in ten seconds");
            assert!(burst >= 3000, "{rate}: two packets must fit");
        }
        let jumbo = bucket(&limit(64_000, i32::MAX as u64), 60_000, &Shaping::default());
        assert!(kernel::tc::bytes_of(jumbo.buffer, jumbo.rate) >= 119_000, "two of its packets");
    }

    #[test]
    fn the_references_buckets_are_recognised_and_others_are_not() {
        let huge = limit(1_000_000, i32::MAX as u64);
        let shaping = Shaping::default();
        // 2147 s of microseconds, as ticks cut to 32 bits; the kernel keeps at most 4.29 s of them.
        let reference = Tbf { rate: 125_000, buffer: LONGEST, limit: 268_438_580 };
        assert!(is_bucket_for(&reference, &huge, 1500, &shaping));
        for wrong in [
            Tbf { rate: 125_001, ..reference },
            Tbf { limit: 1, ..reference },
            Tbf { buffer: 1, ..reference },
        ] {
            assert!(!is_bucket_for(&wrong, &huge, 1500, &shaping), "{wrong:?}");
        }
    }
}
