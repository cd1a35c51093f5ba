//! What the daemon writes to the API: of its own Node two fields at most, and most clusters see neither.
//!
//! - The condition NetworkUnavailable becomes False once pods are connected, where a cloud has set it to True. Where it
//!   is absent it stays absent.
//! - In WireGuard mode the annotation with the public key. Other modes have no key, so they write no annotation.
//!
//! Both go to `nodes/status`, so that one right is enough: the API takes annotations there too.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use k8s_openapi::jiff::Timestamp;
use kube::Resource;
use kube::api::{Patch, PatchParams};
use kube::core::Request;
use overlay::Mode;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::api::exchange::{self, Answer, Cause, Trouble};
use super::api::{Backoff, Config, Endpoints};
use super::node::NodeObject;
use crate::objects::{Node, Objects, WIREGUARD_KEY};

/// How long the API may take to show what was written, before it is written again.
const SHOWN_WITHIN: Duration = Duration::from_secs(30);

/// What the Node of this node shall say.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Wanted {
    /// Whether pods of this node are connected.
    pub is_network_up: bool,
    /// The public key of this node, in WireGuard mode.
    pub wireguard_key: Option<[u8; 32]>,
}

impl Wanted {
    /// What it says in `mode`: whatever keys there are, only WireGuard mode publishes one.
    pub fn in_mode(mode: Mode, is_network_up: bool, wireguard_key: Option<[u8; 32]>) -> Self {
        Wanted { is_network_up, wireguard_key: wireguard_key.filter(|_| mode == Mode::Wireguard) }
    }
}

/// The strategic merge patch that `own` lacks, if it lacks anything.
pub fn plan(own: &Node, wanted: &Wanted, now: Timestamp) -> Option<Value> {
    let mut patch = json!({});
    if wanted.is_network_up && own.network_unavailable == Some(true) {
        let now = Timestamp::from_second(now.as_second()).unwrap_or(now).to_string();
        patch["status"]["conditions"] = json!([{
            "type": "NetworkUnavailable",
            "status": "False",
            "reason": "BowlineIsUp",
            "message": "bowline connects the pods of this node",
            "lastHeartbeatTime": now,
            "lastTransitionTime": now,
        }]);
    }
    if let Some(key) = wanted.wireguard_key.filter(|key| own.wireguard_key != Some(*key)) {
        patch["metadata"]["annotations"] = json!({WIREGUARD_KEY: BASE64_STANDARD.encode(key)});
    }
    if patch.as_object().is_none_or(serde_json::Map::is_empty) {
        return None;
    }
    if !own.uid.is_empty() {
        // Another node of the same name is refused.
        patch["metadata"]["uid"] = json!(own.uid);
    }
    Some(patch)
}

/// Keeps the Node called `node` as `wanted`. What it lacks is seen in `objects`; what stands in the way is in the
/// receiver that is returned. It ends with the sender of either.
///
/// Must be called within a tokio runtime.
pub fn run(
    config: Config,
    node: String,
    objects: watch::Receiver<Option<Arc<Objects>>>,
    wanted: watch::Receiver<Wanted>,
) -> watch::Receiver<Option<String>> {
    let (problem, problems) = watch::channel(None);
    tokio::spawn(Writer { config, node, objects, wanted, problem, turn: 0 }.follow());
    problems
}

struct Writer {
    config: Config,
    node: String,
    objects: watch::Receiver<Option<Arc<Objects>>>,
    wanted: watch::Receiver<Wanted>,
    problem: watch::Sender<Option<String>>,
    /// Which of the endpoints is tried next.
    turn: usize,
}

impl Writer {
    async fn follow(mut self) {
        let timing = self.config.timing.clone();
        let mut backoff = Backoff::new(timing.first_pause, timing.longest_pause);
        loop {
            let patch = self.lacking();
            let pause = match &patch {
                None => {
                    self.problem.send_replace(None);
                    Duration::MAX
                }
                Some(patch) => match self.write(patch).await {
                    Ok(()) => {
                        backoff.reset();
                        self.problem.send_replace(None);
                        SHOWN_WITHIN
                    }
                    Err(trouble) => {
                        let sentence = format!("Node {}: can't be written: {}", self.node, trouble.what);
                        tracing::warn!(cause = trouble.cause.label(), "{sentence}");
                        self.problem.send_replace(Some(sentence));
                        self.turn += 1;
                        backoff.pause(trouble.retry_after)
                    }
                },
            };
            if !self.something_new(pause, timing.first_pause).await {
                return;
            }
        }
    }

