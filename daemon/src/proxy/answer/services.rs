//! What is planned for Services, and what the kernel does for them.

use kernel::dual::Family;
use proxy::engine::Engine;
use proxy::plan::{Access, Action, PortPlan, Scope, ServicePlan, endpoints_of};
use proxy::state::{Policy, Service, ServiceKind, Snapshot};

use super::{Kernel, read};
use crate::proxy::{
    EndpointAnswer, FamilyAnswer, Filter, FrontendAnswer, HealthAnswer, PortAnswer, ServiceAnswer,
    ServicesAnswer,
};

/// Answers about those Services that `filter` lets through. Reads the whole kernel, whatever the filter.
pub fn services(engine: &mut Engine, filter: &Filter) -> ServicesAnswer {
    let kernels = read(engine);
    let snapshot = engine.snapshot();
    let families = kernels.present().map(|(family, kernel)| FamilyAnswer {
        family: family.to_string(),
        mode: kernel.mode.to_string(),
        drift: kernel.drift.clone(),
        failure: kernel.failure.clone(),
    });
    let mut answer = ServicesAnswer {
        node: snapshot.node.name.to_string(),
        families: families.collect(),
        services: Vec::new(),
    };
    for service in snapshot.services() {
        if !filter.includes(&service.name.namespace, &service.name.name) {
            continue;
        }
        let mut said = about(service);
        for (family, kernel) in kernels.present() {
            if let Some(plan) = engine.plan(family) {
                add(&mut said, service, snapshot, (family, kernel, plan));
            }
        }
        answer.services.push(said);
    }
    answer
}

/// What its object says.
fn about(service: &Service) -> ServiceAnswer {
    ServiceAnswer {
        namespace: service.name.namespace.to_string(),
        name: service.name.name.to_string(),
        kind: kind(service.kind).to_owned(),
        not_served: not_served(service).map(str::to_owned),
        internal_policy: policy(service.internal_policy).to_owned(),
        external_policy: policy(service.external_policy).to_owned(),
        ..ServiceAnswer::default()
    }
}

fn kind(kind: ServiceKind) -> &'static str {
    match kind {
        ServiceKind::ClusterIp => "ClusterIP",
        ServiceKind::NodePort => "NodePort",
        ServiceKind::LoadBalancer => "LoadBalancer",
        ServiceKind::ExternalName => "ExternalName",
    }
}

fn policy(policy: Policy) -> &'static str {
    match policy {
        Policy::Cluster => "Cluster",
        Policy::Local => "Local",
    }
}

fn not_served(service: &Service) -> Option<&'static str> {
    if service.is_ours() {
        None
    } else if service.is_foreign {
        Some("its label service.kubernetes.io/service-proxy-name gives it to another proxy")
    } else if service.kind == ServiceKind::ExternalName {
        Some("ExternalName: DNS alone leads to it")
    } else {
        Some("headless: DNS leads to its endpoints themselves")
    }
}

/// Adds what one family has of a Service.
fn add(
    said: &mut ServiceAnswer,
    service: &Service,
    snapshot: &Snapshot,
    (family, kernel, plan): (Family, &Kernel, &ServicePlan),
) {
    for name in plan.port_names(&service.name) {
        if let Some(port) = plan.ports.get(&name) {
            said.ports.push(answer(port, snapshot, (family, kernel, plan)));
        }
    }
    for problem in plan.problems.get(&service.name).into_iter().flatten() {
        if !said.problems.contains(problem) {
            said.problems.push(problem.clone());
        }
    }
    if let Some(check) = plan.health.get(&service.name) {
        said.health_check = Some(HealthAnswer { port: check.port, endpoints: check.endpoints });
    }
}

fn answer(
    port: &PortPlan,
    snapshot: &Snapshot,
    (family, kernel, plan): (Family, &Kernel, &ServicePlan),
) -> PortAnswer {
    let protocol = port.name.protocol;
    let won = port.frontends.iter().map(|frontend| (*frontend, None));
    let lost = port.lost.iter().map(|lost| (lost.frontend, Some(lost.to.to_string())));
    let frontend = |(frontend, lost_to): (proxy::plan::Frontend, Option<String>)| FrontendAnswer {
        kind: frontend.kind.to_string(),
        ip: frontend.ip,
        port: frontend.port,
        // What is another's is told of that one.
        kernel: if lost_to.is_some() { None } else { kernel.of(frontend, protocol, plan) },
        lost_to,
    };
    let texts = |texts: &[std::sync::Arc<str>]| texts.iter().map(ToString::to_string).collect();
    let chosen = |scope, address| port.targets(scope).iter().any(|target| target.address == address);
    let endpoints =
        endpoints_of(snapshot, &port.name, family).into_iter().map(|(address, endpoint)| EndpointAnswer {
            address,
            local: endpoint.node.as_ref() == Some(&plan.site.node),
            node: endpoint.node.as_ref().map(ToString::to_string),
            ready: endpoint.ready,
            serving: endpoint.serving,
            terminating: endpoint.terminating,
            zone_hints: texts(endpoint.zone_hints()),
            node_hints: texts(endpoint.node_hints()),
            for_cluster: chosen(Scope::Cluster, address),
            for_local: chosen(Scope::Local, address),
        });
    let has_external = port.frontends.len() > 1;
    PortAnswer {
        family: family.to_string(),
        name: port.name.port.to_string(),
        protocol: protocol.to_string(),
        frontends: won.chain(lost).map(frontend).collect(),
        internal: words(&port.internal),
        external: if has_external { words(&port.external) } else { String::new() },
        endpoints: endpoints.collect(),
        affinity_seconds: port.affinity.map(|timeout| timeout.as_secs()),
        source_ranges: port.sources.as_ref().map(|ranges| ranges.iter().map(ToString::to_string).collect()),
    }
}

/// What everybody gets: `pods: any endpoint; this node and others: any endpoint, masqueraded`.
fn words(access: &Access) -> String {
    let [pod, node, outside] = [access.pod, access.node, access.outside].map(action);
    match (pod == node, node == outside) {
        (true, true) => format!("everybody: {pod}"),
        (true, false) => format!("pods and this node: {pod}; others: {outside}"),
        (false, true) => format!("pods: {pod}; this node and others: {outside}"),
        (false, false) => format!("pods: {pod}; this node: {node}; others: {outside}"),
    }
}

fn action(action: Action) -> &'static str {
    match action {
        Action::Balance { scope: Scope::Cluster, masquerade: false } => "any endpoint",
        Action::Balance { scope: Scope::Cluster, masquerade: true } => "any endpoint, masqueraded",
        Action::Balance { scope: Scope::Local, masquerade: false } => "an endpoint here",
        Action::Balance { scope: Scope::Local, masquerade: true } => "an endpoint here, masqueraded",
        Action::Reject => "rejected, as no endpoint serves",
        Action::Drop => "dropped, as no endpoint here serves",
    }
}
