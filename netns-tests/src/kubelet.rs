//! As much of a kubelet as the pod of a DaemonSet needs: its volumes, its container under containerd, its probes.
//!
//! Everything is read from the manifest. A field that is new there is no secret to a test: it is refused until somebody
//! has taught the lab what it means.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::containerd::{Containerd, log};
use crate::rendered::{self, Rendered};
use crate::{Space, daemon, wait};

/// What ctr gives a container unless it is told otherwise.
const USUAL: [&str; 14] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FSETID",
    "FOWNER",
    "MKNOD",
    "NET_RAW",
    "SETGID",
    "SETUID",
    "SETFCAP",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "SYS_CHROOT",
    "KILL",
    "AUDIT_WRITE",
];
/// Fields of a pod that are understood here, and those that mean nothing on a single node.
const OF_POD: [&str; 13] = [
    "hostNetwork",
    "securityContext",
    "serviceAccountName",
    "automountServiceAccountToken",
    "containers",
    "volumes",
    "dnsPolicy",
    "enableServiceLinks",
    "priorityClassName",
    "nodeSelector",
    "tolerations",
    "terminationGracePeriodSeconds",
    "minReadySeconds",
];
/// The same of a container.
const OF_CONTAINER: [&str; 13] = [
    "name",
    "image",
    "imagePullPolicy",
    "command",
    "args",
    "env",
    "resources",
    "startupProbe",
    "livenessProbe",
    "readinessProbe",
    "securityContext",
    "volumeMounts",
    "workingDir",
];
/// Where a pod finds its credentials.
const CREDENTIALS: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// A node's kubelet, with its containerd.
#[derive(Debug)]
pub struct Kubelet {
    node: Space,
    name: String,
    /// The runtime.
    pub containerd: Containerd,
    imported: std::cell::RefCell<Vec<String>>,
}

/// A running container. It ends when dropped.
#[derive(Debug)]
pub struct Container<'a> {
    kubelet: &'a Kubelet,
    id: String,
    spec: Value,
    /// Its first process, as the lab sees it.
    pub pid: u32,
}

impl Kubelet {
    /// Of the node that the API calls `name`.
    ///
    /// # Panics
    /// When containerd does not start.
    pub fn start(node: &Space, name: &str) -> Kubelet {
        let kubelet = Kubelet {
            node: node.clone(),
            name: name.to_owned(),
            containerd: Containerd::start(node, name),
            imported: Default::default(),
        };
        kubelet.issue_credentials();
        kubelet
    }

    /// The files of a ServiceAccount; who signed what is of no interest to the lab's API, which speaks no TLS.
    fn issue_credentials(&self) {
        let directory = "/run/lab/serviceaccount";
        self.node.sh(&format!("mkdir -p {directory}"));
        self.node.sh(&format!(
            "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=lab -keyout /run/lab/ca.key -out {directory}/ca.crt"
        ));
        self.node.write(format!("{directory}/token"), "of the lab");
        self.node.write(format!("{directory}/namespace"), "kube-system");
    }

