//! Ports that another pod has taken over, and that are given back when it goes.
//!
//! A rolling update may add the new pod before it deletes the old one, and both ask for the same port of the host. It
//! belongs to who came last. What the other had is kept in a set beside the map, one for each map:
//!
//! ```text
//! map ports         { tcp . 8080 comment "<the second's>" : 10.1.0.6 . 80 }
//! set waiting-ports { tcp . 8080 . 10.1.0.5 . 80 comment "<the first's>" }
//! ```
//! Nothing looks there for packets. Whose ports nobody takes over pays one look at a set that isn't there, on DEL.

use kernel::Result;
use kernel::netlink::Socket;
use kernel::nft::{self, Batch, Data, Element, Set, Table, Type};

use crate::owner::Owner;

/// What the names of these sets begin with.
pub(super) const WAITING: &str = "waiting-";

/// A map of ports.
#[derive(Debug, Clone, Copy)]
pub(super) struct Map<'a> {
    /// Its table.
    pub(super) table: &'a Table<'a>,
    /// Its name.
    pub(super) name: &'a str,
    /// Its key.
    pub(super) key: &'a [Type],
    /// What it leads to.
    pub(super) data: &'a [Type],
}

impl Map<'_> {
    /// Leads a port to its new owner's pod; what another owner had there waits.
    pub(super) fn claim(
        self,
        host: &mut Socket,
        batch: &mut Batch,
        owner: &Owner,
        element: Element,
    ) -> Result<()> {
        let present = nft::get_element(host, self.table, self.name, &element)?;
        if present.as_ref() == Some(&element) {
            return Ok(());
        }
        if let Some(present) = present {
            self.forget(host, batch, owner, &element)?;
            batch.delete_elements(self.table, self.name, std::slice::from_ref(&present));
            if !owner.owns(&present.comment) && present.data != element.data {
                self.set_aside(batch, &present);
            }
        }
        batch.create_elements(self.table, self.name, &[element]);
        Ok(())
    }

    fn set_aside(self, batch: &mut Batch, taken: &Element) {
        let Some(Data::Value(data)) = &taken.data else { return };
        let (name, kinds) = (self.waiting(), [self.key, self.data].concat());
        let key = [taken.key.as_slice(), data.as_slice()].concat();
        batch.add_set(self.table, &Set::new(&name, &kinds));
        batch.add_elements(self.table, &name, &[Element::raw(key).comment(taken.comment.as_str())]);
    }

    /// Removes what `owner` has waiting for the port of `element`; says whether there was anything.
    pub(super) fn forget(
        self,
        host: &mut Socket,
        batch: &mut Batch,
        owner: &Owner,
        element: &Element,
    ) -> Result<bool> {
        let mut own = self.list_waiting(host, element)?;
        own.retain(|waiting| owner.owns(&waiting.comment));
        batch.delete_elements(self.table, &self.waiting(), &own);
        Ok(!own.is_empty())
    }

    /// Gives the port of `removed`, which the batch deletes, to one that waits for it and isn't gone itself; says
    /// whether there was one.
    pub(super) fn give_back(
        self,
        host: &mut Socket,
        batch: &mut Batch,
        removed: &Element,
        is_gone: impl Fn(&str) -> bool,
    ) -> Result<bool> {
        let mut waiting = self.list_waiting(host, removed)?.into_iter();
        let Some(next) = waiting.find(|waiting| !is_gone(&waiting.comment)) else { return Ok(false) };
        let (key, data) = next.key.split_at(removed.key.len());
        let data = Some(Data::Value(data.to_vec()));
        let element = Element { data, ..Element::raw(key.to_vec()).comment(next.comment.as_str()) };
        batch.delete_elements(self.table, &self.waiting(), std::slice::from_ref(&next));
        batch.create_elements(self.table, self.name, &[element]);
        Ok(true)
    }

    /// Who waits for the port of `element`. There are as many as pods were added for one port and not deleted.
    fn list_waiting(self, host: &mut Socket, element: &Element) -> Result<Vec<Element>> {
        let mut waiting = nft::list_elements(host, self.table, &self.waiting())?;
        waiting.retain(|waiting| waiting.key.starts_with(&element.key));
        Ok(waiting)
    }

    /// The name of the set beside it.
    pub(super) fn waiting(self) -> String {
        format!("{WAITING}{}", self.name)
    }
}
