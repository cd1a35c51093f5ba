//! Health, metrics and status by HTTP/1.1: on the addresses of the configuration, and on the control socket.

use std::convert::Infallible;
use std::fmt::Write as _;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use crate::metrics::Metrics;
use crate::proxy::health::Teller;
use crate::proxy::{Handle, ask};
use crate::status::{LEASES, Status, count_pods};

/// Connections at a time and listener; more wait.
const CONNECTIONS: usize = 32;
/// A client that takes longer is hung up on.
const PATIENCE: Duration = Duration::from_secs(30);

/// What is told.
#[derive(Debug, Clone)]
pub struct Shown {
    /// The node's newest state.
    pub status: watch::Receiver<Arc<Status>>,
    /// The counters.
    pub metrics: Arc<Metrics>,
    /// The Service proxy, where there is one.
    pub proxy: Option<Handle>,
    /// Who answers about its health.
    pub teller: Option<Teller>,
}

/// Which questions a listener answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Topic {
    /// /healthz, /livez, /readyz.
    Health,
    /// /metrics.
    Metrics,
    /// All of these, /status, and on the control socket /services and /trace.
    Everything,
}

/// Listens on `address`.
///
/// # Errors
/// A sentence that names the address.
pub async fn listen(address: SocketAddr) -> Result<TcpListener, String> {
    TcpListener::bind(address).await.map_err(|error| format!("listen on {address}: {error}"))
}

/// Listens on the socket at `path`, in the place of one that a predecessor left. Only root may ask.
///
/// # Errors
/// A sentence that names the path.
pub fn listen_unix(path: &Path) -> Result<UnixListener, String> {
    use std::os::unix::fs::PermissionsExt;
    let failed = |error: io::Error| format!("listen on {}: {error}", path.display());
    crate::file::remove(path)?;
    let listener = UnixListener::bind(path).map_err(failed)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
    Ok(listener)
}

/// Answers for ever.
pub async fn serve(listener: TcpListener, topic: Topic, shown: Shown) {
    serve_by(listener, move |request| std::future::ready(respond(&request, topic, &shown))).await;
}

/// [`serve`] on the control socket.
pub async fn serve_unix(listener: UnixListener, shown: Shown) {
    let answer = move |request: Request<Incoming>| {
        let shown = shown.clone();
        async move {
            let (path, query) = (request.uri().path(), request.uri().query().unwrap_or_default());
            match ask::answer(shown.proxy.as_ref().map(|proxy| &proxy.ask), path, query).await {
                Some((StatusCode::OK, body)) => {
                    response(StatusCode::OK, &[("content-type", "application/json")], body)
                }
                Some((status, sentence)) => response(status, &[("content-type", TEXT)], sentence + "\n"),
                None => respond(&request, Topic::Everything, &shown),
            }
        }
    };
    serve_by(listener, answer).await;
}

/// What can be listened on.
pub trait Listen {
    /// A connection.
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// The next connection.
    fn next(&self) -> impl Future<Output = io::Result<Self::Stream>> + Send;
}

impl Listen for TcpListener {
    type Stream = TcpStream;

    async fn next(&self) -> io::Result<TcpStream> {
        self.accept().await.map(|(stream, _)| stream)
    }
}

impl Listen for UnixListener {
    type Stream = UnixStream;

    async fn next(&self) -> io::Result<UnixStream> {
        self.accept().await.map(|(stream, _)| stream)
    }
}

/// Answers every request by `answer`, for ever. Dropped, it hangs up on everybody.
pub async fn serve_by<A, F>(listener: impl Listen, answer: A)
where
    A: Fn(Request<Incoming>) -> F + Clone + Send + 'static,
    F: Future<Output = Response<Full<Bytes>>> + Send + 'static,
{
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    let mut conversations = JoinSet::new();
    loop {
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else { return };
        while conversations.try_join_next().is_some() {}
        match listener.next().await {
            Ok(stream) => {
                let answer = answer.clone();
                conversations.spawn(async move {
                    converse(stream, answer).await;
                    drop(permit);
                });
            }
            Err(error) => pause_after(&error).await,
        }
    }
}

/// Without descriptors accept(2) fails at once, again and again.
async fn pause_after(error: &io::Error) {
    tracing::warn!(%error, "a connection could not be accepted");
    // Not a wait for anything: there is no event for a descriptor that has become free.
    tokio::time::sleep(Duration::from_millis(100)).await;
}

async fn converse<A, F>(stream: impl AsyncRead + AsyncWrite + Unpin, answer: A)
where
    A: Fn(Request<Incoming>) -> F,
    F: Future<Output = Response<Full<Bytes>>>,
{
    let service = service_fn(move |request| {
        let answered = answer(request);
        async move { Ok::<_, Infallible>(answered.await) }
    });
    let connection =
        hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    // A client that hangs up or takes too long is no event here.
    let _ = tokio::time::timeout(PATIENCE, connection).await;
}

fn respond(request: &Request<Incoming>, topic: Topic, shown: &Shown) -> Response<Full<Bytes>> {
    // With a Service proxy these are kube-proxy's, as load balancers and autoscalers know them.
    let probed = shown.teller.as_ref().filter(|_| topic != Topic::Metrics);
    if let Some(answered) = probed.and_then(|teller| teller.respond(request.uri().path())) {
        return answered;
    }
    let (status, kind, body) = answer(request, topic, shown);
    response(status, &[("content-type", kind)], body)
}

