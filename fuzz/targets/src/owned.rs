//! What our own plug-ins read: their keys, and their files.

use std::net::IpAddr;

use cni::{NetConf, Plugin, dispatch, json};
use kernel::nft::Rule;
use plugins::bandwidth::config::Config as BandwidthConf;
use plugins::bandwidth::shape::{bucket, is_bucket_for};
use plugins::bridge::conf::Conf as BridgeConf;
use plugins::cluster::{self, Conf as ClusterConf, Kind, Pods};
use plugins::firewall::config::{Config as FirewallConf, Pod};
use plugins::host_local::allocate::{Leases, Occupancy, plan};
use plugins::host_local::config::Config as HostLocalConf;
use plugins::host_local::index::Table;
use plugins::host_local::lease::Holder;
use plugins::host_local::resolv;
use plugins::portmap::conditions;
use plugins::portmap::config::{Config as PortmapConf, PodAddresses};
use plugins::static_ipam::Static;
use plugins::tuning::backup::Attributes;
use plugins::tuning::config::Config as TuningConf;

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
        for kind in [Kind::Vxlan, Kind::Routed] {
            if let Ok(cluster) = ClusterConf::parse(&conf, kind) {
                let pods = Pods { cidrs: cluster.pod_cidrs.clone(), mtu: 1450 };
                let filled = cluster::fill_in(&conf, Some((&cluster, &pods)), &[]);
                assert!(!filled.ipam_type.is_empty());
                let _ = HostLocalConf::parse(&filled, args);
            }
        }
        if let Ok(conf) = BandwidthConf::parse(&conf) {
            shape(&conf);
        }
        if let (Ok(_), Some(prev)) = (PortmapConf::parse(&conf), &conf.prev_result) {
            let ifname = cni::IfName::parse("eth0").expect("a good name");
            let _ = PodAddresses::of(prev, &ifname).iter().count();
        }
        if let (Ok(firewall), Some(prev)) = (FirewallConf::parse(&conf), &conf.prev_result) {
            let pod = Pod::of(prev);
            let _ = (pod.ips(), pod.check_for(firewall.policy));
        }
        let _ = TuningConf::parse(&conf, args);
        let _ = TuningConf::parse_data_dir(&conf);
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

/// A bucket made for a limit is recognised as such.
fn shape(conf: &BandwidthConf) {
    for limit in [conf.ingress, conf.egress].into_iter().flatten() {
        for mtu in [68, 1500, 65535] {
            let tbf = bucket(&limit, mtu, &conf.shaping);
            assert!(is_bucket_for(&tbf, &limit, mtu, &conf.shaping));
        }
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

/// Conditions of port mappings, in nftables' words.
pub fn condition(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    for v4 in [true, false] {
        if let Ok(condition) = conditions::parse(&text, v4) {
            let again =
                conditions::parse(condition.text(), v4).expect("what is understood can be said again");
            assert_eq!(again.text(), condition.text());
            let _ = condition.add_to(Rule::new(), "x");
        }
    }
}

/// Lease files, the lease index, resolv.conf, originals of tuned interfaces.
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
    if let Ok(value) = json::parse(bytes) {
        assert_ne!(Attributes::from_json(&value).mtu, Some(0), "no link can be given it");
    }
    let _ = resolv::parse(&String::from_utf8_lossy(bytes));
}
