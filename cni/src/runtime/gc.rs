//! GC: DEL for what the cache knows and the runtime does not, then GC to every plug-in.

use std::collections::HashSet;

use super::Runtime;
use super::request::Request;
use crate::list::NetworkList;
use crate::{Attachment, Error, Result, Version};

impl Runtime {
    /// Removes every attachment of the network that is not in `valid`. `None` says that the runtime keeps no
    /// list: all kept attachments are deleted, and plug-ins are told of no list. Does nothing under `disableGC`.
    ///
    /// # Errors
    /// All failures in one error with the first one's code; each attachment and plug-in is tried.
    pub fn gc(&self, list: &NetworkList, valid: Option<&[Attachment]>) -> Result<()> {
        if list.disable_gc {
            return Ok(());
        }
        let Ok(kept) = self.cache().attachments() else { return Ok(()) };
        let mut errors = Vec::new();
        let spared: HashSet<&Attachment> = valid.into_iter().flatten().collect();
        for cached in kept.into_iter().filter(|cached| cached.network == list.name) {
            let args = cached.args;
            let attachment =
                Attachment { container_id: args.container_id.clone(), ifname: args.ifname.clone() };
            if spared.contains(&attachment) {
                continue;
            }
            if let Err(e) = self.del(list, &args) {
                let who = format!("{} {}", args.container_id, args.ifname);
                errors.push(e.context(format!("failed to delete stale attachment {who}")));
            }
        }
        if list.is_at_least(Version::V1_1_0)? {
            let deadline = self.deadline();
            for plugin in &list.plugins {
                let request = Request { list, plugin, args: None, prev: None, valid };
                errors.extend(self.call("GC", &request, deadline).err());
            }
        }
        together(errors)
    }
}

fn together(errors: Vec<Error>) -> Result<()> {
    let Some(code) = errors.first().map(|e| e.code) else { return Ok(()) };
    let all: Vec<_> = errors.iter().map(ToString::to_string).collect();
    Err(Error::new(code, all.join("; ")))
}
