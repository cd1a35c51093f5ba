//! A configuration list and its attachments: the runtime's half of the protocol, in as few lines as it takes.
//!
//! Kept apart from `cni::runtime` on purpose: this one is the instrument, and it shows each plug-in's step, which
//! fault injection needs.

use std::path::PathBuf;

use serde_json::{Map, Value, json};

use crate::plugin::{Invocation, Refusal, Subject};
use crate::{Node, Pod};

/// A network of a node: a configuration list with the subject that runs it.
#[derive(Debug, Clone)]
pub struct Network {
    /// Who runs it.
    pub subject: Subject,
    /// The configuration list.
    pub list: Value,
}

/// What a runtime hands in besides the list.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// The interface's name; `eth0` when empty.
    pub ifname: String,
    /// runtimeConfig by capability.
    pub capabilities: Map<String, Value>,
    /// CNI_ARGS.
    pub args: String,
}

impl Request {
    /// An `eth0` with one capability.
    pub fn capability(name: &str, value: Value) -> Request {
        Request { capabilities: Map::from_iter([(name.to_owned(), value)]), ..Request::default() }
    }

    /// An interface of that name.
    pub fn ifname(name: &str) -> Request {
        Request { ifname: name.to_owned(), ..Request::default() }
    }
}

/// One interface of one pod on one network, as ADD left it.
#[derive(Debug, Clone)]
pub struct Attachment {
    /// The network.
    pub network: Network,
    /// The container ID.
    pub container_id: String,
    /// CNI_NETNS; empty for a DEL without one.
    pub netns: PathBuf,
    /// What was asked.
    pub request: Request,
    /// The final result.
    pub result: Value,
}

impl Network {
    /// A network of `list` run by `subject`, under the last of its `cniVersions` where it offers several. For the
    /// reference the list is brought down to what it speaks: version 1.0.0 and no choice of backend.
    pub fn new(subject: &Subject, mut list: Value) -> Network {
        let newest = list["cniVersions"].as_array().and_then(|offered| offered.last()).cloned();
        if let Some(newest) = newest {
            list["cniVersion"] = newest;
        }
        if subject.is_reference {
            if list["cniVersion"] == "1.1.0" {
                list["cniVersion"] = json!("1.0.0");
            }
            for plugin in list["plugins"].as_array_mut().into_iter().flatten() {
                let plugin = plugin.as_object_mut().expect("a plug-in's configuration is an object");
                plugin.remove("ipMasqBackend");
                let is_firewall = plugin.get("type").is_some_and(|t| t == "firewall");
                if plugin.contains_key("backend") || is_firewall {
                    plugin.remove("backend");
                    if is_firewall {
                        plugin.insert("backend".into(), json!("iptables"));
                    }
                }
            }
        }
        Network { subject: subject.clone(), list }
    }

    /// The network's name.
    pub fn name(&self) -> &str {
        self.list["name"].as_str().unwrap_or_default()
    }

    /// The plug-ins' types, in order.
    pub fn kinds(&self) -> Vec<String> {
        let plugins = self.list["plugins"].as_array().expect("a list has plug-ins");
        plugins.iter().map(|p| p["type"].as_str().unwrap_or_default().to_owned()).collect()
    }

    /// One plug-in's request: its object, the list's name and version, and what was given.
    pub fn request(&self, index: usize, prev_result: Option<&Value>, request: &Request) -> Value {
        let mut conf = self.list["plugins"][index].clone();
        conf["name"] = self.list["name"].clone();
        conf["cniVersion"] = self.list["cniVersion"].clone();
        if let Some(prev_result) = prev_result {
            conf["prevResult"] = prev_result.clone();
        }
        let declared = conf["capabilities"].as_object().cloned().unwrap_or_default();
        let supplied: Map<String, Value> = request
            .capabilities
            .iter()
            .filter(|(name, _)| declared.get(*name) == Some(&json!(true)))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        if !supplied.is_empty() {
            conf["runtimeConfig"] = Value::Object(supplied);
        }
        conf
    }

    /// ADD on every plug-in in order; the first refusal ends it, and nothing is undone.
    pub fn add(&self, node: &Node, pod: &Pod, request: Request) -> Result<Attachment, Refusal> {
        let mut attachment = self.attachment(pod, request);
        for index in 0..self.kinds().len() {
            attachment.add_step(node, index)?;
        }
        Ok(attachment)
    }

