//! kube-apiserver and etcd from `KUBEBUILDER_ASSETS`. The source logs in as the ServiceAccount of conf/base/account.yaml,
//! with no other rights, so that the manifest is tried by the authority on it.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use http_body_util::StreamBody;
use hyper::body::{Bytes, Frame};
use hyper_util::rt::TokioExecutor;
use kube::Client;
use kube::client::{Body, ConfigExt};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

/// The token of a user who may do everything.
const ADMIN: &str = "admin-token";
/// Until a process of the control plane serves: it has a machine's processors not to itself.
const STARTED: Duration = Duration::from_secs(180);
const ACCOUNTS: &str = "/api/v1/namespaces/kube-system/serviceaccounts";
const FLOW_CONTROL: &str = "/apis/flowcontrol.apiserver.k8s.io/v1";
/// What the source asks is written down, nothing else.
const AUDIT: &str = "\
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: Metadata
  users: ['system:serviceaccount:kube-system:bowline']
- level: None
";

/// A control plane of two processes.
pub struct KubeApiserver {
    assets: PathBuf,
    dir: tempfile::TempDir,
    flags: Vec<String>,
    etcd: Child,
    etcd_port: u16,
    port: u16,
    server: Option<Child>,
    admin: Client,
    storage: Client,
    /// What occupies the source's priority level.
    occupant: Option<JoinHandle<()>>,
}

impl KubeApiserver {
    /// Starts both, kube-apiserver with `flags` besides, and grants what bowlined needs.
    pub async fn start(assets: &Path, flags: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let key = dir.path().join("sa.key");
        let made = Command::new("openssl").args(["genrsa", "-out"]).arg(&key).arg("2048").output().unwrap();
        assert!(made.status.success(), "openssl: {}", String::from_utf8_lossy(&made.stderr));
        std::fs::write(dir.path().join("tokens.csv"), format!("{ADMIN},admin,1,system:masters\n")).unwrap();
        std::fs::write(dir.path().join("audit.yaml"), AUDIT).unwrap();
        let (etcd_port, peer_port, port) = (free_port(), free_port(), free_port());
        let etcd = Command::new(assets.join("etcd"))
            .arg("--data-dir")
            .arg(dir.path().join("etcd"))
            .arg(format!("--listen-client-urls=http://127.0.0.1:{etcd_port}"))
            .arg(format!("--advertise-client-urls=http://127.0.0.1:{etcd_port}"))
            .arg(format!("--listen-peer-urls=http://127.0.0.1:{peer_port}"))
            .stdout(Stdio::null())
            .stderr(log(dir.path(), "etcd.log"))
            .spawn()
            .expect("etcd of KUBEBUILDER_ASSETS starts");
        let mut config = kube::Config::new(format!("https://127.0.0.1:{port}").parse().unwrap());
        config.accept_invalid_certs = true;
        config.auth_info.token = Some(ADMIN.to_owned().into());
        config.default_retry = false;
        let admin = Client::try_from(config).unwrap();
        let storage = kube::Config::new(format!("http://127.0.0.1:{etcd_port}").parse().unwrap());
        let storage = Client::try_from(storage).unwrap();
        let assets = assets.to_owned();
        let flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
        let mut server = KubeApiserver {
            assets,
            dir,
            flags,
            etcd,
            etcd_port,
            port,
            server: None,
            admin,
            storage,
            occupant: None,
        };
        server.resume().await;
        server.grant().await;
        server
    }

    /// A kubeconfig of bowlined's ServiceAccount.
    pub fn kubeconfig(&self) -> PathBuf {
        self.dir.path().join("kubeconfig")
    }

    /// Ends kube-apiserver by SIGTERM or kills it; etcd keeps what it has.
    pub fn stop(&mut self, is_gentle: bool) {
        let Some(mut server) = self.server.take() else { return };
        if is_gentle {
            let pid = server.id().to_string();
            assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        } else {
            server.kill().unwrap();
        }
        server.wait().unwrap();
    }

