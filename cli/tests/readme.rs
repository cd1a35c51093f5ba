//! What README.md tells people to type by hand, typed in namespaces of its own. Needs `make build`.

use std::path::Path;
use std::process::Command;

#[test]
fn a_network_by_hand_as_readme_tells() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let readme = std::fs::read_to_string(root.join("README.md")).expect("README.md is readable");
    let by_hand = readme.split("by hand, without a runtime").nth(1).expect("README.md has that paragraph");
    let block = by_hand.split("```").nth(1).expect("with a block of commands");
    let typed: Vec<String> = block
        .lines()
        .filter_map(|line| line.strip_prefix("$ "))
        .map(|line| line.replace("sudo ", ""))
        .collect();
    assert!(
        typed.iter().any(|line| line.contains("cni add"))
            && typed.iter().any(|line| line.contains("cni del"))
    );
    // State directories of its own, so that nothing of the machine's is touched.
    let script = format!(
        "set -ex; mount -t tmpfs none /run; mkdir -p /var/lib/cni; mount -t tmpfs none /var/lib/cni\n{}\n\
         test -z \"$(ls /var/lib/cni/results)\"",
        typed.join("\n")
    );
    let output = Command::new("unshare").args(["-nm", "bash", "-c", &script]).current_dir(&root).output();
    let output = output.expect("unshare can be started");
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(output.status.success() && said.contains("\"10.77.0.2/24\""), "{said}");
}
