//! The Kubernetes API as a source.
//!
//! ```text
//!            refused: pages from now on
//!          ┌────────────────────────────┐
//! streaming list ──────┬──► watch ◄── paged list
//!        ▲             │     │ ▲
//!        │        snapshot   │ └── time is up, connection lost: go on from the last version
//!        └───────────────────┘
//!           410, or something that can't be read: everything anew
//! ```
//! `kube` does configuration, authentication, TLS and requests; what follows upon an answer is decided here. Its own
//! watcher stays on a version that the server answers with 410 before the watch begins, goes on behind an event that it
//! could not read, asks again at once when a server closes every watch, and says neither how it is nor `Retry-After`.

mod backoff;
mod endpoint;
pub(super) mod exchange;
mod memory;
pub(super) mod mirror;

use std::time::Duration;

use kube::Client;
use kube::api::{ListParams, WatchParams};
use kube::core::Request;
use tokio::time::{Instant, timeout_at};

pub(super) use self::backoff::Backoff;
pub(super) use self::endpoint::Endpoints;
use self::endpoint::Reached;
pub use self::endpoint::{Config, Timing};
use self::exchange::{Cause, Event, Item, Lines, Trouble};
use self::mirror::{Identified, Mirror, Nodes};
use super::Feed;
use super::outlet::{Outlet, Reporter};

/// What has changed waits no longer than this for more events.
const PATIENCE: Duration = Duration::from_millis(200);
/// How often a server is asked again for a kind that it does not have.
const ABSENT: Duration = Duration::from_secs(600);
/// After that many failures in a row the last version is not believed any more, whatever the failures say.
const STUBBORN: u32 = 3;

/// Whether `config` can be used at all: whether its files can be read and its addresses understood. Nothing is sent.
///
/// # Errors
/// A sentence with the file or the key.
pub async fn check(config: &Config) -> Result<(), String> {
    Endpoints::load(config).await.map(|_| ())
}

/// Follows the Nodes of a cluster.
///
/// Must be called within a tokio runtime.
pub fn run(config: Config) -> Feed {
    let (outlet, reporter, feed) = Outlet::new(format!("api {}", config.shown()));
    let readers = outlet.clone();
    tokio::spawn(async move {
        let closed = async { tokio::join!(readers.closed(), reporter.closed()) };
        follow_until(closed, Nodes::new(outlet), &reporter, &config).await;
    });
    feed
}

/// Follows what `mirror` asks for until `end` completes.
pub(super) async fn follow_until<T>(
    end: impl Future<Output = T>,
    mirror: impl Mirror,
    reporter: &Reporter,
    config: &Config,
) {
    tokio::select! {
        () = Follower::new(reporter, config, mirror).follow() => {}
        _ = end => {}
    }
}

/// How a watch ended without trouble.
enum End {
    /// The server had enough of it.
    Closed,
    /// Nothing came for so long that the connection may be dead.
    Silent,
}

struct Follower<'a, M> {
    reporter: &'a Reporter,
    config: &'a Config,
    backoff: Backoff,
    reached: Option<Reached>,
    /// Which of the endpoints is tried next.
    turn: usize,
    mirror: M,
    /// What the mirror shows; `None` asks for everything anew.
    version: Option<String>,
    /// Whether the server refuses lists by watch.
    is_paged: bool,
    failures: u32,
    /// Whether the server has said that it knows no such kind.
    is_absent: bool,
}

impl<'a, M: Mirror> Follower<'a, M> {
    fn new(reporter: &'a Reporter, config: &'a Config, mirror: M) -> Self {
        let timing = &config.timing;
        Follower {
            reporter,
            config,
            backoff: Backoff::new(timing.first_pause, timing.longest_pause),
            reached: None,
            turn: 0,
            mirror,
            version: None,
            is_paged: false,
            failures: 0,
            is_absent: false,
        }
    }

    async fn follow(mut self) {
        loop {
            let began = Instant::now();
            let outcome = self.attempt().await;
            if began.elapsed() >= self.config.timing.settled {
                self.backoff.reset();
                self.failures = 0;
            }
            let trouble = match outcome {
                Ok(End::Silent) => {
                    self.reached = None;
                    continue;
                }
                Ok(End::Closed) if began.elapsed() >= self.config.timing.settled => continue,
                Ok(End::Closed) => Trouble::new(Cause::Closed, "the server closes every watch at once"),
                Err(trouble) if trouble.cause == Cause::Status(404) && self.mirror.asked().may_be_absent => {
                    self.find_absent();
                    // The pause itself is what is wanted.
                    tokio::time::sleep(ABSENT).await;
                    continue;
                }
                Err(trouble) => trouble,
            };
            self.suffer(&trouble);
            // The pause itself is what is wanted.
            tokio::time::sleep(self.backoff.pause(trouble.retry_after)).await;
        }
    }

