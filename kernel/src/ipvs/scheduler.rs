//! The kernel's schedulers.

use std::fmt;

/// By what a virtual service chooses a destination for a new connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[allow(missing_docs, reason = "ipvsadm(8) explains them")]
pub enum Scheduler {
    #[default]
    RoundRobin,
    WeightedRoundRobin,
    LeastConnection,
    WeightedLeastConnection,
    LocalityBasedLeastConnection,
    LocalityBasedLeastConnectionWithReplication,
    SourceHashing,
    DestinationHashing,
    ShortestExpectedDelay,
    NeverQueue,
    MaglevHashing,
    FailOver,
    OverFlow,
    TwoChoices,
}

impl Scheduler {
    /// Every one that Linux has; a single kernel may be built without some.
    pub const ALL: [Scheduler; 14] = [
        Scheduler::RoundRobin,
        Scheduler::WeightedRoundRobin,
        Scheduler::LeastConnection,
        Scheduler::WeightedLeastConnection,
        Scheduler::LocalityBasedLeastConnection,
        Scheduler::LocalityBasedLeastConnectionWithReplication,
        Scheduler::SourceHashing,
        Scheduler::DestinationHashing,
        Scheduler::ShortestExpectedDelay,
        Scheduler::NeverQueue,
        Scheduler::MaglevHashing,
        Scheduler::FailOver,
        Scheduler::OverFlow,
        Scheduler::TwoChoices,
    ];

    /// A flag of `sh` and `mh`: where the hash leads to a destination that takes no connections, another one is taken.
    pub const FALLBACK: u32 = 0x8;
    /// A flag of `sh` and `mh`: the client's port is hashed with its address.
    pub const PORT: u32 = 0x10;

    /// The kernel's name for it.
    pub fn name(self) -> &'static str {
        match self {
            Scheduler::RoundRobin => "rr",
            Scheduler::WeightedRoundRobin => "wrr",
            Scheduler::LeastConnection => "lc",
            Scheduler::WeightedLeastConnection => "wlc",
            Scheduler::LocalityBasedLeastConnection => "lblc",
            Scheduler::LocalityBasedLeastConnectionWithReplication => "lblcr",
            Scheduler::SourceHashing => "sh",
            Scheduler::DestinationHashing => "dh",
            Scheduler::ShortestExpectedDelay => "sed",
            Scheduler::NeverQueue => "nq",
            Scheduler::MaglevHashing => "mh",
            Scheduler::FailOver => "fo",
            Scheduler::OverFlow => "ovf",
            Scheduler::TwoChoices => "twos",
        }
    }

    /// By the kernel's name; none for any other.
    pub fn named(name: &str) -> Option<Self> {
        Scheduler::ALL.into_iter().find(|scheduler| scheduler.name() == name)
    }
}

impl fmt::Display for Scheduler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
