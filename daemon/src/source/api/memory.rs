//! The servers behind the `kubernetes` Service, remembered for a boot without Services.
//!
//! A server tells its own address at `/api`, to everybody who may log in. Behind a load balancer each run may meet
//! another one, so they gather. Where EndpointSlices are followed, those of `default/kubernetes` tell all of them. None
//! is remembered before it has answered by that address.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::endpoint::{Config, Reached, at, client};
use super::exchange::{self, Answer};

/// That many are remembered, the newest first.
const REMEMBERED: usize = 5;
/// How long a server may take to prove itself.
const LIMIT: Duration = Duration::from_secs(3);

#[derive(Serialize, Deserialize, Default)]
struct Memory {
    servers: Vec<String>,
}

/// `/api`: which versions there are, and where.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Versions {
    kind: String,
    #[serde(rename = "serverAddressByClientCIDRs", default)]
    addresses: Vec<ServerAddress>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ServerAddress {
    server_address: String,
}

impl Answer for Versions {
    fn is_asked_for(&self) -> bool {
        self.kind == "APIVersions"
    }
}

fn path(state_dir: &Path) -> PathBuf {
    state_dir.join("api-servers.json")
}

/// What is remembered: URLs, best first. A file that can't be read is no memory.
pub fn load(state_dir: &Path) -> Vec<String> {
    let text = std::fs::read(path(state_dir)).unwrap_or_default();
    serde_json::from_slice::<Memory>(&text).unwrap_or_default().servers
}

/// Asks the server for its own address, and remembers it if it answers there. Whatever fails here only costs memory.
pub async fn refresh(config: &Config, reached: &Reached) {
    let Some(template) = &reached.template else { return };
    let Some(found) = prove(config, reached, template).await else { return };
    let mut servers = load(&config.state_dir);
    if servers.first() == Some(&found) {
        return;
    }
    servers.retain(|server| *server != found);
    servers.insert(0, found);
    servers.truncate(REMEMBERED);
    write(&config.state_dir, servers);
}

fn write(state_dir: &Path, servers: Vec<String>) {
    if let Err(error) = save(state_dir, &Memory { servers }) {
        let shown = path(state_dir);
        tracing::warn!("{}: {error}; after a reboot the API is looked for by its ClusterIP", shown.display());
    }
}

/// Remembers those of `servers`, URLs of this API, that answer: all of them in place of what was remembered, since they
/// are all that there are.
pub async fn remember(config: Config, reached: Reached, servers: Vec<String>) {
    let Some(template) = &reached.template else { return };
    let mut found = Vec::new();
    for url in servers.into_iter().take(REMEMBERED) {
        let own = url.parse().ok().and_then(|url| client(at(template, url), &config.timing).ok());
        if let Some(own) = own
            && ask(&own).await.is_some()
        {
            found.push(url);
        }
    }
    if found.is_empty() || found == load(&config.state_dir) {
        return;
    }
    write(&config.state_dir, found);
}

/// The URL that the server names as its own, if it answers there.
async fn prove(config: &Config, reached: &Reached, template: &kube::Config) -> Option<String> {
    let told = ask(&reached.client).await?;
    let address = &told.addresses.first()?.server_address;
    let scheme = template.cluster_url.scheme_str()?;
    let url = format!("{scheme}://{address}");
    let own = client(at(template, url.parse().ok()?), &config.timing).ok()?;
    ask(&own).await.map(|_| url)
}

async fn ask(client: &kube::Client) -> Option<Versions> {
    let request = hyper::Request::get("/api").body(Vec::new()).ok()?;
    exchange::read(client, Ok(request), LIMIT).await.ok()
}

fn save(state_dir: &Path, memory: &Memory) -> std::io::Result<()> {
    std::fs::create_dir_all(state_dir)?;
    let beside = crate::file::unfinished(&path(state_dir));
    let mut file = std::fs::File::create(&beside)?;
    file.write_all(&serde_json::to_vec(memory)?)?;
    file.sync_all()?;
    std::fs::rename(beside, path(state_dir))
}
