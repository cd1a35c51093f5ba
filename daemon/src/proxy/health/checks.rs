//! The servers of healthCheckNodePorts: opened, moved and closed as Services change.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::{Response, StatusCode};
use kernel::dual::Family;
use proxy::plan::NodePorts;
use proxy::state::ServiceName;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::Teller;
use crate::http::{response, serve_by};
use crate::log::chain_of;
use crate::proxy::Published;

/// How soon a port that somebody else has is tried again.
const AGAIN: Duration = Duration::from_secs(5);

/// A Service in one family.
type Name = (Family, ServiceName);

/// All servers of health check node ports. They end when this is dropped.
#[derive(Debug)]
pub struct Checks {
    teller: Teller,
    open: BTreeMap<Name, Server>,
    told: BTreeSet<(Name, String)>,
    again: Duration,
}

/// One Service's.
#[derive(Debug)]
struct Server {
    addresses: Vec<SocketAddr>,
    /// Ends with it, and every conversation too.
    serving: JoinSet<()>,
}

impl Checks {
    /// None open yet.
    pub fn new(teller: Teller) -> Self {
        Checks { teller, open: BTreeMap::new(), told: BTreeSet::new(), again: AGAIN }
    }

    /// How soon a port that somebody else has is tried again, in place of five seconds.
    pub fn trying_again(self, again: Duration) -> Self {
        Checks { again, ..self }
    }

    /// Follows what is published, until that ends.
    pub async fn follow(mut self) {
        let mut published = self.teller.published.clone();
        loop {
            let wanted = wanted(&published.borrow_and_update());
            let is_whole = self.bring_to(wanted).await;
            let changed = published.changed();
            let outcome = if is_whole {
                changed.await
            } else {
                tokio::select! {
                    outcome = changed => outcome,
                    // Not a wait for anything: there is no event for a port that has become free.
                    () = sleep(self.again) => Ok(()),
                }
            };
            if outcome.is_err() {
                return;
            }
        }
    }

    /// Opens and closes. Whether all that is wanted is open.
    async fn bring_to(&mut self, wanted: BTreeMap<Name, Vec<SocketAddr>>) -> bool {
        let is_stale = |name: &Name, server: &mut Server| wanted.get(name) != Some(&server.addresses);
        let stale: Vec<Server> = self.open.extract_if(.., is_stale).map(|(_, server)| server).collect();
        for mut server in stale {
            // Its port may be another Service's at once.
            server.serving.shutdown().await;
        }
        self.told.retain(|(name, _)| wanted.contains_key(name));
        let mut is_whole = true;
        for (name, addresses) in wanted {
            if self.open.contains_key(&name) {
                continue;
            }
            match self.open(&name, addresses) {
                Ok(server) => {
                    self.told.retain(|(of, _)| *of != name);
                    self.open.insert(name, server);
                }
                Err(error) => {
                    is_whole = false;
                    let (family, service) = &name;
                    if self.told.insert((name.clone(), error.clone())) {
                        tracing::warn!(
                            "{service}: healthCheckNodePort: {family}: {error}; it is tried again"
                        );
                    }
                }
            }
        }
        is_whole
    }

    /// Listens on all addresses of a Service, or on none.
    fn open(&self, name: &Name, addresses: Vec<SocketAddr>) -> Result<Server, String> {
        let listen = |address: &SocketAddr| {
            let listener = kernel::listen::tcp(*address).map_err(|error| chain_of(&error))?;
            TcpListener::from_std(listener).map_err(|error| format!("listen on {address}: {error}"))
        };
        let listeners: Vec<TcpListener> = addresses.iter().map(listen).collect::<Result<_, _>>()?;
        let mut serving = JoinSet::new();
        for listener in listeners {
            let (teller, name) = (self.teller.clone(), name.clone());
            // Whatever the path, as load balancers ask for different ones.
            serving.spawn(serve_by(listener, move |_| std::future::ready(answer(&teller, &name))));
        }
        Ok(Server { addresses, serving })
    }
}

/// What shall be open.
fn wanted(published: &Published) -> BTreeMap<Name, Vec<SocketAddr>> {
    let mut wanted = BTreeMap::new();
    for (family, state) in published.families.present() {
        let ips: Vec<IpAddr> = match (&state.node_ports, family) {
            (NodePorts::On(ips), _) => ips.clone(),
            (NodePorts::Everywhere, Family::V4) => vec![Ipv4Addr::UNSPECIFIED.into()],
            (NodePorts::Everywhere, Family::V6) => vec![Ipv6Addr::UNSPECIFIED.into()],
        };
        for (service, check) in state.health.iter() {
            let addresses = ips.iter().map(|ip| SocketAddr::new(*ip, check.port)).collect();
            wanted.insert((family, service.clone()), addresses);
        }
    }
    wanted
}

fn answer(teller: &Teller, (family, service): &Name) -> Response<Full<Bytes>> {
    let is_well = teller.health().is_well();
    let published = teller.published.borrow();
    let check = published.families.of(*family).as_ref().and_then(|state| state.health.get(service).copied());
    let endpoints = check.map_or(0, |check| check.endpoints);
    drop(published);
    let status = if endpoints > 0 && is_well { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let body = json!({
        "service": {"namespace": &*service.namespace, "name": &*service.name},
        "localEndpoints": endpoints,
        "serviceProxyHealthy": is_well,
    });
    let weight = endpoints.to_string();
    let [kind, nosniff] = super::JSON;
    let headers = [kind, nosniff, ("x-load-balancing-endpoint-weight", weight.as_str())];
    response(status, &headers, body.to_string())
}
