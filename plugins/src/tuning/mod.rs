//! tuning: sysctls of the pod's namespace and attributes of its interface.
//!
//! ```text
//! resolve sysctls ─> remember the interface ─> set sysctls ─> set attributes      DEL: put attributes back, forget
//! ```
//! Sysctls die with the namespace; attributes may be a device's that outlives it.

pub mod backup;
pub mod config;
pub mod sysctl;

use std::path::{Path, PathBuf};

use cni::{AddResult, Call, Error, GcCall, Plugin, Result, StatusCall};
use kernel::Netns;
use kernel::link::{self, Link};
use kernel::netlink::{Protocol, Socket};

use crate::error::gather;
use crate::owner::{Keep, Owner};
use crate::{kernel_error, pod, undo::Undo};
use backup::{Attributes, Backup};
use config::Config;
use sysctl::Setting;

/// The plug-in.
pub struct Tuning;

impl Plugin for Tuning {
    fn name(&self) -> &'static str {
        "tuning"
    }

    fn add(&self, call: &Call<PathBuf>) -> Result<AddResult> {
        let config = Config::parse(&call.conf, &call.args)?;
        let mut result = prev_result(call)?.clone();
        let settings = settings(&config, call)?;
        sysctl::ensure_allowed(&settings)?;
        let netns = pod::open(&call.netns)?;
        let link = find_link(&netns, call, &config.wanted)?;
        let originals = config.wanted.of(&link);
        let backup = Backup::new(&config.data_dir, &call.attachment);
        let forget = remember(&backup, &originals, call)?;
        let before = sysctl::set_all(&netns, &settings)?;
        let reset = Undo::new(|| sysctl::restore(&netns, &before));
        tune(&netns, &link, &config.wanted, &originals)?;
        reset.commit();
        forget.commit();
        report(&mut result, call, &config.wanted);
        Ok(result)
    }

    /// Puts back what can be put back, and forgets it in any case: a namespace that is gone needs nothing.
    fn del(&self, call: &Call<Option<PathBuf>>) -> Result<()> {
        let backup = Backup::new(&Config::parse_data_dir(&call.conf)?, &call.attachment);
        let originals = backup.read();
        let restored = restore(call.netns.as_deref(), call.attachment.ifname.as_str(), &originals);
        gather([restored, backup.remove()])
    }

    fn check(&self, call: &Call<PathBuf>) -> Result<()> {
        let config = Config::parse(&call.conf, &call.args)?;
        prev_result(call)?;
        let netns = pod::open(&call.netns)?;
        sysctl::check_all(&netns, &settings(&config, call)?)?;
        let link = find_link(&netns, call, &config.wanted)?;
        check_attributes(&link, &config.wanted)
    }

    fn gc(&self, call: &GcCall) -> Result<()> {
        let Some(valid) = &call.valid else { return Ok(()) };
        let data_dir = Config::parse_data_dir(&call.conf)?;
        let stale = backup::stale(&data_dir, &Keep::new(&call.conf.name, valid))?;
        gather(stale.iter().map(|path| backup::remove(path)))
    }

    fn status(&self, call: &StatusCall) -> Result<()> {
        Config::parse(&call.conf, "")?;
        pod::may_attach()
    }
}

fn prev_result<N>(call: &Call<N>) -> Result<&AddResult> {
    call.conf.prev_result.as_ref().ok_or_else(|| {
        Error::config("prevResult: missing; tuning follows a plugin that makes the pod's interface")
    })
}

fn settings<N>(config: &Config, call: &Call<N>) -> Result<Vec<Setting>> {
    let ifname = call.attachment.ifname.as_str();
    config.sysctls.iter().map(|(key, value)| Setting::resolve(key, value, ifname)).collect()
}

/// The pod's interface; any link will do where no attribute is wanted.
fn find_link(netns: &Netns, call: &Call<PathBuf>, wanted: &Attributes) -> Result<Link> {
    let ifname = call.attachment.ifname.as_str();
    let name = if wanted.is_empty() { "lo" } else { ifname };
    let mut inside = Socket::open_in(netns, Protocol::Route).map_err(kernel_error)?;
    let found = link::find(&mut inside, name).map_err(kernel_error)?;
    found.ok_or_else(|| Error::internal(format!("tuning: no interface {name} in {}", call.netns.display())))
}