    /// The attachment that ADD would make; for a DEL of something never added, and for step-by-step ADD.
    pub fn attachment(&self, pod: &Pod, request: Request) -> Attachment {
        Attachment {
            network: self.clone(),
            container_id: pod.container_id(),
            netns: pod.netns_path(),
            request,
            result: Value::Null,
        }
    }

    /// GC on every plug-in, `valid` being all that may stay.
    pub fn gc(&self, node: &Node, valid: &[&Attachment]) -> Result<(), Refusal> {
        let valid: Vec<Value> =
            valid.iter().map(|a| json!({"containerID": a.container_id, "ifname": a.ifname()})).collect();
        self.every(node, "GC", |conf| conf["cni.dev/valid-attachments"] = json!(valid))
    }

    /// STATUS on every plug-in.
    pub fn status(&self, node: &Node) -> Result<(), Refusal> {
        self.every(node, "STATUS", |_| {})
    }

    fn every(&self, node: &Node, verb: &str, edit: impl Fn(&mut Value)) -> Result<(), Refusal> {
        let mut first_refusal = Ok(());
        for (index, kind) in self.kinds().iter().enumerate() {
            let mut conf = self.request(index, None, &Request::default());
            edit(&mut conf);
            let outcome = Invocation::new(&self.subject, verb, kind, &conf).run(node).map(drop);
            first_refusal = first_refusal.and(outcome);
        }
        first_refusal
    }
}

impl Attachment {
    /// The interface's name.
    pub fn ifname(&self) -> &str {
        if self.request.ifname.is_empty() { "eth0" } else { &self.request.ifname }
    }

    /// One plug-in's ADD; the result becomes the next one's prevResult.
    pub fn add_step(&mut self, node: &Node, index: usize) -> Result<(), Refusal> {
        self.result = self.invocation("ADD", index).run(node)?;
        Ok(())
    }

    /// The call of plug-in `index` with `verb`, ready to run or to be changed first.
    pub fn invocation(&self, verb: &str, index: usize) -> Invocation {
        let prev_result = (!self.result.is_null()).then_some(&self.result);
        let conf = self.network.request(index, prev_result, &self.request);
        let kind = &self.network.kinds()[index];
        let mut call = Invocation::new(&self.network.subject, verb, kind, &conf)
            .env("CNI_CONTAINERID", &self.container_id)
            .env("CNI_IFNAME", self.ifname())
            .env("CNI_NETNS", self.netns.display().to_string());
        if !self.request.args.is_empty() {
            call = call.env("CNI_ARGS", &self.request.args);
        }
        call
    }

    /// CHECK in order; the first finding ends it.
    pub fn check(&self, node: &Node) -> Result<(), Refusal> {
        (0..self.network.kinds().len()).try_for_each(|i| self.invocation("CHECK", i).run(node).map(drop))
    }

    /// DEL in reverse; the first refusal ends it, as in every runtime.
    pub fn del(&self, node: &Node) -> Result<(), Refusal> {
        (0..self.network.kinds().len()).rev().try_for_each(|i| self.invocation("DEL", i).run(node).map(drop))
    }

    /// The same attachment as another suite (or another list) sees it, with the result kept.
    #[must_use]
    pub fn as_seen_by(&self, network: &Network) -> Attachment {
        Attachment { network: network.clone(), ..self.clone() }
    }

    /// The addresses of the result, without prefix lengths.
    pub fn ips(&self) -> Vec<std::net::IpAddr> {
        let ips = self.result["ips"].as_array().map(Vec::as_slice).unwrap_or_default();
        ips.iter().filter_map(|ip| ip["address"].as_str()?.split('/').next()?.parse().ok()).collect()
    }

    /// The first address of the result.
    ///
    /// # Panics
    /// When it has none.
    pub fn ip(&self) -> std::net::IpAddr {
        *self.ips().first().expect("the result has an address")
    }

    /// The name of the first interface of the result that is on the host and starts with `prefix`.
    pub fn host_end(&self, prefix: &str) -> String {
        let interfaces = self.result["interfaces"].as_array().map(Vec::as_slice).unwrap_or_default();
        interfaces
            .iter()
            .filter(|i| i["sandbox"].as_str().is_none_or(str::is_empty))
            .filter_map(|i| i["name"].as_str())
            .find(|name| name.starts_with(prefix))
            .unwrap_or_else(|| panic!("no host interface {prefix}* in {}", self.result))
            .to_owned()
    }
}
