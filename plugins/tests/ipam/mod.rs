//! Calls of IPAM plug-ins, ours through the dispatcher and any binary's by exec, on a network in a temporary directory.
#![allow(dead_code, reason = "every test binary compiles its own copy and uses part of it")]

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use cni::Plugin;
use cni::dispatch::{self, Env};
use serde_json::{Value, json};

/// The reference's host-local, as Debian installs it.
pub const REFERENCE: &str = "/usr/lib/cni/host-local";

/// One call.
#[derive(Clone)]
pub struct Request<'a> {
    pub verb: &'a str,
    pub container_id: &'a str,
    pub ifname: &'a str,
    pub args: &'a str,
    pub conf: Value,
}

impl<'a> Request<'a> {
    /// `verb` for eth0 of a container.
    pub fn new(verb: &'a str, container_id: &'a str, conf: &Value) -> Self {
        Request { verb, container_id, ifname: "eth0", args: "", conf: conf.clone() }
    }

    fn env(&self) -> Vec<(&'static str, &'a str)> {
        vec![
            ("CNI_COMMAND", self.verb),
            ("CNI_CONTAINERID", self.container_id),
            ("CNI_NETNS", "/var/run/netns/none"),
            ("CNI_IFNAME", self.ifname),
            ("CNI_PATH", "/nonexistent"),
            ("CNI_ARGS", self.args),
        ]
    }

    /// Serves it in this process: the result (`null` for verbs that have none) or the error object.
    pub fn serve(&self, plugin: &dyn Plugin) -> Result<Value, Value> {
        let env: Env = self.env().into_iter().collect();
        let outcome = dispatch::run(plugin, &env, self.conf.to_string().as_bytes(), &|_| false);
        assert_eq!(outcome.stderr, "", "a plug-in has nothing to say on stderr");
        answer(outcome.exit == 0, &outcome.stdout)
    }

    /// Serves it by a binary.
    pub fn exec(&self, program: &Path) -> Result<Value, Value> {
        let mut child = Command::new(program)
            .env_clear()
            .envs(self.env())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|e| {
                panic!("run {}: {e} (apt-get install containernetworking-plugins)", program.display())
            });
        let mut stdin = child.stdin.take().expect("a pipe");
        stdin.write_all(self.conf.to_string().as_bytes()).expect("the configuration is read");
        drop(stdin);
        let output = child.wait_with_output().expect("it ends");
        answer(output.status.success(), &String::from_utf8_lossy(&output.stdout))
    }
}

fn answer(success: bool, stdout: &str) -> Result<Value, Value> {
    let value = match stdout {
        "" => Value::Null,
        text => serde_json::from_str(text).expect("stdout is JSON"),
    };
    if success { Ok(value) } else { Err(value) }
}

/// A network whose leases are in a directory of this test. Whatever is left is freed at the end.
pub struct Network {
    dir: tempfile::TempDir,
    pub conf: Value,
}

impl Network {
    /// A network of version 1.1.0 with these range sets.
    pub fn new(ranges: Value) -> Self {
        Self::with_version("1.1.0", ranges)
    }

    /// A network of any version.
    pub fn with_version(version: &str, ranges: Value) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let conf = json!({
            "cniVersion": version,
            "name": "net",
            "type": "bridge",
            "ipam": { "type": "host-local", "dataDir": dir.path(), "ranges": ranges },
        });
        Network { dir, conf }
    }

    /// The directory of leases.
    pub fn leases(&self) -> PathBuf {
        self.dir.path().join("net")
    }

    /// Every file by name, the lock left out.
    pub fn files(&self) -> BTreeMap<String, String> {
        let entries = std::fs::read_dir(self.leases()).into_iter().flatten().map(|e| e.expect("an entry"));
        let named = entries.map(|e| (e.file_name().into_string().expect("UTF-8"), e.path()));
        named
            .filter(|(name, _)| name != "lock")
            .map(|(name, path)| (name, std::fs::read_to_string(path).expect("read")))
            .collect()
    }

    /// The leased addresses.
    pub fn leased(&self) -> Vec<String> {
        self.files().into_keys().filter(|name| name.parse::<std::net::IpAddr>().is_ok()).collect()
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let mut conf = json!({ "cniVersion": "1.1.0", "name": "net", "cni.dev/valid-attachments": [] });
        conf["ipam"] = json!({ "dataDir": self.dir.path() });
        let _ = Request::new("GC", "any", &conf).serve(&plugins::host_local::HostLocal);
    }
}

/// The addresses of a result of version 1.x, without prefix lengths.
pub fn addresses(result: &Value) -> Vec<String> {
    let ips = result["ips"].as_array().expect("a list of ips");
    ips.iter()
        .map(|ip| ip["address"].as_str().expect("text").split('/').next().expect("one").to_owned())
        .collect()
}
