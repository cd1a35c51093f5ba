//! Set elements that carry an owner's tag: taken over on ADD, given back on DEL, by looking at the comment first.
//!
//! All but [`drop_unused_table`] are steps for [`nft::converge`]: they look, and add to a batch that is only
//! committed if what they saw still holds.

use kernel::Result;
use kernel::netlink::Socket;
use kernel::nft::{self, Batch, Element, Table};

use crate::owner::Owner;

/// Adds `element`, in place of the element with the same key if another owner left one; nothing if it is there.
pub fn claim(
    host: &mut Socket,
    batch: &mut Batch,
    table: &Table<'_>,
    set: &str,
    element: Element,
) -> Result<()> {
    match nft::get_element(host, table, set, &element)? {
        Some(present) if present == element => return Ok(()),
        Some(present) => {
            batch.delete_elements(table, set, &[present]);
        }
        None => {}
    }
    batch.create_elements(table, set, &[element]);
    Ok(())
}

/// Deletes the element with `wanted`'s key if it is `owner`'s; says whether it is.
pub fn release(
    host: &mut Socket,
    batch: &mut Batch,
    (table, set): (&Table<'_>, &str),
    wanted: &Element,
    owner: &Owner,
) -> Result<bool> {
    let present = nft::get_element(host, table, set, wanted)?.filter(|present| owner.owns(&present.comment));
    if let Some(present) = &present {
        batch.delete_elements(table, set, std::slice::from_ref(present));
    }
    Ok(present.is_some())
}

/// Deletes the elements of all sets of `table` whose comment `is_gone` accepts. Reads the whole table.
pub fn release_all(
    host: &mut Socket,
    batch: &mut Batch,
    table: &Table<'_>,
    is_gone: &impl Fn(&str) -> bool,
) -> Result<()> {
    for set in nft::list_sets(host, table)? {
        let mut elements = nft::list_elements(host, table, &set)?;
        elements.retain(|element| is_gone(&element.comment));
        batch.delete_elements(table, &set, &elements);
    }
    Ok(())
}

/// Deletes the table if none of its sets has an element any more.
pub fn drop_unused_table(host: &mut Socket, table: &Table<'_>) -> Result<()> {
    nft::converge(host, |host| {
        let mut batch = Batch::new();
        if !nft::table_exists(host, table)? {
            return Ok(batch);
        }
        for set in nft::list_sets(host, table)? {
            if !nft::is_empty(host, table, &set)? {
                return Ok(batch);
            }
        }
        batch.delete_table(table);
        Ok(batch)
    })
}
