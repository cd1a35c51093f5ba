//! Chance that can be repeated: numbers from a seed, which a failing story prints.

/// A sequence of numbers that its seed determines (xorshift64*).
#[derive(Debug, Clone)]
pub struct Chance(u64);

impl Chance {
    /// The sequence of `seed`, which `$LAB_SEED` overrules; told on stderr, where a failed test shows it.
    pub fn new(seed: u64) -> Chance {
        let given = std::env::var("LAB_SEED").ok().and_then(|seed| seed.parse().ok());
        let seed: u64 = given.unwrap_or(seed);
        eprintln!("LAB_SEED={seed}");
        // The state must not be zero.
        Chance(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// A number less than `limit`.
    ///
    /// # Panics
    /// When `limit` is zero.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32) % limit
    }

    /// One of these.
    ///
    /// # Panics
    /// When there is none.
    pub fn one_of<'a, T>(&mut self, choices: &'a [T]) -> &'a T {
        &choices[self.below(choices.len() as u64) as usize]
    }
}
