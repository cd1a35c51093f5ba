//! The instrument itself: whatever a story leaves behind is found.

use lab::{Node, Snapshot};

#[test]
fn every_kind_of_trace_is_found() {
    let node = Node::new("instrument").unwrap();
    let before = Snapshot::of(&node);
    assert_eq!(before.difference(&node), "", "a node at rest does not change");
    let traces: [(&str, &str); 8] = [
        ("ip link add trace type bridge", "ip link delete trace"),
        ("ip addr add 10.9.9.9/32 dev eth0", "ip addr del 10.9.9.9/32 dev eth0"),
        ("ip route add 10.8.0.0/24 dev eth0 table 7", "ip route del 10.8.0.0/24 dev eth0 table 7"),
        ("ip rule add from 10.9.9.9 lookup 7", "ip rule del from 10.9.9.9 lookup 7"),
        ("nft add table inet trace", "nft delete table inet trace"),
        ("tc qdisc add dev eth0 ingress", "tc qdisc del dev eth0 ingress"),
        ("sysctl -q net.ipv4.conf.eth0.rp_filter=2", "sysctl -q net.ipv4.conf.eth0.rp_filter=0"),
        ("mkdir -p /var/lib/cni/networks/pods", "true"),
    ];
    for (make, unmake) in traces {
        node.sh(make);
        if make.starts_with("mkdir") {
            node.write("/var/lib/cni/networks/pods/10.9.9.9", "a\r\neth0");
        }
        assert!(before != Snapshot::of(&node), "`{make}` goes unseen");
        node.sh(unmake);
    }
    let found = before.difference(&node);
    assert!(found.contains("+ /var/lib/cni/networks/pods/10.9.9.9 (7 bytes)"), "{found}");
}
