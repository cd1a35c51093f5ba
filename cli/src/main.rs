//! `bowline`, for people: drive networks by hand, see a node at work.

mod cni;

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
}

fn main() -> ExitCode {
    match Bowline::parse().command {
        Command::Cni(args) => cni::run(&args),
    }
}
