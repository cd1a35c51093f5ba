//! One request and its answer, and what can go wrong with them.

use std::time::Duration;

use http_body_util::{BodyExt, Limited};
use hyper::{Request, Response, StatusCode, header};
use kube::Client;
use kube::api::WatchParams;
use kube::client::Body;
use kube::core::{Status, WatchEvent};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::mirror::{Identified, Identity};

/// No page and no event is larger than this, in bytes.
const LARGEST: usize = 64 << 20;
/// That much of an answer that is no error is shown to people.
const SHOWN: usize = 120;

/// Why an attempt failed, as far as it decides what comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// The server's refusal.
    Status(u16),
    /// No connection, or it broke.
    Connect,
    /// An answer that can't be read.
    Decode,
    /// No answer in time.
    Timeout,
    /// A watch that ended as soon as it began.
    Closed,
    /// The configuration can't be used.
    Config,
}

impl Cause {
    /// Its name in metrics.
    pub fn label(self) -> String {
        match self {
            Cause::Status(code) => code.to_string(),
            Cause::Connect => "connect".to_owned(),
            Cause::Decode => "decode".to_owned(),
            Cause::Timeout => "timeout".to_owned(),
            Cause::Closed => "closed".to_owned(),
            Cause::Config => "config".to_owned(),
        }
    }
}

/// A failed attempt.
#[derive(Debug)]
pub struct Trouble {
    /// What it means.
    pub cause: Cause,
    /// A sentence for people, without the server's name.
    pub what: String,
    /// How long the server wants to be left alone.
    pub retry_after: Option<Duration>,
}

impl Trouble {
    /// One that the server has no wish about.
    pub fn new(cause: Cause, what: impl Into<String>) -> Self {
        Trouble { cause, what: what.into(), retry_after: None }
    }

    /// What the server said.
    pub fn of_status(status: &Status, retry_after: Option<Duration>) -> Self {
        let known = StatusCode::from_u16(status.code).ok().and_then(|code| code.canonical_reason());
        let hint = match status.code {
            401 => "; the credentials are not (or no longer) valid",
            403 => "; conf/base/account.yaml grants what bowlined needs",
            _ => "",
        };
        let what = format!("{} {}: {}{hint}", status.code, known.unwrap_or("error"), status.message);
        Trouble { cause: Cause::Status(status.code), what, retry_after }
    }

    fn of_kube(error: &kube::Error) -> Self {
        Trouble::new(Cause::Connect, chain(error))
    }

    fn late(limit: Duration) -> Self {
        Trouble::new(Cause::Timeout, format!("no answer within {} s", limit.as_secs_f64()))
    }
}

/// An error and its sources, each once.
fn chain(error: &dyn std::error::Error) -> String {
    let mut parts: Vec<String> = Vec::new();
    let mut next = Some(error);
    while let Some(error) = next {
        let text = error.to_string();
        // Some errors say their source's words themselves.
        parts.retain(|part| !part.ends_with(&text));
        parts.push(text);
        next = error.source();
    }
    parts.join(": ")
}

/// A page of a list. Everything without a default must be there: `{}` is not a cluster without objects.
#[derive(Deserialize)]
pub struct Page<T> {
    kind: String,
    /// Where the list stands.
    pub metadata: ListMetadata,
    /// Its objects.
    pub items: Vec<T>,
}

/// The metadata of a list.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ListMetadata {
    /// The version that the list shows.
    pub resource_version: String,
    /// What asks for the next page.
    #[serde(rename = "continue")]
    pub continue_token: Option<String>,
}

/// An object, or why it is none. One that can't be read must not keep the others away.
pub type Item<T> = Result<T, (Identity, String)>;

/// What an answer must say to be the one that was asked for.
pub trait Answer: DeserializeOwned {
    /// Whether it is.
    fn is_asked_for(&self) -> bool;
}

