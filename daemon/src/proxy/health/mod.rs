//! What load balancers, kubelets and autoscalers ask a Service proxy by HTTP, with kube-proxy's paths, JSON and headers.
//!
//! ```text
//! Published ─┬─ state ──► /healthz, /livez on one address          does the proxy keep up? may traffic come here?
//!            └─ checks ─► a server for each healthCheckNodePort    has this Service endpoints here?
//! ```
//! A change that waits for longer than two sync periods makes a family unhealthy; being idle, or not having begun, never
//! does.

mod checks;
mod state;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::{Request, Response, StatusCode};
use tokio::net::TcpListener;
use tokio::sync::watch;

use super::metrics::Probe;
use super::{Metrics, Published};
use crate::http::{response, serve_by};

pub use checks::Checks;
pub use state::{FamilyHealth, Health};

/// Between two attempts to listen where somebody else does.
const AGAIN: Duration = Duration::from_secs(5);
const JSON: [(&str, &str); 2] = [("content-type", "application/json"), ("x-content-type-options", "nosniff")];

/// Answers about the proxy's health.
#[derive(Debug, Clone)]
pub struct Teller {
    published: watch::Receiver<Arc<Published>>,
    patience: Duration,
    metrics: Arc<Metrics>,
}

impl Teller {
    /// Of a proxy with this sync period. Every answer of `/healthz` and `/livez` is counted.
    pub fn new(
        published: watch::Receiver<Arc<Published>>,
        sync_period: Duration,
        metrics: Arc<Metrics>,
    ) -> Self {
        Teller { published, patience: sync_period * 2, metrics }
    }

    /// How the proxy is now.
    pub fn health(&self) -> Health {
        Health::of(&self.published.borrow(), self.patience, Instant::now(), SystemTime::now())
    }

    /// The answer to a path; none to those that are not about health.
    pub fn answer(&self, path: &str) -> Option<(StatusCode, String)> {
        let health = self.health();
        let (probe, is_well) = match path {
            "/healthz" => (Probe::Healthz, health.is_well() && health.node_eligible),
            "/livez" => (Probe::Livez, health.is_well()),
            _ => return None,
        };
        let status = if is_well { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        self.metrics.probed(probe, status.as_u16());
        Some((status, health.json(probe == Probe::Healthz)))
    }

    /// [`Teller::answer`] as a whole.
    pub fn respond(&self, path: &str) -> Option<Response<Full<Bytes>>> {
        self.answer(path).map(|(status, text)| response(status, &JSON, text))
    }
}

/// Serves `/healthz` and `/livez`, for ever.
pub async fn serve(listener: TcpListener, teller: Teller) {
    let answer = move |request: Request<Incoming>| {
        let answered = teller.respond(request.uri().path()).unwrap_or_else(|| {
            let kind = ("content-type", "text/plain; charset=utf-8");
            response(StatusCode::NOT_FOUND, &[kind], "only /healthz and /livez are here\n".into())
        });
        std::future::ready(answered)
    };
    serve_by(listener, answer).await;
}

/// Listens on `address`, as soon as nobody else does. Tells once if that is not now.
pub async fn listen_patiently(address: SocketAddr, what: &str) -> TcpListener {
    let mut is_told = false;
    loop {
        match crate::http::listen(address).await {
            Ok(listener) => return listener,
            Err(error) if !is_told => {
                tracing::warn!("{what}: {error}; it is tried again every {} s", AGAIN.as_secs());
                is_told = true;
            }
            Err(_) => {}
        }
        // Not a wait for anything: there is no event for a port that has become free.
        tokio::time::sleep(AGAIN).await;
    }
}
