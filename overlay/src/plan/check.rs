//! Mistakes of configuration, each as one sentence.

use ipnetwork::IpNetwork;

use super::{device_name, mtu};
use crate::topology::{Local, Mode, Settings, Uplink};
use crate::{Family, dual};

/// The longest name a link can have, in bytes.
const NAME_MAX: usize = 15;

/// Whether this node can be planned for with these settings.
///
/// # Errors
/// One sentence that names the key and the value that cannot be. A node that has no pod CIDR yet is no mistake.
pub fn check(settings: &Settings, local: &Local) -> Result<(), String> {
    check_numbers(settings)?;
    for (family, pods) in local.pod_cidrs.present() {
        let Some(uplink) = local.uplinks.of(family) else {
            return Err(format!(
                "the node has the {family} pod CIDR {pods}, but no {family} address: give its link one, or name the link with `uplink`"
            ));
        };
        check_family(settings, family, *pods, uplink)?;
    }
    check_mtu(settings, local)
}

fn check_numbers(settings: &Settings) -> Result<(), String> {
    let Settings { mode, vni, vxlan_port, wireguard_port, .. } = *settings;
    match mode {
        Mode::Vxlan | Mode::CrossSubnet => {
            if !(1..1 << 24).contains(&vni) {
                return Err(format!("vni: {vni} is not between 1 and 16777215"));
            }
            if vxlan_port == 0 {
                return Err("vxlanPort: 0 is no port".to_owned());
            }
        }
        Mode::Wireguard if wireguard_port == 0 || wireguard_port == u16::MAX => {
            return Err(format!(
                "wireguardPort: {wireguard_port} is not between 1 and 65534 (IPv6 takes the next one)"
            ));
        }
        Mode::Wireguard | Mode::Ipip | Mode::Routed => {}
    }
    Ok(())
}

fn check_family(settings: &Settings, family: Family, pods: IpNetwork, uplink: &Uplink) -> Result<(), String> {
    let name = device_name(settings.mode, settings.vni, family);
    if name.len() > NAME_MAX {
        return Err(format!(
            "vni: {} gives a link the name `{name}`, which is longer than the {NAME_MAX} bytes that Linux has for it",
            settings.vni
        ));
    }
    if pods.prefix() > family.bits() - 2 {
        return Err(format!("the node's pod CIDR {pods} has no room for pods"));
    }
    match uplink.subnet() {
        Some(subnet) if dual::overlap(subnet, pods) => Err(format!(
            "the node's pod CIDR {pods} overlaps {subnet}, the subnet of {} on {}: pods need addresses of their own",
            uplink.ip, uplink.link
        )),
        _ => Ok(()),
    }
}

fn check_mtu(settings: &Settings, local: &Local) -> Result<(), String> {
    let Some(largest) = mtu::largest(settings, local) else { return Ok(()) };
    let mode = settings.mode;
    for (family, _) in local.pod_cidrs.present() {
        let least = mtu::least(family);
        if let Some(mtu) = settings.mtu.filter(|mtu| *mtu < least) {
            return Err(format!("mtu: {mtu} is less than the {least} bytes that {family} needs"));
        }
        if largest < least {
            return Err(format!(
                "mode {mode} leaves pods an MTU of {largest} bytes on this node's links, less than the {least} that {family} needs"
            ));
        }
    }
    match settings.mtu {
        Some(mtu) if mtu > largest => Err(format!(
            "mtu: {mtu} is more than the {largest} bytes that mode {mode} leaves on this node's links"
        )),
        _ => Ok(()),
    }
}
