//! parallel: 200 pods at once on one bridge.

use std::collections::HashSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use lab::network::Request;
use lab::{Attachment, Network, Pod, on_bowline};
use serde_json::json;

use crate::conflists::{bridge, list};

const PODS: usize = 200;
/// ADDs under way at any moment.
const AT_ONCE: usize = 32;

/// Runs `work` for 0..PODS on many threads.
fn at_once(work: impl Fn(usize) + Sync) {
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    if index >= PODS {
                        return;
                    }
                    work(index);
                }
            });
        }
    });
}

on_bowline! {
    /// No address twice, no veth, rule or lease left behind.
    fn parallel_add_and_del_of_200(node, subject) {
        let plugins = json!([
            bridge(&["10.1.0.0/16", "fd00:1::/64"], json!({"ipMasq": true, "macspoofchk": true})),
            {"type": "portmap", "capabilities": {"portMappings": true}},
            {"type": "bandwidth", "ingressRate": 1_000_000, "ingressBurst": 1_000_000, "egressRate": 1_000_000, "egressBurst": 1_000_000},
            {"type": "firewall"},
        ]);
        let network = Network::new(subject, list("pods", plugins));
        let pods: Vec<Pod> = (0..PODS).map(|i| node.pod(&format!("pod-{i}"))).collect();
        let attached: Mutex<Vec<Attachment>> = Mutex::default();
        at_once(|i| {
            let mapping = json!([{"hostPort": 20_000 + i, "containerPort": 80, "protocol": "tcp"}]);
            let request = Request::capability("portMappings", mapping);
            let attachment = network.add(node, &pods[i], request).unwrap();
            attached.lock().unwrap().push(attachment);
        });
        let attached = attached.into_inner().unwrap();
        let addresses: HashSet<_> = attached.iter().flat_map(Attachment::ips).collect();
        assert_eq!(addresses.len(), 2 * PODS, "an address was leased twice");
        at_once(|i| attached[i].check(node).unwrap());
        at_once(|i| attached[i].del(node).unwrap());
        node.delete_bridge("cni0");
    }

    /// ADDs and DELs mixed, as on a busy node: pods come while others go.
    fn parallel_churn(node, subject) {
        let plugins = json!([bridge(&["10.1.0.0/24"], json!({"ipMasq": true})), {"type": "firewall"}]);
        let network = Network::new(subject, list("pods", plugins));
        at_once(|i| {
            let pod = node.pod(&format!("pod-{i}"));
            let attachment = network.add(node, &pod, Request::default()).unwrap();
            attachment.check(node).unwrap();
            attachment.del(node).unwrap();
        });
        node.delete_bridge("cni0");
    }
}
