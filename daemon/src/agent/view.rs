//! What a snapshot means for one node: who we are, who the others are, and what of it can't be.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use kernel::dual::overlap;
use overlay::plan::Problem;
use overlay::{DualStack, Peer};

use crate::config::Ranges;
use crate::objects::{Node, Objects};

/// A snapshot as the node called `own` sees it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct View {
    /// This node's addresses.
    pub ips: DualStack<Option<IpAddr>>,
    /// This node's pods' addresses.
    pub pod_cidrs: DualStack<Option<IpNetwork>>,
    /// The other nodes that have addresses and pod CIDRs.
    pub peers: Vec<Peer>,
    /// What lies inside the cluster: pod CIDRs and addresses of every node.
    pub inside: Vec<IpNetwork>,
    /// Nodes or parts of them that are left out, and why.
    pub problems: Vec<Problem>,
}

/// Why this node can't be told apart yet; not a mistake, but to be waited for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Waiting {
    /// There is no Node of our name.
    NoNode,
    /// It has no pod CIDR.
    NoPodCidr,
}

impl Waiting {
    /// What is missing and what to do, as a sentence.
    pub fn sentence(&self, node: &str, source: &str) -> String {
        match self {
            Waiting::NoNode => format!(
                "there is no Node `{node}` in {source}: has kubelet registered it, and is the name right (--node-name)?"
            ),
            Waiting::NoPodCidr => format!(
                "Node `{node}` has no spec.podCIDRs: run kube-controller-manager with --allocate-node-cidrs and --cluster-cidr, or set them in the manifest"
            ),
        }
    }
}

/// Looks at `objects` as the node called `own`.
///
/// # Errors
/// What has to be waited for.
pub fn look(own: &str, ranges: &Ranges, objects: &Objects) -> Result<View, Waiting> {
    let me = objects.nodes.get(own).ok_or(Waiting::NoNode)?;
    if me.pod_cidrs.is_empty() {
        return Err(Waiting::NoPodCidr);
    }
    let mut view = View {
        ips: DualStack::first_of(me.ips.iter().copied()),
        pod_cidrs: DualStack::first_network_of(me.pod_cidrs.iter().copied()),
        ..View::default()
    };
    let sound = view.sound_claims(me, ranges, objects);
    let lost = lost_claims(own, &sound);
    let mut granted: BTreeMap<&str, Vec<IpNetwork>> = BTreeMap::new();
    for (cidr, node) in sound {
        granted.entry(&node.name).or_default().push(cidr);
    }
    for lost in &lost {
        granted.entry(&lost.node).or_default().retain(|cidr| *cidr != lost.cidr);
    }
    for node in objects.nodes.values() {
        view.inside.extend(node.ips.iter().copied().map(IpNetwork::from));
        let pod_cidrs = granted.remove(node.name.as_str()).unwrap_or_default();
        view.inside.extend(&pod_cidrs);
        if node.name != own && !pod_cidrs.is_empty() {
            view.peers.push(Peer {
                name: node.name.clone(),
                ips: DualStack::first_of(node.ips.iter().copied()),
                pod_cidrs: DualStack::first_network_of(pod_cidrs),
                wireguard_key: node.wireguard_key,
            });
        }
    }
    view.problems.extend(lost.into_iter().map(Lost::problem));
    Ok(view)
}

type Claim<'a> = (IpNetwork, &'a Node);

impl View {
    /// Which pod CIDRs can be true at all. One that can't must not take anything from others.
    fn sound_claims<'a>(&mut self, me: &Node, ranges: &Ranges, objects: &'a Objects) -> Vec<Claim<'a>> {
        let mut sound = Vec::with_capacity(objects.nodes.len());
        for node in objects.nodes.values() {
            for cidr in node.pod_cidrs.iter().copied().map(kernel::route::masked) {
                let holds = node.ips.iter().chain(&me.ips).find(|ip| cidr.contains(**ip));
                let refused = match (ranges.check_pod_cidr(cidr), holds) {
                    // Our own mistakes are for those who configured this node, see the agent.
                    _ if node.name == me.name => None,
                    (Err(why), _) => Some(why),
                    (Ok(()), Some(ip)) => Some(format!("pod CIDR {cidr} holds {ip}, the address of a node")),
                    (Ok(()), None) => None,
                };
                match refused {
                    Some(why) => {
                        let what = format!("is left out: {why}");
                        self.problems.push(Problem { peer: node.name.clone(), what });
                    }
                    None => sound.push((cidr, node.as_ref())),
                }
            }
        }
        sound
    }
}

/// A pod CIDR that another node has.
struct Lost {
    node: String,
    cidr: IpNetwork,
    to: String,
}

impl Lost {
    fn problem(self) -> Problem {
        let what = format!("claims the pod CIDR {}, which belongs to {}", self.cidr, self.to);
        Problem { peer: self.node, what }
    }
}

