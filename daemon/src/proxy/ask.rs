//! Questions by HTTP, on the control socket.
//!
//! ```text
//! GET /services?namespace=NS&name=NAME             all Services, those of a namespace, or one
//! GET /trace?from=ORIGIN&to=GOAL&protocol=TCP      what becomes of a packet
//! ```

use std::time::Duration;

use hyper::StatusCode;
use proxy::state::Protocol;
use serde::Serialize;
use tokio::sync::{mpsc, oneshot};

use super::{Asked, Filter, Goal, Origin, Question};

/// How long the engine may take: it may be in the middle of a large sync.
const PATIENCE: Duration = Duration::from_secs(25);

/// The status and the body: JSON where the status is 200, else a sentence. None for a path that is no question.
pub async fn answer(
    ask: Option<&mpsc::Sender<Question>>,
    path: &str,
    query: &str,
) -> Option<(StatusCode, String)> {
    if path != "/services" && path != "/trace" {
        return None;
    }
    let Some(ask) = ask else {
        return Some((StatusCode::NOT_FOUND, "this daemon runs no Service proxy".into()));
    };
    Some(match path {
        "/services" => match filter(query) {
            Ok(filter) => put(ask, |reply| Question::Services(filter, reply))
                .await
                .map_or_else(|sorry| sorry, |it| shown(&it)),
            Err(sentence) => (StatusCode::BAD_REQUEST, sentence),
        },
        _ => match asked(query) {
            Ok(asked) => match put(ask, |reply| Question::Trace(asked, reply)).await {
                Ok(Ok(answer)) => shown(&answer),
                Ok(Err(sentence)) => (StatusCode::NOT_FOUND, sentence),
                Err(sorry) => sorry,
            },
            Err(sentence) => (StatusCode::BAD_REQUEST, sentence),
        },
    })
}

/// Asks and waits.
async fn put<T>(
    ask: &mpsc::Sender<Question>,
    question: impl FnOnce(oneshot::Sender<T>) -> Question,
) -> Result<T, (StatusCode, String)> {
    let (reply, answer) = oneshot::channel();
    let ended = || (StatusCode::SERVICE_UNAVAILABLE, "the Service proxy has ended".to_owned());
    let asking = async {
        ask.send(question(reply)).await.map_err(|_| ended())?;
        answer.await.map_err(|_| ended())
    };
    let late =
        |_| (StatusCode::SERVICE_UNAVAILABLE, "the Service proxy is busy with a sync; ask again".to_owned());
    tokio::time::timeout(PATIENCE, asking).await.map_err(late)?
}

fn shown(answer: &impl Serialize) -> (StatusCode, String) {
    match serde_json::to_string_pretty(answer) {
        Ok(text) => (StatusCode::OK, text + "\n"),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}

fn filter(query: &str) -> Result<Filter, String> {
    let mut filter = Filter::default();
    for pair in pairs(query) {
        let (key, value) = pair?;
        match key.as_str() {
            "namespace" => filter.namespace = Some(value),
            "name" => filter.name = Some(value),
            _ => return Err(format!("`{key}` is neither namespace nor name")),
        }
    }
    Ok(filter)
}

fn asked(query: &str) -> Result<Asked, String> {
    let (mut from, mut to, mut protocol) = (None, None, None);
    for pair in pairs(query) {
        let (key, value) = pair?;
        match key.as_str() {
            "from" => from = Some(Origin::parse(&value)?),
            "to" => to = Some(Goal::parse(&value)?),
            "protocol" => {
                let named = Protocol::named(&value.to_uppercase());
                protocol =
                    Some(named.ok_or_else(|| format!("protocol: `{value}` is none of TCP, UDP, SCTP"))?);
            }
            _ => return Err(format!("`{key}` is none of from, to, protocol")),
        }
    }
    let from = from.ok_or("from: is missing")?;
    Ok(Asked { from, to: to.ok_or("to: is missing")?, protocol })
}

/// `key=value` pairs, decoded.
fn pairs(query: &str) -> impl Iterator<Item = Result<(String, String), String>> {
    query.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        Ok((decoded(key)?, decoded(value)?))
    })
}

/// Without percent signs.
fn decoded(text: &str) -> Result<String, String> {
    let wrong = || format!("`{text}` is no part of a query");
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || rest.next().and_then(|digit| char::from(digit).to_digit(16));
        let (high, low) = (digit().ok_or_else(wrong)?, digit().ok_or_else(wrong)?);
        bytes.push(u8::try_from(high * 16 + low).map_err(|_| wrong())?);
    }
    String::from_utf8(bytes).map_err(|_| wrong())
}

/// `text` as a value of a query.
pub fn encoded(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes()
        .map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::ServicesAnswer;
    use proxy::state::ServiceName;

    #[test]
    fn questions_are_understood_or_refused_with_a_sentence() {
        let query =
            format!("from={}&to={}&protocol=udp", encoded("10.1.0.5%veth1"), encoded("default/web:http"));
        let expected = Asked {
            from: Origin::Address("10.1.0.5".parse().expect("an address"), Some("veth1".into())),
            to: Goal::Service(ServiceName::new("default", "web"), Some("http".into())),
            protocol: Some(Protocol::Udp),
        };
        assert_eq!(asked(&query), Ok(expected));
        for (query, sentence) in [
            ("", "from: is missing"),
            ("from=node", "to: is missing"),
            ("from=1.2.3", "from: `1.2.3` is neither `node` nor an address nor an interface"),
            (
                "from=node&to=10.0.0.1",
                "to: `10.0.0.1` is neither ADDRESS:PORT nor NAMESPACE/NAME with or without :PORT",
            ),
            (
                "from=node&to=a%2Fb%3A",
                "to: `a/b:` is neither ADDRESS:PORT nor NAMESPACE/NAME with or without :PORT",
            ),
            ("from=node&to=a%2", "`a%2` is no part of a query"),
            ("from=node&to=a/b&protocol=icmp", "protocol: `icmp` is none of TCP, UDP, SCTP"),
            ("x=1", "`x` is none of from, to, protocol"),
        ] {
            assert_eq!(asked(query), Err(sentence.to_owned()), "{query}");
        }
        for text in ["node", "10.1.0.5", "fd00::5", "eth0", "10.1.0.5%eth0"] {
            assert!(Origin::parse(text).is_ok(), "{text}");
        }
        for text in ["10.96.0.1:443", "[fd00::1]:53", "default/web", "default/web:80"] {
            assert!(Goal::parse(text).is_ok(), "{text}");
        }
    }

    #[tokio::test]
    async fn answers_come_from_whoever_runs_the_proxy() {
        assert_eq!(answer(None, "/status", "").await, None);
        assert_eq!(answer(None, "/services", "").await.map(|(status, _)| status.as_u16()), Some(404));
        let (ask, mut questions) = mpsc::channel(1);
        tokio::spawn(async move {
            while let Some(Question::Services(filter, reply)) = questions.recv().await {
                let answer =
                    ServicesAnswer { node: filter.name.unwrap_or_default(), ..ServicesAnswer::default() };
                reply.send(answer).expect("somebody waits");
            }
        });
        let (status, text) =
            answer(Some(&ask), "/services", "namespace=a&name=web").await.expect("a question");
        assert_eq!((status, text.contains("\"node\": \"web\"")), (StatusCode::OK, true));
        // Whoever ran it has ended over this.
        let (status, text) = answer(Some(&ask), "/trace", "from=node&to=a/b").await.expect("a question");
        assert_eq!((status.as_u16(), text.as_str()), (503, "the Service proxy has ended"));
    }
}
