//! bowlined as a pod: the ServiceAccount's credentials, TLS, a control plane behind the ClusterIP of `kubernetes`, and
//! no right that conf/base/account.yaml does not grant, none that is granted in vain.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use daemon::source::Feed;
use daemon::source::api::{self, Config, Timing};
use daemon::source::publish::{self, Wanted};
use daemon::source::services;
use lab::apiserver::{ApiServer, Streaming};
use lab::daemon::Daemon;
use lab::{Space, wait};
use serde_json::{Value, json};
use tokio::runtime::Builder;
use tokio::sync::watch;

const CREDENTIALS: &str = "/run/secrets/kubernetes.io/serviceaccount";
const CLUSTER_IP: &str = "10.96.0.1";
const SERVER_IP: &str = "192.0.2.10";

fn timing() -> Timing {
    Timing {
        connect: Duration::from_secs(1),
        answer: Duration::from_secs(2),
        settled: Duration::from_millis(300),
        first_pause: Duration::from_millis(10),
        longest_pause: Duration::from_millis(100),
        ..Timing::default()
    }
}

/// The only test of this program, because it changes the environment.
#[test]
fn a_pod_reaches_the_api_with_the_rights_of_the_manifest() {
    // SAFETY: no other thread of this process reads or writes the environment.
    unsafe {
        std::env::set_var("KUBERNETES_SERVICE_HOST", CLUSTER_IP);
        std::env::set_var("KUBERNETES_SERVICE_PORT", "443");
    }
    let space = Space::new_node().expect("root, or a user namespace");
    let dir = tempfile::tempdir().unwrap();
    space
        .ip_batch(&format!("link set lo up\naddr add {CLUSTER_IP}/32 dev lo\naddr add {SERVER_IP}/32 dev lo"))
        .unwrap();
    let server = space.run(ApiServer::local);
    server.require_token("first");
    server.advertise(&format!("{SERVER_IP}:6443"));
    certify(&space, dir.path());
    let tls = |ip: &str, port: u16| {
        let listen = format!(
            "OPENSSL-LISTEN:{port},bind={ip},fork,reuseaddr,verify=0,certificate={}",
            dir.path().join("both.pem").display()
        );
        let args = [listen, format!("TCP:{}", server.address())];
        let daemon = Daemon::start(&space, Path::new("/usr/bin/socat"), &args, &dir.path().join("socat.log"));
        wait::until("socat listens", || space.sh("ss -ltn").contains(&format!("{ip}:{port}")).then_some(()));
        daemon
    };
    let by_service = tls(CLUSTER_IP, 443);
    let _itself = tls(SERVER_IP, 6443);
    put(&server, "a");
    space.run(|| remembers_the_server(&server, dir.path()));
    // The next boot: no Services yet.
    by_service.kill();
    put(&server, "b");
    let mut network = space.run(|| does_without_services(&server, dir.path()));
    let used = used(&server);
    assert_eq!(used, granted("vxlan"), "left: what the code uses; right: what conf/base/account.yaml grants");
    // Without Services it does less, and may less. What it writes is the same.
    network.insert(Right("patch nodes/status".into()));
    assert_eq!(network, granted("network-only"), "left: what the code uses; right: what network-only grants");
}

/// A certificate of the ClusterIP alone, and the credentials of a pod.
fn certify(space: &Space, dir: &Path) {
    let shown = dir.display();
    let new = "req -x509 -newkey rsa:2048 -nodes -days 2";
    space.sh(&format!("openssl {new} -subj /CN=ca -keyout {shown}/ca.key -out {shown}/ca.pem"));
    let of_server =
        format!("-addext subjectAltName=IP:{CLUSTER_IP} -addext basicConstraints=critical,CA:FALSE");
    let by_ca = format!("-CA {shown}/ca.pem -CAkey {shown}/ca.key");
    space.sh(&format!(
        "openssl {new} {by_ca} {of_server} -subj /CN=server -keyout {shown}/key.pem -out {shown}/server.pem"
    ));
    let read = |name: &str| std::fs::read_to_string(dir.join(name)).unwrap();
    std::fs::write(dir.join("both.pem"), read("key.pem") + &read("server.pem")).unwrap();
    space.sh(&format!("mkdir -p {CREDENTIALS}"));
    space.write(format!("{CREDENTIALS}/ca.crt"), &read("ca.pem"));
    space.write(format!("{CREDENTIALS}/token"), "first");
    space.write(format!("{CREDENTIALS}/namespace"), "kube-system");
}

fn put(server: &ApiServer, name: &str) {
    server.put(json!({
        "metadata": {"name": name},
        "status": {"conditions": [{"type": "NetworkUnavailable", "status": "True"}]},
    }));
}

fn config(dir: &Path) -> Config {
    Config { kubeconfig: None, servers: vec![], state_dir: dir.join("state"), timing: timing() }
}

async fn has(feed: &mut Feed, count: usize) {
    let arrived =
        feed.objects.wait_for(|objects| objects.as_ref().is_some_and(|all| all.nodes.len() == count));
    let arrived = tokio::time::timeout(Duration::from_secs(20), arrived).await.map(|found| found.is_ok());
    assert_eq!(arrived, Ok(true), "waited for {count} nodes: {:?}", feed.state.borrow());
}

