//! What the Service proxy reads: Services, EndpointSlices, ServiceCIDRs and the own Node, from the API as changes.
//!
//! Nothing is kept here: what the API tells goes on as it comes, decoded and slimmed, into the proxy's inbox. A field that
//! makes no sense counts as absent and is named, once, with its object; nothing keeps the other objects away.

mod cidr;
mod delta;
mod metadata;
mod own;
mod service;
mod slice;

use std::sync::Arc;

use ipnetwork::IpNetwork;

use super::api::{self, mirror::Mirror};
use super::outlet::Reporter;
use crate::proxy::{Feeds, Inbox};
use delta::{Delta, Whole};

pub use cidr::ServiceCidrObject;
pub use own::{OwnNodeObject, decode as decode_own};
pub use service::{ServiceObject, decode as decode_service};
pub use slice::{EndpointSliceObject, Shared, decode as decode_slice, trigger};

/// Follows everything that the proxy of the node called `node` reads. `service_cidrs` are where ClusterIPs come from on a
/// server that has no ServiceCIDRs.
///
/// Must be called within a tokio runtime.
pub fn from_api(config: &api::Config, node: &str, service_cidrs: &[IpNetwork]) -> Feeds {
    let inbox = Arc::new(Inbox::default());
    let mut feeds = Feeds { inbox: Arc::clone(&inbox), states: Vec::new() };
    let what = |kind: &str| format!("api {} ({kind})", config.shown());
    follow(&mut feeds, what("Services"), Delta::new(service::Services::default(), &inbox), config);
    follow(&mut feeds, what("EndpointSlices"), Delta::new(slice::Slices::default(), &inbox), config);
    let cidrs = Whole::new(cidr::ServiceCidrs::new(service_cidrs), &inbox);
    follow(&mut feeds, what("ServiceCIDRs"), cidrs, config);
    follow(&mut feeds, what("own Node"), Whole::new(own::OwnNodes::new(node), &inbox), config);
    feeds
}

fn follow(feeds: &mut Feeds, what: String, mirror: impl Mirror + 'static, config: &api::Config) {
    let (reporter, state) = Reporter::new(what);
    feeds.states.push(state);
    let config = config.clone();
    tokio::spawn(async move { api::follow_until(reporter.closed(), mirror, &reporter, &config).await });
}
