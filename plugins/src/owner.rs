//! Who a kernel object belongs to: the tag that everything we make carries in its comment.

use std::collections::HashSet;

use cni::Attachment;
use overlay::owner::network_tag;

pub use overlay::owner::digest;

/// nft prints at most this many bytes of a comment.
const COMMENT_MAX: usize = 128;

/// One attachment of one network, as owner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// The network's name.
    pub network: String,
    /// The attachment.
    pub attachment: Attachment,
}

impl Owner {
    /// The owner `attachment` of `network`.
    pub fn new(network: &str, attachment: &Attachment) -> Self {
        Owner { network: network.to_owned(), attachment: attachment.clone() }
    }

    /// 33 bytes that identify the owner: 16 digits for the network, a dash, 16 digits for the attachment.
    pub fn tag(&self) -> String {
        network_tag(&self.network) + &attachment_tag(&self.attachment)
    }

    /// The comment on everything that this owner has: the tag, and then words for people, cut to what nft prints.
    pub fn comment(&self) -> String {
        let Attachment { container_id, ifname } = &self.attachment;
        let mut comment = format!("{}, net: {}, if: {ifname}, id: {container_id}", self.tag(), self.network);
        comment.retain(|c| c != '"');
        let mut end = comment.len().min(COMMENT_MAX);
        while !comment.is_char_boundary(end) {
            end -= 1;
        }
        comment.truncate(end);
        comment
    }

    /// Whether something with this comment belongs to this owner.
    pub fn owns(&self, comment: &str) -> bool {
        comment.starts_with(&self.tag())
    }
}

/// What garbage collection keeps: the valid attachments of one network, and everything of other networks.
#[derive(Debug, Clone)]
pub struct Keep {
    network: String,
    attachments: HashSet<String>,
}

impl Keep {
    /// Keeps the `valid` attachments of `network`.
    pub fn new(network: &str, valid: &[Attachment]) -> Self {
        Keep { network: network_tag(network), attachments: valid.iter().map(attachment_tag).collect() }
    }

    /// Whether something with this comment belongs to this network and to no valid attachment. Comments that are
    /// not ours are never stale.
    pub fn is_stale(&self, comment: &str) -> bool {
        let attachment = comment.strip_prefix(&self.network).and_then(|rest| rest.get(..16));
        attachment
            .is_some_and(|tag| tag.bytes().all(|b| b.is_ascii_hexdigit()) && !self.attachments.contains(tag))
    }
}

/// Whether `comment` is some owner's: ours or another's.
pub fn is_tagged(comment: &str) -> bool {
    let is_digest = |text: &str| text.len() == 16 && text.bytes().all(|b| b.is_ascii_hexdigit());
    let mut parts = comment.split(',').next().unwrap_or_default().split('-');
    matches!((parts.next(), parts.next(), parts.next()), (Some(n), Some(a), None) if is_digest(n) && is_digest(a))
}

fn attachment_tag(attachment: &Attachment) -> String {
    overlay::owner::attachment_tag(&attachment.container_id.to_string(), &attachment.ifname.to_string())
}

#[cfg(test)]
mod tests {
    use cni::{ContainerId, IfName};

    use super::*;

    fn attachment(id: &str, ifname: &str) -> Attachment {
        Attachment { container_id: ContainerId::parse(id).unwrap(), ifname: IfName::parse(ifname).unwrap() }
    }

    #[test]
    fn hash_names_are_the_references() {
        assert_eq!(digest("unit-test", 16), "6fd94d501e58f0aa");
        assert_eq!(digest("eth0:one", 16), "287fc69eff0574a2");
        assert_eq!(format!("CNI-{}", digest("test1234", 24)), "CNI-2bbe0c48b91a7d1b8a6753a8");
        assert_eq!(format!("bwp{}", digest("cni-plugin-bandwidth-testdummy", 12)), "bwpa8eda89404b7");
    }

    #[test]
    fn hash_names_change_with_any_character() {
        assert_ne!(digest("test1234", 24), digest("test1235", 24));
        assert_ne!(digest("test1234", 24), digest("Test1234", 24));
    }

    #[test]
    fn hash_names_comment_begins_with_the_tag_and_is_cut() {
        let owner = Owner::new("unit-test", &attachment("one", "eth0"));
        assert_eq!(owner.comment(), "6fd94d501e58f0aa-287fc69eff0574a2, net: unit-test, if: eth0, id: one");
        let long = Owner::new(&"n\"é".repeat(60), &attachment(&"i".repeat(200), "eth0"));
        assert!(long.comment().len() <= 128 && long.comment().len() > 125, "{}", long.comment());
        assert!(!long.comment().contains('"'));
        assert!(long.owns(&long.comment()));
        assert!(!owner.owns(&long.comment()));
        assert!(!owner.owns(""));
    }

    #[test]
    fn only_invalid_attachments_of_the_network_are_stale() {
        let (one, two) = (attachment("one", "eth0"), attachment("two", "eth0"));
        let comment = |network: &str, a: &Attachment| Owner::new(network, a).comment();
        let keep = Keep::new("net", std::slice::from_ref(&one));
        assert!(!keep.is_stale(&comment("net", &one)));
        assert!(keep.is_stale(&comment("net", &two)));
        assert!(keep.is_stale(&comment("net", &attachment("one", "eth1"))));
        assert!(!keep.is_stale(&comment("other", &two)));
        assert!(!keep.is_stale("a stranger's comment"));
        assert!(!keep.is_stale(&digest("net", 16)));
    }
}
