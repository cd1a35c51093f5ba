//! One connection: read a request, answer it or misbehave.

use std::io::{self, BufReader, Write};
use std::net::{Shutdown, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::http::{Request, answer, chunk, head};
use super::store::{Change, Kind, Store, key_of, selects};
use super::{Ending, Exec, Misbehaviour, Shared, State, Streaming, Target};

const JSON: &str = "application/json";

/// Serves a connection to its end.
pub fn connection(shared: &Shared, stream: TcpStream) {
    let Ok(reading) = stream.try_clone() else { return };
    let mut reading = BufReader::new(reading);
    let mut stream = stream;
    while let Ok(Some(request)) = Request::read(&mut reading) {
        if serve(shared, &mut stream, &request).is_err() {
            break;
        }
    }
    // Closed by the other side, perhaps.
    let _ = stream.shutdown(Shutdown::Both);
}

/// Answers one request. An error ends the connection.
fn serve(shared: &Shared, stream: &mut TcpStream, request: &Request) -> io::Result<()> {
    let mut state = shared.state();
    state.requests.push(request.recorded.clone());
    let misbehaviour = state.next_misbehaviour(request);
    let is_known = state.token.as_ref().is_none_or(|token| {
        request.headers.get("authorization").is_some_and(|given| *given == format!("Bearer {token}"))
    });
    drop(state);
    shared.changed.notify_all();
    match misbehaviour {
        None | Some(Misbehaviour::Half | Misbehaviour::GarbageLine) => {}
        // The point of it.
        Some(Misbehaviour::Slow(by)) => thread::sleep(by),
        Some(Misbehaviour::Status(code, retry_after)) => {
            let more = retry_after.map_or(String::new(), |seconds| format!("retry-after: {seconds}\r\n"));
            return answer(stream, code, JSON, &more, &status(code, "on command").to_string());
        }
        Some(Misbehaviour::Garbage) => return answer(stream, 200, JSON, "", "\u{1}{]garbage\n"),
        Some(Misbehaviour::OtherKind) => {
            return answer(stream, 200, JSON, "", "{\"kind\":\"PodList\",\"apiVersion\":\"v1\"}\n");
        }
        Some(Misbehaviour::WebPage) => {
            return answer(stream, 200, "text/html", "", "<html><body>Please log in</body></html>");
        }
        Some(Misbehaviour::Drop) => return Err(ended()),
    }
    if !is_known {
        return answer(stream, 401, JSON, "", &status(401, "Unauthorized").to_string());
    }
    let kind = shared.state().kind_of(request);
    if request.recorded.verb == "watch" && kind.is_some() {
        return watch(shared, stream, request, misbehaviour.as_ref());
    }
    if let ("pods", "exec") = (request.recorded.resource.as_str(), request.recorded.subresource.as_str()) {
        return exec(shared, stream, request);
    }
    let (code, body) = respond(&mut shared.state(), request);
    shared.changed.notify_all();
    let body = body.to_string();
    match misbehaviour {
        Some(Misbehaviour::Half) => {
            let framing = format!("content-length: {}", body.len());
            stream.write_all(head(code, JSON, &framing, "").as_bytes())?;
            stream.write_all(&body.as_bytes()[..body.len() / 2])?;
            Err(ended())
        }
        Some(Misbehaviour::GarbageLine) => answer(stream, 200, JSON, "", "\u{1}{]garbage\n"),
        _ => answer(stream, code, JSON, "", &body),
    }
}

fn ended() -> io::Error {
    io::Error::other("the connection ends here")
}

impl State {
    /// Which kind a request is about, if it is served.
    fn kind_of(&self, request: &Request) -> Option<Kind> {
        Kind::of_resource(&request.recorded.resource).filter(|kind| !self.absent.contains(kind))
    }

    /// What a command in a pod answers; `None` where there is no such pod.
    fn exec(&self, pod: &str) -> Option<Exec> {
        self.commands.get(pod).cloned()
    }

    fn next_misbehaviour(&mut self, request: &Request) -> Option<Misbehaviour> {
        let verb = request.recorded.verb.as_str();
        let fits = |target: Target| match target {
            Target::List => verb == "list",
            Target::Watch => verb == "watch",
            Target::Patch => verb == "patch",
            Target::Any => true,
        };
        let found = self.misbehaviours.iter_mut().find(|(target, _, times)| *times > 0 && fits(*target))?;
        found.2 -= 1;
        Some(found.1.clone())
    }
}

/// A `metav1.Status`.
fn status(code: u16, message: &str) -> Value {
    let reason = match code {
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "NotFound",
        409 => "Conflict",
        410 => "Expired",
        422 => "Invalid",
        429 => "TooManyRequests",
        _ => "InternalError",
    };
    json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": message, "reason": reason, "code": code,
    })
}

