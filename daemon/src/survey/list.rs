//! Nodes and pods of a cluster, as far as a survey reads them.

use std::time::Duration;

use http_body_util::{BodyExt, Limited};
use hyper::{Request, StatusCode};
use kube::Client;
use kube::client::Body;
use kube::core::Status;
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::log::chain_of;
use crate::objects;
use crate::proxy::ask::encoded;
use crate::source::node::{NodeObject, decode};

/// Objects to a page.
const PAGE: u32 = 500;
/// No page is larger, in bytes.
const LARGEST: usize = 64 << 20;
/// Until a page is there.
const PATIENCE: Duration = Duration::from_secs(30);
/// That much of an answer that is no Status is shown.
const SHOWN: usize = 200;

/// A Node, as the daemon sees it and as people look at it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeFacts {
    /// What bowlined reads of it.
    pub node: objects::Node,
    /// What is wrong with that, each a sentence with the field.
    pub faults: Vec<String>,
    /// `linux`, `windows`; empty where nobody says so.
    pub os: String,
    /// What its condition Ready says when that is not True.
    pub not_ready: Option<String>,
}

/// A pod of the DaemonSet.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PodFacts {
    /// Its name.
    pub name: String,
    /// The node that it runs on, or shall.
    pub node: String,
    /// The container with the daemon.
    pub container: String,
    /// Its image.
    pub image: String,
    /// `Pending`, `Running` and so on.
    pub phase: String,
    /// Whether that container runs at this moment.
    pub is_running: bool,
    /// Whether it is being deleted.
    pub is_leaving: bool,
    /// Why it does not run, in the words of scheduler and kubelet.
    pub why: Option<String>,
    /// How often it was started again.
    pub restarts: u32,
}

/// All Nodes.
///
/// # Errors
/// A sentence: no answer, or a refusal.
pub async fn nodes(client: &Client) -> Result<Vec<NodeFacts>, String> {
    list::<NodeFacts>(client, "/api/v1/nodes", "").await
}

/// The pods with these labels.
///
/// # Errors
/// As [`nodes`].
pub async fn pods(client: &Client, namespace: &str, selector: &str) -> Result<Vec<PodFacts>, String> {
    let path = format!("/api/v1/namespaces/{namespace}/pods");
    list::<PodFacts>(client, &path, &format!("&labelSelector={}", encoded(selector))).await
}

#[derive(Deserialize)]
struct Page<T> {
    metadata: PageMetadata,
    items: Vec<T>,
}

#[derive(Deserialize)]
struct PageMetadata {
    #[serde(rename = "continue")]
    token: Option<String>,
}

async fn list<T: DeserializeOwned>(client: &Client, path: &str, query: &str) -> Result<Vec<T>, String> {
    let mut all = Vec::new();
    let mut next = String::new();
    loop {
        let asked = format!("{path}?limit={PAGE}{query}{next}");
        let page = page::<T>(client, &asked);
        let late = |_| Err(format!("{path}: no answer within {} s", PATIENCE.as_secs()));
        let page = tokio::time::timeout(PATIENCE, page).await.unwrap_or_else(late)?;
        all.extend(page.items);
        match page.metadata.token.filter(|token| !token.is_empty()) {
            Some(token) => next = format!("&continue={}", encoded(&token)),
            None => return Ok(all),
        }
    }
}

async fn page<T: DeserializeOwned>(client: &Client, path: &str) -> Result<Page<T>, String> {
    let request = Request::get(path).header("accept", "application/json").body(Body::empty());
    let request = request.map_err(|error| format!("{path}: {error}"))?;
    let response = client.send(request).await.map_err(|error| chain_of(&error))?;
    let code = response.status();
    let body = body_of(response.into_body()).await;
    if !code.is_success() {
        return Err(shown(code, &body));
    }
    serde_json::from_slice(&body).map_err(|error| format!("{path}: the answer is not the API's: {error}"))
}

