//! HTTP/1.1, as much as an API server's clients speak.

use std::collections::BTreeMap;
use std::io::{self, BufRead, Write};

/// A request as RBAC sees it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Recorded {
    /// `get`, `list`, `watch`, `patch`.
    pub verb: String,
    /// Namespace of the object or list, or empty.
    pub namespace: String,
    /// `nodes`; empty where the path is of no resource.
    pub resource: String,
    /// `status`, or empty.
    pub subresource: String,
    /// Name of the object, or empty.
    pub name: String,
    /// The path.
    pub path: String,
    /// The query, decoded.
    pub query: BTreeMap<String, String>,
    /// The body.
    pub body: String,
}

/// A request.
pub struct Request {
    /// What RBAC sees.
    pub recorded: Recorded,
    /// Names in lower case.
    pub headers: BTreeMap<String, String>,
}

impl Request {
    /// Reads one; `None` at the end of the connection.
    pub fn read(from: &mut impl BufRead) -> io::Result<Option<Self>> {
        let mut line = String::new();
        if from.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        let mut words = line.split_whitespace();
        let (method, target) = (words.next().unwrap_or("").to_owned(), words.next().unwrap_or("").to_owned());
        let mut headers = BTreeMap::new();
        loop {
            let mut line = String::new();
            from.read_line(&mut line)?;
            let Some((name, value)) = line.trim_end().split_once(':') else { break };
            headers.insert(name.to_lowercase(), value.trim().to_owned());
        }
        let length = headers.get("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
        let mut body = vec![0; length];
        from.read_exact(&mut body)?;
        let recorded = record(&method, &target, String::from_utf8_lossy(&body).into_owned());
        Ok(Some(Request { recorded, headers }))
    }
}

fn record(method: &str, target: &str, body: String) -> Recorded {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let query: BTreeMap<String, String> = query
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .map(|(key, value)| (decode(key), decode(value)))
        .collect();
    let of_group = path.strip_prefix("/apis/").and_then(|rest| rest.splitn(3, '/').nth(2));
    let resources = path.strip_prefix("/api/v1/").or(of_group);
    let mut steps: Vec<&str> = resources.map_or(vec![], |rest| rest.split('/').collect());
    let mut namespace = String::new();
    if steps.len() > 2 && steps[0] == "namespaces" {
        namespace = steps[1].to_owned();
        steps.drain(..2);
    }
    let step = |index: usize| steps.get(index).map(|step| (*step).to_owned()).unwrap_or_default();
    let verb = match method {
        "GET" if query.get("watch").is_some_and(|watch| watch == "true" || watch == "1") => "watch",
        "GET" if steps.len() == 1 => "list",
        "GET" => "get",
        "PATCH" => "patch",
        "POST" => "create",
        "PUT" => "update",
        "DELETE" => "delete",
        _ => "other",
    };
    Recorded {
        verb: verb.to_owned(),
        namespace,
        resource: step(0),
        name: step(1),
        subresource: step(2),
        path: path.to_owned(),
        query,
        body,
    }
}

/// Undoes percent encoding.
fn decode(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        let decoded = match byte {
            b'+' => b' ',
            b'%' => {
                let digits: String = rest.by_ref().take(2).map(char::from).collect();
                u8::from_str_radix(&digits, 16).unwrap_or(b'?')
            }
            other => other,
        };
        bytes.push(decoded);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The head of an answer. `framing` is `content-length: N` or `transfer-encoding: chunked`.
pub fn head(code: u16, content_type: &str, framing: &str, more: &str) -> String {
    let reason = match code {
        101 => "Switching Protocols",
        200 => "OK",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        410 => "Gone",
        422 => "Unprocessable Entity",
        429 => "Too Many Requests",
        500 => "Internal Server Error",
        _ => "Other",
    };
    format!("HTTP/1.1 {code} {reason}\r\ncontent-type: {content_type}\r\n{framing}\r\n{more}\r\n")
}

/// Writes a whole answer.
pub fn answer(to: &mut impl Write, code: u16, content_type: &str, more: &str, body: &str) -> io::Result<()> {
    let framing = format!("content-length: {}", body.len());
    to.write_all(head(code, content_type, &framing, more).as_bytes())?;
    to.write_all(body.as_bytes())?;
    to.flush()
}

/// Writes a piece of an answer whose length is not known.
pub fn chunk(to: &mut impl Write, text: &str) -> io::Result<()> {
    to.write_all(format!("{:x}\r\n{text}\r\n", text.len()).as_bytes())?;
    to.flush()
}
