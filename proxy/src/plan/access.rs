//! What each kind of sender gets from a kind of frontend.

use super::choice::Choice;
use super::settings::Site;
use crate::state::Policy;

/// Among which endpoints one is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// Those for policy Cluster.
    Cluster,
    /// Those on this node.
    Local,
}

/// What becomes of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// One endpoint is chosen.
    Balance {
        /// Among which.
        scope: Scope,
        /// Whether the endpoint sees this node as the source.
        masquerade: bool,
    },
    /// The sender is told: nobody listens.
    Reject,
    /// The packet is gone: somewhere else in the cluster it would be answered.
    Drop,
}

/// What the three kinds of senders get.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Access {
    /// A pod of this node (with some detection modes: of the cluster). What anybody else gets when pods are not told
    /// from others.
    pub pod: Action,
    /// A process of this node, as far as its source is an address of the node and not a pod's.
    pub node: Action,
    /// Anybody else.
    pub outside: Action,
}

impl Access {
    const fn same(action: Action) -> Self {
        Access { pod: action, node: action, outside: action }
    }

    /// Through the ClusterIP.
    pub(super) fn internal(site: &Site, policy: Policy, choice: &Choice) -> Self {
        if !choice.any {
            return Access::same(Action::Reject);
        }
        let scope = match policy {
            Policy::Cluster => Scope::Cluster,
            Policy::Local if choice.local.is_empty() => return Access::same(Action::Drop),
            Policy::Local => Scope::Local,
        };
        let pod = Action::Balance { scope, masquerade: site.masquerade_all };
        let other = Action::Balance { scope, masquerade: site.masquerade_all || site.detect.is_some() };
        if site.detect.is_some() { Access { pod, node: other, outside: other } } else { Access::same(other) }
    }

    /// Through a NodePort, an external IP or a load balancer's IP. With policy Local those inside the cluster are short
    /// of nothing: for them it is as if they had used the ClusterIP.
    pub(super) fn external(site: &Site, policy: Policy, choice: &Choice) -> Self {
        const MASQUERADED: Action = Action::Balance { scope: Scope::Cluster, masquerade: true };
        if !choice.any {
            return Access::same(Action::Reject);
        }
        if policy == Policy::Cluster {
            return Access::same(MASQUERADED);
        }
        let outside = if choice.local.is_empty() {
            Action::Drop
        } else {
            Action::Balance { scope: Scope::Local, masquerade: false }
        };
        let pod = match site.detect {
            Some(_) => Action::Balance { scope: Scope::Cluster, masquerade: false },
            None => outside,
        };
        Access { pod, node: MASQUERADED, outside }
    }
}
