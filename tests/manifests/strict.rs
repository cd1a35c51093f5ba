//! Every object is what the API's own types know, and nothing more.

use k8s_openapi::api::admissionregistration::v1::{
    ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding,
};
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{ConfigMap, ServiceAccount};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::{CHOICES, built};

/// The object as the API's type has it.
fn typed(object: &Value) -> Result<Value, String> {
    fn of<T: DeserializeOwned + Serialize>(object: &Value) -> Result<Value, String> {
        let typed: T = serde_json::from_value(object.clone()).map_err(|error| error.to_string())?;
        serde_json::to_value(typed).map_err(|error| error.to_string())
    }
    match (object["apiVersion"].as_str(), object["kind"].as_str()) {
        (Some("v1"), Some("ServiceAccount")) => of::<ServiceAccount>(object),
        (Some("v1"), Some("ConfigMap")) => of::<ConfigMap>(object),
        (Some("apps/v1"), Some("DaemonSet")) => of::<DaemonSet>(object),
        (Some("rbac.authorization.k8s.io/v1"), Some("ClusterRole")) => of::<ClusterRole>(object),
        (Some("rbac.authorization.k8s.io/v1"), Some("ClusterRoleBinding")) => {
            of::<ClusterRoleBinding>(object)
        }
        (Some("admissionregistration.k8s.io/v1"), Some("ValidatingAdmissionPolicy")) => {
            of::<ValidatingAdmissionPolicy>(object)
        }
        (Some("admissionregistration.k8s.io/v1"), Some("ValidatingAdmissionPolicyBinding")) => {
            of::<ValidatingAdmissionPolicyBinding>(object)
        }
        other => Err(format!("{other:?} is new to this test")),
    }
}

/// Paths of `object` that `typed` has not, or has otherwise.
fn unknown(object: &Value, typed: &Value, path: &str, found: &mut Vec<String>) {
    match (object, typed) {
        (Value::Object(own), Value::Object(known)) => {
            for (key, value) in own {
                let path = format!("{path}/{key}");
                match known.get(key) {
                    Some(typed) => unknown(value, typed, &path, found),
                    None => found.push(path),
                }
            }
        }
        (Value::Array(own), Value::Array(known)) if own.len() == known.len() => {
            for (at, (value, typed)) in own.iter().zip(known).enumerate() {
                unknown(value, typed, &format!("{path}/{at}"), found);
            }
        }
        _ if object == typed => {}
        _ => found.push(format!("{path}: {object} is {typed} to the API")),
    }
}

fn offences(object: &Value) -> Vec<String> {
    let mut found = Vec::new();
    match typed(object) {
        Ok(typed) => unknown(object, &typed, "", &mut found),
        Err(error) => found.push(error),
    }
    found
}

#[test]
fn every_object_is_known_to_the_api() {
    for choice in CHOICES {
        for object in built(choice) {
            assert_eq!(
                offences(&object),
                [""; 0],
                "{choice}: {} {}",
                object["kind"],
                object["metadata"]["name"]
            );
        }
    }
}

#[test]
fn a_slip_is_found() {
    let account =
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"nam": "x"}, "secrets": [{}]});
    assert_eq!(offences(&account), ["/metadata/nam"]);
    let set = json!({"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {}, "spec": {
        "selector": {}, "template": {"spec": {"hostNetwork": "yes", "containers": []}},
    }});
    assert_eq!(offences(&set).len(), 1, "a text in the place of a truth");
    let set = json!({"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {}, "spec": {
        "selector": {}, "template": {"spec": {"containers": [{"name": "a", "imagePullpolicy": "Never"}]}},
    }});
    assert_eq!(offences(&set), ["/spec/template/spec/containers/0/imagePullpolicy"]);
}
