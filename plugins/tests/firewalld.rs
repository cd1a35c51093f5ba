//! `firewall` with a fake firewalld on a message bus of its own, in namespaces of its own. Needs root, `nft` and
//! `dbus-daemon`.

mod bus;
mod support;

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Child, Command};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bus::{Answer, Call, Service};
use plugins::firewall::Firewall;
use serde_json::{Value, json};
use support::{Host, Pod, on_new_host, with};

const SOCKET: &str = "/run/dbus/system_bus_socket";
const BUS_CONFIG: &str = r#"<busconfig>
  <type>session</type>
  <listen>unix:path=/run/dbus/system_bus_socket</listen>
  <auth>EXTERNAL</auth>
  <policy context="default"><allow send_destination="*"/><allow receive_sender="*"/><allow own="*"/></policy>
</busconfig>"#;

/// (zone, source), as the fake was asked to have them.
type Sources = Arc<Mutex<BTreeSet<(String, String)>>>;

/// A message bus, ended when dropped.
struct Bus(Child);

impl Drop for Bus {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A /run of this thread's own, with a message bus in it.
fn start_bus() -> Bus {
    // SAFETY: unshare takes a flag; the thread is this test's own.
    assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNS) }, 0, "run the tests as root");
    let mount = |what: &std::ffi::CStr, at: &std::ffi::CStr, flags| {
        // SAFETY: the pointers are to text with a terminating zero, or null where the call allows it.
        let status =
            unsafe { libc::mount(what.as_ptr(), at.as_ptr(), what.as_ptr(), flags, std::ptr::null()) };
        assert_eq!(status, 0, "mount on {at:?}: {}", std::io::Error::last_os_error());
    };
    mount(c"none", c"/", libc::MS_REC | libc::MS_PRIVATE);
    mount(c"tmpfs", c"/run", 0);
    std::fs::create_dir_all("/run/dbus").expect("a directory");
    std::fs::write("/run/bus.conf", BUS_CONFIG).expect("a file");
    let child = Command::new("dbus-daemon").args(["--config-file=/run/bus.conf", "--nofork"]).spawn();
    let bus = Bus(child.expect("the program dbus-daemon"));
    let deadline = Instant::now() + Duration::from_secs(10);
    while std::os::unix::net::UnixStream::connect(SOCKET).is_err() {
        assert!(Instant::now() < deadline, "the bus never listened");
        std::thread::yield_now();
    }
    bus
}

/// Owns firewalld's name and answers for zones `trusted` and `pods` until the bus ends.
fn start_firewalld(sources: &Sources) {
    let mut service = Service::connect(Path::new(SOCKET));
    service.own("org.fedoraproject.FirewallD1");
    let sources = Arc::clone(sources);
    std::thread::spawn(move || {
        while let Some(call) = service.next_call() {
            let answer = answer(&call, &sources);
            service.answer(&call, answer);
        }
    });
}

fn answer(call: &Call, sources: &Sources) -> Answer {
    let [zone, source] = call.arguments.as_slice() else { panic!("two texts, not {:?}", call.arguments) };
    assert_eq!(call.interface, "org.fedoraproject.FirewallD1.zone");
    let mut sources = sources.lock().expect("nobody panics");
    let entry = (zone.clone(), source.clone());
    match call.member.as_str() {
        _ if zone != "trusted" && zone != "pods" => Answer::exception(format!("INVALID_ZONE: {zone}")),
        "addSource" if sources.contains(&entry) => {
            Answer::exception(format!("ZONE_ALREADY_SET: '{source}' already bound to '{zone}'"))
        }
        "addSource" => {
            sources.insert(entry);
            Answer::Text(zone.clone())
        }
        "removeSource" if !sources.remove(&entry) => {
            Answer::exception(format!("UNKNOWN_SOURCE: '{source}' is not in any zone"))
        }
        "removeSource" => Answer::Text(zone.clone()),
        "querySource" => Answer::Boolean(sources.contains(&entry)),
        other => panic!("unexpected call of {other}"),
    }
}

fn conf(extra: Value) -> Value {
    let prev = json!({ "cniVersion": "1.1.0",
        "interfaces": [{ "name": "cni0" }, { "name": "eth0", "sandbox": "/ns" }],
        "ips": [{ "interface": 1, "address": "10.1.0.2/24" }, { "interface": 1, "address": "fd00:1::2/64" }] });
    let mut conf = json!({ "cniVersion": "1.1.0", "name": "net1", "type": "firewall", "prevResult": prev });
    conf.as_object_mut().expect("an object").extend(extra.as_object().expect("an object").clone());
    conf
}

