//! IPVS: what plans become, without a kernel; and what a kernel that has it does with them, here or in an emulated
//! machine.

#[path = "../support/mod.rs"]
mod support;

mod in_kernel;
mod patient;
mod sctp;
mod translation;
