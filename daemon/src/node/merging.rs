//! Whether a VXLAN device merges what it receives (GRO).
//!
//! Packets of one connection that come together are cheaper to carry as one, and a card, or a cable to a neighbour on the
//! same host, brings them merged already, tunnel or no tunnel. The device then tries once more in vain, which costs some
//! 5 % of what a connection carries. Elsewhere (an uplink that decrypts, or one in a namespace without the card) its
//! merging is the only one, and worth far more. So nothing is assumed: the device's counters tell which it is, and are
//! asked again and again.

use std::collections::BTreeMap;
use std::time::Duration;

use kernel::link::{self, Received, Switch};
use kernel::netlink::{Protocol, Socket};
use kernel::{Result, ethtool};
use overlay::plan::device_name;
use overlay::{Family, Mode, Settings};

use crate::log::chain_of;

/// Between two looks.
const INTERVAL: Duration = Duration::from_secs(5);
/// Bytes in an interval below which nothing is concluded: 10 Mbit/s.
const ENOUGH: u64 = 6_000_000;
/// Packets in an interval below which merging them would save nobody anything: 10,000 a second.
const MANY: u64 = 50_000;

/// Looks at the VXLAN devices of a node with these settings for good. Other modes have none.
pub async fn watch(settings: Settings) {
    if !matches!(settings.mode, Mode::Vxlan | Mode::CrossSubnet) {
        return;
    }
    let names = Family::BOTH.map(|family| device_name(settings.mode, settings.vni, family));
    let mut before = BTreeMap::new();
    let mut interval = tokio::time::interval(INTERVAL);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        for name in &names {
            if let Err(error) = look(name, &mut before) {
                tracing::debug!(
                    link = name,
                    "whether it merges packets stays as it is: {}",
                    chain_of(&error)
                );
            }
        }
    }
}

fn look(name: &str, before: &mut BTreeMap<String, Received>) -> Result<()> {
    let mut socket = Socket::open(Protocol::Route)?;
    let Some(now) = link::received(&mut socket, name)? else {
        before.remove(name);
        return Ok(());
    };
    let Some(before) = before.insert(name.to_owned(), now) else { return Ok(()) };
    let Some(link) = link::find(&mut socket, name)? else { return Ok(()) };
    let Some(wanted) = judge(since(before, now), link.mtu) else { return Ok(()) };
    if ethtool::merging(name)? != wanted {
        ethtool::set_merging(name, wanted)?;
        match wanted {
            Switch::Off => tracing::info!(link = name, "packets come merged: it need not try again"),
            Switch::On => tracing::info!(link = name, "packets come one by one: it merges them"),
        }
    }
    Ok(())
}

/// A device that was made again counts from 0.
fn since(before: Received, now: Received) -> Received {
    Received {
        packets: now.packets.saturating_sub(before.packets),
        bytes: now.bytes.saturating_sub(before.bytes),
    }
}

/// What `received`, on a device with this MTU, speaks for; `None` when it leaves that open. No packet that comes by
/// itself is larger than the MTU, so a mean of twice that is proof that most bytes come merged.
fn judge(received: Received, mtu: u32) -> Option<Switch> {
    let mean = received.bytes.checked_div(received.packets)?;
    if received.bytes >= ENOUGH && mean >= 2 * u64::from(mtu) {
        Some(Switch::Off)
    } else if received.packets >= MANY && mean <= u64::from(mtu) {
        Some(Switch::On)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_counters_prove_is_acted_upon() {
        for (name, packets, bytes, wanted) in [
            ("nothing came", 0, 0, None),
            ("one large packet", 1, 60_000, None),
            ("many merged ones", 2_000, 100_000_000, Some(Switch::Off)),
            ("merged, and as many acknowledgements", 4_000, 100_000_000, Some(Switch::Off)),
            ("many single ones", 80_000, 100_000_000, Some(Switch::On)),
            ("a stream of small ones", 80_000, 8_000_000, Some(Switch::On)),
            ("few single ones", 8_000, 10_000_000, None),
            ("a little of both", 50_000, 100_000_000, None),
        ] {
            assert_eq!(judge(Received { packets, bytes }, 1450), wanted, "{name}");
        }
    }

    #[test]
    fn a_device_made_again_is_not_misread() {
        let (old, new) = (Received { packets: 9, bytes: 9000 }, Received { packets: 2, bytes: 200 });
        assert_eq!(since(old, new), Received::default());
    }
}