    /// Starts the pod of a DaemonSet as the container `id`.
    ///
    /// # Panics
    /// When the manifest has what the lab does not know, or the container can't be started.
    pub fn run(&self, manifest: &Rendered, id: &str) -> Container<'_> {
        let pod = manifest.pod();
        only(pod, &OF_POD);
        assert_eq!(pod["hostNetwork"], true);
        let [container] = &pod["containers"].as_array().expect("containers")[..] else {
            panic!("one container")
        };
        only(container, &OF_CONTAINER);
        self.import(container["image"].as_str().expect("an image"));
        let mut args: Vec<String> = ["run", "--detach", "--net-host"].map(str::to_owned).into();
        args.push(format!("--log-uri=file://{}", log(id)));
        args.extend(security(&pod["securityContext"], &container["securityContext"]));
        args.extend(self.mounts(manifest, pod, container));
        args.extend(
            self.environment(container).into_iter().map(|(name, value)| format!("--env={name}={value}")),
        );
        args.extend([text(&container["image"]), id.to_owned()]);
        args.extend(self.command(container));
        self.containerd.run_whole(&args);
        Container { kubelet: self, id: id.to_owned(), spec: container.clone(), pid: self.pid(id) }
    }

    /// Brings an image to the node, once.
    ///
    /// # Panics
    /// When it can't be packed, or is not taken.
    pub fn import(&self, name: &str) {
        if !self.imported.borrow().iter().any(|known| known == name) {
            let path = rendered::image(name);
            self.containerd.ctr(&format!("image import {}", path.display())).expect("the image is taken");
            self.imported.borrow_mut().push(name.to_owned());
        }
    }

    /// The process of a container, once it runs.
    fn pid(&self, id: &str) -> u32 {
        wait::until(&format!("{id} to run"), || {
            let listed = self.containerd.ctr("task list").ok()?;
            let line = listed.lines().find(|line| line.split_whitespace().next() == Some(id))?;
            let words: Vec<&str> = line.split_whitespace().collect();
            words.get(1)?.parse().ok().filter(|pid| *pid > 0)
        })
    }

    fn mounts(&self, manifest: &Rendered, pod: &Value, container: &Value) -> Vec<String> {
        let volumes = pod["volumes"].as_array().expect("volumes");
        let mut args = Vec::new();
        for mount in container["volumeMounts"].as_array().expect("mounts") {
            only(mount, &["name", "mountPath", "readOnly"]);
            let volume = volumes.iter().find(|volume| volume["name"] == mount["name"]).expect("its volume");
            let source = self.volume(manifest, volume);
            let is_read_only = mount["readOnly"] == true;
            args.push(bind(&source, Path::new(&text(&mount["mountPath"])), is_read_only));
        }
        if pod["automountServiceAccountToken"] != false {
            args.push(bind(Path::new("/run/lab/serviceaccount"), Path::new(CREDENTIALS), true));
        }
        args
    }

    /// Makes a volume, and says where.
    fn volume(&self, manifest: &Rendered, volume: &Value) -> PathBuf {
        only(volume, &["name", "hostPath", "configMap"]);
        if let Some(name) = volume["configMap"]["name"].as_str() {
            let directory = PathBuf::from(format!("/run/lab/config-{name}"));
            for (file, content) in manifest.config(name) {
                self.node.write(directory.join(file), content.as_str().expect("a text"));
            }
            return directory;
        }
        let path = PathBuf::from(text(&volume["hostPath"]["path"]));
        let shown = path.display();
        match volume["hostPath"]["type"].as_str() {
            Some("DirectoryOrCreate") => drop(self.node.sh(&format!("mkdir -p {shown}"))),
            Some("FileOrCreate") => drop(self.node.sh(&format!("touch {shown}"))),
            Some("Directory") => drop(self.node.sh(&format!("test -d {shown}"))),
            other => panic!("{shown}: a hostPath of type {other:?} is new to the lab"),
        }
        path
    }

    /// What the manifest says, and what a kubelet says of the API whatever it is: it can't be reached there.
    fn environment(&self, container: &Value) -> Vec<(String, String)> {
        let mut variables = vec![
            ("KUBERNETES_SERVICE_HOST".to_owned(), "10.96.0.1".to_owned()),
            ("KUBERNETES_SERVICE_PORT".to_owned(), "443".to_owned()),
        ];
        for variable in container["env"].as_array().into_iter().flatten() {
            let value = match variable["valueFrom"]["fieldRef"]["fieldPath"].as_str() {
                Some("spec.nodeName") => self.name.clone(),
                Some(other) => panic!("{other} is new to the lab"),
                None => text(&variable["value"]),
            };
            variables.push((text(&variable["name"]), value));
        }
        variables
    }

    /// Program and arguments, `$(VARIABLE)` replaced.
    fn command(&self, container: &Value) -> Vec<String> {
        let variables = self.environment(container);
        let words = [&container["command"], &container["args"]];
        let words = words.into_iter().flat_map(|list| list.as_array().into_iter().flatten());
        let expanded = |word: &Value| {
            variables
                .iter()
                .fold(text(word), |word, (name, value)| word.replace(&format!("$({name})"), value))
        };
        words.map(expanded).collect()
    }
}