/// A whole answer.
pub fn response(status: StatusCode, headers: &[(&str, &str)], body: String) -> Response<Full<Bytes>> {
    let mut response = Response::builder().status(status);
    for (name, value) in headers {
        response = response.header(*name, *value);
    }
    response.body(Full::new(Bytes::from(body))).unwrap_or_default()
}

type Answer = (StatusCode, &'static str, String);
const TEXT: &str = "text/plain; charset=utf-8";

fn answer(request: &Request<Incoming>, topic: Topic, shown: &Shown) -> Answer {
    if request.method() != Method::GET && request.method() != Method::HEAD {
        return (StatusCode::METHOD_NOT_ALLOWED, TEXT, "only GET is answered\n".into());
    }
    answer_path(request.uri().path(), request.uri().query().unwrap_or_default(), topic, shown)
}

fn answer_path(path: &str, query: &str, topic: Topic, shown: &Shown) -> Answer {
    let verbose = query.split('&').any(|word| word == "verbose" || word.starts_with("verbose="));
    match (path, topic) {
        // That this is answered at all says that the daemon's one thread turns; an API that is away is no reason to
        // start the daemon anew.
        ("/healthz" | "/livez", Topic::Health | Topic::Everything) => (StatusCode::OK, TEXT, "ok\n".into()),
        ("/readyz", Topic::Health | Topic::Everything) => readyz(&shown.status.borrow(), verbose),
        ("/metrics", Topic::Metrics | Topic::Everything) => {
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            let proxy = shown.proxy.as_ref().map(|proxy| proxy.metrics.text()).unwrap_or_default();
            (StatusCode::OK, kind, proxy + &shown.metrics.text())
        }
        ("/proxyMode", Topic::Metrics | Topic::Everything) if shown.proxy.is_some() => (
            StatusCode::OK,
            TEXT,
            shown.proxy.as_ref().map(|proxy| proxy.mode.to_string()).unwrap_or_default(),
        ),
        ("/status", Topic::Everything) => {
            let status = shown.status.borrow().as_ref().clone();
            let status = Status { pods: count_pods(Path::new(LEASES)), ..status };
            tell(status.now(shown.proxy.as_ref()), query)
        }
        _ => (StatusCode::NOT_FOUND, TEXT, "there is nothing here\n".into()),
    }
}

/// The answer to `GET /status`, brief where `query` asks for that.
pub fn tell(status: Status, query: &str) -> (StatusCode, &'static str, String) {
    let is_brief = query.split('&').any(|word| word == "brief");
    let status = if is_brief { status.brief() } else { status };
    match serde_json::to_string_pretty(&status) {
        Ok(text) => (StatusCode::OK, "application/json", text + "\n"),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, TEXT, format!("{error}\n")),
    }
}

fn readyz(status: &Status, verbose: bool) -> Answer {
    let code = if status.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let mut text = String::new();
    for check in status.checks.iter().filter(|check| verbose || !check.ok) {
        let sign = if check.ok { '+' } else { '-' };
        let blank = if check.detail.is_empty() { "" } else { ": " };
        let _ = writeln!(text, "[{sign}] {}{blank}{}", check.name, check.detail);
    }
    text.push_str(if status.ready { "ready\n" } else { "not ready\n" });
    (code, TEXT, text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::Check;

    fn shown(ready: bool) -> (watch::Sender<Arc<Status>>, Shown) {
        let check =
            if ready { Check::met("node", "10.1.0.0/24") } else { Check::unmet("node", "no Node `a`") };
        let status = Status { ready, checks: vec![check], ..Status::default() };
        let (sender, status) = watch::channel(Arc::new(status));
        (sender, Shown { status, metrics: Arc::new(Metrics::new("vxlan")), proxy: None, teller: None })
    }

    #[test]
    fn readiness_says_what_is_missing_and_liveness_does_not_care() {
        let (_sender, unready) = shown(false);
        let (code, _, text) = answer_path("/readyz", "", Topic::Health, &unready);
        assert_eq!((code.as_u16(), text.as_str()), (503, "[-] node: no Node `a`\nnot ready\n"));
        assert_eq!(answer_path("/livez", "", Topic::Health, &unready).0, StatusCode::OK);
        let (_sender, ready) = shown(true);
        assert_eq!(answer_path("/readyz", "", Topic::Health, &ready).2, "ready\n");
        assert_eq!(
            answer_path("/readyz", "verbose", Topic::Health, &ready).2,
            "[+] node: 10.1.0.0/24\nready\n"
        );
    }

    #[test]
    fn each_listener_answers_its_own_questions() {
        let (_sender, shown) = shown(true);
        for (path, topic, code) in [
            ("/metrics", Topic::Health, 404),
            ("/readyz", Topic::Metrics, 404),
            ("/status", Topic::Health, 404),
            ("/metrics", Topic::Metrics, 200),
            ("/status", Topic::Everything, 200),
            ("/", Topic::Everything, 404),
        ] {
            assert_eq!(answer_path(path, "", topic, &shown).0.as_u16(), code, "{path} {topic:?}");
        }
    }
}
