//! Serving until somebody asks for an end.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::{Request, Response, StatusCode};
use tokio::net::TcpListener;

use super::decided::Decided;
use super::run::{NAME, directory_of};
use super::{SOCKET, render};
use crate::http::{response, serve_by};
use crate::proxy::health::{self, Checks, Teller, listen_patiently};
use crate::proxy::{self, Feeds, Handle, ask};
use crate::source::manifests::{self, notice::Notices};
use crate::source::{Feed, api, services};
use crate::status::{Check, Status, seconds};
use crate::{config, http, lock, stop};

const TEXT: (&str, &str) = ("content-type", "text/plain; charset=utf-8");
const JSON: (&str, &str) = ("content-type", "application/json");
/// What /metrics is: the exposition ends with a mark.
const METRICS: (&str, &str) = ("content-type", "application/openmetrics-text; version=1.0.0; charset=utf-8");

/// Serves Services until SIGTERM or SIGINT. What is in the kernel stays.
///
/// # Errors
/// A sentence: what is configured can't be done here, the file of settings has changed, or the proxy has ended.
pub(super) fn serve(decided: Decided) -> Result<(), String> {
    let _only = lock::acquire_proxy()?;
    let adjusted = std::fs::write("/proc/self/oom_score_adj", decided.oom_score_adj.to_string());
    if let Err(error) = adjusted {
        tracing::warn!("oomScoreAdj: {}: {error}", decided.oom_score_adj);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| format!("start an event loop: {error}"))?;
    runtime.block_on(keep(decided))
}

async fn keep(decided: Decided) -> Result<(), String> {
    let stop = stop::asked()?;
    let file = decided.file.clone();
    // Watched before anything is done by it.
    let changed = changed(file.as_deref());
    let (_nodes, feeds) = feeds(&decided).await?;
    let handle = proxy::start(decided.proxy.clone(), feeds).await?;
    let teller =
        Teller::new(handle.published.clone(), decided.proxy.sync_period, Arc::clone(&handle.metrics));
    tokio::spawn(Checks::new(teller.clone()).follow());
    let is_hard = decided.bind_hard_fail;
    if let Some(address) = decided.healthz {
        let serve = |listener| health::serve(listener, teller);
        listen(address, "healthzBindAddress", is_hard, serve).await?;
    }
    if let Some(address) = decided.metrics {
        let teller =
            Metered { handle: handle.clone(), settings: render::tree(&decided.settings).to_string() };
        let serve =
            |listener| serve_by(listener, move |request| std::future::ready(teller.respond(&request)));
        listen(address, "metricsBindAddress", is_hard, serve).await?;
    }
    answer_questions(&handle, blank(&decided.proxy.node_name));
    let mut published = handle.published.clone();
    let ended = async move { while published.changed().await.is_ok() {} };
    tokio::select! {
        () = stop => {
            // A socket that nobody listens at would look like a daemon that hangs.
            crate::file::remove(&socket())?;
            tracing::info!("kube-proxy ends; its rules stay, so Services go on working (--cleanup removes them)");
            Ok(())
        }
        sentence = changed => Err(sentence),
        () = ended => Err("the Service proxy has ended".into()),
    }
}

/// Listens and serves. If the address is taken that is the end where it shall be; else it is tried again.
async fn listen<F>(
    address: SocketAddr,
    what: &'static str,
    is_hard: bool,
    serve: impl FnOnce(TcpListener) -> F + Send + 'static,
) -> Result<(), String>
where
    F: Future<Output = ()> + Send + 'static,
{
    if is_hard {
        let listener = http::listen(address).await.map_err(|error| format!("{what}: {error}"))?;
        tokio::spawn(serve(listener));
    } else {
        tokio::spawn(async move { serve(listen_patiently(address, what).await).await });
    }
    Ok(())
}

/// Where objects come from. What a directory of manifests says of Nodes is of no use here, and kept to keep it going.
async fn feeds(decided: &Decided) -> Result<(Option<Feed>, Feeds), String> {
    let node = &decided.proxy.node_name;
    if let Some(directory) = &decided.manifests {
        let (nodes, feeds) = manifests::run_with_services(directory.clone(), node, &[]);
        return Ok((Some(nodes), feeds));
    }
    let api = api::Config {
        kubeconfig: decided.kubeconfig.clone(),
        servers: decided.master.iter().cloned().collect(),
        state_dir: decided.proxy.state_dir.clone(),
        timing: api::Timing::default(),
    };
    api::check(&api).await?;
    Ok((None, services::from_api(&api, node, &[])))
}

