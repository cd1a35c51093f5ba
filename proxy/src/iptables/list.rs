//! What the chains do, by frontend.

use std::collections::BTreeSet;
use std::net::IpAddr;

use kernel::iptables::{Table, words};

use super::compare::Observed;
use super::names;
use super::render::Shared;
use crate::dataplane::Served;
use crate::state::Protocol;

/// Every frontend that a rule matches, with the endpoints that its target leads to.
pub(super) fn served(observed: &Observed<'_>) -> Vec<Served> {
    let mut found = BTreeSet::new();
    for shared in Shared::ALL {
        for rule in observed.chain(shared.table(), shared.chain()).unwrap_or_default() {
            found.extend(frontend(observed, shared, &words(rule)));
        }
    }
    found.into_iter().collect()
}

fn frontend(observed: &Observed<'_>, shared: Shared, words: &[String]) -> Option<Served> {
    let after = |option: &str| {
        let at = words.iter().position(|word| word == option)?;
        words.get(at + 1).map(String::as_str)
    };
    let target = after("-j")?;
    if target == names::NODE_PORTS || after("--nfacct-name").is_some() {
        return None;
    }
    let ip = after("-d").and_then(|text| text.split('/').next()?.parse::<IpAddr>().ok());
    let port = after("--dport").and_then(|text| text.parse().ok())?;
    let protocol = Protocol::named(&after("-p")?.to_uppercase());
    let does = match shared {
        Shared::HealthChecks => "accept health checks".to_owned(),
        Shared::Ranged => "drop what source ranges leave over".to_owned(),
        Shared::Unserved | Shared::ExternalUnserved => target.to_lowercase(),
        Shared::Services | Shared::NodePorts => follow(observed, target),
    };
    Some(Served { protocol, ip, port: Some(port), does })
}

/// A chain and the endpoints at its end.
fn follow(observed: &Observed<'_>, chain: &str) -> String {
    let mut endpoints = BTreeSet::new();
    let mut seen = BTreeSet::new();
    let mut next = vec![chain.to_owned()];
    while let Some(chain) = next.pop() {
        if !seen.insert(chain.clone()) {
            continue;
        }
        for rule in observed.chain(Table::Nat, &chain).unwrap_or_default() {
            let words = words(rule);
            let after = |option: &str| {
                let at = words.iter().position(|word| word == option)?;
                words.get(at + 1).cloned()
            };
            endpoints.extend(after("--to-destination"));
            next.extend(after("-j").filter(|target| target != names::MARK_MASQ && names::is_ours(target)));
        }
    }
    let endpoints: Vec<String> = endpoints.into_iter().collect();
    format!("{chain}: {}", endpoints.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frontends_are_told_with_their_endpoints() {
        let saved = "*filter\n-A KUBE-SERVICES -d 10.96.0.2/32 -p udp -m comment --comment \"a/b has no endpoints\" -m udp \
             --dport 53 -j REJECT --reject-with icmp-port-unreachable\nCOMMIT\n*nat\n\
             -A KUBE-SERVICES -d 10.96.0.1/32 -p tcp -m comment --comment \"a/c cluster IP\" -m tcp --dport 80 -j KUBE-SVC-C\n\
             -A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS\n\
             -A KUBE-NODEPORTS -p tcp -m tcp --dport 30080 -j KUBE-EXT-C\n-A KUBE-EXT-C -j KUBE-SVC-C\n\
             -A KUBE-SVC-C ! -s 10.0.0.0/9 -j KUBE-MARK-MASQ\n-A KUBE-SVC-C -j KUBE-SEP-1\n\
             -A KUBE-SEP-1 -p tcp -m tcp -j DNAT --to-destination 10.1.0.1:8080\nCOMMIT\n";
        let listed: Vec<String> = served(&Observed::parse(saved)).iter().map(ToString::to_string).collect();
        let expected = [
            "node port TCP 30080: KUBE-EXT-C: 10.1.0.1:8080",
            "10.96.0.1 TCP 80: KUBE-SVC-C: 10.1.0.1:8080",
            "10.96.0.2 UDP 53: reject",
        ];
        assert_eq!(listed, expected);
    }
}
