//! A plug-in in this process that notes what it is asked.

use std::path::{Path, PathBuf};
use std::sync::Mutex;

use cni::dispatch::{Env, Outcome, run};
use cni::{AddResult, Attachment, Call, Code, Error, GcCall, IpConfig, Plugin, Result, StatusCall, Version};
use serde_json::Value;

pub const VERBS: [&str; 5] = ["ADD", "CHECK", "DEL", "GC", "STATUS"];
pub const CONF: &str = r#"{"cniVersion":"1.1.0","name":"net","type":"fake"}"#;

/// Notes every call; answers ADD with `result`, or everything with `error`.
pub struct Fake {
    pub calls: Mutex<Vec<String>>,
    pub result: AddResult,
    pub error: Option<Error>,
    pub versions: &'static [Version],
    pub about: &'static str,
    pub valid: Mutex<Option<Option<Vec<Attachment>>>>,
    pub prev: Mutex<Option<AddResult>>,
}

impl Fake {
    pub fn new() -> Fake {
        let ip = IpConfig { interface: None, address: "10.1.0.2/24".parse().unwrap(), gateway: None };
        Fake {
            calls: Mutex::default(),
            result: AddResult { ips: vec![ip], ..AddResult::default() },
            error: None,
            versions: &Version::ALL,
            about: "a fake",
            valid: Mutex::default(),
            prev: Mutex::default(),
        }
    }

    fn note(&self, verb: &str, netns: Option<&Path>) -> Result<()> {
        self.calls
            .lock()
            .unwrap()
            .push(format!("{verb} {}", netns.map_or("-".into(), |p| p.display().to_string())));
        self.error.clone().map_or(Ok(()), Err)
    }

    pub fn calls(&self) -> Vec<String> {
        std::mem::take(&mut self.calls.lock().unwrap())
    }
}

impl Plugin for Fake {
    fn name(&self) -> &'static str {
        "fake"
    }
    fn about(&self) -> String {
        self.about.to_owned()
    }
    fn versions(&self) -> &'static [Version] {
        self.versions
    }
    fn add(&self, call: &Call<PathBuf>) -> Result<AddResult> {
        *self.prev.lock().unwrap() = call.conf.prev_result.clone();
        self.note("ADD", Some(&call.netns))?;
        Ok(self.result.clone())
    }
    fn del(&self, call: &Call<Option<PathBuf>>) -> Result<()> {
        *self.prev.lock().unwrap() = call.conf.prev_result.clone();
        self.note("DEL", call.netns.as_deref())
    }
    fn check(&self, call: &Call<PathBuf>) -> Result<()> {
        *self.prev.lock().unwrap() = call.conf.prev_result.clone();
        self.note("CHECK", Some(&call.netns))
    }
    fn gc(&self, call: &GcCall) -> Result<()> {
        *self.valid.lock().unwrap() = Some(call.valid.clone());
        self.note("GC", None)
    }
    fn status(&self, _: &StatusCall) -> Result<()> {
        self.note("STATUS", None)
    }
}

/// A complete environment, changed by `changes` (an empty value takes the variable away).
pub fn env(verb: &str, changes: &[(&str, &str)]) -> Env {
    let mut all = vec![
        ("CNI_COMMAND", verb),
        ("CNI_CONTAINERID", "cid"),
        ("CNI_NETNS", "/netns/pod"),
        ("CNI_IFNAME", "eth0"),
        ("CNI_PATH", "/bin:/usr/bin"),
        ("CNI_ARGS", "A=b"),
    ];
    for (name, value) in changes {
        all.retain(|(n, _)| n != name);
        all.push((name, value));
    }
    all.into_iter().collect()
}

pub fn serve(plugin: &Fake, env: &Env, stdin: &str) -> Outcome {
    run(plugin, env, stdin.as_bytes(), &|path| path == Path::new("/netns/own"))
}

pub fn object(outcome: &Outcome) -> Value {
    serde_json::from_str(&outcome.stdout).unwrap()
}

#[track_caller]
pub fn refused(outcome: &Outcome, code: Code) -> String {
    assert_eq!(outcome.exit, 1, "{outcome:?}");
    let object = object(outcome);
    assert_eq!(object["code"], code.0, "{object}");
    assert!(outcome.stdout.starts_with("{\n    \"") && outcome.stdout.ends_with("\n}"));
    let text = |key: &str| object[key].as_str().unwrap_or("").to_owned();
    [text("msg"), text("details")].join("|")
}

#[track_caller]
pub fn served(outcome: &Outcome) {
    assert_eq!((outcome.exit, outcome.stderr.as_str()), (0, ""), "{outcome:?}");
}