impl<T: DeserializeOwned> Page<Item<T>> {
    /// Reads a page of the kind `list`, whatever single objects say.
    fn parse(list: &str, bytes: &[u8]) -> Result<Self, String> {
        let page = match serde_json::from_slice::<Page<T>>(bytes) {
            Ok(page) => {
                let items = page.items.into_iter().map(Ok).collect();
                Page { kind: page.kind, metadata: page.metadata, items }
            }
            Err(_) => {
                let page: Page<Value> = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
                let items = page.items.into_iter().map(item).collect();
                Page { kind: page.kind, metadata: page.metadata, items }
            }
        };
        let is_asked_for = page.kind == list && !page.metadata.resource_version.is_empty();
        is_asked_for.then_some(page).ok_or_else(|| "another kind".to_owned())
    }
}

fn item<T: DeserializeOwned>(value: Value) -> Item<T> {
    let identity = Identity::deserialize(&value["metadata"]).unwrap_or_default();
    serde_json::from_value(value).map_err(|error| (identity, error.to_string()))
}

/// Sends a request and reads its whole answer.
///
/// # Errors
/// [`Trouble`]: no answer within `limit`, a refusal, something else than a `T`.
pub async fn read<T: Answer>(client: &Client, request: RequestResult, limit: Duration) -> Result<T, Trouble> {
    let parse = |bytes: &[u8]| {
        let answer: T = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        if answer.is_asked_for() { Ok(answer) } else { Err("another kind".to_owned()) }
    };
    read_as(client, request, limit, parse).await
}

/// Sends a request and reads a page of the kind `list`.
///
/// # Errors
/// As [`read`].
pub async fn read_page<T: DeserializeOwned>(
    client: &Client,
    request: RequestResult,
    list: &str,
    limit: Duration,
) -> Result<Page<Item<T>>, Trouble> {
    read_as(client, request, limit, |bytes| Page::parse(list, bytes)).await
}

async fn read_as<T>(
    client: &Client,
    request: RequestResult,
    limit: Duration,
    parse: impl Fn(&[u8]) -> Result<T, String>,
) -> Result<T, Trouble> {
    let work = async {
        let response = send(client, request).await?;
        let content_type = content_type(&response);
        let body = Limited::new(response.into_body(), LARGEST).collect().await;
        let body =
            body.map_err(|error| Trouble::new(Cause::Connect, format!("the answer broke off: {error}")))?;
        let body = body.to_bytes();
        parse(&body).map_err(|why| unreadable(&why, &content_type, &body))
    };
    tokio::time::timeout(limit, work).await.unwrap_or_else(|_| Err(Trouble::late(limit)))
}

/// What `kube` makes of a path and parameters.
pub type RequestResult = Result<Request<Vec<u8>>, kube::core::request::Error>;

/// Begins a watch of the objects at `path`.
///
/// # Errors
/// [`Trouble`]: no answer within `limit`, or a refusal.
pub async fn watch(
    client: &Client,
    path: &str,
    params: &WatchParams,
    version: &str,
    limit: Duration,
) -> Result<Lines, Trouble> {
    let request = kube::core::Request::new(path).watch(params, version);
    let response = tokio::time::timeout(limit, send(client, request)).await;
    let response = response.unwrap_or_else(|_| Err(Trouble::late(limit)))?;
    let content_type = content_type(&response);
    if !content_type.contains("json") {
        return Err(Trouble::new(Cause::Decode, format!("the answer ({content_type}) is not the API's")));
    }
    Ok(Lines { content_type, body: response.into_body(), buffer: Vec::new(), searched: 0 })
}

async fn send(client: &Client, request: RequestResult) -> Result<Response<Body>, Trouble> {
    let request = request.map_err(|error| Trouble::new(Cause::Config, chain(&error)))?;
    let response = client.send(request.map(Body::from)).await.map_err(|error| Trouble::of_kube(&error))?;
    let code = response.status();
    if code.is_success() {
        return Ok(response);
    }
    let retry_after = response.headers().get(header::RETRY_AFTER).and_then(|value| value.to_str().ok());
    let retry_after = retry_after.and_then(|seconds| seconds.parse().ok()).map(Duration::from_secs);
    let body = Limited::new(response.into_body(), LARGEST).collect().await;
    let body = body.map(|body| body.to_bytes()).unwrap_or_default();
    let mut status = serde_json::from_slice::<Status>(&body).unwrap_or_default();
    if status.message.is_empty() {
        status.message = shown(&body);
    }
    // A proxy's word counts as the server's.
    status.code = code.as_u16();
    Err(Trouble::of_status(&status, retry_after))
}

