//! CHECK finds what went wrong and nothing else; DEL and GC take everything away, with whatever they are told.

mod support;

use cni::Version;
use plugins::bridge::Bridge;
use serde_json::{Value, json};
use support::{Host, Pod, after, env_of, leases, on_new_host, veths, with};

fn conf(host: &Host) -> Value {
    let mut ipam = host.host_local(&["10.1.2.0/24", "2001:db8:1::/64"]);
    ipam["routes"] = json!([{ "dst": "192.0.2.0/24" }, { "dst": "198.51.100.0/24", "table": 77 }]);
    json!({
        "cniVersion": "1.1.0", "name": "net1", "type": "bridge", "bridge": "br0", "isDefaultGateway": true,
        "ipMasq": true, "hairpinMode": true, "macspoofchk": true, "portIsolation": true, "ipam": ipam,
    })
}

fn port(host: &Host) -> String {
    let mut ports = host.links().into_iter().filter(|l| l.kind == "veth" && l.peer_netns.is_some());
    ports.next().expect("a port").id.name
}

fn added(host: &Host, pod: &Pod, conf: &Value) -> Value {
    let result = host.call(&Bridge, "ADD", pod, conf).unwrap_or_else(|e| panic!("ADD: {e}"));
    after(conf, Version::V1_1_0, &result)
}

/// What happened, as commands on the host (PORT is the pod's port, STATE the data directory) and in the pod.
const DRIFTS: [(&str, &str, &str, &str); 20] = [
    ("bridge down", "ip link set br0 down", "", "br0 is down"),
    ("another bridge", "ip link set $PORT nomaster", "", "is no port of br0"),
    ("port down", "ip link set $PORT down", "", "is down"),
    ("hairpin", "bridge link set dev $PORT hairpin off", "", "hairpin mode of"),
    ("isolation", "bridge link set dev $PORT isolated off", "", "isolation of"),
    ("bridge MAC", "ip link set br0 address 02:00:00:00:00:99", "", "bridge br0 has MAC"),
    ("gateway v4", "ip address del 10.1.2.1/24 dev br0", "", "lost the gateway address 10.1.2.1/24"),
    (
        "gateway v6",
        "ip address del 2001:db8:1::1/64 dev br0",
        "",
        "lost the gateway address 2001:db8:1::1/64",
    ),
    ("forwarding v4", "sysctl -qw net.ipv4.ip_forward=0", "", "net/ipv4/ip_forward is 0, not 1"),
    (
        "forwarding v6",
        "sysctl -qw net.ipv6.conf.all.forwarding=0",
        "",
        "net/ipv6/conf/all/forwarding is 0, not 1",
    ),
    ("masquerade", "nft delete table inet bowline_masquerade", "", "masquerade"),
    ("spoof check", "nft delete table bridge bowline_spoof", "", "macspoofchk"),
    ("one spoof set", "nft flush set bridge bowline_spoof guarded", "", "macspoofchk"),
    ("lease", "rm $STATE/net1/10.1.2.2", "", "10.1.2.2"),
    ("pod MAC", "", "ip link set eth0 address 02:00:00:00:00:99", "eth0 has MAC 02:00:00:00:00:99"),
    ("pod down", "", "ip link set eth0 down", "eth0 is down"),
    ("pod link", "", "ip link del eth0", "eth0 is gone"),
    ("pod address", "", "ip address del 2001:db8:1::2/64 dev eth0", "lost address 2001:db8:1::2/64"),
    ("pod route", "", "ip route del 192.0.2.0/24", "route 192.0.2.0/24"),
    ("pod route in a table", "", "ip route del 198.51.100.0/24 table 77", "route 198.51.100.0/24"),
];

#[test]
fn check_negative_of_bridge() {
    for (what, on_host, in_pod, said) in DRIFTS {
        on_new_host(|host| {
            let (pod, conf) = (host.new_pod(), conf(host));
            let after = added(host, &pod, &conf);
            host.call(&Bridge, "CHECK", &pod, &after).expect("CHECK after ADD");
            let state = host.state_dir();
            host.sh(&format!("PORT={}; STATE={}; {on_host}", port(host), state.display()));
            pod.sh(in_pod);
            let error = host.call(&Bridge, "CHECK", &pod, &after).expect_err(what);
            assert!(error["msg"].as_str().unwrap().contains(said), "{what}: {error}");
            host.call(&Bridge, "DEL", &pod, &after).unwrap_or_else(|e| panic!("{what}: DEL: {e}"));
            assert_eq!((veths(host), leases(host)), (0, vec![]), "{what}");
            assert!(!host.sh("nft list ruleset").contains("bowline"), "{what}");
        });
    }
}

