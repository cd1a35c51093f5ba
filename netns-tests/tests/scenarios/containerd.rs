//! A real runtime: containerd, started for this test alone, runs containers through the plug-ins (`ctr run --cni`).

use std::net::Ipv4Addr;
use std::path::Path;

use lab::containerd::Containerd;
use lab::on_both;
use lab::wait::until;

use crate::conflists::shipped;

/// What libcni keeps is byte for byte what our runtime side keeps of the same attachment, so either finds the other's.
fn our_cache_entry_equals(text: &str) {
    let theirs = cni::runtime::cache::parse_file(text.as_bytes()).expect("an entry of libcni is read");
    let list = cni::list::NetworkList::parse(&theirs.config, None).expect("the list it was made with");
    let directory = tempfile::tempdir().expect("room for our entry");
    let ours = cni::runtime::cache::Cache::new(directory.path());
    ours.store(&list, &theirs.args, &theirs.result.expect("a result")).expect("our entry is written");
    assert_eq!(std::fs::read_to_string(ours.file(&list.name, &theirs.args)).expect("our entry"), text);
}

on_both! {
    /// A container gets an address, reaches its gateway and a second container; when both have ended no trace is left.
    fn containers_reach_each_other(node, subject) {
        node.bind_directory(&subject.directory, Path::new("/opt/cni/bin")).unwrap();
        // As it is shipped: a runtime of this age takes `cniVersion`, a newer one picks from `cniVersions`.
        node.write("/etc/cni/net.d/10-bridge.conflist", &shipped("bridge").to_string());
        let containerd = Containerd::start(node, if subject.is_reference { "reference" } else { "bowline" });

        let mut server = containerd.run_pod("server", &["httpd", "-f", "-p", "80", "-h", "/www"]);
        let address = containerd.address("bridge", "server");
        assert_eq!(address, Ipv4Addr::new(10, 77, 0, 2));
        our_cache_entry_equals(&node.read(containerd.cache_file("bridge", "server")));
        until("the server to answer the node", || {
            node.try_sh(&format!("busybox wget -q -O - http://{address}/hello")).ok()
        });

        let script = format!(
            "busybox ping -c 1 -w 5 10.77.0.1 && busybox wget -q -O - http://{address}/hello && busybox ip -6 addr"
        );
        let status = containerd.run_pod("client", &["sh", "-c", &script]).wait().unwrap();
        let said = node.read("/run/lab/client.log");
        assert!(status.success() && said.contains("hello from a container"), "{said}");
        assert!(said.contains("fd00:77::3/64"), "{said}");

        containerd.ctr("task kill --signal SIGKILL server").unwrap();
        server.wait().unwrap();
        drop(containerd);
        if subject.is_reference {
            // ctr sends DEL without CNI_NETNS, upon which the reference leaves its masquerade chains for ever.
            node.sh("nft flush ruleset");
        }
        node.unmount(Path::new("/opt/cni/bin")).unwrap();
        node.delete_bridge("bowline0");
    }
}
