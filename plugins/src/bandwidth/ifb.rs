//! The ifb that an attachment's outgoing traffic is shaped on: its name and its owner.
//!
//! The reference names it after network and container, without the interface, so a second attachment of a container to
//! one network finds the name taken. Here the first attachment gets the reference's name and any other one a name of
//! its own; whose it is says the link's alias.

use cni::Attachment;
use kernel::link::{self, Link};
use kernel::netlink::Socket;

use crate::owner::{Owner, digest};

/// The two names that the ifb of an attachment may have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Names {
    /// The reference's.
    pub shared: String,
    /// This attachment's own, for when another one has the first.
    pub own: String,
}

impl Names {
    /// The names for `attachment` of `network`.
    pub fn new(network: &str, attachment: &Attachment) -> Self {
        let (id, ifname) = (attachment.container_id.as_str(), attachment.ifname.as_str());
        Names {
            shared: format!("bwp{}", digest(&format!("{network}{id}"), 12)),
            // A slash is in no name, so no network and container hash to the same.
            own: format!("bwp{}", digest(&format!("{network}{id}/{ifname}"), 12)),
        }
    }
}

/// What a link that has one of the names is to an attachment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claim {
    /// Its own.
    Own,
    /// Another attachment's, or no ifb at all.
    Another,
    /// An ifb without an alias, as the reference makes them: of this container, but of which interface?
    Unmarked,
}

/// The links that have the names, as observed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Observed {
    /// With the reference's name.
    pub shared: Option<(Claim, Link)>,
    /// With the attachment's own.
    pub own: Option<(Claim, Link)>,
}

impl Observed {
    /// Looks both names up.
    pub fn find(socket: &mut Socket, names: &Names, owner: &Owner) -> kernel::Result<Self> {
        let mut look = |name: &str| {
            let found = link::find(socket, name)?;
            Ok::<_, kernel::Error>(found.map(|link| (claim(&link, owner), link)))
        };
        Ok(Observed { shared: look(&names.shared)?, own: look(&names.own)? })
    }

    /// The attachment's ifb: marked as such, or unmarked under the name that nobody else can have.
    pub fn ours(&self) -> Option<&Link> {
        let shared = self.shared.as_ref().filter(|(claim, _)| *claim == Claim::Own);
        let own = self.own.as_ref().filter(|(claim, _)| *claim != Claim::Another);
        shared.or(own).map(|(_, link)| link)
    }

    /// The name for an attachment that has no ifb yet; `None` when both are taken.
    pub fn free_name<'a>(&self, names: &'a Names) -> Option<&'a str> {
        match (&self.shared, &self.own) {
            (None, _) => Some(&names.shared),
            (Some(_), None) => Some(&names.own),
            (Some(_), Some(_)) => None,
        }
    }

    /// What DEL removes. An unmarked ifb is the attachment's when its result names it, or when nothing says otherwise:
    /// there is no result, and no marked one.
    pub fn to_remove(&self, listed: Option<&[String]>) -> Vec<&Link> {
        let is_ours = |claim: Claim, link: &Link| match (claim, listed) {
            (Claim::Own, _) => true,
            (Claim::Another, _) => false,
            (Claim::Unmarked, Some(listed)) => listed.contains(&link.id.name),
            (Claim::Unmarked, None) => self.ours().is_none(),
        };
        let both = [&self.shared, &self.own].into_iter().flatten();
        both.filter(|(claim, link)| is_ours(*claim, link)).map(|(_, link)| link).collect()
    }
}

fn claim(link: &Link, owner: &Owner) -> Claim {
    match link.alias.as_str() {
        _ if link.kind != "ifb" => Claim::Another,
        "" => Claim::Unmarked,
        alias if owner.owns(alias) => Claim::Own,
        _ => Claim::Another,
    }
}