/// All of a body, as far as it comes.
pub async fn body_of(body: Body) -> Vec<u8> {
    Limited::new(body, LARGEST).collect().await.map(|body| body.to_bytes().to_vec()).unwrap_or_default()
}

/// A refusal, in the server's words.
pub fn shown(code: StatusCode, body: &[u8]) -> String {
    let status = serde_json::from_slice::<Status>(body).unwrap_or_default();
    let text = match status.message.is_empty() {
        true => String::from_utf8_lossy(&body[..body.len().min(SHOWN)]).trim().escape_debug().to_string(),
        false => status.message,
    };
    format!("{}: {text}", code.as_u16())
}

impl<'de> Deserialize<'de> for NodeFacts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // Twice read: once as the daemon does it, so that both say the same.
        let value = Value::deserialize(deserializer)?;
        let metadata = &value["metadata"];
        let os = metadata["labels"]["kubernetes.io/os"].as_str().unwrap_or_default().to_owned();
        let conditions = value["status"]["conditions"].as_array();
        let ready = conditions.into_iter().flatten().find(|condition| condition["type"] == "Ready");
        let not_ready = ready.filter(|condition| condition["status"] != "True");
        let not_ready =
            not_ready.map(|condition| sentence(condition).unwrap_or_else(|| "without a reason".into()));
        let object = NodeObject::deserialize(&value).map_err(D::Error::custom)?;
        let (node, faults) = decode(&object);
        Ok(NodeFacts { node, faults: faults.iter().map(ToString::to_string).collect(), os, not_ready })
    }
}

/// `REASON: MESSAGE`, of a condition or the state of a container.
fn sentence(of: &Value) -> Option<String> {
    let words = ["reason", "message"].into_iter().filter_map(|key| of[key].as_str());
    let words: Vec<&str> = words.map(str::trim).filter(|word| !word.is_empty()).collect();
    Some(words.join(": ")).filter(|text| !text.is_empty())
}

impl<'de> Deserialize<'de> for PodFacts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        let (metadata, spec, status) = (&value["metadata"], &value["spec"], &value["status"]);
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let first = &spec["containers"][0];
        let container = text(&first["name"]);
        let of = |key: &str| status[key].as_array().into_iter().flatten();
        let own = of("containerStatuses").find(|it| it["name"] == container.as_str());
        let is_running = own.is_some_and(|it| it["state"]["running"].is_object());
        Ok(PodFacts {
            name: text(&metadata["name"]),
            node: node_of(spec),
            image: text(&first["image"]),
            phase: text(&status["phase"]),
            is_running,
            is_leaving: !metadata["deletionTimestamp"].is_null(),
            why: (!is_running).then(|| why(status, own)).flatten(),
            restarts: own
                .and_then(|it| it["restartCount"].as_u64())
                .and_then(|it| u32::try_from(it).ok())
                .unwrap_or(0),
            container,
        })
    }
}

/// Where a pod runs; one that is not scheduled yet says by its affinity where it shall.
fn node_of(spec: &Value) -> String {
    if let Some(node) = spec["nodeName"].as_str() {
        return node.to_owned();
    }
    let required = &spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"];
    let terms = required["nodeSelectorTerms"].as_array().into_iter().flatten();
    let fields = terms.flat_map(|term| term["matchFields"].as_array().into_iter().flatten());
    let mut named = fields.filter(|field| field["key"] == "metadata.name");
    named.find_map(|field| field["values"][0].as_str()).unwrap_or_default().to_owned()
}