    /// A server without this kind has none of its objects.
    fn find_absent(&mut self) {
        if !std::mem::replace(&mut self.is_absent, true) {
            tracing::info!(
                "the API knows no {}: it is older than that, which is fine",
                self.mirror.asked().list
            );
        }
        self.version = None;
        self.mirror.begin();
        self.mirror.complete();
        self.show();
    }

    /// What a failure means for the next attempt.
    fn suffer(&mut self, trouble: &Trouble) {
        self.failures += 1;
        self.reporter.count(&trouble.cause.label());
        let server = self.reached.as_ref().map_or_else(|| self.config.shown(), |reached| reached.url.clone());
        let sentence = format!("{server}: {}", trouble.what);
        tracing::warn!(cause = trouble.cause.label(), "{sentence}");
        self.report(false, Some(sentence));
        match trouble.cause {
            Cause::Status(410) | Cause::Decode => self.version = None,
            // Back in a moment, and the same server.
            Cause::Status(429) | Cause::Closed => {}
            Cause::Status(_) | Cause::Connect | Cause::Timeout | Cause::Config => {
                self.reached = None;
                self.turn += 1;
            }
        }
        let is_answered = matches!(trouble.cause, Cause::Status(_) | Cause::Closed);
        if is_answered && self.failures.is_multiple_of(STUBBORN) {
            self.version = None;
        }
    }

    fn report(&self, is_connected: bool, problem: Option<String>) {
        let problems = problem.into_iter().chain(self.mirror.problems());
        self.reporter.report(is_connected, problems.collect());
    }

    /// Connects if need be, lists if need be, and watches until the watch ends.
    async fn attempt(&mut self) -> Result<End, Trouble> {
        let reached = match &self.reached {
            Some(reached) => reached.clone(),
            None => {
                let reached = Endpoints::load(self.config)
                    .await
                    .and_then(|endpoints| endpoints.reach(self.turn, &self.config.timing))
                    .map_err(|what| Trouble::new(Cause::Config, what))?;
                self.reached.insert(reached).clone()
            }
        };
        let lines = match (&self.version, self.is_paged) {
            (Some(version), _) => self.watch_from(&reached.client, version).await?,
            (None, false) => match self.list_by_watch(&reached.client).await? {
                Some(lines) => lines,
                None => {
                    self.is_paged = true;
                    let version = self.list_by_pages(&reached.client).await?;
                    self.watch_from(&reached.client, &version).await?
                }
            },
            (None, true) => {
                let version = self.list_by_pages(&reached.client).await?;
                self.watch_from(&reached.client, &version).await?
            }
        };
        self.report(true, None);
        memory::refresh(self.config, &reached).await;
        self.follow_watch(lines).await
    }

    async fn watch_from(&self, client: &Client, version: &str) -> Result<Lines, Trouble> {
        let timing = &self.config.timing;
        let params = self.watch_params(WatchParams::default());
        exchange::watch(client, self.mirror.asked().path, &params, version, timing.answer).await
    }

    fn watch_params(&self, params: WatchParams) -> WatchParams {
        let asked = self.mirror.asked();
        WatchParams {
            timeout: Some(self.config.timing.watch_seconds()),
            label_selector: asked.labels.clone(),
            field_selector: asked.fields.clone(),
            ..params
        }
    }