impl Container<'_> {
    /// All that it has said.
    pub fn log(&self) -> String {
        self.kubelet.node.read(log(&self.id))
    }

    /// Whether it runs. The kernel is asked: ctr has no answer while its daemon is busy.
    pub fn is_running(&self) -> bool {
        Path::new(&format!("/proc/{}", self.pid)).exists()
    }

    /// Whether a probe of the manifest (`readinessProbe` and so on) is content now.
    ///
    /// # Panics
    /// When the container has no such probe, or one that is new to the lab.
    pub fn probe(&self, which: &str) -> bool {
        let probe = &self.spec[which];
        only(probe, &["httpGet", "periodSeconds", "timeoutSeconds", "failureThreshold"]);
        let get = &probe["httpGet"];
        only(get, &["host", "port", "path"]);
        let ip: IpAddr = text(&get["host"]).parse().expect("an address");
        let port = get["port"].as_u64().and_then(|port| u16::try_from(port).ok()).expect("a port");
        let answer = daemon::http(&self.kubelet.node, SocketAddr::new(ip, port), &text(&get["path"]));
        answer.is_some_and(|(code, _)| (200..400).contains(&code))
    }

    /// Waits until every probe is content.
    ///
    /// # Panics
    /// When one is not in time, or the container has ended.
    pub fn until_ready(&self) {
        for probe in ["startupProbe", "livenessProbe", "readinessProbe"] {
            let what = format!("{probe} of {} to be content", self.id);
            let mut last = String::new();
            wait::until(&what, || {
                if self.probe(probe) {
                    return Some(());
                }
                last = self.log();
                assert!(self.is_running(), "{} has ended:\n{last}", self.id);
                None
            });
        }
    }

    /// Asks it to end (SIGTERM), waits, and takes it away.
    ///
    /// # Panics
    /// When it does not end in time.
    pub fn terminate(self) {
        self.end("SIGTERM");
    }

    /// Kills it like a power cut, and takes it away.
    ///
    /// # Panics
    /// When it does not end in time.
    pub fn kill(self) {
        self.end("SIGKILL");
    }

    fn end(&self, signal: &str) {
        // One that has ended needs no signal.
        let _ = self.kubelet.containerd.ctr(&format!("task kill --signal {signal} {}", self.id));
        wait::until(&format!("{} to end", self.id), || (!self.is_running()).then_some(()));
    }
}

impl Drop for Container<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("-------- {}\n{}", self.id, self.log());
        }
        let _ = self.kubelet.containerd.ctr(&format!("task delete --force {}", self.id));
        let _ = self.kubelet.containerd.ctr(&format!("container delete {}", self.id));
    }
}

/// The flags by which ctr gives a container what the manifest says of its security.
fn security(of_pod: &Value, own: &Value) -> Vec<String> {
    only(of_pod, &["seccompProfile", "seLinuxOptions"]);
    let known =
        ["privileged", "allowPrivilegeEscalation", "readOnlyRootFilesystem", "runAsUser", "runAsGroup"];
    only(own, &[&known[..], &["capabilities"]].concat());
    assert_eq!(of_pod["seccompProfile"]["type"], "RuntimeDefault");
    // ctr's own default is no new privileges; root is what the image says.
    assert_eq!((&own["privileged"], &own["allowPrivilegeEscalation"]), (&false.into(), &false.into()));
    assert_eq!((&own["runAsUser"], &own["runAsGroup"]), (&0.into(), &0.into()));
    assert_eq!(own["capabilities"]["drop"], serde_json::json!(["ALL"]));
    let added: Vec<String> =
        own["capabilities"]["add"].as_array().expect("a list").iter().map(text).collect();
    let mut args = vec!["--seccomp".to_owned()];
    args.extend((own["readOnlyRootFilesystem"] == true).then(|| "--read-only".to_owned()));
    args.extend(added.iter().map(|name| format!("--cap-add=CAP_{name}")));
    let dropped = USUAL.iter().filter(|name| !added.iter().any(|added| added == **name));
    args.extend(dropped.map(|name| format!("--cap-drop=CAP_{name}")));
    args
}

fn bind(source: &Path, target: &Path, is_read_only: bool) -> String {
    let options = if is_read_only { "rbind:ro" } else { "rbind:rw" };
    format!("--mount=type=bind,src={},dst={},options={options}", source.display(), target.display())
}

/// Nothing but these keys is there.
fn only(object: &Value, known: &[&str]) {
    for key in object.as_object().into_iter().flat_map(|map| map.keys()) {
        assert!(known.contains(&key.as_str()), "{key} is new to the lab's kubelet");
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("{value} is no text")).to_owned()
}
