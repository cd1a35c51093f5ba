//! How all nodes of a cluster are, asked from anywhere that reaches the API.
//!
//! ```text
//!            Nodes ─────────────────────────┐
//!  API ──── pods of the DaemonSet ──────────┼─► judge ─► Survey
//!            pods/exec `bowline status` ────┘   (pure)
//!            in each, at the same time
//! ```
//! The API tells what should be there, each daemon what it has done. Facts travel by the rights of the one who asks
//! ([`exec`] says how), so daemons publish nothing and listen to nobody for it.

mod exec;
mod frame;
mod judge;
mod list;
#[cfg(test)]
mod tests;
mod whole;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use futures::StreamExt;
use kube::Client;
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde::{Deserialize, Serialize};

use self::exec::Place;
pub use self::judge::{Answer, Finding, NodeSurvey, Severity, State};
pub use self::list::{NodeFacts, PodFacts};
use crate::log::chain_of;
use crate::status::Status;

/// The labels of the daemon's pods in conf/.
pub const SELECTOR: &str = "app.kubernetes.io/name=bowline,app.kubernetes.io/component=node";
/// Those of the proxy alone, which has taken the place of kubeadm's DaemonSet under its name.
const PROXY_SELECTOR: &str = "k8s-app=kube-proxy";
/// What tells it from kubeadm's own.
const PROXY_IMAGE: &str = "bowline";
/// Their namespace there.
pub const NAMESPACE: &str = "kube-system";
/// That many daemons are asked at a time.
const AT_ONCE: usize = 16;
/// From that many nodes on answers leave out the peers that nothing is wrong with.
const MANY: usize = 100;
/// Until a connection to the API stands.
const CONNECT: Duration = Duration::from_secs(5);

/// Whom to ask.
#[derive(Debug, Clone)]
pub struct Asked {
    /// A kubeconfig. Without one: `KUBECONFIG`, `~/.kube/config`, the credentials of the pod.
    pub kubeconfig: Option<PathBuf>,
    /// One of its contexts; none is the current one.
    pub context: Option<String>,
    /// Namespace of the daemon's pods.
    pub namespace: String,
    /// Their labels.
    pub selector: String,
    /// Only these nodes; all when empty.
    pub nodes: Vec<String>,
    /// How long a daemon may take to answer.
    pub patience: Duration,
}

/// A cluster at one moment.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Survey {
    /// The API server that was asked.
    pub server: String,
    /// Every node, by name.
    pub nodes: Vec<NodeSurvey>,
    /// What concerns more than one node.
    pub findings: Vec<Finding>,
}

impl Survey {
    /// Whether nothing is wrong. What should only be known does not count.
    pub fn is_well(&self) -> bool {
        let nodes = self.nodes.iter().flat_map(|node| &node.findings);
        !nodes.chain(&self.findings).any(|finding| finding.severity == Severity::Problem)
    }
}

/// Surveys a cluster.
///
/// # Errors
/// A sentence: no credentials, no answer, a refusal to list Nodes or pods, a node that there is not. What is wrong with
/// single nodes is no error but a finding.
pub fn look(asked: &Asked) -> Result<Survey, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| format!("start an event loop: {error}"))?;
    runtime.block_on(survey(asked))
}