/// Everything but watches.
fn respond(state: &mut State, request: &Request) -> (u16, Value) {
    let asked = &request.recorded;
    if let ("list", Some(kind)) = (asked.verb.as_str(), state.kind_of(request)) {
        return list(&state.store, kind, request);
    }
    match (asked.verb.as_str(), asked.resource.as_str(), asked.subresource.as_str()) {
        ("get", "nodes", "") => match state.store.node(&asked.name) {
            Some(node) => (200, node.clone()),
            None => (404, status(404, "no such Node")),
        },
        ("patch", "nodes", subresource @ ("" | "status")) => {
            let is_strategic = match request.headers.get("content-type").map(String::as_str) {
                Some("application/strategic-merge-patch+json") => true,
                Some("application/merge-patch+json") => false,
                _ => return (415, status(415, "this patch is of no type that the server knows")),
            };
            let Ok(patch) = serde_json::from_str::<Value>(&asked.body) else {
                return (400, status(400, "no JSON"));
            };
            if state.store.is_another(&asked.name, &patch) {
                return (409, status(409, "the UID in the precondition is not the object's"));
            }
            match state.store.patch(&asked.name, &patch, is_strategic, subresource == "status") {
                Some(node) => (200, node),
                None => (404, status(404, "no such Node")),
            }
        }
        ("get", "", "") if asked.path == "/api" => {
            let here = json!({"clientCIDR": "0.0.0.0/0", "serverAddress": state.advertised});
            (200, json!({"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": [here]}))
        }
        ("get", "", "") if asked.path == "/version" => (200, json!({"gitVersion": "v0.0.0-stand-in"})),
        _ => (404, status(404, "the server could not find the requested resource")),
    }
}

/// `pods/exec`, as API server, kubelet and container runtime answer it together.
fn exec(shared: &Shared, stream: &mut TcpStream, request: &Request) -> io::Result<()> {
    let asked = &request.recorded;
    let answered = shared.state().exec(&format!("{}/{}", asked.namespace, asked.name));
    let offers = request.headers.get("sec-websocket-protocol").map_or("", String::as_str);
    let is_websocket = request.headers.get("upgrade").is_some_and(|to| to == "websocket")
        && request.headers.contains_key("sec-websocket-key")
        && offers.split(", ").any(|it| it == "v4.channel.k8s.io");
    let refuse = |stream: &mut TcpStream, code, message: &str| {
        answer(stream, code, JSON, "", &status(code, message).to_string())
    };
    match answered {
        None => refuse(stream, 404, "pods not found"),
        Some(Exec::Refused(code, message)) => refuse(stream, code, &message),
        Some(_) if !is_websocket => refuse(stream, 400, "Upgrade request required"),
        Some(Exec::Silent) => {
            stream.write_all(switched().as_bytes())?;
            // Until the client has had enough.
            io::Read::read(stream, &mut [0]).map(|_| ())
        }
        Some(Exec::Torn(text)) => {
            stream.write_all(switched().as_bytes())?;
            stream.write_all(&frame(1, text.as_bytes()))?;
            Err(ended())
        }
        Some(Exec::Says { stdout, stderr, code }) => {
            stream.write_all(switched().as_bytes())?;
            for (channel, text) in [(1, ""), (2, ""), (1, &stdout), (2, &stderr)] {
                stream.write_all(&frame(channel, text.as_bytes()))?;
            }
            let end = match code {
                0 => json!({"metadata": {}, "status": "Success"}),
                code => json!({
                    "metadata": {}, "status": "Failure", "reason": "NonZeroExitCode",
                    "message": format!("command terminated with non-zero exit code: exit status {code}"),
                    "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
                }),
            };
            stream.write_all(&frame(3, end.to_string().as_bytes()))?;
            stream.write_all(&[0x88, 2, 0x03, 0xe8])?;
            Err(ended())
        }
    }
}

fn switched() -> String {
    let upgrade = "connection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-protocol: v4.channel.k8s.io";
    format!("HTTP/1.1 101 Switching Protocols\r\n{upgrade}\r\n\r\n")
}

