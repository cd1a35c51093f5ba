//! Where the API is, and with which credentials.
//!
//! The agent provides the way to Services, so it must not need one: a server named by the administrator comes first,
//! then what earlier runs remember of the servers behind the `kubernetes` Service, and its ClusterIP comes last.

use std::path::{Path, PathBuf};
use std::time::Duration;

use kube::Client;
use kube::config::{KubeConfigOptions, Kubeconfig};

use super::backoff::fraction;
use super::memory;

/// Where a pod finds its credentials.
const TOKEN: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";

/// How the API is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// A kubeconfig, its current context. Without one: the credentials of the pod.
    pub kubeconfig: Option<PathBuf>,
    /// URLs of API servers, in place of what the kubeconfig or the pod's environment says; tried in turn.
    pub servers: Vec<String>,
    /// Where what must outlive a reboot is kept: the servers behind the `kubernetes` Service.
    pub state_dir: PathBuf,
    /// How long things may take.
    pub timing: Timing,
}

impl Config {
    /// Where it leads, for people.
    pub fn shown(&self) -> String {
        match (&self.servers[..], &self.kubeconfig) {
            ([first, ..], _) => first.clone(),
            ([], Some(kubeconfig)) => format!("of {}", kubeconfig.display()),
            ([], None) => "of this cluster".to_owned(),
        }
    }
}

/// How long things may take. The default is for production; tests are in a hurry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timing {
    /// Until a connection stands.
    pub connect: Duration,
    /// Until an answer is whole, or a watch begins.
    pub answer: Duration,
    /// How long a watch may say nothing; servers send a bookmark every minute.
    pub silence: Duration,
    /// What the server is asked to keep a watch open for, at most.
    pub watch: Duration,
    /// A watch that lasted this long was a good one: pauses begin from the first again.
    pub settled: Duration,
    /// The first pause after a failure.
    pub first_pause: Duration,
    /// The longest.
    pub longest_pause: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Timing {
            connect: Duration::from_secs(5),
            answer: Duration::from_secs(30),
            silence: Duration::from_secs(90),
            watch: Duration::from_secs(360),
            settled: Duration::from_secs(10),
            first_pause: Duration::from_secs(1),
            longest_pause: Duration::from_secs(30),
        }
    }
}

impl Timing {
    /// For how many seconds to ask: not the same from every node.
    pub fn watch_seconds(&self) -> u32 {
        let seconds = self.watch.mul_f64(1.0 - fraction() / 3.0).as_secs().max(1);
        u32::try_from(seconds).unwrap_or(u32::MAX)
    }
}

/// A server with a client for it.
#[derive(Clone)]
pub struct Reached {
    /// Its URL.
    pub url: String,
    /// The client.
    pub client: Client,
    /// How another server of the same cluster would be reached; `None` where servers are not remembered.
    pub template: Option<kube::Config>,
}

/// Everything that could be tried, best first; never empty.
pub struct Endpoints {
    tried: Vec<kube::Config>,
    template: Option<kube::Config>,
}

impl Endpoints {
    /// Reads credentials anew: kubeconfigs and tokens change while an agent runs.
    ///
    /// # Errors
    /// A sentence with the file or the URL.
    pub async fn load(config: &Config) -> Result<Self, String> {
        if !config.servers.is_empty() {
            let mut tried = Vec::new();
            for server in &config.servers {
                tried.push(named(server, config.kubeconfig.as_deref()).await?);
            }
            return Ok(Endpoints { tried, template: None });
        }
        if let Some(path) = &config.kubeconfig {
            return Ok(Endpoints { tried: vec![from_kubeconfig(path).await?], template: None });
        }
        let service = kube::Config::incluster_env().map_err(|error| {
            format!("neither kubeconfig nor apiServer is set, and this is no pod of a cluster: {error}")
        })?;
        // A remembered server shows the certificate that the Service's clients know by its ClusterIP.
        let mut template = service.clone();
        template.tls_server_name.get_or_insert(service.cluster_url.host().unwrap_or_default().to_owned());
        let remembered = memory::load(&config.state_dir).into_iter().filter_map(|url| {
            let cluster_url = url.parse().ok()?;
            Some(at(&template, cluster_url))
        });
        let tried = remembered.chain([service]).collect();
        Ok(Endpoints { tried, template: Some(template) })
    }

    /// A client for the one whose turn it is.
    ///
    /// # Errors
    /// A sentence: credentials that can't be used.
    pub fn reach(mut self, turn: usize, timing: &Timing) -> Result<Reached, String> {
        let config = self.tried.swap_remove(turn % self.tried.len());
        let url = shown_url(&config);
        let client = client(config, timing).map_err(|error| format!("{url}: {error}"))?;
        Ok(Reached { url, client, template: self.template })
    }
}

/// A client that waits for connections as `timing` says and leaves retries to its caller.
pub fn client(mut config: kube::Config, timing: &Timing) -> kube::Result<Client> {
    // Where nobody's certificate is asked for, the machine need not have those of the public authorities: our image has
    // none.
    if config.accept_invalid_certs || config.cluster_url.scheme_str() == Some("http") {
        config.root_cert.get_or_insert_default();
    }
    config.connect_timeout = Some(timing.connect);
    config.default_retry = false;
    Client::try_from(config)
}