/// Writes the originals; the guard puts the file back as it was.
fn remember<'a>(
    backup: &'a Backup,
    originals: &Attributes,
    call: &Call<PathBuf>,
) -> Result<Undo<impl FnOnce() + use<'a>>> {
    let owner = Owner::new(&call.conf.name, &call.attachment);
    let earlier = backup.earlier(&owner);
    let touched = !originals.is_empty();
    if touched {
        backup.write(&earlier.clone().or(originals), &owner)?;
    }
    Ok(Undo::new(move || {
        // The ADD has failed with an error of its own; DEL will try again.
        let _ = match (touched, earlier.is_empty()) {
            (false, _) => Ok(()),
            (true, true) => backup.remove(),
            (true, false) => backup.write(&earlier, &owner),
        };
    }))
}

/// Sets the attributes, or none of them. `promisc: false` is what it is anyway.
fn tune(netns: &Netns, link: &Link, wanted: &Attributes, originals: &Attributes) -> Result<()> {
    let wanted = Attributes { promisc: wanted.promisc.filter(|on| *on), ..wanted.clone() };
    apply(netns, link, &wanted).inspect_err(|_| {
        let _ = apply(netns, link, originals);
    })
}

/// Asks for every attribute and gives the first refusal, with its key.
fn apply(netns: &Netns, link: &Link, attributes: &Attributes) -> Result<()> {
    let (keys, ops): (Vec<_>, Vec<_>) = attributes.ops(&link.id).into_iter().unzip();
    if ops.is_empty() {
        return Ok(());
    }
    let mut inside = Socket::open_in(netns, Protocol::Route).map_err(kernel_error)?;
    let outcomes = inside.apply_each(&ops).map_err(kernel_error)?;
    let named = keys.into_iter().zip(outcomes);
    named.into_iter().try_for_each(|(key, outcome)| outcome.map_err(|e| kernel_error(e).context(key)))
}

/// # Errors
/// Only when the namespace is there but can't be entered. An attribute that the interface no longer takes, or an
/// interface that is gone, must not pin a dying pod.
fn restore(netns: Option<&Path>, ifname: &str, originals: &Attributes) -> Result<()> {
    if originals.is_empty() {
        return Ok(());
    }
    let Some(netns) = pod::open_if_there(netns)? else { return Ok(()) };
    let mut inside = Socket::open_in(&netns, Protocol::Route).map_err(kernel_error)?;
    if let Some(link) = link::find(&mut inside, ifname).map_err(kernel_error)? {
        let _ = apply(&netns, &link, originals);
    }
    Ok(())
}

fn report(result: &mut AddResult, call: &Call<PathBuf>, wanted: &Attributes) {
    let ifname = call.attachment.ifname.as_str();
    for interface in result.interfaces.iter_mut().filter(|interface| interface.name == ifname) {
        if let Some(mac) = &wanted.mac {
            interface.mac = mac.to_string();
        }
        interface.mtu = wanted.mtu.or(interface.mtu);
    }
}

fn check_attributes(link: &Link, wanted: &Attributes) -> Result<()> {
    let found = wanted.of(link);
    if found == *wanted {
        return Ok(());
    }
    let text = |mac: &Option<kernel::Mac>| mac.as_ref().map(ToString::to_string);
    let rows = [
        ("mac", text(&found.mac), text(&wanted.mac)),
        ("promisc", found.promisc.map(|v| v.to_string()), wanted.promisc.map(|v| v.to_string())),
        ("mtu", found.mtu.map(|v| v.to_string()), wanted.mtu.map(|v| v.to_string())),
        ("allmulti", found.allmulti.map(|v| v.to_string()), wanted.allmulti.map(|v| v.to_string())),
        ("txQLen", found.txqlen.map(|v| v.to_string()), wanted.txqlen.map(|v| v.to_string())),
    ];
    let differing: Vec<String> = rows
        .into_iter()
        .filter(|(_, found, wanted)| found != wanted)
        .map(|(key, found, wanted)| {
            format!("{key} is {}, expected {}", found.unwrap_or_default(), wanted.unwrap_or_default())
        })
        .collect();
    Err(Error::internal(format!("tuning: of {}, {}", link.id, differing.join(", "))))
}
