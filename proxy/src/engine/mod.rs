//! From changes to the kernel: what sources tell, planned for both families and synced by their dataplanes.

mod change;

pub use change::{Change, Changes, OwnNode, SliceName};