#[test]
fn check_gives_no_false_alarm() {
    on_new_host(|host| {
        let (pod, conf) = (host.new_pod(), conf(host));
        let mut after = added(host, &pod, &conf);
        // udev renames no host end but may change its address; tuning changes MTUs; another network wants promisc.
        host.sh(&format!("ip link set {} address 02:00:00:00:00:98 mtu 1400", port(host)));
        host.sh("ip link set br0 promisc on; ip address add 192.0.2.77/32 dev br0");
        pod.sh("ip link set eth0 mtu 1400; ip address add 203.0.113.9/24 dev eth0");
        // sbr moves routes to a table of their own, and multus gives the default route another next hop.
        pod.sh("ip route del 192.0.2.0/24; ip route add 192.0.2.0/24 via 10.1.2.1 table 100");
        pod.sh("ip route del default; ip route add default via 10.1.2.9");
        // A later plug-in reported an interface and an address of its own.
        let interfaces = after["prevResult"]["interfaces"].as_array_mut().unwrap();
        interfaces.push(json!({ "name": "ifb0" }));
        interfaces.push(json!({ "name": "net1", "sandbox": pod.path }));
        let ips = after["prevResult"]["ips"].as_array_mut().unwrap();
        ips.push(json!({ "address": "203.0.113.200/24", "interface": 4 }));
        host.call(&Bridge, "CHECK", &pod, &after).expect("no drift");
        // tuning changes the address in the result too.
        let layer_2 = with(&with(&conf, "ipam", json!({})), "macspoofchk", false);
        let other = host.new_pod();
        let mut after = added(host, &other, &layer_2);
        other.sh("ip link set eth0 address 02:00:00:00:00:97");
        after["prevResult"]["interfaces"][2]["mac"] = json!("02:00:00:00:00:97");
        host.call(&Bridge, "CHECK", &other, &after).expect("no drift on layer 2");
    });
}

#[test]
fn del_matrix_of_bridge() {
    for netns in ["pod", "", "/no/such/netns", "/etc/hostname"] {
        for has_prev in [true, false] {
            on_new_host(|host| {
                let (pod, conf) = (host.new_pod(), conf(host));
                let before = {
                    let other = host.new_pod();
                    let after = added(host, &other, &conf);
                    host.call(&Bridge, "DEL", &other, &after).expect("DEL");
                    host.footprint()
                };
                let after = added(host, &pod, &conf);
                let request = if has_prev { &after } else { &conf };
                let mut env = env_of("DEL", &pod, &host.bin_dir());
                if netns != "pod" {
                    env[2].1 = netns.to_owned();
                }
                for _ in 0..2 {
                    host.call_env(&Bridge, request, &env).unwrap_or_else(|e| panic!("{netns}: DEL: {e}"));
                    assert_eq!(leases(host), Vec::<String>::new(), "{netns}");
                    assert!(!host.sh("nft list ruleset").contains("bowline"), "{netns}");
                }
                assert_eq!(host.footprint(), before, "{netns} {has_prev}");
            });
        }
    }
}

#[test]
fn del_goes_on_after_an_error() {
    on_new_host(|host| {
        let (pod, conf) = (host.new_pod(), conf(host));
        let after = added(host, &pod, &conf);
        let mut broken = with(&after, "vlan", 5000);
        broken["ipam"]["type"] = json!("no-such-plugin");
        let error = host.call(&Bridge, "DEL", &pod, &broken).expect_err("the lease cannot be freed");
        assert!(error["msg"].as_str().unwrap().contains("no-such-plugin"), "{error}");
        assert_eq!(veths(host), 0);
        assert!(!host.sh("nft list ruleset").contains("bowline"));
        host.call(&Bridge, "DEL", &pod, &after).expect("DEL");
        assert_eq!(leases(host), Vec::<String>::new());
    });
}

#[test]
fn gc_matrix_of_bridge() {
    on_new_host(|host| {
        let conf = conf(host);
        let other = with(&with(&conf, "name", "net2"), "bridge", "br1");
        let other = with(&other, "ipam", host.host_local(&["10.1.9.0/24"]));
        let [stays, goes, elsewhere] = [host.new_pod(), host.new_pod(), host.new_pod()];
        let kept = added(host, &stays, &conf);
        added(host, &goes, &conf);
        let untouched = added(host, &elsewhere, &other);

        host.call(&Bridge, "GC", &stays, &conf).expect("GC that does not say what is valid");
        assert_eq!(leases(host).len(), 4, "removes nothing");

        let valid = json!([{ "containerID": stays.id, "ifname": "eth0" }]);
        let request = with(&conf, "cni.dev/valid-attachments", valid);
        for _ in 0..2 {
            host.call(&Bridge, "GC", &stays, &request).expect("GC");
            assert_eq!(leases(host), ["10.1.2.2", "2001:db8:1::2"]);
            assert_eq!((goes.link("eth0"), veths(host)), (None, 2));
            let rules = host.sh("nft list ruleset");
            assert!(!rules.contains("10.1.2.3") && !rules.contains(&goes.id), "{rules}");
            assert!(rules.contains("10.1.2.2") && rules.contains("10.1.9.2"), "{rules}");
        }
        host.call(&Bridge, "CHECK", &stays, &kept).expect("the valid one is whole");
        host.call(&Bridge, "CHECK", &elsewhere, &untouched).expect("the other network is untouched");

        let nothing = with(&conf, "cni.dev/valid-attachments", json!([]));
        host.call(&Bridge, "GC", &stays, &nothing).expect("GC of everything");
        assert_eq!(leases(host), Vec::<String>::new());
        assert!(!host.sh("nft list ruleset").contains("10.1.2.2"));
    });
}
