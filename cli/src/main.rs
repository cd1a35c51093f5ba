//! `bowline`, for people: drive networks by hand, see a node at work.

mod cleanup;
mod cni;
mod columns;
mod control;
mod demo;
#[cfg(test)]
mod golden;
mod services;
mod status;
mod trace;

use std::io::Write;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Pod networks that hold under load and come off without a trace.
#[derive(Debug, Parser)]
#[command(name = "bowline", version)]
struct Bowline {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Attach a network namespace to a network by hand, as cnitool does.
    Cni(cni::CniArgs),
    /// Set up a node with pods in namespaces of its own, send real traffic, show it, take it down.
    Demo(demo::DemoArgs),
    /// How this node is, or all nodes of a cluster: peers, pods, what is missing and what to do about it.
    Status(status::StatusArgs),
    /// What is planned for Services, what the kernel really has, and where these differ.
    Services(services::ServicesArgs),
    /// What becomes of a packet to a Service, and why.
    Trace(trace::TraceArgs),
    /// Remove everything that bowlined has made on this node.
    Cleanup(daemon::cleanup::CleanupArgs),
    /// Print the version, and the versions of CNI that are spoken.
    Version,
}

fn main() -> ExitCode {
    match Bowline::parse().command {
        Command::Cni(args) => cni::run(&args),
        Command::Demo(args) => demo::run(&args),
        Command::Status(args) => status::run(&args),
        Command::Services(args) => services::run(&args),
        Command::Trace(args) => trace::run(&args),
        Command::Cleanup(args) => cleanup::run(&args),
        Command::Version => {
            let spoken = ::cni::Version::ALL.map(::cni::Version::as_str);
            let version = env!("CARGO_PKG_VERSION");
            // For a person; one who has left is no error.
            let _ = writeln!(std::io::stdout(), "bowline {version}, CNI {}", spoken.join(" "));
            ExitCode::SUCCESS
        }
    }
}
