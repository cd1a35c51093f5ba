//! How large packets of pods may be.

use crate::Family;
use crate::topology::{Local, Mode, Settings};

/// Bytes that a mode adds to a packet of `family`, carried over the same family.
pub(super) fn overhead(mode: Mode, family: Family) -> u32 {
    // Outer IP header, 20 or 40; VXLAN: UDP 8, VXLAN 8, inner Ethernet 14; WireGuard: UDP 8, its own 32.
    let ip = match family {
        Family::V4 => 20,
        Family::V6 => 40,
    };
    match mode {
        Mode::Routed => 0,
        Mode::Vxlan | Mode::CrossSubnet => ip + 30,
        Mode::Ipip => ip,
        Mode::Wireguard => ip + 40,
    }
}

/// The least that any link must carry whole: RFC 791 (576 to reassemble), RFC 8200.
pub(super) fn least(family: Family) -> u32 {
    match family {
        Family::V4 => 576,
        Family::V6 => 1280,
    }
}

/// The largest MTU of pods of which no packet is ever too large; `None` when this node has pods of no family.
pub(super) fn largest(settings: &Settings, local: &Local) -> Option<u32> {
    let families = Family::BOTH.into_iter().filter(|family| local.pod_cidrs.of(*family).is_some());
    let largest = families.filter_map(|family| {
        let uplink = local.uplinks.of(family).as_ref()?;
        Some(uplink.mtu.saturating_sub(overhead(settings.mode, family)))
    });
    largest.min()
}

/// The MTU of pods: as set, but never more than fits.
pub(super) fn of_pods(settings: &Settings, local: &Local) -> u32 {
    let largest = largest(settings, local).unwrap_or(0);
    settings.mtu.map_or(largest, |mtu| mtu.min(largest))
}
