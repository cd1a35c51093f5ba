//! What load balancers, kubelets and autoscalers are answered, by real requests.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use daemon::proxy::health::{Checks, Teller, listen_patiently, serve};
use daemon::proxy::{FamilyState, Metrics, Published};
use kernel::dual::DualStack;
use proxy::Mode;
use proxy::plan::{HealthCheck, NodePorts};
use proxy::state::ServiceName;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;

const PERIOD: Duration = Duration::from_secs(30);
/// Long enough for a busy machine.
const DEADLINE: Duration = Duration::from_secs(20);

/// An answer.
#[derive(Debug, PartialEq)]
struct Answer {
    status: u16,
    head: String,
    body: Value,
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }
}

/// Asks; none when nobody listens.
async fn ask(address: SocketAddr, path: &str) -> Option<Answer> {
    let mut stream = TcpStream::connect(address).await.ok()?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).await.ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some(Answer { status, head: head.to_owned(), body: serde_json::from_str(body).unwrap_or(Value::Null) })
}

/// Asks until the answer is as wanted.
async fn until(address: SocketAddr, what: &str, is_met: impl Fn(Option<&Answer>) -> bool) -> Option<Answer> {
    let deadline = Instant::now() + DEADLINE;
    loop {
        let answer = ask(address, "/").await;
        if is_met(answer.as_ref()) {
            return answer;
        }
        assert!(Instant::now() < deadline, "{what}: {answer:?}");
        tokio::task::yield_now().await;
    }
}

fn name(name: &str) -> ServiceName {
    ServiceName::new("default", name)
}

fn family(checks: &[(&str, u16, usize)]) -> FamilyState {
    let health: BTreeMap<_, _> = checks
        .iter()
        .map(|(of, port, endpoints)| (name(of), HealthCheck { port: *port, endpoints: *endpoints }))
        .collect();
    FamilyState {
        mode: Mode::Nftables,
        last_success: Some(SystemTime::now()),
        waiting_since: None,
        failure: None,
        health: Arc::new(health),
        node_ports: NodePorts::On(vec!["127.0.0.1".parse().expect("an address")]),
        ports: 1,
        syncs: 1,
    }
}

fn published(v4: FamilyState) -> Arc<Published> {
    let families = DualStack { v4: Some(v4), v6: None };
    Arc::new(Published { families, node_eligible: Some(true), ..Published::default() })
}

fn stuck(state: FamilyState) -> FamilyState {
    FamilyState { waiting_since: Instant::now().checked_sub(PERIOD * 2), ..state }
}

/// A port that was free a moment ago.
fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("it has an address").port()
}

