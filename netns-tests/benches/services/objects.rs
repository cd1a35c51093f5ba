//! Services and EndpointSlices as an API server tells them.

use std::net::IpAddr;

use serde_json::{Value, json};

/// Endpoints of each Service.
pub const ENDPOINTS: u32 = 4;

/// A Service of type ClusterIP with one port.
pub fn service(number: u32) -> Value {
    let ip = address([172, 20, 0, 0], number + 1);
    json!({
        "kind": "Service",
        "metadata": {"namespace": "default", "name": format!("service-{number}"), "labels": {"app": format!("app-{number}")}},
        "spec": {
            "type": "ClusterIP", "clusterIP": ip, "clusterIPs": [ip], "ipFamilies": ["IPv4"],
            "ports": [{"name": "http", "protocol": "TCP", "port": 80, "targetPort": 8080}],
            "selector": {"app": format!("app-{number}")}, "sessionAffinity": "None",
        },
        "status": {"loadBalancer": {}},
    })
}

/// Endpoints of a Service; the first has another address in each generation.
pub fn slice(number: u32, generation: u32) -> Value {
    let endpoint = |index: u32| {
        let ip = match index {
            0 if generation > 0 => address([11, 0, 0, 0], generation),
            _ => address([10, 128, 0, 0], number * 8 + index + 1),
        };
        json!({
            "addresses": [ip],
            "conditions": {"ready": true, "serving": true, "terminating": false},
            "nodeName": format!("node-{}", number % 100),
            "targetRef": {"kind": "Pod", "namespace": "default", "name": format!("pod-{number}-{index}")},
            "zone": "zone-a",
        })
    };
    let service = format!("service-{number}");
    json!({
        "kind": "EndpointSlice",
        "metadata": {
            "namespace": "default", "name": format!("{service}-abcde"),
            "labels": {"kubernetes.io/service-name": service, "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io"},
        },
        "addressType": "IPv4",
        "ports": [{"name": "http", "protocol": "TCP", "port": 8080}],
        "endpoints": (0..ENDPOINTS).map(endpoint).collect::<Vec<_>>(),
    })
}

/// A Service with one endpoint that answers, and its slice.
pub fn real(cluster_ip: IpAddr, backend: IpAddr) -> [Value; 2] {
    const NUMBER: u32 = u16::MAX as u32;
    let (mut real, mut of_real) = (service(NUMBER), slice(NUMBER, 0));
    real["spec"]["clusterIP"] = json!(cluster_ip);
    real["spec"]["clusterIPs"] = json!([cluster_ip]);
    of_real["endpoints"] = json!([{"addresses": [backend], "conditions": {"ready": true}}]);
    [of_real, real]
}

fn address(network: [u8; 4], host: u32) -> IpAddr {
    IpAddr::from((u32::from_be_bytes(network) + host).to_be_bytes())
}
