//! A node and its daemon.

use std::path::Path;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use cni::{Error, Result};
use lab::cluster::{CONFLIST, HEALTHZ, Member};
use lab::{Cluster, Daemon, Space, daemon};
use serde_json::Value;

use super::super::ClusterMode;

/// How long a daemon may take until pods can come.
const PATIENCE: Duration = Duration::from_secs(20);

/// A node whose daemon was started.
pub struct Host<'a> {
    member: &'a Member,
    daemon: Daemon,
    started: Instant,
}

impl<'a> Host<'a> {
    /// Starts the daemon.
    pub fn start(
        cluster: &Cluster,
        member: &'a Member,
        mode: ClusterMode,
        program: &Path,
        plugins: &Path,
    ) -> Host<'a> {
        let name = &member.entry().name;
        let args = [
            format!("--mode={mode}"),
            format!("--node-name={name}"),
            format!("--manifests={}", cluster.manifests().path().display()),
            format!("--plugins={}", plugins.join("bridge").display()),
            format!("--healthz-address={HEALTHZ}"),
            format!("--cluster-cidr={}", cluster.cluster_cidrs().join(",")),
            "--proxy-mode=auto".to_owned(),
            format!("--service-cidr={}", super::services::SERVICE_CIDRS),
        ];
        let log = cluster.manifests().aside().join(format!("{name}.log"));
        let daemon = Daemon::start(member, program, &args, &log);
        Host { member, daemon, started: Instant::now() }
    }

    /// The node's name.
    pub fn name(&self) -> &str {
        &self.member.entry().name
    }

    /// How long ago the daemon was started.
    pub fn since(&self) -> Duration {
        self.started.elapsed()
    }

    /// The daemon, to be kept alive.
    pub fn into_daemon(self) -> Daemon {
        self.daemon
    }

    /// Waits until pods can come, and says what the daemon has found.
    ///
    /// # Errors
    /// It has ended, or takes too long; with the last that it said.
    pub fn until_ready(&self) -> Result<String> {
        loop {
            let is_ready =
                daemon::http(self.member, HEALTHZ, "/readyz").is_some_and(|(status, _)| status == 200);
            if is_ready && !self.member.read(CONFLIST).is_empty() {
                return Ok(self.readiness());
            }
            let ended = !self.daemon.is_running();
            if ended || self.since() > PATIENCE {
                let verb = if ended { "has ended" } else { "is not ready" };
                let log = self.daemon.log();
                let last: Vec<&str> = log.lines().rev().take(5).collect();
                let last: Vec<&str> = last.into_iter().rev().collect();
                return Err(Error::internal(format!(
                    "bowlined of {} {verb}:\n{}",
                    self.name(),
                    last.join("\n")
                )));
            }
            // The pause between two looks.
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn readiness(&self) -> String {
        let facts: Value =
            serde_json::from_str(&self.member.read("/run/bowline/node.json")).unwrap_or_default();
        let cidrs = facts["podCidrs"].as_array().into_iter().flatten().filter_map(Value::as_str);
        format!("ready; pods {}, MTU {}", cidrs.collect::<Vec<_>>().join(", "), facts["mtu"])
    }
}

/// A thread that stands in the node's namespaces for as long as this process lives: its number.
///
/// # Errors
/// The namespaces cannot be entered.
pub fn stand_in(member: &Member) -> Result<String> {
    let (tell, told) = mpsc::channel();
    let space = Space::clone(member);
    std::thread::spawn(move || {
        let entered = space.enter().map_err(|error| Error::from_chain(&error));
        let thread = entered.map(|()| std::fs::read_link("/proc/thread-self").unwrap_or_default());
        let _ = tell.send(thread);
        loop {
            std::thread::park();
        }
    });
    let path = told.recv().map_err(|_| Error::internal("a thread ended before it began"))??;
    Ok(path.file_name().unwrap_or_default().to_string_lossy().into_owned())
}
