//! Scenarios that need what the running kernel lacks, in a virtual machine: for VLANs user-mode Linux, a kernel that
//! is an ordinary program, with the host's files below a layer in memory; for tunnels of other kinds, which that one has
//! not all, a whole machine.
//!
//! A scenario runs on the host's own kernel wherever that can do it. Else all scenarios of the same module run in one
//! virtual machine, booted once per test program, and each test looks up its own outcome.

use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use kernel::ipvs::Family;
use kernel::netlink::{Protocol, Socket};

use crate::scenario::{self, Leftovers};
use crate::{Node, Space, Subject};

mod archive;
mod qemu;

/// The kernel program, from Debian's package user-mode-linux.
const KERNEL: &str = "linux.uml";

/// [`scenario::run`] for a story of VLANs. `test` is the path of the calling test, `module` the part of it that all
/// such stories share.
///
/// # Panics
/// When the story does, here or there, or when no kernel can run it.
pub fn run_with_vlans(module: &str, test: &str, subject: &Subject, story: impl FnOnce(&Node, &Subject)) {
    if kernel_filters_vlans() {
        return scenario::run(test, subject, Leftovers::Nothing, story);
    }
    static OUTCOME: OnceLock<String> = OnceLock::new();
    passed(OUTCOME.get_or_init(|| run_in_a_vm(module)), test);
}

/// Tells `story` where the kernel has the link types ipip, ip6tnl and wireguard, and IPVS: here or, all tests of `module`
/// together, in an emulated machine. `test` is the path of the calling test.
///
/// # Panics
/// When the story does, here or there, or when no kernel can run it.
pub fn run_with_tunnels(module: &str, test: &str, story: impl FnOnce()) {
    let missing = missing_tunnels() + missing_for_ipvs();
    if missing.is_empty() {
        return story();
    }
    assert!(std::env::var_os("LAB_LAYERED").is_none(), "not even the virtual machine has {missing}");
    static OUTCOME: OnceLock<String> = OnceLock::new();
    passed(OUTCOME.get_or_init(|| ended(qemu::run(&script(module)))), test);
}

/// Tells `story` where the kernel has IPVS and dummy links: here or, all tests of `module` together, in an emulated
/// machine. `test` is the path of the calling test.
///
/// # Panics
/// When the story does, here or there, or when no kernel can run it.
pub fn run_with_ipvs(module: &str, test: &str, story: impl FnOnce()) {
    let missing = missing_for_ipvs();
    if missing.is_empty() {
        return story();
    }
    assert!(std::env::var_os("LAB_LAYERED").is_none(), "not even the virtual machine has {missing}");
    static OUTCOME: OnceLock<String> = OnceLock::new();
    passed(OUTCOME.get_or_init(|| ended(qemu::run(&script(module)))), test);
}

/// Runs this very program with `arguments` in an emulated machine where the running kernel has no IPVS, and gives what
/// it printed; none where it has.
///
/// # Panics
/// When the machine cannot be made or does not finish.
pub fn emulated_for_ipvs(arguments: &[String]) -> Option<String> {
    if missing_for_ipvs().is_empty() {
        return None;
    }
    let program = std::env::current_exe().expect("a program knows its path");
    Some(ended(qemu::run(&format!("{} {}\n", program.display(), arguments.join(" ")))))
}

/// Of what those stories need, what the running kernel lacks.
fn missing_for_ipvs() -> &'static str {
    let space = Space::new_node().expect("namespaces can be made (the lab's tests need root)");
    let family = space.run(|| Family::find(&mut Socket::open(Protocol::Generic)?));
    if family.expect("netlink families can be looked up").is_none() {
        "IPVS"
    } else if space.try_sh("ip link add probe type dummy").is_err() {
        "dummy links"
    } else {
        ""
    }
}

/// Of the links that those stories need, what the running kernel says of those it cannot make.
fn missing_tunnels() -> String {
    let space = Space::new_node().expect("namespaces can be made (the lab's tests need root)");
    let links = ["ipip local 127.0.0.1 remote 127.0.0.2", "ip6tnl local ::1 remote ::2", "wireguard"];
    let refusals = links.iter().filter_map(|link| space.try_sh(&format!("ip link add type {link}")).err());
    refusals.map(|refusal| format!("{refusal}\n")).collect()
}

fn passed(said: &str, test: &str) {
    let passed = said.lines().any(|line| line.starts_with(&format!("test {test} ... ok")));
    assert!(passed, "in the virtual machine:\n{said}");
}

/// What a machine must say last.
fn ended(said: String) -> String {
    assert!(said.contains("lab: exit"), "the virtual machine did not finish:\n{said}");
    said
}

/// The tests of this very program whose names start with `module`, as a line of shell.
fn script(module: &str) -> String {
    let program = std::env::current_exe().expect("a test program knows its path");
    let directory = env!("CARGO_MANIFEST_DIR");
    // Where the files are only in memory the directory may be absent.
    format!(
        "mkdir -p {directory}; cd {directory} && RUST_BACKTRACE=0 {} --test-threads=1 --color=never {module}\n",
        program.display()
    )
}

/// Whether bridges of the running kernel can filter VLANs (CONFIG_BRIDGE_VLAN_FILTERING).
///
/// # Panics
/// When no namespace can be made.
pub fn kernel_filters_vlans() -> bool {
    let space = Space::new_node().expect("namespaces can be made (the lab's tests need root)");
    space.try_sh("ip link add probe type bridge vlan_filtering 1").is_ok()
}

/// Boots, runs the tests of this very program whose names start with `module`, and gives what they printed.
///
/// # Panics
/// When the machine cannot be started or does not finish.
pub fn run_in_a_vm(module: &str) -> String {
    let directory = tempfile::tempdir().expect("a temporary directory can be made");
    let script = directory.path().join("script");
    let line = self::script(module);
    std::fs::File::create(&script)
        .and_then(|mut file| file.write_all(line.as_bytes()))
        .expect("a temporary file can be written");
    let output = Command::new(KERNEL)
        .args(["root=/dev/root", "rootfstype=hostfs", "rootflags=/", "ro", "mem=1G", "quiet"])
        .args(["con0=null,fd:1", "con=null"])
        .arg(format!("uml_dir={}/", directory.path().display()))
        .arg(format!("init={}/vm/init", env!("CARGO_MANIFEST_DIR")))
        .arg(format!("LAB_SCRIPT={}", script.display()))
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|e| panic!("this kernel has no VLAN filtering, and {KERNEL} cannot be started: {e}"));
    let said = String::from_utf8_lossy(&output.stdout).replace('\r', "");
    ended(said)
}

/// A story of VLANs for both subjects, as two tests: `<story>::bowline` and `<story>::reference`.
#[macro_export]
macro_rules! on_both_with_vlans {
    ($($(#[$doc:meta])* fn $name:ident($node:ident, $subject:ident) $body:block)*) => {$(
        $(#[$doc])*
        mod $name {
            use super::*;
            fn story($node: &$crate::Node, $subject: &$crate::Subject) $body
            fn run(who: &str, subject: $crate::Subject) {
                let (_, path) = module_path!().split_once("::").expect("a test lives in a module");
                let (module, _) = path.split_once("::").expect("a story lives in a module");
                $crate::vm::run_with_vlans(&format!("{module}::"), &format!("{path}::{who}"), &subject, story);
            }
            #[test]
            fn bowline() {
                run("bowline", $crate::Subject::bowline());
            }
            #[test]
            fn reference() {
                run("reference", $crate::Subject::reference());
            }
        }
    )*};
}