fn at(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

#[tokio::test]
async fn a_probe_learns_whether_the_proxy_keeps_up_and_the_node_stays() {
    let (publish, told) = watch::channel(published(family(&[])));
    let metrics = Arc::new(Metrics::new(Mode::Nftables));
    let address = at(free_port());
    let listener = listen_patiently(address, "healthz").await;
    tokio::spawn(serve(listener, Teller::new(told, PERIOD, Arc::clone(&metrics))));
    let statuses = async || {
        let (healthz, livez) = (ask(address, "/healthz").await, ask(address, "/livez").await);
        (healthz.map(|answer| answer.status), livez.map(|answer| answer.status))
    };
    assert_eq!(statuses().await, (Some(200), Some(200)));
    let answer = ask(address, "/healthz").await.expect("answered");
    assert_eq!(answer.header("content-type"), Some("application/json"));
    assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
    assert_eq!((&answer.body["healthy"], &answer.body["nodeEligible"]), (&json!(true), &json!(true)));
    assert_eq!(answer.body["lastUpdated"], answer.body["currentTime"]);
    assert_eq!(answer.body["status"]["IPv4"]["healthy"], json!(true));
    assert_eq!(ask(address, "/livez").await.expect("answered").body.get("nodeEligible"), None);
    assert_eq!(ask(address, "/metrics").await.expect("answered").status, 404);

    publish.send_replace(published(stuck(family(&[]))));
    assert_eq!(statuses().await, (Some(503), Some(503)));
    for leaving in [Some(false), None] {
        let published = Published { node_eligible: leaving, ..published(family(&[])).as_ref().clone() };
        publish.send_replace(Arc::new(published));
        assert_eq!(statuses().await, (Some(503), Some(200)), "a node that leaves is alive");
    }
    let counted = metrics.text();
    for line in [
        "kubeproxy_proxy_healthz_total{code=\"200\"} 2",
        "kubeproxy_proxy_healthz_total{code=\"503\"} 3",
        "kubeproxy_proxy_livez_total{code=\"503\"} 1",
    ] {
        assert!(counted.lines().any(|it| it == line), "{line} is missing in:\n{counted}");
    }
}

#[tokio::test]
async fn a_load_balancer_learns_how_many_endpoints_a_service_has_here() {
    let (one, other) = (free_port(), free_port());
    let (publish, told) = watch::channel(published(family(&[("web", one, 2)])));
    tokio::spawn(Checks::new(Teller::new(told, PERIOD, Arc::new(Metrics::new(Mode::Nftables)))).follow());
    let answer = until(at(one), "the port to open", |answer| answer.is_some()).await.expect("answered");
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("content-type"), Some("application/json"));
    assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
    assert_eq!(answer.header("x-load-balancing-endpoint-weight"), Some("2"));
    assert_eq!(
        answer.body,
        json!({"service": {"namespace": "default", "name": "web"}, "localEndpoints": 2, "serviceProxyHealthy": true})
    );
    assert_eq!(ask(at(one), "/any/path").await.expect("answered").status, 200);

    publish.send_replace(published(family(&[("web", one, 0)])));
    let answer = ask(at(one), "/").await.expect("answered");
    assert_eq!((answer.status, answer.header("x-load-balancing-endpoint-weight")), (503, Some("0")));

    publish.send_replace(published(stuck(family(&[("web", one, 2)]))));
    let answer = ask(at(one), "/").await.expect("answered");
    assert_eq!((answer.status, &answer.body["serviceProxyHealthy"]), (503, &json!(false)));

    publish.send_replace(published(family(&[("web", other, 1)])));
    until(at(other), "the port to move", |answer| answer.is_some_and(|answer| answer.status == 200)).await;
    until(at(one), "the old port to close", |answer| answer.is_none()).await;

    // A port may go from one Service to another in one step, and nothing is left of the first.
    publish.send_replace(published(family(&[("api", other, 1)])));
    let is_api =
        |answer: Option<&Answer>| answer.is_some_and(|answer| answer.body["service"]["name"] == "api");
    until(at(other), "the port to be the other's", is_api).await;
    publish.send_replace(published(family(&[])));
    until(at(other), "the port to close", |answer| answer.is_none()).await;
}

#[tokio::test]
async fn a_port_that_is_taken_is_tried_again() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let (port, free) = (taken.local_addr().expect("it has an address").port(), free_port());
    let (_publish, told) = watch::channel(published(family(&[("api", port, 1), ("web", free, 1)])));
    let checks = Checks::new(Teller::new(told, PERIOD, Arc::new(Metrics::new(Mode::Nftables))))
        .trying_again(Duration::from_millis(20));
    tokio::spawn(checks.follow());
    // The other Service is served all the same.
    until(at(free), "the free port", |answer| answer.is_some_and(|answer| answer.status == 200)).await;
    drop(taken);
    until(at(port), "the freed port", |answer| answer.is_some_and(|answer| answer.status == 200)).await;
}

#[tokio::test]
async fn both_families_may_have_the_same_port() {
    let port = free_port();
    let everywhere =
        |endpoints| FamilyState { node_ports: NodePorts::Everywhere, ..family(&[("web", port, endpoints)]) };
    let families = DualStack { v4: Some(everywhere(1)), v6: Some(everywhere(0)) };
    let (_publish, told) = watch::channel(Arc::new(Published { families, ..Published::default() }));
    tokio::spawn(Checks::new(Teller::new(told, PERIOD, Arc::new(Metrics::new(Mode::Nftables)))).follow());
    until(at(port), "IPv4", |answer| answer.is_some_and(|answer| answer.status == 200)).await;
    let v6 = SocketAddr::from(([0_u16, 0, 0, 0, 0, 0, 0, 1], port));
    until(v6, "IPv6", |answer| answer.is_some_and(|answer| answer.status == 503)).await;
}
