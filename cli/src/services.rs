//! `bowline services`: what is planned for Services, and what the kernel really has.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use daemon::proxy::ask::encoded;
use daemon::proxy::{
    EndpointAnswer, FamilyAnswer, FrontendAnswer, PortAnswer, ServiceAnswer, ServicesAnswer,
};

use crate::columns::{aligned, counted, joined};
use crate::control::ask;

/// What is planned for Services, and what the kernel really has. Exits with 1 where these differ.
#[derive(Debug, Clone, Args)]
pub struct ServicesArgs {
    /// One Service with everything about it, NAMESPACE/NAME; all in a line each without it.
    service: Option<String>,
    /// Those of one namespace.
    #[arg(short, long, conflicts_with = "service")]
    namespace: Option<String>,
    /// Form of the answer.
    #[arg(short, long, value_enum, default_value_t = Form::Text)]
    output: Form,
    /// The daemon's --run-dir.
    #[arg(long, default_value = "/run/bowline")]
    run_dir: PathBuf,
}

/// Form of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Form {
    /// For people.
    Text,
    /// As the daemon gives it.
    Json,
}

/// Asks and prints.
pub fn run(args: &ServicesArgs) -> ExitCode {
    let told = path(args).and_then(|path| ask(&args.run_dir, &path)).and_then(|text| {
        let answer: ServicesAnswer =
            serde_json::from_str(&text).map_err(|error| format!("the daemon's answer: {error}"))?;
        match (&args.service, &answer.services[..]) {
            (Some(service), []) => Err(format!("there is no Service {service}")),
            _ => Ok((text, answer)),
        }
    });
    match told {
        Ok((text, answer)) => {
            let shown = match (args.output, &args.service) {
                (Form::Json, _) => text,
                (Form::Text, None) => overview(&answer),
                (Form::Text, Some(_)) => whole(&answer),
            };
            // A reader who has left has seen enough.
            let _ = std::io::stdout().write_all(shown.as_bytes());
            if differs(&answer) { ExitCode::FAILURE } else { ExitCode::SUCCESS }
        }
        Err(error) => {
            eprintln!("bowline: {error}");
            ExitCode::FAILURE
        }
    }
}

/// What it prints about all Services of the daemon with this run directory.
///
/// # Errors
/// As [`ask`].
pub fn told(run_dir: &std::path::Path) -> Result<String, String> {
    let text = ask(run_dir, "/services")?;
    serde_json::from_str(&text)
        .map(|answer| overview(&answer))
        .map_err(|error| format!("the daemon's answer: {error}"))
}

fn path(args: &ServicesArgs) -> Result<String, String> {
    match (&args.service, &args.namespace) {
        (Some(service), _) => match service.split_once('/') {
            Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() => {
                Ok(format!("/services?namespace={}&name={}", encoded(namespace), encoded(name)))
            }
            _ => Err(format!("`{service}` is not NAMESPACE/NAME")),
        },
        (None, Some(namespace)) => Ok(format!("/services?namespace={}", encoded(namespace))),
        (None, None) => Ok("/services".to_owned()),
    }
}

fn differs(answer: &ServicesAnswer) -> bool {
    answer.families.iter().any(|family| !family.drift.is_empty() || family.failure.is_some())
}

/// A line for each Service.
fn overview(answer: &ServicesAnswer) -> String {
    let mut text = head(answer);
    let title = ["NAMESPACE", "NAME", "TYPE", "FRONTENDS", "ENDPOINTS", "PROBLEM"];
    let mut rows = vec![title.map(str::to_owned).to_vec()];
    rows.extend(answer.services.iter().map(|service| {
        let all = || service.ports.iter().flat_map(|port| &port.endpoints);
        let used = all().filter(|it| it.for_cluster || it.for_local).count();
        let endpoints = match (&service.not_served, used == all().count()) {
            (Some(_), _) => String::new(),
            (None, true) => used.to_string(),
            (None, false) => format!("{used} of {}", all().count()),
        };
        let problems: Vec<String> = problems(service).into_iter().chain(service.not_served.clone()).collect();
        vec![
            service.namespace.clone(),
            service.name.clone(),
            service.kind.clone(),
            frontends(service),
            endpoints,
            problems.join("; "),
        ]
    }));
    if answer.services.is_empty() {
        text.push_str("\nno Services\n");
    } else {
        text.push('\n');
        text.push_str(&aligned(0, &rows));
    }
    text
}

/// What is wrong with it, without its name.
fn problems(service: &ServiceAnswer) -> Vec<String> {
    let name = format!("{}/{}: ", service.namespace, service.name);
    let own =
        service.problems.iter().map(|problem| problem.strip_prefix(&name).unwrap_or(problem).to_owned());
    let frontends = service.ports.iter().flat_map(|port| &port.frontends);
    let lost = frontends.filter_map(|frontend| {
        let other = frontend.lost_to.as_ref()?;
        Some(format!("{} {} is {other}'s", frontend.kind, place(frontend)))
    });
    own.chain(lost).collect()
}

/// `10.96.0.10:80, :30080`, each once.
fn frontends(service: &ServiceAnswer) -> String {
    let mut shown: Vec<String> = Vec::new();
    for (port, frontend) in
        service.ports.iter().flat_map(|port| port.frontends.iter().map(move |it| (port, it)))
    {
        let protocol = if port.protocol == "TCP" { String::new() } else { format!("/{}", port.protocol) };
        let text = format!("{}{protocol}", place(frontend));
        if !shown.contains(&text) && frontend.lost_to.is_none() {
            shown.push(text);
        }
    }
    shown.join(", ")
}

