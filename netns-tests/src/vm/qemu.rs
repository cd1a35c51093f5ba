//! A whole machine, emulated by qemu: Debian's cloud kernel, and in its memory no more files than the scenarios need.

use std::fs::File;
use std::io::{self, BufWriter};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::archive::Archive;
use crate::daemon;

/// What scenarios, dumps and snapshots run, looked up as a shell would.
const PROGRAMS: [&str; 12] = [
    "ip",
    "bridge",
    "tc",
    "nft",
    "conntrack",
    "sysctl",
    "iptables",
    "iptables-save",
    "ip6tables-save",
    "iptables-legacy-save",
    "ip6tables-legacy-save",
    "busybox",
];
/// Directories of modules that the scenarios' kernel loads from.
const MODULES: [&str; 9] = [
    "net",
    "lib",
    "crypto",
    "arch/x86/crypto",
    "fs/overlayfs",
    "drivers/net/dummy.ko",
    "drivers/net/veth.ko",
    "drivers/net/vxlan",
    "drivers/net/wireguard",
];

/// The unpacked kernel: `$LAB_KERNEL`, else what `scripts/setup test` left in `target/vm`.
fn kernel() -> PathBuf {
    let unpacked = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/vm");
    std::env::var_os("LAB_KERNEL").map_or(unpacked, PathBuf::from)
}

/// Boots, runs `script` by the shell, and gives what it printed.
///
/// # Panics
/// When the machine cannot be made or started.
pub fn run(script: &str) -> String {
    let directory = tempfile::tempdir().expect("a temporary directory can be made");
    let initramfs = directory.path().join("initramfs");
    let kernel = kernel();
    let (image, version) = image(&kernel);
    write_initramfs(&initramfs, &kernel, &version, script)
        .unwrap_or_else(|e| panic!("make the virtual machine's files: {e}"));
    let output = Command::new("qemu-system-x86_64")
        .args(["-accel", "kvm", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "1024"])
        .args(["-nodefaults", "-no-reboot", "-display", "none", "-serial", "stdio"])
        // What the kernel says would land amidst the lines that tell how tests ended.
        .args([
            "-append",
            "console=ttyS0 loglevel=1 panic=-1 rdinit=/init mitigations=off nokaslr tsc=reliable",
        ])
        .arg("-kernel")
        .arg(image)
        .arg("-initrd")
        .arg(&initramfs)
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|e| panic!("qemu-system-x86_64 cannot be started: {e} (scripts/setup test)"));
    String::from_utf8_lossy(&output.stdout).replace('\r', "") + &String::from_utf8_lossy(&output.stderr)
}

/// The kernel's image, and its version as directories of modules are named.
fn image(unpacked: &Path) -> (PathBuf, String) {
    let boot = std::fs::read_dir(unpacked.join("boot")).into_iter().flatten().flatten();
    let mut images: Vec<String> =
        boot.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    images.retain(|name| name.starts_with("vmlinuz-"));
    let name =
        images.pop().unwrap_or_else(|| panic!("no kernel in {} (scripts/setup test)", unpacked.display()));
    (unpacked.join("boot").join(&name), name.trim_start_matches("vmlinuz-").to_owned())
}

fn write_initramfs(to: &Path, kernel: &Path, version: &str, script: &str) -> io::Result<()> {
    let mut archive = Archive::new(BufWriter::new(File::create(to)?));
    for made in ["bin", "sbin", "lib", "lib64"] {
        archive.directory(&format!("usr/{made}"))?;
        archive.link(made, &format!("usr/{made}"))?;
    }
    for made in ["proc", "sys", "dev", "run", "tmp", "etc", "opt", "var/lib", "var/log", "root"] {
        archive.directory(made)?;
    }
    archive.file("init", include_bytes!("../../vm/init-qemu"))?;
    let bowlined = daemon::place_of("bowlined");
    let bowlined = bowlined.canonicalize().unwrap_or(bowlined);
    let script = format!("export LAB_BOWLINED={}\n{script}", bowlined.display());
    archive.file("script", script.as_bytes())?;
    let mut programs: Vec<PathBuf> = PROGRAMS.iter().map(|name| found(name)).collect();
    programs.push(std::env::current_exe()?);
    // Scenarios without a daemon need none to be built.
    let ours = ["bowlined", "bowline", "bowline-cni"].map(daemon::place_of);
    programs.extend(ours.iter().filter_map(|program| program.canonicalize().ok()));
    for program in &programs {
        archive.copy(program)?;
        libraries(program)?.iter().try_for_each(|library| archive.copy(library))?;
    }
    // The daemon's HTTP client wants authorities, whether it needs them or not.
    archive.copy(Path::new("/etc/ssl/certs/ca-certificates.crt"))?;
    archive.link("usr/bin/sh", "busybox")?;
    archive.link("usr/sbin/modprobe", "../bin/busybox")?;
    let modules = format!("lib/modules/{version}");
    for part in MODULES {
        let from = kernel.join(&modules).join("kernel").join(part);
        let to = format!("usr/{modules}/kernel/{part}");
        if from.is_dir() { archive.tree(&from, &to)? } else { archive.file(&to, &std::fs::read(from)?)? }
    }
    archive.finish()
}

fn found(program: &str) -> PathBuf {
    let places = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"].map(|place| Path::new(place).join(program));
    let found = places.into_iter().find(|path| path.is_file());
    found.unwrap_or_else(|| panic!("the lab needs the program {program}"))
}

/// The shared libraries of a program, and its interpreter; none for a static one.
fn libraries(program: &Path) -> io::Result<Vec<PathBuf>> {
    let listed = Command::new("ldd").arg(program).output()?;
    let text = String::from_utf8_lossy(&listed.stdout).into_owned();
    let paths = text.split_whitespace().filter(|word| word.starts_with('/'));
    // /lib is /usr/lib, where the archive has a link.
    let real = |path: &str| if path.starts_with("/lib") { format!("/usr{path}") } else { path.to_owned() };
    Ok(paths.map(|path| PathBuf::from(real(path))).collect())
}
