//! Asking the daemon of this node by its control socket.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use daemon::status::SOCKET;

/// How long the daemon may take to answer.
const PATIENCE: Duration = Duration::from_secs(30);
/// The socket of a bowlined that is called as kube-proxy, and knows Services alone.
const PROXY_SOCKET: &str = daemon::kube_proxy::SOCKET;

/// Whether a daemon with this run directory is, or was, on this node.
pub fn is_here(run_dir: &Path) -> bool {
    [SOCKET, PROXY_SOCKET].into_iter().any(|name| run_dir.join(name).exists())
}

/// The answer to `GET path` of the daemon with this run directory: its body, which is JSON.
///
/// # Errors
/// A sentence: no daemon runs, it does not answer, or what it says itself.
pub fn ask(run_dir: &Path, path: &str) -> Result<String, String> {
    let socket = run_dir.join(SOCKET);
    let proxy = run_dir.join(PROXY_SOCKET);
    let alone = !socket.exists() && proxy.exists();
    ask_at(if alone { &proxy } else { &socket }, path)
}

fn ask_at(socket: &Path, path: &str) -> Result<String, String> {
    let shown = socket.display();
    let mut stream = UnixStream::connect(socket).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            format!("bowlined does not run on this node: nobody listens at {shown}")
        }
        _ => format!("{shown}: {error}"),
    })?;
    let mut answer = String::new();
    let request = format!("GET {path} HTTP/1.1\r\nHost: bowlined\r\nConnection: close\r\n\r\n");
    stream
        .set_read_timeout(Some(PATIENCE))
        .and_then(|()| stream.write_all(request.as_bytes()))
        .and_then(|()| stream.read_to_string(&mut answer))
        .map_err(|error| format!("bowlined does not answer at {shown}: {error}"))?;
    body(&answer).unwrap_or_else(|| Err(format!("{shown}: not the answer of a bowlined")))
}

/// The body of a whole answer with status 200; with another status an error with the sentence that it brought.
fn body(answer: &str) -> Option<Result<String, String>> {
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?;
    let sentence = body.trim();
    match status {
        "200" => Some(Ok(body.to_owned())),
        _ if sentence.is_empty() || sentence.lines().count() > 1 => None,
        _ => Some(Err(sentence.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_a_body_or_a_sentence() {
        let rows = [
            ("HTTP/1.1 200 OK\r\na: b\r\n\r\n{}", Some(Ok("{}"))),
            ("HTTP/1.1 404 Not Found\r\n\r\nthere is no Service a/b\n", Some(Err("there is no Service a/b"))),
            ("HTTP/1.1 404 Not Found\r\n\r\n", None),
            ("garbage", None),
        ];
        for (answer, expected) in rows {
            let expected = expected.map(|it| it.map(str::to_owned).map_err(str::to_owned));
            assert_eq!(body(answer), expected, "{answer}");
        }
    }

    #[test]
    fn without_a_daemon_it_is_said() {
        let dir = tempfile::tempdir().expect("a directory");
        let error = ask(dir.path(), "/status").expect_err("nobody is there");
        let socket = dir.path().join(SOCKET);
        assert_eq!(
            error,
            format!("bowlined does not run on this node: nobody listens at {}", socket.display())
        );
    }
}