    /// Waits until what was seen differs, at most for `pause`, and at least for `rest` so that a cloud that insists is
    /// not answered at its own pace. False when a sender is gone.
    async fn something_new(&mut self, pause: Duration, rest: Duration) -> bool {
        let is_open = tokio::select! {
            changed = self.objects.changed() => changed.is_ok(),
            changed = self.wanted.changed() => changed.is_ok(),
            // The deadline of the other two.
            () = tokio::time::sleep(pause) => true,
        };
        if is_open && pause != Duration::MAX {
            // A pause between two writes is what is wanted, not an event.
            tokio::time::sleep(rest).await;
        }
        is_open
    }

    fn lacking(&mut self) -> Option<Value> {
        let objects = self.objects.borrow_and_update().clone()?;
        let wanted = self.wanted.borrow_and_update().clone();
        plan(objects.nodes.get(&self.node)?, &wanted, Timestamp::now())
    }

    async fn write(&self, patch: &Value) -> Result<(), Trouble> {
        let reached = Endpoints::load(&self.config)
            .await
            .and_then(|endpoints| endpoints.reach(self.turn, &self.config.timing))
            .map_err(|what| Trouble::new(Cause::Config, what))?;
        let params = PatchParams { field_manager: Some("bowlined".to_owned()), ..PatchParams::default() };
        let request = Request::new(NodeObject::url_path(&(), None));
        let request = request.patch_subresource("status", &self.node, &params, &Patch::Strategic(patch));
        exchange::read::<Patched>(&reached.client, request, self.config.timing.answer).await.map(|_| ())
    }
}

/// What the API answers to a patch.
#[derive(Deserialize)]
struct Patched {
    kind: String,
}

impl Answer for Patched {
    fn is_asked_for(&self) -> bool {
        self.kind == "Node"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::constant(1_767_323_045, 7);

    fn node(network_unavailable: Option<bool>, wireguard_key: Option<[u8; 32]>) -> Node {
        Node { name: "a".into(), uid: "u".into(), network_unavailable, wireguard_key, ..Node::default() }
    }

    #[test]
    fn only_what_is_lacking_is_written() {
        let key = Some([1; 32]);
        let up = |wireguard_key| Wanted { is_network_up: true, wireguard_key };
        let down = Wanted::default();
        let rows = [
            (node(None, None), up(None), ""),
            (node(Some(false), None), up(None), ""),
            (node(Some(true), None), down, ""),
            (node(Some(true), None), up(None), "condition"),
            (node(None, None), up(key), "key"),
            (node(None, Some([2; 32])), up(key), "key"),
            (node(None, key), up(key), ""),
            (node(None, key), up(None), ""),
            (node(Some(true), None), up(key), "condition and key"),
        ];
        for (own, wanted, lacks) in rows {
            let patch = plan(&own, &wanted, NOW).unwrap_or_default();
            let condition = &patch["status"]["conditions"][0];
            let annotations = &patch["metadata"]["annotations"];
            assert_eq!(condition["status"] == "False", lacks.contains("condition"), "{own:?} {wanted:?}");
            assert_eq!(annotations[WIREGUARD_KEY].is_string(), lacks.contains("key"), "{own:?} {wanted:?}");
            assert_eq!(patch.is_null(), lacks.is_empty(), "{own:?} {wanted:?}");
        }
        let patch = plan(&node(Some(true), None), &up(None), NOW).unwrap();
        assert_eq!(patch["status"]["conditions"][0]["lastTransitionTime"], "2026-01-02T03:04:05Z");
        assert_eq!(patch["metadata"], json!({"uid": "u"}));
    }
}
