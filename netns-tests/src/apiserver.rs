//! A stand-in for kube-apiserver: objects in memory, served as the API serves them, and misbehaviour on command.
//!
//! ```text
//!  GET   /api/v1/nodes               list: limit, continue, resourceVersion
//!  GET   /api/v1/nodes?watch=true    watch: bookmarks, 410, timeoutSeconds, sendInitialEvents
//!  GET   /api/v1/nodes/NAME          get
//!  PATCH /api/v1/nodes/NAME[/status] merge and strategic merge
//!  GET   /api, /version              where the server is, what it is
//! ```
//! Pods, Services, EndpointSlices and ServiceCIDRs are listed and watched the same, with the selectors that proxies use.
//! Commands in pods (`pods/exec`) are answered as a test has said.
//! Plain HTTP on a listener that the caller opened, so that it can live in any network namespace. What it does not
//! know it answers with 404. Every request is recorded, so that a test can compare with what RBAC grants.

mod http;
mod serve;
mod store;

use std::collections::BTreeMap;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

use serde_json::Value;

pub use self::http::Recorded;
pub use self::store::Kind;
use self::store::Store;

/// A running server. It ends when dropped.
pub struct ApiServer {
    shared: Arc<Shared>,
    address: SocketAddr,
}

/// Which requests a misbehaviour befalls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// Lists.
    List,
    /// Watches, also those that begin with a list.
    Watch,
    /// Patches.
    Patch,
    /// Every request.
    Any,
}

/// What the server does instead of answering.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Misbehaviour {
    /// An error status, with `Retry-After` in seconds where one is given.
    Status(u16, Option<u64>),
    /// The right answer, this much later.
    Slow(Duration),
    /// 200 and bytes that are no JSON.
    Garbage,
    /// 200 and JSON of another kind than was asked for.
    OtherKind,
    /// 200 and a web page.
    WebPage,
    /// The first half of the right answer, then the end of the connection.
    Half,
    /// A watch: one line that is no event, the rest as it should be. A list: as [`Misbehaviour::Garbage`].
    GarbageLine,
    /// The connection ends without an answer.
    Drop,
}

/// How the server answers `sendInitialEvents`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Streaming {
    /// As servers since 1.34 do.
    Served,
    /// 422, as a server whose feature gate is off.
    Refused,
    /// As a server that has never heard of it: the events come, their end is never announced.
    Unknown,
}

/// What a command in a pod answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Exec {
    /// This, with this exit code.
    Says {
        /// On stdout.
        stdout: String,
        /// On stderr.
        stderr: String,
        /// 0 is success.
        code: u8,
    },
    /// The server refuses, or does not reach the kubelet.
    Refused(u16, String),
    /// The connection stands, and nothing comes.
    Silent,
    /// This on stdout, and then the connection ends.
    Torn(String),
}

/// Everything that its threads share.
struct Shared {
    state: Mutex<State>,
    /// Something in `state` changed.
    changed: Condvar,
}

struct State {
    store: Store,
    streaming: Streaming,
    misbehaviours: Vec<(Target, Misbehaviour, usize)>,
    requests: Vec<Recorded>,
    /// By `NAMESPACE/NAME` of the pod.
    commands: BTreeMap<String, Exec>,
    connections: Vec<TcpStream>,
    /// The listener, as something that can be shut down.
    listener: Option<TcpStream>,
    token: Option<String>,
    advertised: String,
    /// Kinds that this server has never heard of.
    absent: Vec<Kind>,
    is_stopped: bool,
    /// Watches of an older number end, as `ending` says.
    watch_generation: u64,
    ending: Ending,
    /// The last version that they send before it.
    ended_at: u64,
    /// Watches that are being served.
    watches: usize,
}

/// How a watch ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    /// As when its time is up.
    Clean,
    /// In the middle of an event.
    Torn,
    /// With an event of type ERROR, code 410.
    Expired,
}

