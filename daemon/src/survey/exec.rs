//! A command in a container, by the API: `pods/exec`, as kubectl does it.
//!
//! The API server hands the connection through to the kubelet and that to the container runtime. So it works wherever
//! `kubectl exec` works, the daemon listens to nobody new, and what it needs is a right of the one who asks.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use hyper::{Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use kube::Client;
use kube::client::Body;
use kube::core::Status;
use tokio::io::{AsyncRead, AsyncReadExt};

use super::frame::{self, Kind};
use super::list::{body_of, shown};
use crate::log::chain_of;

/// Channel after channel in one stream, each message led by the number of its channel, in binary; the end of the command
/// as a Status. Every version of Kubernetes that is alive speaks it.
const PROTOCOL: &str = "v4.channel.k8s.io";
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const END: u8 = 3;
/// No command may say more than that, in bytes.
const LARGEST: usize = 64 << 20;

/// Where a command runs.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// Namespace of the pod.
    pub namespace: &'a str,
    /// Its name.
    pub pod: &'a str,
    /// One of its containers.
    pub container: &'a str,
}

/// What a command has said.
#[derive(Debug, Default)]
pub struct Said {
    /// On stdout.
    pub stdout: Vec<u8>,
    /// On stderr.
    pub stderr: Vec<u8>,
    /// How it ended, in the words of the kubelet; `None` when the connection ended before.
    pub end: Option<Status>,
}

/// Runs `command` and waits for its end.
///
/// # Errors
/// A sentence: it could not be started, or `limit` was over before it ended.
pub async fn run(
    client: &Client,
    place: Place<'_>,
    command: &[&str],
    limit: Duration,
) -> Result<Said, String> {
    let work = async {
        let response = client.send(request(place, command)?).await.map_err(|error| chain_of(&error))?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            let code = response.status();
            return Err(shown(code, &body_of(response.into_body()).await));
        }
        let agreed = response.headers().get(header::SEC_WEBSOCKET_PROTOCOL);
        if agreed.is_none_or(|agreed| agreed != PROTOCOL) {
            return Err(format!("the server does not speak {PROTOCOL}: {agreed:?}"));
        }
        let stream = hyper::upgrade::on(response).await.map_err(|error| chain_of(&error))?;
        listen(TokioIo::new(stream)).await
    };
    let late = |_| Err(format!("no answer within {} s", limit.as_secs_f64()));
    tokio::time::timeout(limit, work).await.unwrap_or_else(late)
}

fn request(place: Place<'_>, command: &[&str]) -> Result<Request<Body>, String> {
    let words: String =
        command.iter().map(|word| format!("&command={}", crate::proxy::ask::encoded(word))).collect();
    let Place { namespace, pod, container } = place;
    let path = format!(
        "/api/v1/namespaces/{namespace}/pods/{pod}/exec?container={container}&stdout=true&stderr=true"
    );
    Request::get(path + &words)
        .header(header::CONNECTION, "Upgrade")
        .header(header::UPGRADE, "websocket")
        .header(header::SEC_WEBSOCKET_VERSION, "13")
        .header(header::SEC_WEBSOCKET_KEY, key())
        .header(header::SEC_WEBSOCKET_PROTOCOL, PROTOCOL)
        .body(Body::empty())
        .map_err(|error| format!("ask for {namespace}/{pod}: {error}"))
}

/// Sixteen bytes that no cache has seen before. That is all they are for, and why the server's hash of them is not looked
/// at: what speaks [`PROTOCOL`] is no cache.
fn key() -> String {
    let random = || RandomState::new().build_hasher().finish().to_be_bytes();
    BASE64_STANDARD.encode([random(), random()].concat())
}

/// Gathers what comes until the command ends.
async fn listen(mut stream: impl AsyncRead + Unpin) -> Result<Said, String> {
    let mut said = Said::default();
    let (mut buffer, mut message) = (Vec::new(), Vec::new());
    loop {
        while let Some((frame, length)) = frame::parse(&buffer)? {
            buffer.drain(..length);
            match frame.kind {
                Kind::Close => return Ok(said),
                Kind::Control => continue,
                Kind::Message => message = frame.payload,
                Kind::Continuation => message.extend(frame.payload),
            }
            if frame.is_last && said.take(&std::mem::take(&mut message))? {
                return Ok(said);
            }
            if message.len() + said.stdout.len() + said.stderr.len() > LARGEST {
                return Err(format!("the answer is longer than {LARGEST} bytes"));
            }
        }
        let read = stream.read_buf(&mut buffer).await;
        if read.map_err(|error| format!("the connection broke off: {error}"))? == 0 {
            return Ok(said);
        }
    }
}

impl Said {
    /// Takes a message; whether it was the last.
    fn take(&mut self, message: &[u8]) -> Result<bool, String> {
        // An empty one opens its channel.
        let Some((channel, payload)) = message.split_first() else { return Ok(false) };
        match *channel {
            STDOUT => self.stdout.extend(payload),
            STDERR => self.stderr.extend(payload),
            END if !payload.is_empty() => {
                let end = serde_json::from_slice(payload);
                self.end = Some(end.map_err(|error| format!("the end of the command: {error}"))?);
                return Ok(true);
            }
            _ => {}
        }
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(channel: u8, text: &str) -> Vec<u8> {
        let length = u8::try_from(text.len() + 1).expect("short");
        [&[0x82, length, channel], text.as_bytes()].concat()
    }

    async fn heard(bytes: Vec<Vec<u8>>) -> Result<Said, String> {
        listen(&*bytes.concat()).await
    }

    #[tokio::test]
    async fn channels_are_told_apart_and_the_end_ends_it() {
        let end = frame(END, r#"{"status":"Failure","message":"exit 1"}"#);
        let said = heard(vec![
            frame(STDOUT, ""),
            frame(STDOUT, "a"),
            frame(STDERR, "e"),
            frame(STDOUT, "b"),
            end.clone(),
        ]);
        let said = said.await.expect("heard");
        assert_eq!((&said.stdout[..], &said.stderr[..]), (&b"ab"[..], &b"e"[..]));
        assert_eq!(said.end.map(|end| end.message), Some("exit 1".into()));
        let fragments = [vec![0x02, 2, STDOUT, b'x'], vec![0x89, 0], vec![0x80, 1, b'y'], vec![0x88, 0]];
        let said = heard(fragments.to_vec()).await.expect("heard");
        assert_eq!((&said.stdout[..], said.end.is_none()), (&b"xy"[..], true));
    }

    #[tokio::test]
    async fn a_broken_end_is_told() {
        let error = heard(vec![frame(END, "{")]).await.expect_err("no Status");
        assert!(error.starts_with("the end of the command: "), "{error}");
        assert!(heard(vec![frame(STDOUT, "half")[..4].to_vec()]).await.expect("cut off").end.is_none());
    }
}
