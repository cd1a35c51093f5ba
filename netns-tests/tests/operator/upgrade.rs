//! Upgrade and roll back: the DaemonSet's pod on a node is replaced by one of another image, under load.

use super::stage::Stage;

const CONNECTIONS: u64 = 20_000;
const NEXT: &str = "docker.io/library/bowline:next";

#[test]
fn upgrades_and_rollbacks_cost_no_connection() {
    let mut stage = Stage::new();
    let (manifest, kubelet) = (stage.manifest("vxlan"), stage.kubelet());
    let mut next = manifest.clone();
    next.set_image(NEXT);
    let mut container = kubelet.run(&manifest, "version-0");
    container.until_ready();
    stage.start_other(&["--mode=vxlan", "--proxy-mode=nftables"]);
    let mut traffic = stage.load();
    traffic.begin();
    let mut replaced = 0;
    while replaced < 4 || traffic.made() < CONNECTIONS {
        traffic.goes_on(200);
        let is_upgrade = replaced % 2 == 0;
        // A kubelet asks politely; a node that is short of memory does not.
        if replaced % 4 < 2 {
            container.terminate()
        } else {
            container.kill()
        }
        traffic.goes_on(200);
        replaced += 1;
        let name = format!("version-{replaced}");
        container = kubelet.run(if is_upgrade { &next } else { &manifest }, &name);
        container.until_ready();
        // The new one is in charge: a change of the Service is seen.
        let ips = traffic.ips();
        stage.endpoints("web", if replaced % 3 == 0 { &ips } else { &ips[2..] });
    }
    traffic.goes_on(200);
    traffic.end(CONNECTIONS);
    eprintln!("{CONNECTIONS} connections and more, {replaced} replacements");
}