    /// Starts kube-apiserver and waits until it is ready.
    pub async fn resume(&mut self) {
        let dir = self.dir.path();
        let key = dir.join("sa.key");
        let server = Command::new(self.assets.join("kube-apiserver"))
            .arg(format!("--etcd-servers=http://127.0.0.1:{}", self.etcd_port))
            .arg(format!("--secure-port={}", self.port))
            .args(["--bind-address=127.0.0.1", "--advertise-address=127.0.0.1"])
            .args(["--authorization-mode=RBAC", "--service-cluster-ip-range=10.96.0.0/24"])
            .args(["--service-account-issuer=https://kubernetes.default.svc"])
            // Otherwise SIGTERM leaves watches open for a minute.
            .args(["--shutdown-watch-termination-grace-period=1s"])
            .arg("--cert-dir")
            .arg(dir.join("certificates"))
            .arg("--token-auth-file")
            .arg(dir.join("tokens.csv"))
            .arg("--service-account-key-file")
            .arg(&key)
            .arg("--service-account-signing-key-file")
            .arg(&key)
            .arg("--audit-policy-file")
            .arg(dir.join("audit.yaml"))
            .arg("--audit-log-path")
            .arg(dir.join("audit.log"))
            .args(&self.flags)
            .stdout(Stdio::null())
            .stderr(log(dir, "kube-apiserver.log"))
            .spawn()
            .expect("kube-apiserver of KUBEBUILDER_ASSETS starts");
        self.server = Some(server);
        self.until("GET", "/readyz", &Value::Null, &[200]).await;
    }

