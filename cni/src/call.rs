//! What a plug-in is asked: one typed value per verb, everything already validated.

use std::path::PathBuf;

use crate::{AddResult, Result, Version};

/// A container ID that passed the spec's alphabet check.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ContainerId(pub(crate) String);

/// An interface name that passed the kernel's rules: 1 to 15 bytes, no `/`, `:`, blank, `.` or `..`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct IfName(pub(crate) String);

/// One (container ID, interface name) on a network: the unit of every verb.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Attachment {
    /// The container.
    pub container_id: ContainerId,
    /// The interface inside it.
    pub ifname: IfName,
}

/// A plug-in's configuration as it came on stdin, with the keys of the protocol taken out.
///
/// The rest is decoded by the plug-in itself with [`NetConf::decode`].
#[derive(Debug, Clone)]
pub struct NetConf {
    /// The configuration's own version.
    pub cni_version: Version,
    /// The network's name; non-empty, checked.
    pub name: String,
    /// The plug-in's `type`; informative.
    pub plugin_type: String,
    /// `ipam.type`, empty when there is none.
    pub ipam_type: String,
    /// `prevResult`, converted to the newest form.
    pub prev_result: Option<AddResult>,
    /// The whole object, for [`NetConf::decode`].
    pub object: serde_json::Value,
    /// The exact bytes of stdin, which delegation hands on untouched.
    pub bytes: Vec<u8>,
}

/// ADD and CHECK (`N` = `PathBuf`), or DEL (`N` = `Option<PathBuf>`: only DEL may come without a namespace).
#[derive(Debug, Clone)]
pub struct Call<N> {
    /// Who.
    pub attachment: Attachment,
    /// CNI_NETNS as given.
    pub netns: N,
    /// CNI_ARGS as given; empty when absent.
    pub args: String,
    /// CNI_PATH, split.
    pub path: Vec<PathBuf>,
    /// The configuration.
    pub conf: NetConf,
}

impl Call<PathBuf> {
    /// The DEL that undoes this ADD.
    pub fn into_del(self) -> Call<Option<PathBuf>> {
        let Call { attachment, netns, args, path, conf } = self;
        Call { attachment, netns: Some(netns), args, path, conf }
    }
}

/// GC: there is no attachment, only the network.
#[derive(Debug, Clone)]
pub struct GcCall {
    /// CNI_PATH, split.
    pub path: Vec<PathBuf>,
    /// The configuration.
    pub conf: NetConf,
    /// `cni.dev/valid-attachments`: absent means unknown, so nothing may be removed; empty means none is valid.
    pub valid: Option<Vec<Attachment>>,
}

/// STATUS.
#[derive(Debug, Clone)]
pub struct StatusCall {
    /// CNI_PATH, split.
    pub path: Vec<PathBuf>,
    /// The configuration.
    pub conf: NetConf,
}

/// One plug-in. The dispatcher has validated everything that the protocol defines.
pub trait Plugin: Sync {
    /// The type's name, as in a configuration's `type` and in argv\[0\].
    fn name(&self) -> &'static str;
    /// The versions it accepts, oldest first.
    fn versions(&self) -> &'static [Version] {
        &Version::ALL
    }
    /// What a person sees who starts the program by hand; empty for nothing.
    fn about(&self) -> String {
        format!("CNI {} plugin, bowline {}", self.name(), env!("CARGO_PKG_VERSION"))
    }
    /// Makes the attachment.
    fn add(&self, call: &Call<PathBuf>) -> Result<AddResult>;
    /// Unmakes it: repeatable, tolerant of everything that is gone already.
    fn del(&self, call: &Call<Option<PathBuf>>) -> Result<()>;
    /// Finds drift between `prevResult` and the kernel.
    fn check(&self, call: &Call<PathBuf>) -> Result<()>;
    /// Removes what belongs to this network and to no valid attachment.
    fn gc(&self, call: &GcCall) -> Result<()>;
    /// Says whether ADD could be served.
    fn status(&self, call: &StatusCall) -> Result<()>;
}
