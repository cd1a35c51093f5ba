//! Pods on bridges, made by the bridge plug-in.
#![allow(dead_code, reason = "every test binary compiles its own copy and uses part of it")]

use kernel::Netns;
use plugins::bridge::Bridge;
use serde_json::{Value, json};

use super::support::{Host, Pod};

/// A pod on a bridge of the host, and what it was given.
pub struct Member {
    /// The pod.
    pub pod: Pod,
    /// The bridge plug-in's result.
    pub result: Value,
}

impl Member {
    /// Its namespace.
    pub fn netns(&self) -> &Netns {
        &self.pod.netns
    }

    /// Its address of the subnet at `index`.
    pub fn ip(&self, index: usize) -> String {
        let cidr = self.result["ips"][index]["address"].as_str().expect("an address");
        cidr.split('/').next().expect("an address").to_owned()
    }
}

/// Attaches a new pod to bridge `name`, whose first addresses are the host's.
pub fn join(host: &Host, name: &str, subnets: &[&str]) -> Member {
    let pod = host.new_pod();
    let conf = json!({
        "cniVersion": "1.1.0", "name": name, "type": "bridge", "bridge": name, "isDefaultGateway": true,
        "hairpinMode": true, "ipam": host.host_local(subnets),
    });
    let result = host.call(&Bridge, "ADD", &pod, &conf).expect("ADD of bridge");
    Member { pod, result }
}