fn call(host: &Host, verb: &str, pod: &Pod, conf: &Value) -> Result<Value, Value> {
    host.call(&Firewall, verb, pod, conf)
}

fn present(sources: &Sources) -> Vec<String> {
    sources.lock().expect("nobody panics").iter().map(|(zone, source)| format!("{zone} {source}")).collect()
}

#[test]
fn firewalld_is_the_default_where_its_name_is_owned() {
    on_new_host(|host| {
        let _bus = start_bus();
        let (sources, pod) = (Sources::default(), host.new_pod());
        start_firewalld(&sources);
        let before = host.sh("nft list ruleset");
        for extra in [json!({}), json!({ "backend": "firewalld", "firewalldZone": "pods" })] {
            let zone = extra["firewalldZone"].as_str().unwrap_or("trusted");
            let conf = conf(extra.clone());
            call(host, "CHECK", &pod, &conf).expect_err("not there yet");
            for _ in 0..2 {
                call(host, "ADD", &pod, &conf).expect("ADD");
                assert_eq!(
                    present(&sources),
                    [format!("{zone} 10.1.0.2/32"), format!("{zone} fd00:1::2/128")]
                );
            }
            assert!(!host.sh("nft list ruleset").contains("accept comment"), "firewalld accepts, not we");
            call(host, "CHECK", &pod, &conf).expect("CHECK");
            let lost = sources.lock().expect("nobody panics").pop_first().expect("a source");
            call(host, "CHECK", &pod, &conf).expect_err("the answer of querySource counts");
            sources.lock().expect("nobody panics").insert(lost);
            let mut del = conf.clone();
            del.as_object_mut().expect("an object").remove("prevResult");
            for _ in 0..2 {
                call(host, "DEL", &pod, &del).expect("DEL without prevResult");
                assert_eq!(present(&sources), [""; 0]);
            }
            assert_eq!(host.sh("nft list ruleset"), before);
        }
    });
}

#[test]
fn firewalld_refusal_undoes_and_explains() {
    on_new_host(|host| {
        let _bus = start_bus();
        let (sources, pod) = (Sources::default(), host.new_pod());
        start_firewalld(&sources);
        let error =
            call(host, "ADD", &pod, &conf(json!({ "firewalldZone": "nosuch" }))).expect_err("no such zone");
        let msg = error["msg"].as_str().expect("a message");
        assert!(msg.contains("zone nosuch") && msg.contains("INVALID_ZONE: nosuch"), "{msg}");
        assert!(!host.sh("nft list ruleset").contains("bowline"));
    });
}

#[test]
fn firewalld_absent_is_nftables_unless_asked_for() {
    on_new_host(|host| {
        let _bus = start_bus();
        assert!(Path::new(SOCKET).exists());
        let pod = host.new_pod();
        call(host, "ADD", &pod, &conf(json!({}))).expect("ADD");
        assert!(host.sh("nft list ruleset").contains("table inet bowline_firewall"));
        let named = conf(json!({ "backend": "firewalld" }));
        let error = call(host, "ADD", &pod, &named).expect_err("it does not run");
        assert_eq!(error["msg"], "firewall: backend: \"firewalld\" is not running on this host");
        let env = [("CNI_COMMAND", "STATUS".to_owned()), ("CNI_PATH", host.bin_dir().display().to_string())];
        assert_eq!(host.call_env(&Firewall, &named, &env).expect_err("STATUS")["code"], 50);
    });
}

#[test]
fn firewalld_pods_have_ingress_policies_too() {
    on_new_host(|host| {
        let _bus = start_bus();
        let (sources, pod) = (Sources::default(), host.new_pod());
        start_firewalld(&sources);
        let conf = with(&conf(json!({})), "ingressPolicy", "same-bridge");
        call(host, "ADD", &pod, &conf).expect("ADD");
        assert!(host.sh("nft list ruleset").contains("set same-bridge-cni0-ipv4"));
        call(host, "CHECK", &pod, &conf).expect("CHECK");
        call(host, "DEL", &pod, &conf).expect("DEL");
        assert!(!host.sh("nft list ruleset").contains("bowline"));
    });
}