fn content_type(response: &Response<Body>) -> String {
    let value = response.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    value.unwrap_or("no content type").to_owned()
}

fn unreadable(why: &str, content_type: &str, bytes: &[u8]) -> Trouble {
    let what = format!("the answer ({content_type}) is not the API's: {why}: `{}`", shown(bytes));
    Trouble::new(Cause::Decode, what)
}

/// The beginning of a text, printable.
fn shown(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(SHOWN)]);
    text.trim().escape_debug().to_string()
}

/// The lines of a watch.
pub struct Lines {
    content_type: String,
    body: Body,
    buffer: Vec<u8>,
    /// How much of the buffer is known to have no end of a line.
    searched: usize,
}

impl Lines {
    /// The next one; `None` at the end of the watch. Half a line there is dropped: its event comes again from the
    /// version before it. Nothing is lost when it is cancelled.
    ///
    /// # Errors
    /// [`Trouble`]: the connection broke, or a line has no end.
    pub async fn next(&mut self) -> Result<Option<Vec<u8>>, Trouble> {
        loop {
            if let Some(at) = self.buffer[self.searched..].iter().position(|byte| *byte == b'\n') {
                let rest = self.buffer.split_off(self.searched + at + 1);
                let line = std::mem::replace(&mut self.buffer, rest);
                self.searched = 0;
                return Ok(Some(line));
            }
            self.searched = self.buffer.len();
            if self.buffer.len() > LARGEST {
                return Err(unreadable("a line without end", &self.content_type, &self.buffer));
            }
            match self.body.frame().await {
                Some(Ok(frame)) => self.buffer.extend(frame.into_data().unwrap_or_default()),
                Some(Err(error)) => {
                    return Err(Trouble::new(
                        Cause::Connect,
                        format!("the watch broke off: {}", chain(&error)),
                    ));
                }
                None => return Ok(None),
            }
        }
    }
}

/// What a line of a watch tells.
pub enum Event<T> {
    /// An object came or changed.
    Put(Item<T>),
    /// An object is gone.
    Gone(Identity),
    /// How far the watch is.
    Bookmark {
        /// The version.
        version: String,
        /// Whether that was the list.
        ends_list: bool,
    },
    /// The server's refusal to go on.
    Error(Box<Status>),
}

/// A line of a watch.
///
/// # Errors
/// [`Trouble`]: it is none.
pub fn event<T: DeserializeOwned + Identified>(line: &[u8]) -> Result<Event<T>, Trouble> {
    match serde_json::from_slice::<WatchEvent<T>>(line) {
        Ok(WatchEvent::Added(object) | WatchEvent::Modified(object)) => Ok(Event::Put(Ok(object))),
        Ok(WatchEvent::Deleted(object)) => Ok(Event::Gone(object.identity())),
        Ok(WatchEvent::Bookmark(bookmark)) => Ok(Event::Bookmark {
            version: bookmark.metadata.resource_version,
            ends_list: bookmark.metadata.annotations.contains_key("k8s.io/initial-events-end"),
        }),
        Ok(WatchEvent::Error(status)) => Ok(Event::Error(status)),
        Err(error) => broken_event(line).ok_or_else(|| {
            let what = format!("an event of the watch is not the API's: {error}: `{}`", shown(line));
            Trouble::new(Cause::Decode, what)
        }),
    }
}

/// An event whose object is none of its kind, but has a name and a version: the watch can go on behind it.
fn broken_event<T: DeserializeOwned>(line: &[u8]) -> Option<Event<T>> {
    let mut event: Value = serde_json::from_slice(line).ok()?;
    let object = event["object"].take();
    let identity = Identity::deserialize(&object["metadata"]).ok()?;
    let is_named = identity.name.is_some() && identity.resource_version.is_some();
    match event["type"].as_str().filter(|_| is_named)? {
        "ADDED" | "MODIFIED" => Some(Event::Put(item(object))),
        "DELETED" => Some(Event::Gone(identity)),
        _ => None,
    }
}