fn place(frontend: &FrontendAnswer) -> String {
    match frontend.ip {
        Some(ip) => std::net::SocketAddr::new(ip, frontend.port).to_string(),
        None => format!(":{}", frontend.port),
    }
}

/// The node, and whether its kernel is as planned.
fn head(answer: &ServicesAnswer) -> String {
    let family = |family: &FamilyAnswer| {
        let state = match (&family.failure, family.drift.len()) {
            (Some(_), _) => "the kernel can't be read".to_owned(),
            (None, 0) => "as planned".to_owned(),
            (None, count) => format!("DIFFERS from the plan in {}", counted(count, "thing")),
        };
        format!("{} by {}, {state}", family.family, family.mode)
    };
    let families: Vec<String> = answer.families.iter().map(family).collect();
    let families =
        if families.is_empty() { "nothing is planned yet".to_owned() } else { families.join("; ") };
    let mut text = format!("node {}: {families}\n", answer.node);
    for family in &answer.families {
        let sentences = family.failure.iter().chain(&family.drift);
        sentences.for_each(|sentence| text.push_str(&format!("  {}: {sentence}\n", family.family)));
    }
    text
}

/// Everything about each Service.
fn whole(answer: &ServicesAnswer) -> String {
    let mut text = head(answer);
    for service in &answer.services {
        text.push_str(&format!("\n{}/{}  {}\n", service.namespace, service.name, service.kind));
        if let Some(why) = &service.not_served {
            text.push_str(&format!("not served: {why}\n"));
        } else {
            let (internal, external) = (&service.internal_policy, &service.external_policy);
            text.push_str(&format!("traffic policy: internal {internal}, external {external}\n"));
        }
        if let Some(check) = service.health_check {
            let count = counted(check.endpoints, "ready endpoint");
            text.push_str(&format!("health check node port: {}, tells {count} here\n", check.port));
        }
        problems(service).iter().for_each(|problem| text.push_str(&format!("problem: {problem}\n")));
        service.ports.iter().for_each(|it| text.push_str(&port(it)));
    }
    text
}

fn port(port: &PortAnswer) -> String {
    let blank = if port.name.is_empty() { "" } else { " " };
    let mut text = format!("\n{}{blank}{}, {}\n", port.name, port.protocol, port.family);
    let mut rows = Vec::new();
    for frontend in &port.frontends {
        let does = match (&frontend.lost_to, &frontend.kernel) {
            (Some(other), _) => format!("NOT SERVED: it is {other}'s"),
            (None, Some(does)) => format!("kernel: {does}"),
            (None, None) => "kernel: NOTHING".to_owned(),
        };
        rows.push(vec![frontend.kind.clone(), place(frontend), does]);
    }
    text.push_str(&aligned(2, &rows));
    text.push_str(&format!("  through the ClusterIP  {}\n", port.internal));
    if !port.external.is_empty() {
        text.push_str(&format!("  through the others     {}\n", port.external));
    }
    if let Some(seconds) = port.affinity_seconds {
        text.push_str(&format!(
            "  affinity               a client stays with its endpoint for {seconds} s\n"
        ));
    }
    if let Some(ranges) = &port.source_ranges {
        text.push_str(&format!("  source ranges          {}\n", joined(ranges)));
    }
    if port.endpoints.is_empty() {
        text.push_str("  no endpoints\n");
    }
    let rows: Vec<Vec<String>> = port.endpoints.iter().map(endpoint).collect();
    text.push_str(&aligned(4, &rows));
    text
}

fn endpoint(endpoint: &EndpointAnswer) -> Vec<String> {
    let condition = match (endpoint.ready, endpoint.serving, endpoint.terminating) {
        (true, _, false) => "ready",
        (true, _, true) => "ready, terminating",
        (false, true, true) => "serving, terminating",
        (false, false, true) => "terminating",
        (false, true, false) => "serving, not ready",
        (false, false, false) => "not ready",
    };
    let used = match (endpoint.for_cluster, endpoint.for_local) {
        (true, true) => "used, for policy Local too",
        (true, false) => "used",
        (false, true) => "used for policy Local only",
        (false, false) => "not used",
    };
    let node = match (&endpoint.node, endpoint.local) {
        (Some(node), true) => format!("here ({node})"),
        (Some(node), false) => format!("on {node}"),
        (None, _) => "on no known node".to_owned(),
    };
    let hints = [("zones", &endpoint.zone_hints), ("nodes", &endpoint.node_hints)];
    let hints = hints.into_iter().filter(|(_, names)| !names.is_empty());
    let hints: Vec<String> = hints.map(|(what, names)| format!("hints: {what} {}", joined(names))).collect();
    vec![endpoint.address.to_string(), condition.into(), node, used.into(), hints.join(", ")]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::golden;

    /// What a daemon answers in the test of that name.
    fn answered() -> ServicesAnswer {
        let text = include_str!("../../daemon/tests/golden/services.json");
        serde_json::from_str(text).expect("an answer")
    }

    #[test]
    fn services_are_shown_in_a_line_or_whole() {
        golden::same("services.txt", &overview(&answered()));
        golden::same("service.txt", &whole(&answered()));
        assert!(differs(&answered()));
    }

    #[test]
    fn a_name_is_namespace_and_name() {
        let args = |service: &str| ServicesArgs {
            service: Some(service.into()),
            namespace: None,
            output: Form::Text,
            run_dir: PathBuf::new(),
        };
        assert_eq!(path(&args("a/b c")), Ok("/services?namespace=a&name=b%20c".into()));
        assert_eq!(path(&args("web")), Err("`web` is not NAMESPACE/NAME".into()));
        assert_eq!(path(&args("web/")), Err("`web/` is not NAMESPACE/NAME".into()));
    }
}