/// Why a pod's container does not run: itself, a container before it, or the scheduler.
fn why(status: &Value, own: Option<&Value>) -> Option<String> {
    let of_container = |container: &Value| {
        let state = &container["state"];
        let now = ["waiting", "terminated"].into_iter().find_map(|key| sentence(&state[key]))?;
        let last = sentence(&container["lastState"]["terminated"]);
        let code = container["lastState"]["terminated"]["exitCode"].as_i64();
        let ended = code.map(|code| {
            format!("; it last ended with {code}{}", last.map(|it| format!(" ({it})")).unwrap_or_default())
        });
        Some(now + &ended.unwrap_or_default())
    };
    let before = status["initContainerStatuses"].as_array().into_iter().flatten();
    let unfinished = before.filter(|it| it["state"]["terminated"]["exitCode"] != 0);
    let named = |it: &Value| Some(format!("{}: {}", it["name"].as_str()?, of_container(it)?));
    let conditions = status["conditions"].as_array().into_iter().flatten();
    let mut unscheduled = conditions.filter(|it| it["type"] == "PodScheduled" && it["status"] != "True");
    unfinished
        .filter_map(named)
        .next()
        .or_else(|| own.and_then(of_container))
        .or_else(|| unscheduled.find_map(sentence))
        .or_else(|| sentence(status))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn why_of(status: Value) -> Option<String> {
        let pod = json!({
            "metadata": {"name": "p"}, "spec": {"nodeName": "a", "containers": [{"name": "bowlined"}]}, "status": status,
        });
        serde_json::from_value::<PodFacts>(pod).expect("a pod").why
    }

    #[test]
    fn a_pod_that_does_not_run_says_why() {
        let waiting =
            |reason: &str, message: &str| json!({"waiting": {"reason": reason, "message": message}});
        let rows = [
            (json!({"containerStatuses": [{"name": "bowlined", "state": {"running": {}}}]}), None),
            (
                json!({"containerStatuses": [{"name": "bowlined", "state": waiting("ImagePullBackOff", "no such image")}]}),
                Some("ImagePullBackOff: no such image"),
            ),
            (
                json!({"containerStatuses": [{
                    "name": "bowlined", "state": waiting("CrashLoopBackOff", "back-off 10s"), "restartCount": 3,
                    "lastState": {"terminated": {"exitCode": 1, "reason": "Error", "message": "mtu: `x`"}},
                }]}),
                Some("CrashLoopBackOff: back-off 10s; it last ended with 1 (Error: mtu: `x`)"),
            ),
            (
                json!({
                    "initContainerStatuses": [{"name": "install", "state": waiting("ErrImagePull", "")}],
                    "containerStatuses": [{"name": "bowlined", "state": waiting("PodInitializing", "")}],
                }),
                Some("install: ErrImagePull"),
            ),
            (
                json!({"conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "no cpu"}]}),
                Some("Unschedulable: no cpu"),
            ),
            (json!({"phase": "Failed", "reason": "Evicted", "message": "disk"}), Some("Evicted: disk")),
            (json!({}), None),
        ];
        for (status, expected) in rows {
            assert_eq!(why_of(status.clone()).as_deref(), expected, "{status}");
        }
    }

    #[test]
    fn an_unscheduled_pod_says_where_it_shall_run() {
        let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [], "affinity": {"nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{"matchFields": [
                {"key": "metadata.name", "operator": "In", "values": ["b"]},
            ]}]},
        }}}});
        assert_eq!(serde_json::from_value::<PodFacts>(pod).expect("a pod").node, "b");
    }

    #[test]
    fn a_node_is_read_as_the_daemon_reads_it() {
        let node = json!({
            "metadata": {"name": "a", "labels": {"kubernetes.io/os": "linux"}},
            "spec": {"podCIDRs": ["10.1.0.1/24"]},
            "status": {"conditions": [{"type": "Ready", "status": "False", "reason": "KubeletNotReady", "message": "cni"}]},
        });
        let facts: NodeFacts = serde_json::from_value(node).expect("a node");
        assert_eq!((facts.os.as_str(), facts.not_ready.as_deref()), ("linux", Some("KubeletNotReady: cni")));
        assert_eq!(facts.faults.len(), 1, "{:?}", facts.faults);
    }
}
