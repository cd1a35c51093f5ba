//! Fake plug-ins: shell scripts that note what they were asked and answer what a file says.
#![allow(dead_code, reason = "each test binary uses its own part")]

pub mod plugin;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use cni::list::NetworkList;
use cni::runtime::{Runtime, RuntimeArgs};
use serde_json::Value;
use tempfile::TempDir;

const SCRIPT: &str = r#"#!/bin/sh
here=$(dirname "$0"); me=$(basename "$0")
echo "$me $CNI_COMMAND" >> "$here/log"
cat > "$here/stdin.$me.$CNI_COMMAND"
env | grep '^CNI_' | sort > "$here/env.$me.$CNI_COMMAND"
[ ! -f "$here/stderr.$me.$CNI_COMMAND" ] || cat "$here/stderr.$me.$CNI_COMMAND" >&2
[ ! -f "$here/answer.$me.$CNI_COMMAND" ] || cat "$here/answer.$me.$CNI_COMMAND"
[ ! -f "$here/exit.$me.$CNI_COMMAND" ] || exit 1
"#;

/// A directory of fake plug-ins with a configuration directory and a cache of their own.
pub struct Stage {
    dir: TempDir,
}

impl Stage {
    pub fn new(plugins: &[&str]) -> Stage {
        let stage = Stage { dir: TempDir::new().unwrap() };
        for dir in ["bin", "net.d"] {
            fs::create_dir(stage.path(dir)).unwrap();
        }
        for plugin in plugins {
            stage.script(plugin, SCRIPT);
            stage.answer(plugin, "ADD", r#"{"cniVersion":"1.1.0","ips":[{"address":"10.1.0.2/24"}]}"#);
        }
        stage
    }

    pub fn path(&self, below: &str) -> PathBuf {
        self.dir.path().join(below)
    }

    pub fn script(&self, plugin: &str, text: &str) {
        // Written aside and renamed: a file that a fork of another test still holds open for writing is busy.
        let file = self.path(&format!("bin/{plugin}"));
        fs::write(file.with_extension("new"), text).unwrap();
        fs::set_permissions(file.with_extension("new"), fs::Permissions::from_mode(0o755)).unwrap();
        fs::rename(file.with_extension("new"), &file).unwrap();
    }

    pub fn conf(&self, name: &str, text: &str) {
        let file = self.path(&format!("net.d/{name}"));
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, text).unwrap();
    }

    pub fn answer(&self, plugin: &str, verb: &str, text: &str) {
        fs::write(self.path(&format!("bin/answer.{plugin}.{verb}")), text).unwrap();
    }

    /// Makes the plug-in exit with status 1 after printing `text`.
    pub fn fail(&self, plugin: &str, verb: &str, text: &str) {
        self.answer(plugin, verb, text);
        fs::write(self.path(&format!("bin/exit.{plugin}.{verb}")), "").unwrap();
    }

    pub fn stderr(&self, plugin: &str, verb: &str, text: &str) {
        fs::write(self.path(&format!("bin/stderr.{plugin}.{verb}")), text).unwrap();
    }

    pub fn stdin(&self, plugin: &str, verb: &str) -> Value {
        serde_json::from_slice(&fs::read(self.path(&format!("bin/stdin.{plugin}.{verb}"))).unwrap()).unwrap()
    }

    pub fn env(&self, plugin: &str, verb: &str) -> String {
        fs::read_to_string(self.path(&format!("bin/env.{plugin}.{verb}"))).unwrap()
    }

    /// Every run since the last look, as `plugin VERB`.
    pub fn log(&self) -> Vec<String> {
        let file = self.path("bin/log");
        let lines = fs::read_to_string(&file).unwrap_or_default().lines().map(str::to_owned).collect();
        let _ = fs::remove_file(file);
        lines
    }

    pub fn runtime(&self) -> Runtime {
        Runtime::new([self.path("bin")]).with_cache_dir(self.path("cache"))
    }

    /// A list of the given plug-ins, parsed.
    pub fn list(&self, version: &str, plugins: &[&str]) -> NetworkList {
        let plugins: Vec<_> = plugins.iter().map(|p| serde_json::json!({ "type": p })).collect();
        let text =
            serde_json::json!({ "cniVersion": version, "name": "net", "plugins": plugins }).to_string();
        NetworkList::parse(text.as_bytes(), None).unwrap()
    }
}

pub fn args() -> RuntimeArgs {
    RuntimeArgs::new("cid", "/run/netns/x", "eth0").unwrap()
}
