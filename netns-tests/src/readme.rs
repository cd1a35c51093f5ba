//! Figures for README.md, written by who measured them.

use std::path::Path;

/// Replaces what stands in README.md between the markers `<!-- NAME:begin -->` and `<!-- NAME:end -->`.
///
/// # Panics
/// When the markers are gone.
pub fn rewrite(name: &str, text: &str) {
    let (begin, end) = (format!("<!-- {name}:begin -->\n"), format!("<!-- {name}:end -->"));
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md");
    let readme = std::fs::read_to_string(&path).expect("README.md is readable");
    let (head, rest) = readme.split_once(&begin).unwrap_or_else(|| panic!("README.md has no {begin}"));
    let (_, tail) = rest.split_once(&end).unwrap_or_else(|| panic!("README.md has no {end}"));
    std::fs::write(&path, format!("{head}{begin}\n{text}\n{end}{tail}")).expect("README.md is writable");
}

/// On what it was measured: the kernel's release and the number of processors.
pub fn machine() -> String {
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    // The release's number; what follows it names somebody's build.
    let kernel = kernel.trim().split('-').next().unwrap_or_default().to_owned();
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    format!("Linux {kernel}, {cores} cores")
}
