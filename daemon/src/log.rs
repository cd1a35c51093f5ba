//! The log: on stderr, a line or an object for each event.

use std::error::Error;

use tracing_subscriber::EnvFilter;

use crate::config::LogFormat;

/// Sends what `tracing` records to stderr.
///
/// # Errors
/// A sentence: the level is none, or somebody else has set up the log before.
pub fn start(format: LogFormat, level: &str) -> Result<(), String> {
    let builder = tracing_subscriber::fmt().with_env_filter(filter(level)?).with_writer(std::io::stderr);
    let started = match format {
        LogFormat::Text => builder.with_ansi(false).with_target(false).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).with_target(true).try_init(),
    };
    started.map_err(|error| error.to_string())
}

/// What is recorded. `kube` calls each lost connection an error, without its cause; the source says the same in a
/// sentence, so `kube` speaks only to who asks for it.
fn filter(level: &str) -> Result<EnvFilter, String> {
    format!("kube_client=off,{level}").parse().map_err(|error| format!("log level `{level}`: {error}"))
}

/// An error with all its causes, in one line.
pub fn chain_of(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        // Some errors repeat their cause in their own words.
        if !text.ends_with(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kube_is_silent_until_it_is_asked() {
        let shown = |level: &str| filter(level).unwrap().to_string();
        assert_eq!(shown("info"), "kube_client=off,info");
        assert_eq!(shown("info,kube_client=debug"), "kube_client=debug,info");
        let mistake = filter("info,daemon=loud").unwrap_err();
        assert!(mistake.starts_with("log level `info,daemon=loud`: "), "{mistake}");
    }
}
