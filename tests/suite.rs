//! What `make build` leaves in target/cni: every plug-in, one file on disk, small, and runnable without libraries.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::Command;

use bowline_tests::root;

/// Every plug-in's program.
fn programs() -> Vec<PathBuf> {
    let directory = root().join("target/cni");
    plugins::TABLE
        .iter()
        .map(|plugin| {
            let program = directory.join(plugin.name());
            assert!(program.is_file(), "{} is missing (make build)", program.display());
            program
        })
        .collect()
}

#[test]
fn the_suite_is_one_file_of_at_most_6_mb() {
    let files: BTreeSet<(u64, u64)> =
        programs().iter().map(|p| p.metadata().expect("it is there")).map(|m| (m.ino(), m.len())).collect();
    let bytes: u64 = files.iter().map(|(_, length)| length).sum();
    assert_eq!(files.len(), 1, "hard links of one program");
    assert!(bytes <= 6_000_000, "{bytes} bytes");
}

#[test]
fn the_suite_needs_no_library() {
    const PT_DYNAMIC: u32 = 2;
    const PT_INTERP: u32 = 3;
    let program = std::fs::read(&programs()[0]).expect("it is readable");
    for kind in program_headers(&program) {
        assert!(kind != PT_INTERP && kind != PT_DYNAMIC, "the program is not static");
    }
}

/// The types of an ELF file's segments (64 bits, little endian).
fn program_headers(file: &[u8]) -> Vec<u32> {
    assert_eq!(&file[..6], b"\x7fELF\x02\x01");
    let word = |at: usize, width: usize| {
        file[at..at + width].iter().rev().fold(0_usize, |word, byte| word << 8 | usize::from(*byte))
    };
    let (first, size, count) = (word(32, 8), word(54, 2), word(56, 2));
    (0..count).map(|n| word(first + n * size, 4) as u32).collect()
}

#[test]
fn a_dynamic_program_would_be_noticed() {
    let test = std::fs::read("/proc/self/exe").expect("a test can read itself");
    assert!(program_headers(&test).contains(&3), "this test is linked dynamically");
}

#[test]
fn every_name_answers_version() {
    for program in programs() {
        let output = Command::new(&program).env_clear().env("CNI_COMMAND", "VERSION").output();
        let output = output.expect("a plug-in can be started");
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && said.contains("\"1.1.0\""), "{}: {said}", program.display());
    }
}