/// Of nodes whose pod CIDRs overlap the newest is right, except that this node never gives up its own: its pods are
/// there.
fn lost_claims(own: &str, claims: &[Claim<'_>]) -> Vec<Lost> {
    let mut claims = claims.to_vec();
    // A network stands before those within it, so what overlaps is adjacent.
    claims.sort_by(|(one, of_one), (other, of_other)| {
        (one.ip(), one.prefix(), &of_one.name).cmp(&(other.ip(), other.prefix(), &of_other.name))
    });
    let rank = |node: &Node| (node.name == own, node.created, node.uid.clone());
    let mut lost: Vec<Lost> = Vec::new();
    let mut standing: Option<Claim<'_>> = None;
    for (cidr, node) in claims {
        let Some((taken, owner)) = standing.filter(|(taken, _)| overlap(*taken, cidr)) else {
            standing = Some((cidr, node));
            continue;
        };
        let newer = rank(node) > rank(owner);
        let (winner, loser, of) = if newer { (node, owner, taken) } else { (owner, node, cidr) };
        if winner.name != loser.name {
            lost.push(Lost { node: loser.name.clone(), cidr: of, to: winner.name.clone() });
        }
        if newer {
            standing = Some((cidr, node));
        }
    }
    lost.sort_by(|a, b| (&a.node, a.cidr).cmp(&(&b.node, b.cidr)));
    lost
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn node(name: &str, created: i64, ips: &[&str], cidrs: &[&str]) -> Arc<Node> {
        Arc::new(Node {
            name: name.into(),
            uid: format!("uid-{name}"),
            created,
            ips: ips.iter().map(|ip| ip.parse().expect("an address")).collect(),
            pod_cidrs: cidrs.iter().map(|cidr| cidr.parse().expect("a network")).collect(),
            ..Node::default()
        })
    }

    fn objects(nodes: &[Arc<Node>]) -> Objects {
        Objects { nodes: nodes.iter().map(|node| (node.name.clone(), Arc::clone(node))).collect() }
    }

    fn peers(view: &View) -> Vec<String> {
        let cidrs =
            |peer: &Peer| peer.pod_cidrs.present().map(|(_, cidr)| cidr.to_string()).collect::<Vec<_>>();
        view.peers.iter().map(|peer| format!("{} {}", peer.name, cidrs(peer).join(" "))).collect()
    }

    fn problems(view: &View) -> Vec<String> {
        view.problems.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_node_is_waited_for_and_so_are_its_pod_cidrs() {
        let ranges = Ranges::default();
        assert_eq!(look("a", &ranges, &Objects::default()), Err(Waiting::NoNode));
        let bare = objects(&[node("a", 1, &["192.0.2.1"], &[])]);
        assert_eq!(look("a", &ranges, &bare), Err(Waiting::NoPodCidr));
        let sentence = Waiting::NoPodCidr.sentence("a", "manifests /m");
        assert!(sentence.contains("`a`") && sentence.contains("--allocate-node-cidrs"), "{sentence}");
    }

    #[test]
    fn everybody_else_is_a_peer_and_everything_is_inside() {
        let all = objects(&[
            node("a", 1, &["192.0.2.1", "2001:db8::1"], &["fd00:1::/64", "10.1.0.0/24"]),
            node("b", 1, &["192.0.2.2"], &["10.2.0.0/24"]),
            node("c", 1, &["192.0.2.3"], &[]),
        ]);
        let view = look("a", &Ranges::default(), &all).expect("a view");
        assert_eq!(view.pod_cidrs.v4, Some("10.1.0.0/24".parse().expect("a network")));
        assert_eq!(view.ips.v6, Some("2001:db8::1".parse().expect("an address")));
        assert_eq!(peers(&view), ["b 10.2.0.0/24"]);
        let inside: Vec<String> = view.inside.iter().map(ToString::to_string).collect();
        for network in ["192.0.2.3/32", "10.1.0.0/24", "fd00:1::/64", "10.2.0.0/24", "2001:db8::1/128"] {
            assert!(inside.iter().any(|it| it == network), "{network}: {inside:?}");
        }
        assert_eq!(problems(&view), [""; 0]);
    }

    #[test]
    fn of_two_that_claim_one_pod_cidr_the_newest_is_right_and_both_are_named() {
        let all = objects(&[
            node("a", 1, &["192.0.2.1"], &["10.1.0.0/24"]),
            node("new", 9, &["192.0.2.2"], &["10.2.0.0/24"]),
            node("old", 2, &["192.0.2.3"], &["10.2.0.0/24", "fd00:2::/64"]),
            node("thief", 99, &["192.0.2.4"], &["10.1.0.0/16"]),
        ]);
        let view = look("a", &Ranges::default(), &all).expect("a view");
        assert_eq!(peers(&view), ["new 10.2.0.0/24", "old fd00:2::/64"]);
        assert_eq!(
            problems(&view),
            [
                "old: claims the pod CIDR 10.2.0.0/24, which belongs to new",
                "thief: claims the pod CIDR 10.1.0.0/16, which belongs to a"
            ]
        );
    }

    #[test]
    fn a_peer_outside_the_cluster_is_left_out() {
        let ranges = Ranges { cluster: vec!["10.0.0.0/14".parse().expect("a network")], ..Ranges::default() };
        let all = objects(&[
            node("a", 1, &["192.0.2.1"], &["10.1.0.0/24"]),
            node("b", 1, &["192.0.2.2"], &["0.0.0.0/0"]),
            node("c", 1, &["192.0.2.3"], &["10.9.0.0/24"]),
        ]);
        let view = look("c", &ranges, &all).expect("a view");
        assert_eq!(peers(&view), ["a 10.1.0.0/24"]);
        let view = look("a", &ranges, &all).expect("a view");
        assert_eq!(peers(&view), [""; 0]);
        assert!(
            problems(&view).iter().any(|it| it.contains("c: is left out: pod CIDR 10.9.0.0/24 lies outside"))
        );
    }
}
