//! loopback.

use lab::network::Request;
use lab::traffic::ping;
use lab::{Network, on_both};
use serde_json::json;

use crate::conflists::shipped;

on_both! {
    /// ADD sets lo up, DEL sets it down.
    fn lo_goes_up_and_down(node, subject) {
        let network = Network::new(subject, shipped("loopback"));
        let pod = node.pod("a");
        let on_a = network.add(node, &pod, Request::ifname("lo")).unwrap();
        assert!(ping(&pod, std::net::Ipv4Addr::LOCALHOST));
        assert!(ping(&pod, std::net::Ipv6Addr::LOCALHOST));
        assert_eq!(on_a.result["interfaces"][0]["name"], "lo");
        let addresses: Vec<_> = on_a.result["ips"].as_array().unwrap().iter().map(|ip| &ip["address"]).collect();
        assert_eq!(addresses, [&json!("127.0.0.1/8"), &json!("::1/128")]);
        on_a.check(node).unwrap();
        on_a.del(node).unwrap();
        assert!(!pod.sh("ip link show lo").contains("UP"));
        on_a.check(node).unwrap_err();
        on_a.del(node).unwrap();
    }

    /// A result that is there already is passed on as it is.
    fn previous_result_passes_through(node, subject) {
        let network = Network::new(subject, shipped("loopback"));
        let mut on_a = network.attachment(&node.pod("a"), Request::ifname("lo"));
        let previous = json!({"cniVersion": network.list["cniVersion"], "ips": [{"address": "10.1.0.2/24"}]});
        on_a.result = previous.clone();
        on_a.add_step(node, 0).unwrap();
        assert_eq!(on_a.result["ips"], previous["ips"]);
        on_a.del(node).unwrap();
    }
}