/// Runs on this thread: it is in the space.
fn block_on<T>(work: impl Future<Output = T>) -> T {
    Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

fn remembers_the_server(server: &ApiServer, dir: &Path) {
    block_on(async {
        let mut feed = api::run(config(dir));
        has(&mut feed, 1).await;
        let remembered = dir.join("state/api-servers.json");
        let url = format!("https://{SERVER_IP}:6443");
        let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
        while !std::fs::read_to_string(&remembered).is_ok_and(|text| text.contains(&url)) {
            assert!(
                tokio::time::Instant::now() < deadline,
                "{url} is not remembered: {:?}",
                feed.state.borrow()
            );
            // The pause between two looks.
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        // A server that can't be reached by the address that it names is not remembered.
        assert_eq!(feed.state.borrow().restarts, [].into());
        server.stream(Streaming::Refused);
    });
}

/// Gives what was asked for until there was a Service proxy.
fn does_without_services(server: &ApiServer, dir: &Path) -> BTreeSet<Right> {
    block_on(async {
        let mut feed = api::run(config(dir));
        has(&mut feed, 2).await;
        // Tokens of pods are replaced while they run.
        std::fs::write(format!("{CREDENTIALS}/token"), "second").unwrap();
        server.require_token("second");
        server.expire_watches();
        put(server, "c");
        has(&mut feed, 3).await;
        let network = used(server);
        // What the Service proxy reads, by what is remembered so far: no Service leads to a server.
        let feeds = services::from_api(&config(dir), "a", &[]);
        let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
        while server.watches() < 5 {
            assert!(tokio::time::Instant::now() < deadline, "{:?}", feeds.states);
            // The pause between two looks.
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        // The slices of `kubernetes` tell all servers, of which one answers.
        std::fs::remove_file(dir.join("state/api-servers.json")).unwrap();
        server.put(json!({
            "kind": "EndpointSlice",
            "metadata": {"namespace": "default", "name": "kubernetes", "labels": {"kubernetes.io/service-name": "kubernetes"}},
            "addressType": "IPv4",
            "ports": [{"name": "https", "port": 6443}],
            "endpoints": [{"addresses": ["192.0.2.77"]}, {"addresses": [SERVER_IP]}],
        }));
        let url = format!("https://{SERVER_IP}:6443");
        let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
        let remembered = || std::fs::read_to_string(dir.join("state/api-servers.json")).unwrap_or_default();
        while !remembered().contains(&url) || remembered().contains("192.0.2.77") || server.watches() < 5 {
            assert!(tokio::time::Instant::now() < deadline, "{url} in {}: {:?}", remembered(), feeds.states);
            // The pause between two looks.
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let wanted = Wanted { is_network_up: true, wireguard_key: Some([7; 32]) };
        let (_sender, wanted) = watch::channel(wanted);
        let _problem = publish::run(config(dir), "a".into(), feed.objects.clone(), wanted);
        let written = feed.objects.wait_for(|objects| {
            let node = objects.as_ref().and_then(|objects| objects.nodes.get("a"));
            node.is_some_and(|node| node.network_unavailable == Some(false) && node.wireguard_key.is_some())
        });
        tokio::time::timeout(Duration::from_secs(20), written).await.expect("the node is written").unwrap();
        network
    })
}

fn used(server: &ApiServer) -> BTreeSet<Right> {
    server.requests().iter().map(Right::used).collect()
}

/// Verb and resource, or path.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Right(String);

impl Right {
    fn used(request: &lab::apiserver::Recorded) -> Self {
        Right(match (request.resource.as_str(), request.subresource.as_str()) {
            ("", _) => format!("{} {}", request.verb, request.path),
            (resource, "") => format!("{} {resource}", request.verb),
            (resource, subresource) => format!("{} {resource}/{subresource}", request.verb),
        })
    }
}

/// What the ClusterRole says, once the parts of the manifest are known to belong together.
fn granted(choice: &str) -> BTreeSet<Right> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../conf/rendered/{choice}.yaml"));
    let text = std::fs::read_to_string(path).unwrap();
    let objects: Vec<Value> = serde_saphyr::from_multiple(&text).unwrap();
    let of_kind = |kind: &str| {
        let found: Vec<&Value> = objects.iter().filter(|object| object["kind"] == kind).collect();
        assert_eq!(found.len(), 1, "{choice}: {kind}");
        found[0]
    };
    let (account, role, binding) =
        (of_kind("ServiceAccount"), of_kind("ClusterRole"), of_kind("ClusterRoleBinding"));
    assert_eq!(binding["roleRef"]["name"], role["metadata"]["name"]);
    assert_eq!(binding["subjects"][0]["name"], account["metadata"]["name"]);
    assert_eq!(binding["subjects"][0]["namespace"], account["metadata"]["namespace"]);
    let texts = |list: &Value| -> Vec<String> {
        list.as_array().into_iter().flatten().map(|text| text.as_str().unwrap().to_owned()).collect()
    };
    let mut rights = BTreeSet::new();
    for rule in role["rules"].as_array().unwrap() {
        for verb in texts(&rule["verbs"]) {
            for what in texts(&rule["resources"]).into_iter().chain(texts(&rule["nonResourceURLs"])) {
                assert!(!what.contains('*') && verb != "*", "{rule}");
                rights.insert(Right(format!("{verb} {what}")));
            }
        }
    }
    rights
}
