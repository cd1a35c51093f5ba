//! `targets::ruleset` under libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| targets::ruleset(bytes));