    /// Everything, as the first events of a watch; `None` where the server does not do that.
    async fn list_by_watch(&mut self, client: &Client) -> Result<Option<Lines>, Trouble> {
        let timing = &self.config.timing;
        let params = self.watch_params(WatchParams::streaming_lists());
        let path = self.mirror.asked().path;
        let mut lines = match exchange::watch(client, path, &params, "", timing.answer).await {
            Ok(lines) => lines,
            // Not known, not valid, not acceptable: whatever its word for it is.
            Err(trouble) if matches!(trouble.cause, Cause::Status(400 | 404 | 405 | 406 | 415 | 422)) => {
                return Ok(None);
            }
            Err(trouble) => return Err(trouble),
        };
        self.mirror.begin();
        loop {
            let line = match tokio::time::timeout(timing.answer, lines.next()).await {
                Ok(line) => line?,
                // A server that has never heard of it sends the objects, but not that they were all.
                Err(_) => return Ok(None),
            };
            let Some(line) = line else {
                return Err(Trouble::new(Cause::Connect, "the connection ended in the middle of the list"));
            };
            match exchange::event(&line)? {
                Event::Put(item) => self.put(item),
                Event::Gone(identity) => self.mirror.remove(&identity),
                Event::Error(status) => return Err(Trouble::of_status(&status, None)),
                Event::Bookmark { version, ends_list: true } => {
                    self.adopt(version);
                    return Ok(Some(lines));
                }
                Event::Bookmark { .. } => {}
            }
        }
    }

    /// Everything, in pages; the version that it is of.
    async fn list_by_pages(&mut self, client: &Client) -> Result<String, Trouble> {
        let asked = self.mirror.asked().clone();
        let mut params = ListParams {
            label_selector: asked.labels.clone(),
            field_selector: asked.fields.clone(),
            ..ListParams::default().limit(asked.page)
        };
        self.mirror.begin();
        loop {
            let request = Request::new(asked.path).list(&params);
            let limit = self.config.timing.answer;
            let page = exchange::read_page(client, request, asked.list, limit).await?;
            page.items.into_iter().for_each(|item| self.put(item));
            match page.metadata.continue_token.filter(|token| !token.is_empty()) {
                Some(token) => params = params.continue_token(&token),
                None => {
                    self.adopt(page.metadata.resource_version.clone());
                    return Ok(page.metadata.resource_version);
                }
            }
        }
    }

    fn put(&mut self, item: Item<M::Object>) {
        match item {
            Ok(object) => self.mirror.put(object),
            Err((identity, what)) => self.mirror.put_broken(&identity, &what),
        }
    }

    fn adopt(&mut self, version: String) {
        self.mirror.complete();
        self.version = Some(version);
        self.hand_over();
    }

    async fn follow_watch(&mut self, mut lines: Lines) -> Result<End, Trouble> {
        let silence = self.config.timing.silence;
        let quiet = self.mirror.asked().quiet;
        // When the first event came that is in no snapshot yet.
        let mut waiting_since: Option<Instant> = None;
        loop {
            let now = Instant::now();
            let until = waiting_since.map_or(now + silence, |since| (since + PATIENCE).min(now + quiet));
            let line = match timeout_at(until, lines.next()).await {
                Ok(line) => line,
                Err(_) if waiting_since.take().is_some() => {
                    self.show();
                    continue;
                }
                Err(_) => return Ok(End::Silent),
            };
            let went_on = line.and_then(|line| line.map_or(Ok(None), |line| self.take(&line).map(Some)));
            match went_on {
                Ok(Some(differs)) => {
                    if differs {
                        waiting_since.get_or_insert(now);
                    }
                }
                ended => {
                    // What came before the end is as good as ever.
                    if waiting_since.is_some() {
                        self.show();
                    }
                    return ended.map(|_| End::Closed);
                }
            }
        }
    }

    fn show(&mut self) {
        self.report(true, None);
        self.hand_over();
    }

    fn hand_over(&mut self) {
        if self.mirror.show() {
            self.reporter.showed();
        }
        let (Some(servers), Some(reached)) = (self.mirror.servers(), &self.reached) else { return };
        tokio::spawn(memory::remember(self.config.clone(), reached.clone(), servers));
    }

    /// Takes one event; whether it changed anything.
    fn take(&mut self, line: &[u8]) -> Result<bool, Trouble> {
        let before = self.mirror.changes();
        let version = match exchange::event::<M::Object>(line)? {
            Event::Put(item) => {
                let identity = match &item {
                    Ok(object) => object.identity(),
                    Err((identity, _)) => identity.clone(),
                };
                self.put(item);
                identity.resource_version.unwrap_or_default()
            }
            Event::Gone(identity) => {
                self.mirror.remove(&identity);
                identity.resource_version.unwrap_or_default()
            }
            Event::Bookmark { version, .. } => version,
            Event::Error(status) => return Err(Trouble::of_status(&status, None)),
        };
        if version.is_empty() {
            return Err(Trouble::new(Cause::Decode, "an event without metadata.resourceVersion"));
        }
        self.version = Some(version);
        Ok(self.mirror.changes() != before)
    }
}
