//! The daemons of a cluster, and where they read its Nodes.

use std::net::{SocketAddr, TcpListener};

use serde_json::json;

use super::making::addresses;
use super::{Cluster, HEALTHZ, METRICS};
use crate::apiserver::ApiServer;
use crate::{Daemon, daemon, fault, wait};

impl Cluster {
    /// The flags by which a daemon reads the cluster's manifests.
    pub fn source(&self) -> Vec<String> {
        vec![format!("--manifests={}", self.manifests.path().display())]
    }

    /// Starts the daemon of a node on the cluster's manifests, with more flags behind the lab's own. Does not wait.
    ///
    /// # Panics
    /// When there is no daemon to start.
    pub fn start(&self, index: usize, more: &[&str]) -> Daemon {
        self.start_with(index, &self.source(), more)
    }

    /// [`Cluster::start`] with another source of objects.
    ///
    /// # Panics
    /// When there is no daemon to start.
    pub fn start_with(&self, index: usize, source: &[String], more: &[&str]) -> Daemon {
        let (member, args) = (&self.members[index], self.args(index, source, more));
        Daemon::start(&member.node, &daemon::program("bowlined"), &args, &member.log)
    }

    /// The whole command line of a node's daemon, without the program.
    fn args(&self, index: usize, source: &[String], more: &[&str]) -> Vec<String> {
        let mut args: Vec<String> = vec![
            format!("--node-name={}", self.members[index].entry.name),
            format!("--healthz-address={HEALTHZ}"),
            format!("--metrics-address={METRICS}"),
        ];
        args.extend(source.iter().cloned());
        args.extend(more.iter().map(|flag| (*flag).to_owned()));
        args
    }

    /// Starts the daemon of a node, without pods there, and kills it just before its `nth` step (the first is 1); gives
    /// that step's name. `None` when it was ready before, and was killed then.
    ///
    /// # Panics
    /// When it cannot be started and traced, or ends by itself.
    pub fn killed_at_start(&self, index: usize, more: &[&str], nth: u32) -> Option<&'static str> {
        let (member, args) = (&self.members[index], self.args(index, &self.source(), more));
        fault::killed_at_or_done(&member.node, &daemon::program("bowlined"), &args, nth, || member.is_ready())
    }

    /// Starts the daemon of a node with flags that it must refuse, and gives what it said.
    ///
    /// # Panics
    /// When it runs all the same, or ends as if all were well.
    pub fn refusal(&self, index: usize, flags: &[&str]) -> String {
        let _ = std::fs::remove_file(&self.members[index].log);
        let mut daemon = self.start(index, flags);
        let code = daemon.exit_code(&format!("to refuse {flags:?}"));
        assert!((1..128).contains(&code), "{flags:?} ended with {code}: {}", daemon.log());
        daemon.log()
    }

    /// Starts the daemons of all nodes on the cluster's manifests and waits until each can carry pods.
    ///
    /// # Panics
    /// When one cannot in time.
    pub fn start_all(&self, flags: &[&str]) -> Vec<Daemon> {
        self.start_all_with(&self.source(), flags)
    }

    /// [`Cluster::start_all`] with another source of objects.
    ///
    /// # Panics
    /// When one cannot in time.
    pub fn start_all_with(&self, source: &[String], flags: &[&str]) -> Vec<Daemon> {
        let start = |index| self.start_with(index, source, flags);
        let daemons: Vec<Daemon> = (0..self.members.len()).map(start).collect();
        for (member, daemon) in self.members.iter().zip(&daemons) {
            member.until_ready(daemon);
        }
        daemons
    }

    /// A stand-in for the API on the router's address among the nodes, with all Nodes, and the flags by which a daemon
    /// reads it.
    ///
    /// # Panics
    /// When the address is taken.
    pub fn serve(&self) -> (ApiServer, Vec<String>) {
        let server = ApiServer::start(self.listener(0));
        self.members.iter().for_each(|member| server.put(member.entry.object()));
        let kubeconfig = self.manifests.aside().join("kubeconfig");
        let text = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "lab",
            "clusters": [{"name": "lab", "cluster": {"server": server.url(), "insecure-skip-tls-verify": true}}],
            "users": [{"name": "lab", "user": {}}],
            "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "lab"}}],
        });
        std::fs::write(&kubeconfig, text.to_string()).expect("a temporary file can be written");
        (server, vec![format!("--kubeconfig={}", kubeconfig.display())])
    }

    /// A listener on the router's address among the nodes, as soon as it is free.
    pub fn listener(&self, port: u16) -> TcpListener {
        let address = SocketAddr::new(addresses(0, 1, self.families)[0], port);
        wait::until("the API's address to be free", || self.router.run(|| TcpListener::bind(address)).ok())
    }
}