/// A message of one frame, on a channel.
fn frame(channel: u8, text: &[u8]) -> Vec<u8> {
    let length = text.len() + 1;
    let mut frame = vec![0x82];
    match (u8::try_from(length), u16::try_from(length)) {
        (Ok(short @ 0..=125), _) => frame.push(short),
        (_, Ok(middle)) => {
            frame.push(126);
            frame.extend(middle.to_be_bytes());
        }
        _ => {
            frame.push(127);
            frame.extend((length as u64).to_be_bytes());
        }
    }
    frame.push(channel);
    frame.extend(text);
    frame
}

/// A page of the list; the continue token is `VERSION/LAST NAME`.
fn list(store: &Store, kind: Kind, request: &Request) -> (u16, Value) {
    let query = &request.recorded.query;
    let limit = query.get("limit").and_then(|limit| limit.parse().ok()).filter(|limit| *limit > 0);
    let limit: usize = limit.unwrap_or(usize::MAX);
    let (version, after) = match query.get("continue").and_then(|token| token.split_once('/')) {
        Some((version, after)) => (version.parse().unwrap_or(0), after),
        None => (store.version, ""),
    };
    if version < store.oldest {
        return (410, status(410, "The provided continue parameter is too old"));
    }
    let namespace = &request.recorded.namespace;
    let is_there =
        |object: &Value| namespace.is_empty() || object["metadata"]["namespace"] == namespace.as_str();
    let chosen = store
        .of_kind(kind)
        .filter(|(name, object)| *name > after && is_there(object) && is_selected(request, object));
    let mut items: Vec<&Value> = chosen.map(|(_, object)| object).collect();
    let mut metadata = json!({"resourceVersion": version.to_string()});
    if items.len() > limit {
        items.truncate(limit);
        let last = key_of(items[limit - 1]);
        metadata["continue"] = json!(format!("{version}/{last}"));
    }
    let (name, api_version, _) = kind.words();
    (
        200,
        json!({"kind": format!("{name}List"), "apiVersion": api_version, "metadata": metadata, "items": items}),
    )
}

fn is_selected(request: &Request, object: &Value) -> bool {
    let asked = |key: &str| request.recorded.query.get(key).map_or("", String::as_str);
    selects(asked("labelSelector"), asked("fieldSelector"), object)
}

/// Where a watch is.
struct Position {
    version: u64,
    bookmarks: u64,
    generation: u64,
    ends: Instant,
}

fn watch(
    shared: &Shared,
    stream: &mut TcpStream,
    request: &Request,
    misbehaviour: Option<&Misbehaviour>,
) -> io::Result<()> {
    let mut state = shared.state();
    let (position, first) = match begin(&state, request) {
        Ok(begun) => begun,
        Err((code, message)) => {
            drop(state);
            return answer(stream, code, JSON, "", &status(code, message).to_string());
        }
    };
    state.watches += 1;
    drop(state);
    shared.changed.notify_all();
    let outcome = stream_events(shared, stream, position, (request, first), misbehaviour);
    shared.state().watches -= 1;
    shared.changed.notify_all();
    outcome
}

/// From which version on, and what comes before that; or the refusal.
fn begin(state: &State, request: &Request) -> Result<(Position, Vec<String>), (u16, &'static str)> {
    let asked = |key: &str| request.recorded.query.get(key).map_or("", String::as_str);
    let seconds: u64 = asked("timeoutSeconds").parse().unwrap_or(300);
    let mut position = Position {
        version: state.store.version,
        bookmarks: state.store.bookmarks,
        generation: state.watch_generation,
        ends: Instant::now() + Duration::from_secs(seconds),
    };
    let from = asked("resourceVersion");
    let wants_list = asked("sendInitialEvents") == "true" && state.streaming != Streaming::Unknown;
    let mut first = Vec::new();
    if wants_list {
        if state.streaming == Streaming::Refused {
            return Err((
                422,
                "sendInitialEvents is forbidden for watch unless the WatchList feature gate is enabled",
            ));
        }
        if asked("resourceVersionMatch") != "NotOlderThan" || asked("allowWatchBookmarks") != "true" {
            return Err((422, "sendInitialEvents needs resourceVersionMatch NotOlderThan and bookmarks"));
        }
    }
    if wants_list || from.is_empty() || from == "0" {
        let kind = state.kind_of(request).unwrap_or(Kind::Node);
        let chosen = state.store.of_kind(kind).filter(|(_, object)| is_selected(request, object));
        first.extend(chosen.map(|(_, object)| event("ADDED", object)));
        if wants_list {
            first.push(bookmark(kind, position.version, true));
        }
    } else {
        position.version = from.parse().map_err(|_| (400, "no resourceVersion"))?;
        if position.version < state.store.oldest {
            // So does a server whose etcd was compacted before the watch began.
            return Err((410, "too old resource version"));
        }
    }
    Ok((position, first))
}