    /// Applies conf/base/account.yaml and writes a kubeconfig of its ServiceAccount.
    pub async fn grant(&self) {
        let text = include_str!("../../../conf/base/account.yaml");
        let objects: Vec<Value> = serde_saphyr::from_multiple(text).unwrap();
        for object in &objects {
            let rbac = "/apis/rbac.authorization.k8s.io/v1";
            let path = match object["kind"].as_str().unwrap() {
                "ServiceAccount" => ACCOUNTS.to_owned(),
                "ClusterRole" => format!("{rbac}/clusterroles"),
                "ClusterRoleBinding" => format!("{rbac}/clusterrolebindings"),
                other => panic!("conf/base/account.yaml: {other} is new to this test"),
            };
            // The namespace appears a moment after the server is ready.
            self.until("POST", &path, object, &[201, 409]).await;
        }
        let asked = json!({"kind": "TokenRequest", "apiVersion": "authentication.k8s.io/v1", "spec": {}});
        let granted = self.until("POST", &format!("{ACCOUNTS}/bowline/token"), &asked, &[201]).await;
        let kubeconfig = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{"name": "test", "cluster": {
                "server": format!("https://127.0.0.1:{}", self.port),
                "certificate-authority": self.dir.path().join("certificates/apiserver.crt"),
            }}],
            "users": [{"name": "bowline", "user": {"token": granted["status"]["token"]}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "bowline"}}],
        });
        std::fs::write(self.kubeconfig(), kubeconfig.to_string()).unwrap();
    }

    /// A token of bowlined's, bound to the node as that of a pod there is.
    pub async fn token_of(&self, node: &str) -> String {
        let uid = self.get(node).await["metadata"]["uid"].clone();
        let asked = json!({"kind": "TokenRequest", "apiVersion": "authentication.k8s.io/v1", "spec": {
            "boundObjectRef": {"kind": "Node", "apiVersion": "v1", "name": node, "uid": uid},
        }});
        let granted = self.until("POST", &format!("{ACCOUNTS}/bowline/token"), &asked, &[201]).await;
        granted["status"]["token"].as_str().unwrap().to_owned()
    }

    /// Sends a request as the bearer of `token`, or as one who may do everything.
    pub async fn send_as(
        &self,
        token: Option<&str>,
        (method, path): (&str, &str),
        content_type: &str,
        body: &Value,
    ) -> (u16, Value) {
        let Some(token) = token else {
            return send_typed(&self.admin, method, path, content_type, body).await;
        };
        let mut config = kube::Config::new(format!("https://127.0.0.1:{}", self.port).parse().unwrap());
        config.accept_invalid_certs = true;
        config.auth_info.token = Some(token.to_owned().into());
        config.default_retry = false;
        send_typed(&Client::try_from(config).unwrap(), method, path, content_type, body).await
    }

    /// Deletes the ServiceAccount: its token is worth nothing any more.
    pub async fn revoke(&self) {
        self.until("DELETE", &format!("{ACCOUNTS}/bowline"), &Value::Null, &[200]).await;
    }

    /// Sends the source to a priority level without shares, where requests are served one by one, and occupies it: every
    /// other request is answered with 429.
    pub async fn throttle(&mut self) {
        let level = json!({"metadata": {"name": "jail"}, "spec": {"type": "Limited", "limited": {
            "nominalConcurrencyShares": 0, "borrowingLimitPercent": 0, "limitResponse": {"type": "Reject"},
        }}});
        let account = json!({"name": "bowline", "namespace": "kube-system"});
        let schema = json!({"metadata": {"name": "jail"}, "spec": {
            "matchingPrecedence": 2,
            "priorityLevelConfiguration": {"name": "jail"},
            "rules": [{
                "subjects": [{"kind": "ServiceAccount", "serviceAccount": account}],
                "resourceRules": [{
                    "verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "namespaces": ["*"], "clusterScope": true,
                }],
            }],
        }});
        for (kind, object) in [("prioritylevelconfigurations", level), ("flowschemas", schema)] {
            self.until("POST", &format!("{FLOW_CONTROL}/{kind}"), &object, &[201]).await;
        }
        self.occupant = Some(tokio::spawn(occupy(self.port, self.token())));
    }

    /// The token of the source.
    fn token(&self) -> String {
        let kubeconfig = std::fs::read_to_string(self.kubeconfig()).unwrap();
        let kubeconfig: Value = serde_json::from_str(&kubeconfig).unwrap();
        kubeconfig["users"][0]["user"]["token"].as_str().unwrap().to_owned()
    }

    /// Takes [`KubeApiserver::throttle`] back.
    pub async fn relent(&mut self) {
        if let Some(occupant) = self.occupant.take() {
            occupant.abort();
        }
        self.until("DELETE", &format!("{FLOW_CONTROL}/flowschemas/jail"), &Value::Null, &[200]).await;
    }

    /// Stops kube-apiserver, deletes a node and all history in etcd, and starts it again: what a source misses when
    /// the server is away for longer than history is kept.
    pub async fn lose_history(&mut self, name: &str) {
        self.stop(false);
        let key = BASE64_STANDARD.encode(format!("/registry/minions/{name}"));
        let deleted = self.store("/v3/kv/deleterange", &json!({"key": key})).await;
        assert_eq!(deleted["deleted"], "1", "{deleted}");
        let compaction = json!({"revision": deleted["header"]["revision"], "physical": true});
        self.store("/v3/kv/compaction", &compaction).await;
        self.resume().await;
    }

    /// Asks etcd.
    async fn store(&self, path: &str, body: &Value) -> Value {
        let (code, answer) = send(&self.storage, "POST", path, body).await;
        assert_eq!(code, 200, "{path}: {answer}");
        answer
    }

    /// What the source asked for so far, as `verb resource`; streaming lists as `stream`, refusals with their code.
    pub fn requests(&self) -> Vec<String> {
        let log = std::fs::read_to_string(self.dir.path().join("audit.log")).unwrap_or_default();
        let events = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        // A watch is over when it ends; that it began is what counts.
        let begun =
            events.filter(|event| (event["stage"] == "ResponseStarted") == (event["verb"] == "watch"));
        begun.map(|event| shown(&event)).collect()
    }

    /// Creates an object, or changes it; of a Node that is there its status alone.
    pub async fn put(&self, mut object: Value) {
        let (api_version, collection) = place_of(&object);
        object["apiVersion"] = json!(api_version);
        let path = format!("{collection}/{}", object["metadata"]["name"].as_str().unwrap());
        let is_node = object["kind"] == "Node";
        // A Service that is there is not refused as such, but for its address.
        let is_there = !is_node && self.send("GET", &path, &Value::Null).await.0 == 200;
        let (method, to) = if is_there { ("PATCH", &path) } else { ("POST", &collection) };
        let (code, answer) = self.send(method, to, &object).await;
        assert!([200, 201].contains(&code) || is_node && code == 409, "{code}: {answer}");
        if object["status"].is_object() {
            let status = json!({"status": object["status"]});
            let (code, answer) = self.send("PATCH", &format!("{path}/status"), &status).await;
            assert_eq!(code, 200, "{answer}");
        }
    }

    /// The node of this name.
    pub async fn get(&self, name: &str) -> Value {
        let (code, node) = self.send("GET", &format!("/api/v1/nodes/{name}"), &Value::Null).await;
        assert_eq!(code, 200, "{node}");
        node
    }

    /// Deletes the object of this kind and name.
    pub async fn delete(&self, object: &Value) {
        let path = format!("{}/{}", place_of(object).1, object["metadata"]["name"].as_str().unwrap());
        let (code, answer) = self.send("DELETE", &path, &Value::Null).await;
        assert_eq!(code, 200, "{answer}");
    }

    /// Sends until one of `codes` is the answer.
    async fn until(&self, method: &str, path: &str, body: &Value, codes: &[u16]) -> Value {
        let deadline = tokio::time::Instant::now() + STARTED;
        loop {
            let (code, answer) = self.send(method, path, body).await;
            if codes.contains(&code) {
                return answer;
            }
            let log = std::fs::read_to_string(self.dir.path().join("kube-apiserver.log")).unwrap_or_default();
            assert!(tokio::time::Instant::now() < deadline, "{method} {path}: {code} {answer}\n{log}");
            // The pause between two looks.
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Code 0 is no answer.
    async fn send(&self, method: &str, path: &str, body: &Value) -> (u16, Value) {
        send(&self.admin, method, path, body).await
    }
}

impl Drop for KubeApiserver {
    fn drop(&mut self) {
        self.stop(false);
        // It may have ended by itself.
        let _ = self.etcd.kill();
        let _ = self.etcd.wait();
    }
}

async fn send(to: &Client, method: &str, path: &str, body: &Value) -> (u16, Value) {
    // Not a strategic one: it takes addresses of one type for one address.
    let content_type = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
    send_typed(to, method, path, content_type, body).await
}

async fn send_typed(to: &Client, method: &str, path: &str, content_type: &str, body: &Value) -> (u16, Value) {
    let request = hyper::Request::builder().method(method).uri(path).header("content-type", content_type);
    let bytes = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
    match to.send(request.body(Body::from(bytes)).unwrap()).await {
        Ok(answer) => {
            let code = answer.status().as_u16();
            let bytes = http_body_util::BodyExt::collect(answer.into_body()).await;
            let bytes = bytes.map(|body| body.to_bytes()).unwrap_or_default();
            (code, serde_json::from_slice(&bytes).unwrap_or_default())
        }
        Err(error) => (0, json!(error.to_string())),
    }
}

/// Sends a patch whose end never comes: the server reads on and on. Again, where it was refused or given up.
async fn occupy(port: u16, token: String) {
    let url = format!("https://127.0.0.1:{port}");
    let mut config = kube::Config::new(url.parse().unwrap());
    config.accept_invalid_certs = true;
    let connector = config.rustls_https_connector().unwrap();
    let client = hyper_util::client::legacy::Client::builder(TokioExecutor::new()).build(connector);
    loop {
        let body = StreamBody::new(futures::stream::pending::<Result<Frame<Bytes>, std::io::Error>>());
        let request = hyper::Request::builder()
            .method("PATCH")
            .uri(format!("{url}/api/v1/nodes/nobody/status"))
            .header("authorization", format!("Bearer {token}"))
            .header("content-type", "application/merge-patch+json")
            .body(body)
            .unwrap();
        // Whatever the answer is.
        let _ = client.request(request).await;
    }
}

/// The API version and the collection of an object.
fn place_of(object: &Value) -> (&'static str, String) {
    let (version, prefix, resource) = match object["kind"].as_str().unwrap() {
        "Node" => ("v1", "/api/v1", "nodes"),
        "Service" => ("v1", "/api/v1", "services"),
        "EndpointSlice" => ("discovery.k8s.io/v1", "/apis/discovery.k8s.io/v1", "endpointslices"),
        "ServiceCIDR" => ("networking.k8s.io/v1", "/apis/networking.k8s.io/v1", "servicecidrs"),
        other => panic!("{other} is new to this test"),
    };
    let namespace = object["metadata"]["namespace"].as_str();
    let namespace = namespace.map_or_else(String::new, |name| format!("/namespaces/{name}"));
    (version, format!("{prefix}{namespace}/{resource}"))
}

/// A line of the audit log.
fn shown(event: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (uri, object) = (text(&event["requestURI"]), &event["objectRef"]);
    let verb =
        if uri.contains("sendInitialEvents=true") { "stream".to_owned() } else { text(&event["verb"]) };
    let what = match (object["resource"].as_str(), object["subresource"].as_str()) {
        (Some(resource), Some(subresource)) => format!("{resource}/{subresource}"),
        (Some(resource), None) => resource.to_owned(),
        (None, _) => uri,
    };
    match event["responseStatus"]["code"].as_u64().unwrap_or_default() {
        200..300 => format!("{verb} {what}"),
        code => format!("{verb} {what} {code}"),
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn log(dir: &Path, name: &str) -> std::fs::File {
    std::fs::File::options().create(true).append(true).open(dir.join(name)).unwrap()
}