async fn survey(asked: &Asked) -> Result<Survey, String> {
    let mut config = config(asked).await?;
    config.connect_timeout = Some(CONNECT);
    config.default_retry = false;
    let server = config.cluster_url.to_string().trim_end_matches('/').to_owned();
    let client = Client::try_from(config).map_err(|error| format!("{server}: {}", chain_of(&error)))?;
    let (nodes, pods) = tokio::join!(list::nodes(&client), pods(&client, asked));
    let failed = |what: &str, error: String| format!("{server}: list {what}: {error}");
    let nodes = nodes.map_err(|error| failed("nodes", error))?;
    let (selector, pods) = pods.map_err(|error| failed(&format!("pods of {}", asked.namespace), error))?;
    let asked = &Asked { selector, ..asked.clone() };
    if let Some(name) = asked.nodes.iter().find(|name| !nodes.iter().any(|it| it.node.name == **name)) {
        return Err(format!("{server}: there is no Node `{name}`"));
    }
    let pods = judge::by_node(pods);
    let wanted = |name: &str| asked.nodes.is_empty() || asked.nodes.iter().any(|it| it == name);
    let chosen = pods.values().filter(|pod| wanted(&pod.node) && pod.is_running);
    let chosen: Vec<&PodFacts> = chosen.collect();
    let is_brief = nodes.len() > MANY;
    let answers = chosen.into_iter().map(|pod| {
        let client = client.clone();
        async move { (pod.node.clone(), ask(&client, asked, pod, is_brief).await) }
    });
    let answers: BTreeMap<String, Answer> =
        futures::stream::iter(answers).buffer_unordered(AT_ONCE).collect().await;
    let mut survey = judge::judge(&nodes, &pods, &answers, asked);
    survey.server = server;
    survey.nodes.retain(|node| wanted(&node.name));
    Ok(survey)
}

/// The daemon's pods, and by which labels they were found.
async fn pods(client: &Client, asked: &Asked) -> Result<(String, Vec<PodFacts>), String> {
    let found = list::pods(client, &asked.namespace, &asked.selector).await?;
    if !found.is_empty() || asked.selector != SELECTOR {
        return Ok((asked.selector.clone(), found));
    }
    let mut proxies = list::pods(client, &asked.namespace, PROXY_SELECTOR).await?;
    proxies.retain(|pod| pod.image.contains(PROXY_IMAGE));
    let selector = if proxies.is_empty() { SELECTOR } else { PROXY_SELECTOR };
    Ok((selector.to_owned(), proxies))
}

async fn config(asked: &Asked) -> Result<kube::Config, String> {
    let options = KubeConfigOptions { context: asked.context.clone(), ..KubeConfigOptions::default() };
    if let Some(path) = &asked.kubeconfig {
        let failed =
            |error: &dyn std::error::Error| format!("kubeconfig: {}: {}", path.display(), chain_of(error));
        let kubeconfig = Kubeconfig::read_from(path).map_err(|error| failed(&error))?;
        let config = kube::Config::from_custom_kubeconfig(kubeconfig, &options).await;
        return config.map_err(|error| failed(&error));
    }
    let found = kube::Config::from_kubeconfig(&options).await;
    match found {
        Ok(config) => Ok(config),
        Err(error) if asked.context.is_some() => Err(format!("kubeconfig: {}", chain_of(&error))),
        Err(error) => kube::Config::incluster_env()
            .map_err(|_| format!("no cluster to ask: set --kubeconfig or KUBECONFIG ({})", chain_of(&error))),
    }
}

/// Asks the daemon in a pod.
async fn ask(client: &Client, asked: &Asked, pod: &PodFacts, is_brief: bool) -> Answer {
    let place = Place { namespace: &asked.namespace, pod: &pod.name, container: &pod.container };
    let mut command = vec!["bowline", "status", "-o", "json"];
    command.extend(is_brief.then_some("--brief"));
    let said = match exec::run(client, place, &command, asked.patience).await {
        Ok(said) => said,
        Err(sentence) => return Answer::Failed(sentence),
    };
    // It ends with 1 where the node is not ready, and answers all the same.
    if let Ok(status) = serde_json::from_slice::<Status>(&said.stdout) {
        return Answer::Status(Box::new(status));
    }
    let words = String::from_utf8_lossy(&said.stderr);
    let end = said.end.map(|end| end.message).filter(|message| !message.is_empty());
    let words = words.lines().find(|line| !line.trim().is_empty()).map(str::to_owned).or(end);
    Answer::Failed(words.unwrap_or_else(|| "the connection ended before its answer did".to_owned()))
}
