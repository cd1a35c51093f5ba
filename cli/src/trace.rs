//! `bowline trace`: what becomes of a packet, and why.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use daemon::proxy::ask::encoded;
use daemon::proxy::{TraceAnswer, TracesAnswer};

use crate::columns::{aligned, counted};
use crate::control::ask;
use crate::services::Form;

/// What becomes of a packet to a Service, and why: by plan and by kernel. Exits with 1 where these differ.
///
/// FROM is the address of a pod or of anybody else, with `%INTERFACE` behind it where it matters by which it comes in;
/// `node` for a process of this node; or an interface alone. TO is ADDRESS:PORT, or NAMESPACE/NAME of a Service with a
/// port by name or number behind a colon, else all of its ports.
#[derive(Debug, Clone, Args)]
pub struct TraceArgs {
    /// Who sends.
    from: String,
    /// Where to.
    to: String,
    /// TCP, UDP or SCTP [TCP, or what the Service has].
    #[arg(short, long)]
    protocol: Option<String>,
    /// Form of the answer.
    #[arg(short, long, value_enum, default_value_t = Form::Text)]
    output: Form,
    /// The daemon's --run-dir.
    #[arg(long, default_value = "/run/bowline")]
    run_dir: PathBuf,
}

/// Asks and prints.
pub fn run(args: &TraceArgs) -> ExitCode {
    let told = ask(&args.run_dir, &path(args)).and_then(|text| {
        let answer = serde_json::from_str::<TracesAnswer>(&text);
        answer.map(|answer| (text, answer)).map_err(|error| format!("the daemon's answer: {error}"))
    });
    match told {
        Ok((text, answer)) => {
            let shown = if args.output == Form::Json { text } else { told_of(&answer) };
            // A reader who has left has seen enough.
            let _ = std::io::stdout().write_all(shown.as_bytes());
            let differs = answer.traces.iter().any(|trace| !trace.differences.is_empty());
            if differs { ExitCode::FAILURE } else { ExitCode::SUCCESS }
        }
        Err(error) => {
            eprintln!("bowline: {error}");
            ExitCode::FAILURE
        }
    }
}

/// What it prints about a packet, by the daemon with this run directory.
///
/// # Errors
/// As [`ask`].
pub fn told(run_dir: &std::path::Path, from: &str, to: &str) -> Result<String, String> {
    let text = ask(run_dir, &format!("/trace?from={}&to={}", encoded(from), encoded(to)))?;
    serde_json::from_str(&text)
        .map(|answer| told_of(&answer))
        .map_err(|error| format!("the daemon's answer: {error}"))
}

fn path(args: &TraceArgs) -> String {
    let protocol = args.protocol.iter().map(|it| format!("&protocol={}", encoded(it))).collect::<String>();
    format!("/trace?from={}&to={}{protocol}", encoded(&args.from), encoded(&args.to))
}

fn told_of(answer: &TracesAnswer) -> String {
    let traces: Vec<String> = answer.traces.iter().map(|it| trace(it, &answer.node)).collect();
    traces.join("\n")
}

fn trace(trace: &TraceAnswer, node: &str) -> String {
    let mut text =
        format!("{} to {} by {}, on node {node}: {}\n", trace.from, trace.to, trace.protocol, verdict(trace));
    for (number, reason) in (1..).zip(&trace.reasons) {
        text.push_str(&format!("  {number}. {reason}\n"));
    }
    let chances = trace
        .endpoints
        .iter()
        .map(|(address, chance)| vec![address.to_string(), format!("{:>5.1} %", chance * 100.0)]);
    text.push_str(&aligned(5, &chances.collect::<Vec<_>>()));
    if let Some(seconds) = trace.affinity_seconds {
        text.push_str(&format!("  affinity   a client who has an endpoint keeps it for {seconds} s\n"));
    }
    if !trace.endpoints.is_empty() {
        let source = if trace.masquerade {
            "the source becomes this node's"
        } else {
            "the source stays, but for a hairpin"
        };
        text.push_str(&format!("  rewritten  the destination becomes the endpoint's; {source}\n"));
    }
    let does = trace.kernel.as_deref().unwrap_or("nothing");
    text.push_str(&format!("  kernel     {}: {does}\n", trace.mode));
    trace.differences.iter().for_each(|it| text.push_str(&format!("  DIFFERS    {it}\n")));
    if !trace.drift.is_empty() {
        let things = counted(trace.drift.len(), "thing");
        text.push_str(&format!(
            "  beware     the kernel differs from the plan in {things} (bowline services)\n"
        ));
    }
    text
}

fn verdict(trace: &TraceAnswer) -> String {
    let of = trace.service.as_ref().map(|service| format!(" of {service}")).unwrap_or_default();
    match trace.verdict.as_str() {
        "endpoints" if trace.endpoints.len() == 1 => format!("goes to the only endpoint{of}"),
        "endpoints" => format!("goes to one of {}{of}", counted(trace.endpoints.len(), "endpoint")),
        "reject" => "is REJECTED: connection refused".to_owned(),
        "drop" => "is DROPPED: the sender waits in vain".to_owned(),
        _ => "is no matter of Services and follows the routes".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::golden;

    #[test]
    fn packets_are_followed_step_by_step() {
        let answers: Vec<TracesAnswer> =
            serde_json::from_str(include_str!("../../daemon/tests/golden/traces.json")).expect("answers");
        golden::same("traces.txt", &answers.iter().map(told_of).collect::<Vec<_>>().join("\n"));
    }
}