fn stream_events(
    shared: &Shared,
    stream: &mut TcpStream,
    mut position: Position,
    (request, first): (&Request, Vec<String>),
    misbehaviour: Option<&Misbehaviour>,
) -> io::Result<()> {
    stream.write_all(head(200, JSON, "transfer-encoding: chunked", "").as_bytes())?;
    match misbehaviour {
        Some(Misbehaviour::Half) => {
            let line =
                first.first().cloned().unwrap_or_else(|| bookmark(Kind::Node, position.version, false));
            chunk(stream, &line[..line.len() / 2])?;
            return Err(ended());
        }
        Some(Misbehaviour::GarbageLine) => chunk(stream, "\u{1}{]garbage\n")?,
        _ => {}
    }
    for line in first {
        chunk(stream, &line)?;
    }
    loop {
        let (lines, ending) = next_events(shared, request, &mut position);
        for line in lines {
            chunk(stream, &line)?;
        }
        match ending {
            None => {}
            Some(Ending::Clean) => return stream.write_all(b"0\r\n\r\n"),
            Some(Ending::Torn) => {
                chunk(stream, "{\"type\":\"MODIFIED\",\"object\":{\"kind\"")?;
                return Err(ended());
            }
            Some(Ending::Expired) => {
                let gone = json!({"type": "ERROR", "object": status(410, "too old resource version")});
                chunk(stream, &format!("{gone}\n"))?;
                return stream.write_all(b"0\r\n\r\n");
            }
        }
    }
}

/// Waits for something to tell.
fn next_events(shared: &Shared, request: &Request, position: &mut Position) -> (Vec<String>, Option<Ending>) {
    let mut state = shared.state();
    loop {
        let store = &state.store;
        let is_ended = state.watch_generation != position.generation;
        let last = if is_ended { state.ended_at } else { store.version };
        let new =
            store.history.iter().filter(|change| (position.version + 1..=last).contains(&change.version));
        let kind = state.kind_of(request);
        let mut lines: Vec<String> = new.filter_map(|change| told(request, kind, change)).collect();
        position.version = position.version.max(last);
        if store.bookmarks != position.bookmarks {
            position.bookmarks = store.bookmarks;
            lines.push(bookmark(kind.unwrap_or(Kind::Node), position.version, false));
        }
        let is_over = Instant::now() >= position.ends;
        let ending = if is_ended { Some(state.ending) } else { is_over.then_some(Ending::Clean) };
        if !lines.is_empty() || ending.is_some() {
            return (lines, ending);
        }
        let left = position.ends.saturating_duration_since(Instant::now());
        (state, _) =
            shared.changed.wait_timeout(state, left).unwrap_or_else(std::sync::PoisonError::into_inner);
    }
}

/// What a watch is told of a change: who does not see an object any more hears that it is gone.
fn told(request: &Request, kind: Option<Kind>, change: &Change) -> Option<String> {
    if kind != Some(change.kind_of) {
        return None;
    }
    let was = change.old.as_ref().is_some_and(|old| is_selected(request, old));
    let is = change.kind != "DELETED" && is_selected(request, &change.object);
    match (was, is) {
        (true, true) => Some(event("MODIFIED", &change.object)),
        (false, true) => Some(event("ADDED", &change.object)),
        (true, false) => Some(event("DELETED", &change.object)),
        (false, false) => None,
    }
}

fn event(kind: &str, object: &Value) -> String {
    format!("{}\n", json!({"type": kind, "object": object}))
}

/// Of the kind that is watched, or client-go takes no notice of it.
fn bookmark(kind: Kind, version: u64, ends_list: bool) -> String {
    let mut metadata = json!({"resourceVersion": version.to_string()});
    if ends_list {
        metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
    }
    event("BOOKMARK", &json!({"kind": kind.words().0, "apiVersion": kind.words().1, "metadata": metadata}))
}
