//! `bowlined`: one per node.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Parser, Subcommand};
use daemon::agent::{self, Agent, Outlets};
use daemon::cleanup::{self, CleanupArgs};
use daemon::config::{Config, Source, Typed};
use daemon::http::{self, Shown, Topic};
use daemon::metrics::Metrics;
use daemon::proxy::health::{Checks, Teller};
use daemon::proxy::{self, Handle};
use daemon::source::publish::{self, Wanted};
use daemon::source::{Feed, api, manifests, services};
use daemon::{kube_proxy, lock, log, stop};
use tokio::sync::watch;

/// Makes a cluster of single nodes: pods on every node reach each other.
#[derive(Debug, Parser)]
#[command(name = "bowlined", version)]
struct Bowlined {
    /// File with the same settings as the flags, in camelCase; flags win [/etc/bowline/bowline.yaml, if it is there].
    #[arg(long)]
    config: Option<PathBuf>,
    #[command(flatten)]
    typed: Typed,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Say whether the configuration can be understood, and end.
    Check,
    /// Remove everything that bowlined has made on this node.
    Cleanup(CleanupArgs),
    /// Be kube-proxy, with its flags and its file: Services alone, no pod network. Called by that name it is, too.
    #[command(name = kube_proxy::NAME)]
    KubeProxy,
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args_os().map(|word| word.to_string_lossy().into_owned()).collect();
    if let Some(args) = kube_proxy::called(&words) {
        return kube_proxy::main(args);
    }
    let line = Bowlined::parse();
    let outcome = match &line.command {
        Some(Command::Cleanup(args)) => cleanup::run(args, &mut |sentence| println!("{sentence}")),
        Some(Command::Check) => understand(&line).map(|_| ()).map_err(|sentence| vec![sentence]),
        // Told apart before.
        Some(Command::KubeProxy) => return kube_proxy::main(&[]),
        None => understand(&line).and_then(run).map_err(|sentence| vec![sentence]),
    };
    let Err(sentences) = outcome else { return ExitCode::SUCCESS };
    for sentence in sentences {
        eprintln!("bowlined: {sentence}");
    }
    ExitCode::FAILURE
}

fn understand(line: &Bowlined) -> Result<Config, String> {
    let (path, file) = Typed::read_or_default(line.config.as_deref())?;
    Config::understand(&line.typed, &file, &path, &|name| std::env::var(name).ok())
}

fn run(config: Config) -> Result<(), String> {
    log::start(config.log_format, &config.log_level)?;
    let _only = lock::acquire(&config.paths.run)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| format!("start an event loop: {error}"))?;
    runtime.block_on(keep(config))
}

/// Serves and keeps the node until somebody asks for an end.
async fn keep(config: Config) -> Result<(), String> {
    let stop = stop::asked()?;
    let metrics = Arc::new(Metrics::new(config.settings.mode.as_str()));
    let (status, seen) = watch::channel(Arc::new(agent::blank(&config)));
    let _only_proxy = config.proxy.as_ref().map(|_| lock::acquire_proxy()).transpose()?;
    if config.proxy.is_none() {
        match proxy::withdraw(&config.paths.state) {
            Ok(true) => tracing::info!("removed the tables of Services: this node serves none any more"),
            Ok(false) => {}
            Err(sentence) => tracing::warn!("tables of Services stay: {sentence}"),
        }
    }
    let (feed, proxy) = feed(&config).await?;
    let teller = teller(&config, proxy.as_ref());
    if let Some(teller) = &teller {
        tokio::spawn(Checks::new(teller.clone()).follow());
    }
    let shown = Shown { status: seen, metrics: Arc::clone(&metrics), proxy: proxy.clone(), teller };
    for (address, topic) in [(config.healthz, Topic::Health), (config.metrics, Topic::Metrics)] {
        if let Some(address) = address {
            tokio::spawn(http::serve(http::listen(address).await?, topic, shown.clone()));
        }
    }
    let socket_path = config.paths.run.join(daemon::status::SOCKET);
    tokio::spawn(http::serve_unix(http::listen_unix(&socket_path)?, shown));
    let (wanted, publication) = publication(&config, &feed);
    Agent::new(config, feed, Outlets { status, metrics, wanted, publication, proxy })?.run(stop).await?;
    // A socket that nobody listens at would look like a daemon that hangs.
    daemon::file::remove(&socket_path)?;
    tracing::info!(
        "bowlined ends; links, routes and rules stay, so pods go on talking (`bowline cleanup` removes them)"
    );
    Ok(())
}

/// How the API is reached; `None` when Nodes come from manifests.
fn api_of(config: &Config) -> Option<api::Config> {
    let Source::Api { kubeconfig, servers } = &config.source else { return None };
    Some(api::Config {
        kubeconfig: kubeconfig.clone(),
        servers: servers.clone(),
        state_dir: config.paths.state.clone(),
        timing: api::Timing::default(),
    })
}

/// Where Nodes come from, and the Service proxy with its own sources.
async fn feed(config: &Config) -> Result<(Feed, Option<Handle>), String> {
    let service_cidrs = &config.ranges.service;
    let (feed, feeds) = match (&config.source, &config.proxy) {
        (Source::Manifests(directory), None) => (manifests::run(directory.clone()), None),
        (Source::Manifests(directory), Some(proxy)) => {
            let (feed, feeds) =
                manifests::run_with_services(directory.clone(), &proxy.node_name, service_cidrs);
            (feed, Some(feeds))
        }
        (Source::Api { .. }, proxy) => {
            let api = api_of(config).ok_or("no source of Nodes is configured")?;
            api::check(&api).await?;
            let feeds = proxy.as_ref().map(|proxy| services::from_api(&api, &proxy.node_name, service_cidrs));
            (api::run(api), feeds)
        }
    };
    let proxy = match (config.proxy.clone(), feeds) {
        (Some(proxy), Some(feeds)) => Some(proxy::start(proxy, feeds).await?),
        _ => None,
    };
    Ok((feed, proxy))
}

/// Who answers about the Service proxy's health, where there is one.
fn teller(config: &Config, proxy: Option<&Handle>) -> Option<Teller> {
    let (config, proxy) = config.proxy.as_ref().zip(proxy)?;
    Some(Teller::new(proxy.published.clone(), config.sync_period, Arc::clone(&proxy.metrics)))
}

/// What the agent wants its Node to say, and what stands in the way of that.
fn publication(
    config: &Config,
    feed: &Feed,
) -> (watch::Sender<Wanted>, Option<watch::Receiver<Option<String>>>) {
    let (wanted, told) = watch::channel(Wanted::default());
    let publish = |api| publish::run(api, config.node_name.clone(), feed.objects.clone(), told);
    (wanted, api_of(config).map(publish))
}
