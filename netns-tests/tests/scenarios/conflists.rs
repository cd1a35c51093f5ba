//! The configuration lists that several stories share.

use serde_json::{Value, json};

/// A list of `plugins` under the newest version.
pub fn list(name: &str, plugins: Value) -> Value {
    json!({"cniVersion": "1.1.0", "name": name, "plugins": plugins})
}

/// host-local with one range set per subnet and a default route per family.
pub fn host_local(subnets: &[&str]) -> Value {
    let ranges: Vec<Value> = subnets.iter().map(|s| json!([{"subnet": s}])).collect();
    let mut routes = Vec::new();
    if subnets.iter().any(|s| s.contains('.')) {
        routes.push(json!({"dst": "0.0.0.0/0"}));
    }
    if subnets.iter().any(|s| s.contains(':')) {
        routes.push(json!({"dst": "::/0"}));
    }
    json!({"type": "host-local", "ranges": ranges, "routes": routes})
}

/// A gateway bridge `cni0` over these subnets, with more keys laid over it.
pub fn bridge(subnets: &[&str], more: Value) -> Value {
    let mut bridge = json!({
        "type": "bridge", "bridge": "cni0", "isGateway": true, "hairpinMode": true, "ipam": host_local(subnets),
    });
    for (key, value) in more.as_object().into_iter().flatten() {
        bridge[key] = value.clone();
    }
    bridge
}

/// `conf/<name>.conflist`, as shipped.
pub fn shipped(name: &str) -> Value {
    let path = format!("{}/../conf/{name}.conflist", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// The seven released versions.
pub const VERSIONS: [&str; 7] = ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];

/// The same list under another version.
pub fn under(version: &str, mut list: Value) -> Value {
    list["cniVersion"] = json!(version);
    list
}
