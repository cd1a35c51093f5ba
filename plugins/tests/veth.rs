//! The pod's cable, made in one request.

mod support;

use cni::IfName;
use kernel::Mac;
use kernel::link;
use plugins::veth::{self, Plan};
use support::{Host, Pod, on_new_host, veths};

fn plan<'a>(pod: &'a Pod, ifname: &'a IfName) -> Plan<'a> {
    Plan { pod: &pod.netns, ifname, mtu: None, mac: None, host_mac: None, master: None, up: true }
}

fn eth0() -> IfName {
    IfName::parse("eth0").expect("a name")
}

fn numbered(host: &Host, names: &[&str]) -> impl FnMut() -> kernel::Result<String> + use<> {
    let _ = host;
    let mut names = names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>().into_iter();
    move || Ok(names.next().unwrap_or_else(|| "taken0".to_owned()))
}

#[test]
fn veth_ends_are_in_the_right_namespaces() {
    on_new_host(|host| {
        let (pod, ifname) = (host.new_pod(), eth0());
        let plan = Plan { mtu: Some(1234), ..plan(&pod, &ifname) };
        let near = veth::create(&mut host.socket(), &plan, veth::random_name).expect("a pair");
        let far = pod.link("eth0").expect("the pod's end");
        assert!(near.id.name.starts_with("veth") && near.id.name.len() == 12, "{near:?}");
        assert_eq!(host.link(&near.id.name).map(|l| (l.mtu, l.is_up())), Some((1234, true)));
        assert_eq!((far.mtu, far.is_up()), (1234, false));
        assert_eq!((near.peer, far.peer), (Some(far.id.index), Some(near.id.index)));
        assert!(host.link("eth0").is_none() && pod.link(&near.id.name).is_none());
    });
}

#[test]
fn veth_used_container_name_gives_a_useful_error() {
    on_new_host(|host| {
        let (pod, ifname) = (host.new_pod(), eth0());
        let create = || veth::create(&mut host.socket(), &plan(&pod, &ifname), veth::random_name);
        create().expect("the first");
        let error = create().expect_err("the name is taken");
        assert!(error.msg.contains("CNI_IFNAME: eth0 exists already in /proc/"), "{error}");
        assert_eq!(veths(host), 1);
    });
}

#[test]
fn veth_name_exhaustion_is_an_error() {
    on_new_host(|host| {
        host.sh("ip link add taken0 type bridge; ip link add taken1 type bridge");
        let (pod, ifname) = (host.new_pod(), eth0());
        let mut socket = host.socket();
        let error =
            veth::create(&mut socket, &plan(&pod, &ifname), numbered(host, &[])).expect_err("all taken");
        assert_eq!(error.msg, "10 random names for the host end of eth0 are all taken");
        assert!(pod.link("eth0").is_none());
        let names = numbered(host, &["taken0", "taken1", "free0"]);
        let near = veth::create(&mut socket, &plan(&pod, &ifname), names).expect("the third is free");
        assert_eq!(near.id.name, "free0");
    });
}

#[test]
fn veth_explicit_mac_goes_to_the_pods_end() {
    on_new_host(|host| {
        let (pod, ifname) = (host.new_pod(), eth0());
        let mac: Mac = "02:00:00:01:23:45".parse().expect("an address");
        let plan = Plan { mac: Some(&mac), ..plan(&pod, &ifname) };
        let near = veth::create(&mut host.socket(), &plan, veth::random_name).expect("a pair");
        assert_eq!(pod.link("eth0").expect("the pod's end").mac, Some(mac.clone()));
        assert_ne!(near.mac, Some(mac));
    });
}

#[test]
fn veth_second_pair_works_and_undo_removes_it_only() {
    on_new_host(|host| {
        let (pod, first, second) = (host.new_pod(), eth0(), IfName::parse("eth1").expect("a name"));
        let mut socket = host.socket();
        veth::create(&mut socket, &plan(&pod, &first), veth::random_name).expect("a pair");
        let near = veth::create(&mut socket, &plan(&pod, &second), veth::random_name).expect("another");
        assert!(pod.link("eth0").is_some() && pod.link("eth1").is_some());
        drop(veth::undo(&near.id));
        assert_eq!(link::find(&mut socket, &near.id.name).expect("look up"), None);
        assert!(pod.link("eth0").is_some() && pod.link("eth1").is_none());
        let near = veth::create(&mut socket, &plan(&pod, &second), veth::random_name).expect("once more");
        veth::undo(&near.id).commit();
        assert!(pod.link("eth1").is_some());
    });
}