/// What of a status does not change.
fn blank(node: &str) -> Status {
    Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        started: seconds(SystemTime::now()),
        node: node.to_owned(),
        mode: NAME.to_owned(),
        ..Status::default()
    }
}

/// How this node is, as far as Services go.
fn status_of(handle: &Handle, blank: Status) -> Status {
    let status = blank.now(Some(handle));
    let services = status.services.clone().unwrap_or_default();
    let check = match services.problems.first() {
        _ if services.is_programmed => {
            Check::met("services", format!("{} Service ports by {}", services.ports, services.mode))
        }
        why => Check::unmet(
            "services",
            format!("Services are not programmed yet: {}", why.map_or("they are being read", String::as_str)),
        ),
    };
    Status { ready: check.ok, checks: vec![check], notes: services.problems, ..status }
}

/// The control socket of `bowline status`, `services` and `trace`. Without a place for it nothing else is amiss.
fn answer_questions(handle: &Handle, blank: Status) {
    let socket = socket();
    let run = directory_of(&socket);
    let listener = std::fs::create_dir_all(&run)
        .map_err(|error| format!("make directory {}: {error}", run.display()))
        .and_then(|()| http::listen_unix(&socket));
    let handle = handle.clone();
    let answer = move |request: Request<Incoming>| {
        let (handle, blank) = (handle.clone(), blank.clone());
        async move {
            let (path, query) = (request.uri().path(), request.uri().query().unwrap_or_default());
            match ask::answer(Some(&handle.ask), path, query).await {
                Some((StatusCode::OK, body)) => response(StatusCode::OK, &[JSON], body),
                Some((status, sentence)) => response(status, &[TEXT], sentence + "\n"),
                None if path == "/status" => {
                    let (code, kind, body) = http::tell(status_of(&handle, blank), query);
                    response(code, &[("content-type", kind)], body)
                }
                None => nothing(),
            }
        }
    };
    match listener {
        Ok(listener) => drop(tokio::spawn(serve_by(listener, answer))),
        Err(sentence) => tracing::warn!("`bowline status`, `services` and `trace` can't ask: {sentence}"),
    }
}

fn socket() -> PathBuf {
    config::Paths::default().run.join(SOCKET)
}

/// What the metrics server tells.
#[derive(Debug, Clone)]
struct Metered {
    handle: Handle,
    settings: String,
}

impl Metered {
    fn respond(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        let (header, body) = match request.uri().path() {
            "/metrics" => (METRICS, self.handle.metrics.text() + "# EOF\n"),
            "/proxyMode" => (TEXT, self.handle.mode.to_string()),
            "/healthz" => (TEXT, "ok".to_owned()),
            "/configz" => (JSON, format!("{{\"kubeproxy.config.k8s.io\":{}}}", self.settings)),
            path if path.starts_with("/debug/pprof") => {
                return response(
                    StatusCode::NOT_FOUND,
                    &[TEXT],
                    "a program that is not in Go has no pprof\n".into(),
                );
            }
            _ => return nothing(),
        };
        response(StatusCode::OK, &[header], body)
    }
}

fn nothing() -> Response<Full<Bytes>> {
    response(StatusCode::NOT_FOUND, &[TEXT], "there is nothing here\n".into())
}

/// Completes when the file of settings says something else than at first: whoever started this starts it again.
async fn changed(file: Option<&Path>) -> String {
    let Some(path) = file else { return never().await };
    let read = |path: &Path| std::fs::read(path).ok();
    let first = read(path);
    let (path, mut notices): (PathBuf, _) = (path.to_owned(), Notices::open(&directory_of(path)));
    loop {
        notices.watch();
        if read(&path) != first {
            return format!("{}: has changed; a new start takes it up", path.display());
        }
        notices.changed().await;
    }
}

async fn never() -> String {
    let never: Infallible = std::future::pending().await;
    match never {}
}
