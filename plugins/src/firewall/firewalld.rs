//! firewall by firewalld: the pod's addresses are sources of a zone, `trusted` unless configured.

use std::net::IpAddr;
use std::path::Path;

use cni::{Error, Result};

use super::dbus::{Bus, Failure, Method, of_bus};

const SYSTEM_BUS: &str = "/run/dbus/system_bus_socket";
const NAME: &str = "org.fedoraproject.FirewallD1";

/// firewalld, running.
#[derive(Debug)]
pub(super) struct Firewalld {
    bus: Bus,
}

fn of_zone(member: &str) -> Method<'_> {
    Method {
        destination: NAME,
        path: "/org/fedoraproject/FirewallD1",
        interface: "org.fedoraproject.FirewallD1.zone",
        member,
    }
}

fn source(ip: IpAddr) -> String {
    format!("{ip}/{}", if ip.is_ipv4() { 32 } else { 128 })
}

impl Firewalld {
    /// firewalld, if it runs. A host without a message bus has none.
    pub(super) fn find() -> Option<Self> {
        let socket = Path::new(SYSTEM_BUS);
        if !socket.exists() {
            return None;
        }
        let mut bus = Bus::connect(socket).ok()?;
        let owned = bus.call(of_bus("NameHasOwner"), &[NAME]).ok()?.boolean()?;
        owned.then_some(Firewalld { bus })
    }

    /// Puts `ip` in `zone`; it may be there.
    pub(super) fn add(&mut self, zone: &str, ip: IpAddr) -> Result<()> {
        match self.bus.call(of_zone("addSource"), &[zone, &source(ip)]) {
            Ok(_) => Ok(()),
            Err(Failure::Refused { text, .. }) if text.contains("ZONE_ALREADY_SET") => Ok(()),
            Err(failure) => Err(failed(&format!("add {ip} to zone {zone}"), failure)),
        }
    }

    /// Takes `ip` out of `zone`; it may be gone.
    pub(super) fn remove(&mut self, zone: &str, ip: IpAddr) -> Result<()> {
        match self.bus.call(of_zone("removeSource"), &[zone, &source(ip)]) {
            Ok(_) | Err(Failure::Refused { .. }) => Ok(()),
            Err(failure) => Err(failed(&format!("remove {ip} from zone {zone}"), failure)),
        }
    }

    /// Says whether `ip` is in `zone`.
    pub(super) fn has(&mut self, zone: &str, ip: IpAddr) -> Result<bool> {
        let answer = self.bus.call(of_zone("querySource"), &[zone, &source(ip)]);
        let answer = answer.map_err(|failure| failed(&format!("ask for {ip} in zone {zone}"), failure))?;
        Ok(answer.boolean().unwrap_or(false))
    }
}

fn failed(doing: &str, failure: Failure) -> Error {
    match failure {
        Failure::Io(error) => Error::internal(format!("firewall: firewalld: {doing}: {error}")),
        Failure::Refused { name, text } => {
            Error::internal(format!("firewall: firewalld: {doing}: {text}")).with_details(name)
        }
    }
}
