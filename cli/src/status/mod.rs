//! `bowline status`: how this node is, or all nodes of a cluster.

mod cluster;
mod node;

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use daemon::status::Status;
use daemon::survey;

use crate::control::{ask, is_here};
use crate::services::Form;

/// How this node is; how all nodes are, where no bowlined runs or a cluster is asked for.
///
/// Exits with 1 when something is wrong: this node can't carry new pods, or there is a problem with one of the nodes; with
/// 2 when that can't be found out.
#[derive(Debug, Clone, Args)]
pub struct StatusArgs {
    /// All nodes of the cluster, asked through the API: in each pod of bowlined, with your rights.
    #[arg(short, long)]
    all_nodes: bool,
    /// This node of the cluster, asked through the API; may be given more than once.
    #[arg(long = "node", value_name = "NAME")]
    nodes: Vec<String>,
    /// How to reach the API [KUBECONFIG, ~/.kube/config, else the ServiceAccount of the pod].
    #[arg(long)]
    kubeconfig: Option<PathBuf>,
    /// Context of the kubeconfig [the current one].
    #[arg(long)]
    context: Option<String>,
    /// Namespace of bowlined's pods.
    #[arg(short, long, default_value = survey::NAMESPACE)]
    namespace: String,
    /// Labels of bowlined's pods.
    #[arg(short = 'l', long, default_value = survey::SELECTOR)]
    selector: String,
    /// How long each bowlined may take to answer through the API, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    timeout: u64,
    /// Form of the answer.
    #[arg(short, long, value_enum, default_value_t = Form::Text)]
    output: Form,
    /// Of this node's peers only those that something is wrong with.
    #[arg(long)]
    brief: bool,
    /// The daemon's --run-dir.
    #[arg(long, default_value = "/run/bowline")]
    run_dir: PathBuf,
}

/// What can't be found out.
const UNKNOWN: u8 = 2;

/// Asks and prints.
pub fn run(args: &StatusArgs) -> ExitCode {
    let of_cluster =
        args.all_nodes || !args.nodes.is_empty() || args.kubeconfig.is_some() || args.context.is_some();
    let told = if of_cluster || !is_here(&args.run_dir) { of_all(args, of_cluster) } else { of_this(args) };
    match told {
        Ok((shown, is_well)) => {
            // A reader who has left has seen enough.
            let _ = io::stdout().write_all(shown.as_bytes());
            if is_well { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            eprintln!("bowline: {error}");
            ExitCode::from(UNKNOWN)
        }
    }
}

/// What is shown, and whether all is well.
type Told = Result<(String, bool), String>;

fn of_this(args: &StatusArgs) -> Told {
    let text = ask(&args.run_dir, if args.brief { "/status?brief" } else { "/status" })?;
    let status: Status =
        serde_json::from_str(&text).map_err(|error| format!("the daemon's answer: {error}"))?;
    let shown = match args.output {
        Form::Json => text,
        Form::Text => node::table(&status),
    };
    Ok((shown, status.ready))
}

fn of_all(args: &StatusArgs, is_asked_for: bool) -> Told {
    let asked = survey::Asked {
        kubeconfig: args.kubeconfig.clone(),
        context: args.context.clone(),
        namespace: args.namespace.clone(),
        selector: args.selector.clone(),
        nodes: args.nodes.clone(),
        patience: Duration::from_secs(args.timeout.max(1)),
    };
    let survey = survey::look(&asked).map_err(|error| match is_asked_for {
        true => error,
        // Nobody asked for a cluster: on a node the likelier mistake is that the daemon does not run.
        false => format!(
            "bowlined does not run on this node: nobody listens in {}; and as for a cluster: {error}",
            args.run_dir.display()
        ),
    })?;
    let shown = match args.output {
        Form::Json => cluster::json(&survey)?,
        Form::Text => cluster::table(&survey),
    };
    Ok((shown, survey.is_well()))
}
