//! Where objects come from: the Kubernetes API, or a directory of manifests. What stands behind a [`Feed`] is the same.

pub mod api;
pub mod fault;
pub mod manifests;
pub mod node;
mod outlet;
pub mod publish;
pub mod services;

use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::watch;

use crate::objects::Objects;

/// A source as its readers see it. It runs in a task of its own until both receivers are gone.
#[derive(Debug, Clone)]
pub struct Feed {
    /// The newest snapshot; `None` until the first full one. While a source fails, the last good one stays.
    pub objects: watch::Receiver<Option<Arc<Objects>>>,
    /// How the source is.
    pub state: watch::Receiver<SourceState>,
}

/// How a source is, for people, metrics and readiness.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SourceState {
    /// `api https://10.0.0.1:6443` or `manifests /etc/bowline/manifests`.
    pub what: String,
    /// Whether it is in touch right now: the watch is established, the directory can be read.
    pub is_connected: bool,
    /// Since when it is as `is_connected` says.
    pub since: Option<SystemTime>,
    /// What is wrong at present, each a sentence: file, line and field of a broken manifest, the API's answer.
    pub problems: Vec<String>,
    /// Snapshots so far.
    pub snapshots: u64,
    /// Restarts of a watch after an error so far, by cause: `410`, `429`, `connect`, `decode`.
    pub restarts: std::collections::BTreeMap<String, u64>,
}
