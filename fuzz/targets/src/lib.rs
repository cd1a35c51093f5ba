//! What is fuzzed: everything that reads bytes from outside. Each target takes any bytes, must not panic, and
//! asserts what must hold whenever the bytes are understood.

mod null;
mod owned;
mod system;

use std::path::Path;

use cni::list::{NetworkList, PluginConf};
use cni::runtime::cache;
use cni::{NetConf, Version, args as cni_args, dispatch, exec, json, result as results};
use null::Null;
pub use owned::{condition, plugin, state};
pub use system::{netlink, ruleset};

/// One target: the name of its corpus, and its body.
pub type Target = (&'static str, fn(&[u8]));

/// Every target, by name.
pub const TARGETS: [Target; 9] = [
    ("args", args),
    ("cache", cache),
    ("condition", condition),
    ("config", config),
    ("netlink", netlink),
    ("plugin", plugin),
    ("result", result),
    ("ruleset", ruleset),
    ("state", state),
];

/// The configuration of a plug-in, of a list, and a whole invocation by every verb.
pub fn config(bytes: &[u8]) {
    let _ = PluginConf::parse(bytes);
    for list in [NetworkList::parse(bytes, None), NetworkList::from_single(bytes)].into_iter().flatten() {
        assert!(!list.plugins.is_empty());
        let _ = list.result_version();
    }
    if let Ok(conf) = NetConf::parse(bytes) {
        let _ = conf.decode::<null::Keys>();
    }
    for verb in ["ADD", "DEL", "CHECK", "GC", "STATUS", "VERSION", "OTHER"] {
        let env = [
            ("CNI_COMMAND", verb),
            ("CNI_CONTAINERID", "cid"),
            ("CNI_NETNS", "/netns"),
            ("CNI_IFNAME", "eth0"),
            ("CNI_PATH", "/bin"),
        ];
        let outcome = dispatch::run(&Null, &env.into_iter().collect(), bytes, &|_: &Path| false);
        if outcome.exit != 0 {
            let told =
                exec::parse_error(outcome.stdout.as_bytes()).expect("a failure prints an error object");
            assert!(told.code.0 > 0 && !told.msg.is_empty());
        }
    }
}

/// CNI_ARGS, and the variables that name things.
pub fn args(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    if let Ok(pairs) = cni_args::pairs(&text) {
        let owned: Vec<_> = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        if let Ok(joined) = cni_args::join(&owned) {
            assert_eq!(cni_args::pairs(&joined).expect("what was joined can be split"), pairs);
        }
    }
    let known = ["IP", "GATEWAY", "MAC"];
    if let Ok(map) = cni_args::parse(&text, &known) {
        assert!(map.keys().all(|key| known.contains(&key.as_str())));
    }
    if let Ok(id) = cni::ContainerId::parse(&text) {
        assert!(!id.as_str().contains('/'));
    }
    if let Ok(ifname) = cni::IfName::parse(&text) {
        assert!(ifname.as_str().len() <= cni::IfName::MAX_LEN && !ifname.as_str().contains('/'));
    }
    if let Ok(net) = json::parse_cidr(&text) {
        assert_eq!(json::parse_cidr(&net.to_string()), Ok(net));
    }
    let _ = json::IpMaybeCidr::parse(&text);
}

/// Results of every version, and errors. What is decoded can be encoded, and decodes to the same again.
pub fn result(bytes: &[u8]) {
    let _ = exec::parse_error(bytes);
    for default in Version::ALL {
        let Ok((_, decoded)) = results::decode_bytes(bytes, default) else { continue };
        for ip in &decoded.ips {
            let _ = decoded.interface_of(ip);
        }
        let newest =
            results::encode(&decoded, Version::NEWEST).expect("the newest version can say everything");
        let again = results::decode(&newest, default).expect("what was encoded can be decoded");
        assert_eq!(again, (Version::NEWEST, decoded));
        for to in Version::ALL {
            let _ = results::convert(&newest, default, to);
        }
    }
}

/// Files of the result cache, of both formats.
pub fn cache(bytes: &[u8]) {
    if let Some(cached) = cache::parse_file(bytes) {
        assert!(!cached.args.container_id.as_str().is_empty());
        let _ = NetworkList::parse(&cached.config, None);
        if let Some(result) = &cached.result {
            let _ = results::convert(result, Version::NEWEST, Version::NEWEST);
        }
    }
}