/// The same credentials, another server.
pub fn at(template: &kube::Config, url: hyper::Uri) -> kube::Config {
    let mut config = template.clone();
    config.cluster_url = url;
    config
}

fn shown_url(config: &kube::Config) -> String {
    config.cluster_url.to_string().trim_end_matches('/').to_owned()
}

/// A server by URL, with the kubeconfig's credentials or the pod's. The pod's token never travels in the clear.
async fn named(server: &str, kubeconfig: Option<&Path>) -> Result<kube::Config, String> {
    let wrong = |why: &str| format!("apiServer: `{server}` {why}");
    let url: hyper::Uri = server.parse().map_err(|_| wrong("is no URL such as https://192.0.2.1:6443"))?;
    let is_plain = match url.scheme_str() {
        Some("https") => false,
        Some("http") => true,
        _ => return Err(wrong("is no URL such as https://192.0.2.1:6443")),
    };
    let credentials = match kubeconfig {
        Some(path) => from_kubeconfig(path).await?,
        None if is_plain => return Ok(kube::Config::new(url)),
        None => kube::Config::incluster_dns().map_err(|error| {
            format!(
                "{}: {error} ({TOKEN} and its neighbours)",
                wrong("needs a kubeconfig or the credentials of a pod")
            )
        })?,
    };
    Ok(at(&credentials, url))
}

async fn from_kubeconfig(path: &Path) -> Result<kube::Config, String> {
    let shown = path.display();
    let kubeconfig = Kubeconfig::read_from(path).map_err(|error| format!("kubeconfig: {shown}: {error}"))?;
    let options = KubeConfigOptions::default();
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &options).await;
    config.map_err(|error| format!("kubeconfig: {shown}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(kubeconfig: Option<&Path>, servers: &[&str]) -> Config {
        Config {
            kubeconfig: kubeconfig.map(Path::to_owned),
            servers: servers.iter().map(|server| (*server).to_owned()).collect(),
            state_dir: PathBuf::from("/nonexistent"),
            timing: Timing::default(),
        }
    }

    async fn mistake(config: &Config) -> String {
        super::super::check(config).await.expect_err("a mistake")
    }

    #[tokio::test]
    async fn every_mistake_names_the_key_and_the_value() {
        for server in ["192.0.2.1", "ftp://192.0.2.1", "https//x"] {
            let expected = format!("apiServer: `{server}` is no URL such as https://192.0.2.1:6443");
            assert_eq!(mistake(&config(None, &[server])).await, expected);
        }
        let outside = mistake(&config(None, &["https://192.0.2.1:6443"])).await;
        assert!(
            outside.starts_with("apiServer: `https://192.0.2.1:6443` needs a kubeconfig or"),
            "{outside}"
        );
        let outside = mistake(&config(None, &[])).await;
        assert!(outside.starts_with("neither kubeconfig nor apiServer is set"), "{outside}");
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("kubeconfig");
        let absent = mistake(&config(Some(&path), &[])).await;
        assert!(absent.starts_with(&format!("kubeconfig: {}: ", path.display())), "{absent}");
        std::fs::write(&path, "clusters: []\nusers: [\n").unwrap();
        let broken = mistake(&config(Some(&path), &[])).await;
        assert!(broken.starts_with(&format!("kubeconfig: {}: ", path.display())), "{broken}");
    }

    #[tokio::test]
    async fn a_named_server_takes_the_credentials_of_the_kubeconfig() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("kubeconfig");
        let text = "\
apiVersion: v1
kind: Config
current-context: c
clusters: [{name: k, cluster: {server: 'https://192.0.2.9:6443', insecure-skip-tls-verify: true}}]
users: [{name: u, user: {token: secret}}]
contexts: [{name: c, context: {cluster: k, user: u}}]
";
        std::fs::write(&path, text).unwrap();
        let mut urls = Vec::new();
        for servers in [&[][..], &["https://192.0.2.1:6443", "https://192.0.2.2:6443"]] {
            let endpoints = Endpoints::load(&config(Some(&path), servers)).await.unwrap();
            assert!(
                endpoints
                    .tried
                    .iter()
                    .all(|tried| tried.auth_info.token.is_some() && tried.accept_invalid_certs)
            );
            urls.push(endpoints.tried.iter().map(shown_url).collect::<Vec<_>>());
        }
        assert_eq!(urls[0], ["https://192.0.2.9:6443"]);
        assert_eq!(urls[1], ["https://192.0.2.1:6443", "https://192.0.2.2:6443"]);
        let named = config(Some(&path), &["https://192.0.2.1:6443", "https://192.0.2.2:6443"]);
        for turn in 0..4 {
            let reached = Endpoints::load(&named).await.unwrap().reach(turn, &Timing::default()).unwrap();
            assert_eq!(reached.url, urls[1][turn % 2]);
        }
    }
}
