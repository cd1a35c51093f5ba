//! Who is asked for addresses, and what becomes of an answer that makes no sense.

mod support;

use cni::Plugin;
use plugins::bridge::Bridge;
use plugins::ptp::Ptp;
use plugins::routed::Routed;
use plugins::vxlan::Vxlan;
use serde_json::{Value, json};
use support::{on_new_host, with};

/// Every plug-in that delegates.
const ALL: [&dyn Plugin; 4] = [&Bridge, &Ptp, &Routed, &Vxlan];

fn conf(plugin: &dyn Plugin, ipam: &Value) -> Value {
    json!({ "cniVersion": "1.1.0", "name": "net1", "type": plugin.name(), "mtu": 1400, "isGateway": true, "ipam": ipam })
}

/// One that delegates itself would call itself without end.
#[test]
fn a_plugin_that_gives_no_addresses_is_not_asked() {
    on_new_host(|host| {
        let before = host.footprint();
        for plugin in ALL {
            for asked in ["bridge", "ptp", "routed", "vxlan", "portmap", "loopback"] {
                let pod = host.new_pod();
                let conf = conf(plugin, &json!({ "type": asked }));
                let conf = with(&conf, "prevResult", json!({ "cniVersion": "1.1.0" }));
                let conf = with(&conf, "cni.dev/valid-attachments", json!([]));
                for verb in ["ADD", "CHECK", "STATUS"] {
                    let error = host.call(plugin, verb, &pod, &conf).expect_err(asked);
                    let said = format!("ipam: type: \"{asked}\" is a plugin that gives no addresses");
                    assert_eq!((&error["code"], &error["msg"]), (&json!(7), &json!(said)), "{verb}");
                }
                for verb in ["DEL", "GC"] {
                    let outcome = host.call(plugin, verb, &pod, &conf);
                    outcome.unwrap_or_else(|e| panic!("{} {verb} {asked}: {e}", plugin.name()));
                }
            }
        }
        assert_eq!(host.footprint(), before);
    });
}

#[test]
fn one_that_cannot_be_found_is_named_with_its_key() {
    on_new_host(|host| {
        for (asked, said) in [
            ("nosuch", "ipam: failed to find plugin \"nosuch\""),
            ("../sh", "ipam: type: \"../sh\" is not a plugin name"),
        ] {
            let conf = conf(&Bridge, &json!({ "type": asked }));
            let error = host.call(&Bridge, "ADD", &host.new_pod(), &conf).expect_err(asked);
            assert!(error["msg"].as_str().unwrap_or_default().starts_with(said), "{error}");
        }
        assert!(host.links().is_empty());
    });
}

#[test]
fn a_gateway_of_another_family_is_refused() {
    on_new_host(|host| {
        let before = host.footprint();
        for ipam in [
            json!({ "type": "static", "addresses": [{ "address": "10.1.1.2/24", "gateway": "fd00::1" }] }),
            json!({ "type": "host-local", "dataDir": host.state_dir(), "subnet": "10.1.1.0/24", "gateway": "fd00::1" }),
        ] {
            for plugin in [&Bridge as &dyn Plugin, &Ptp] {
                let error =
                    host.call(plugin, "ADD", &host.new_pod(), &conf(plugin, &ipam)).expect_err("no sense");
                let said = error["msg"].as_str().unwrap_or_default();
                assert!(said.contains("gateway: fd00::1") && error["code"] == 7, "{error}");
            }
        }
        assert_eq!((host.footprint(), support::leases(host)), (before, vec![]));
    });
}

#[test]
fn an_mtu_too_small_for_ipv6_is_named() {
    on_new_host(|host| {
        let before = host.footprint();
        for plugin in [&Bridge as &dyn Plugin, &Ptp] {
            let small = with(&conf(plugin, &host.host_local(&["fd00:1::/64"])), "mtu", 1279);
            let error = host.call(plugin, "ADD", &host.new_pod(), &small).expect_err("too small");
            let said = "mtu: 1279 of eth0 is less than the 1280 bytes that IPv6 needs";
            assert_eq!((&error["code"], &error["msg"]), (&json!(7), &json!(said)));
        }
        assert_eq!((host.footprint(), support::leases(host)), (before, vec![]));
    });
}
