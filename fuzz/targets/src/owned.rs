//! What our own plug-ins read: their keys, and their files.

use std::net::IpAddr;

use cni::{NetConf, Plugin, dispatch};
use plugins::bridge::conf::Conf as BridgeConf;
use plugins::host_local::allocate::{Leases, Occupancy, plan};
use plugins::host_local::config::Config as HostLocalConf;
use plugins::host_local::index::Table;
use plugins::host_local::lease::Holder;
use plugins::host_local::resolv;
use plugins::static_ipam::Static;

/// CNI_ARGS with every key that some plug-in knows.
const ARGS: &str = "IgnoreUnknown=1;IP=10.1.0.12/24;GATEWAY=10.1.0.1;MAC=02:00:00:00:00:03";

/// The keys of each plug-in, as far as they are judged without the kernel.
pub fn plugin(bytes: &[u8]) {
    let env = [
        ("CNI_COMMAND", "ADD"),
        ("CNI_CONTAINERID", "c"),
        ("CNI_NETNS", "/n"),
        ("CNI_IFNAME", "i"),
        ("CNI_PATH", "/"),
    ];
    for args in ["", ARGS] {
        let env = env.into_iter().chain([("CNI_ARGS", args)]).collect();
        let outcome = dispatch::run(&Static as &dyn Plugin, &env, bytes, &|_| false);
        assert!(!outcome.stdout.is_empty());
        let Ok(conf) = NetConf::parse(bytes) else { continue };
        let _ = BridgeConf::parse(&conf, args);
        let _ = BridgeConf::parse_for_del(&conf);
        let _ = HostLocalConf::parse_data_dir(&conf);
        if let Ok(conf) = HostLocalConf::parse(&conf, args) {
            allocate(&conf);
        }
    }
}

/// In an empty pool whatever is picked is inside its set and usable.
fn allocate(conf: &HostLocalConf) {
    let Ok(picks) = plan(&conf.sets, &conf.requested, &Empty) else { return };
    let sets: Vec<_> = conf.sets.iter().collect();
    assert_eq!(picks.len(), sets.len());
    for pick in picks {
        assert!(sets[pick.set].is_usable(pick.address), "{} of {}", pick.address, sets[pick.set]);
    }
}

struct Empty;

impl Leases for Empty {
    fn occupancy(&self, _: IpAddr) -> Occupancy {
        Occupancy::Free
    }
    fn own(&self) -> &[(IpAddr, Occupancy)] {
        &[]
    }
    fn last_reserved(&self, _: usize) -> Option<IpAddr> {
        None
    }
}

/// Lease files, the lease index, resolv.conf.
pub fn state(bytes: &[u8]) {
    let holder = Holder::parse(bytes);
    if holder != Holder::Unknown {
        assert_eq!(Holder::parse(&holder.content()), holder);
    }
    if let Some(mut table) = Table::from_bytes(bytes.to_vec()) {
        let before = table.addresses();
        assert_eq!(before.len(), table.len());
        if let Some(first) = before.first() {
            let _ = table.occupancy(*first);
            table.remove(*first);
            assert_eq!(table.len(), before.len() - 1);
        }
    }
    let _ = resolv::parse(&String::from_utf8_lossy(bytes));
}