impl ApiServer {
    /// Serves on `listener`, in threads of its own.
    ///
    /// # Panics
    /// When the listener has no address.
    pub fn start(listener: TcpListener) -> Self {
        let address = listener.local_addr().expect("a listener has an address");
        let state = State {
            store: Store::default(),
            streaming: Streaming::Served,
            misbehaviours: Vec::new(),
            requests: Vec::new(),
            commands: BTreeMap::new(),
            connections: Vec::new(),
            listener: None,
            token: None,
            advertised: address.to_string(),
            absent: Vec::new(),
            is_stopped: false,
            watch_generation: 0,
            ending: Ending::Clean,
            ended_at: 0,
            watches: 0,
        };
        let shared = Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new() });
        accept(&shared, listener);
        ApiServer { shared, address }
    }

    /// One on a free port of 127.0.0.1.
    ///
    /// # Panics
    /// When there is none.
    pub fn local() -> Self {
        ApiServer::start(TcpListener::bind("127.0.0.1:0").expect("a free port"))
    }

    /// `http://` and its address.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Creates or replaces an object; one that does not name its kind is a Node. `resourceVersion`, `uid` and `creationTimestamp` are the server's to give.
    ///
    /// # Panics
    /// When it has no name.
    pub fn put(&self, node: Value) {
        self.change(|state| state.store.put(node));
    }

    /// Deletes a Node; whether there was one.
    pub fn delete(&self, name: &str) -> bool {
        self.delete_of(Kind::Node, name)
    }

    /// Deletes an object, `NAMESPACE/NAME` where its kind has namespaces; whether there was one.
    pub fn delete_of(&self, kind: Kind, name: &str) -> bool {
        self.change(|state| state.store.delete(kind, name))
    }

    /// Answers whatever is asked about a kind as a server that is too old for it.
    pub fn forget_kind(&self, kind: Kind) {
        self.change(|state| state.absent.push(kind));
    }

    /// What every command in the pod `NAMESPACE/NAME` answers from now on.
    pub fn answer_commands(&self, pod: &str, answer: Exec) {
        self.change(|state| state.commands.insert(pod.to_owned(), answer));
    }

    /// The Node of this name, as it is now.
    pub fn node(&self, name: &str) -> Option<Value> {
        self.state().store.node(name).cloned()
    }

    /// Befalls the next `times` requests that `target` fits.
    pub fn misbehave(&self, target: Target, misbehaviour: Misbehaviour, times: usize) {
        self.change(|state| state.misbehaviours.push((target, misbehaviour, times)));
    }

    /// No misbehaviour any more.
    pub fn behave(&self) {
        self.change(|state| state.misbehaviours.clear());
    }

    /// How `sendInitialEvents` is answered from now on.
    pub fn stream(&self, streaming: Streaming) {
        self.change(|state| state.streaming = streaming);
    }

    /// Only requests with this bearer token are answered, others with 401.
    pub fn require_token(&self, token: &str) {
        self.change(|state| state.token = Some(token.to_owned()));
    }

    /// What `/api` names as the server's address.
    pub fn advertise(&self, address: &str) {
        self.change(|state| state.advertised = address.to_owned());
    }

    /// Ends every watch as when its time is up.
    pub fn close_watches(&self) {
        self.end_watches(Ending::Clean);
    }

    /// Ends every watch in the middle of an event.
    pub fn tear_watches(&self) {
        self.end_watches(Ending::Torn);
    }

    /// Ends every watch with the event that its version is too old.
    pub fn expire_watches(&self) {
        self.end_watches(Ending::Expired);
    }

    /// Forgets all history: watches and continued lists of an older version are answered with 410.
    pub fn compact(&self) {
        self.change(|state| state.store.compact());
    }

    /// Sends a bookmark to every watch.
    pub fn bookmark(&self) {
        self.change(|state| state.store.bookmarks += 1);
    }

    /// Every request so far, in order.
    pub fn requests(&self) -> Vec<Recorded> {
        self.state().requests.clone()
    }

    /// How many watches are being served.
    pub fn watches(&self) -> usize {
        self.state().watches
    }

    /// Closes the listener and every connection, as when the process dies.
    pub fn stop(&self) {
        self.change(|state| {
            state.is_stopped = true;
            state.watch_generation += 1;
            for connection in state.connections.drain(..).chain(state.listener.take()) {
                // It may have been closed by the other side already.
                let _ = connection.shutdown(Shutdown::Both);
            }
        });
    }

    /// Serves again, on a listener of the same address.
    pub fn resume(&self, listener: TcpListener) {
        self.change(|state| state.is_stopped = false);
        accept(&self.shared, listener);
    }

    /// Its address, to listen on again.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    fn end_watches(&self, ending: Ending) {
        self.change(|state| {
            state.watch_generation += 1;
            state.ending = ending;
            state.ended_at = state.store.version;
        });
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let outcome = change(&mut self.state());
        self.shared.changed.notify_all();
        outcome
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state()
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // A thread that panicked over one request has changed nothing by halves.
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// Accepts connections until the listener is shut down.
fn accept(shared: &Arc<Shared>, listener: TcpListener) {
    let shared = shared.clone();
    // shutdown(2) ends a listener's accept(2), which a thread blocked there would else never leave.
    shared.state().listener =
        listener.try_clone().ok().map(|listener| TcpStream::from(OwnedFd::from(listener)));
    thread::spawn(move || {
        while let Ok((connection, _)) = listener.accept() {
            let Ok(handle) = connection.try_clone() else { continue };
            let mut state = shared.state();
            if state.is_stopped {
                return;
            }
            state.connections.push(handle);
            drop(state);
            let shared = shared.clone();
            thread::spawn(move || serve::connection(&shared, connection));
        }
    });
}
