//! A pod's sysctls: which may be set, where they are, and what they say.

use std::io::ErrorKind;
use std::path::{Component, Path, PathBuf};

use cni::{Code, Error, Result};
use kernel::{Netns, sysctl};
use regex_lite::Regex;

use crate::kernel_error;

const ALLOW_LIST: &str = "/etc/cni/tuning/allowlist.conf";
/// Stands for the interface in a key.
const PLACEHOLDER: &str = "IFNAME";

/// One setting, its key resolved as far as that goes without a look at the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// As written.
    pub key: String,
    /// What it shall be.
    pub value: String,
    /// Where it may be, the likelier place first.
    places: Vec<PathBuf>,
}

impl Setting {
    /// Resolves a key for `ifname`. sysctl(8) and the reference differ on keys in which dots and slashes mix, so there
    /// may be two readings.
    ///
    /// # Errors
    /// No reading is below /proc/sys/net.
    pub fn resolve(key: &str, value: &str, ifname: &str) -> Result<Self> {
        let readings =
            [sysctl::path(key), Path::new("/proc/sys").join(key.replace('.', "/").trim_start_matches('/'))];
        let strays = readings.iter().any(|path| path.components().any(|part| part == Component::ParentDir));
        let mut places: Vec<PathBuf> = readings
            .iter()
            .filter(|_| !strays)
            .filter_map(|path| below_net(path))
            .map(|path| PathBuf::from(path.to_string_lossy().replacen(PLACEHOLDER, ifname, 1)))
            .collect();
        places.dedup();
        if places.is_empty() {
            return Err(Error::config(format!("sysctl: {key:?} is not below net")));
        }
        Ok(Setting { key: key.to_owned(), value: value.to_owned(), places })
    }

    /// The file, in the calling thread's namespace.
    fn place(&self) -> &Path {
        self.places.iter().find(|place| place.exists()).unwrap_or(&self.places[0])
    }

    fn read(&self) -> Result<String> {
        let text = std::fs::read_to_string(self.place());
        let text = text.map_err(|e| refusal(format!("read {}", self.key), &e))?;
        Ok(text.trim_end_matches('\n').to_owned())
    }

    fn write(&self, value: &str) -> Result<()> {
        let written = std::fs::OpenOptions::new()
            .write(true)
            .open(self.place())
            .and_then(|mut file| std::io::Write::write_all(&mut file, value.as_bytes()));
        written.map_err(|e| refusal(format!("set {} to {value:?}", self.key), &e))
    }
}

/// `path` without empty steps, when it is below /proc/sys/net.
fn below_net(path: &Path) -> Option<PathBuf> {
    let path: PathBuf = path.components().collect();
    (path.starts_with("/proc/sys/net") && path.components().count() > 4).then_some(path)
}

/// A key that doesn't exist and a value that the kernel doesn't take are the configuration's fault.
fn refusal(doing: String, error: &std::io::Error) -> Error {
    let code = match error.kind() {
        ErrorKind::NotFound | ErrorKind::InvalidInput => Code::INVALID_CONFIG,
        _ => Code::IO,
    };
    Error::new(code, format!("sysctl: {doing}: {error}"))
}

/// Sets all in order, in the pod; what was set before a refusal is taken back. Gives what takes all of it back.
///
/// # Errors
/// The first refusal, naming key and value.
pub fn set_all(netns: &Netns, settings: &[Setting]) -> Result<Vec<Setting>> {
    let set = || {
        let mut before: Vec<Setting> = Vec::new();
        for setting in settings {
            let outcome = setting.read().ok();
            if let Err(error) = setting.write(&setting.value) {
                restore_here(&before);
                return Err(error);
            }
            before.extend(outcome.map(|value| Setting { value, ..setting.clone() }));
        }
        Ok(before)
    };
    netns.run(set).map_err(kernel_error)?
}

/// Takes settings back, last first; a refusal leaves the next ones their chance.
pub fn restore(netns: &Netns, before: &[Setting]) {
    // The ADD has failed with an error of its own, and the pod will go.
    let _ = netns.run(|| restore_here(before));
}

fn restore_here(before: &[Setting]) {
    for setting in before.iter().rev() {
        let _ = setting.write(&setting.value);
    }
}

/// Compares all with the kernel. White space doesn't matter: the kernel prints tabs where people write blanks.
///
/// # Errors
/// The first that differs.
pub fn check_all(netns: &Netns, settings: &[Setting]) -> Result<()> {
    let check = || {
        for setting in settings {
            let found = setting.read()?;
            if !found.split_whitespace().eq(setting.value.split_whitespace()) {
                let Setting { key, value, .. } = setting;
                return Err(Error::internal(format!(
                    "tuning: sysctl {key} is {found:?}, expected {value:?}"
                )));
            }
        }
        Ok(())
    };
    netns.run(check).map_err(kernel_error)?
}

/// Refuses keys that no line of the node's allow-list matches; without a list all are allowed.
///
/// # Errors
/// Names the key; or why the list can't be read.
pub fn ensure_allowed(settings: &[Setting]) -> Result<()> {
    let list = match kernel::file::read_whole(Path::new(ALLOW_LIST), 1 << 20) {
        Ok(list) => String::from_utf8(list)
            .map_err(|_| Error::new(Code::IO, format!("read {ALLOW_LIST}: it is not UTF-8")))?,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(Error::new(Code::IO, format!("read {ALLOW_LIST}: {e}"))),
    };
    let list = AllowList::parse(&list)?;
    match settings.iter().find(|setting| !list.allows(&setting.key)) {
        Some(Setting { key, .. }) => {
            Err(Error::config(format!("sysctl: {key:?} is not allowed on this node by {ALLOW_LIST}")))
        }
        None => Ok(()),
    }
}

/// Regular expressions, one per line. Any match allows a key; an empty line is none, else it would allow everything.
struct AllowList(Vec<Regex>);

impl AllowList {
    fn parse(text: &str) -> Result<Self> {
        let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
        let parse = |(at, line): (usize, &str)| {
            Regex::new(line.trim_end())
                .map_err(|e| Error::config(format!("{ALLOW_LIST}: line {}: {line:?}: {e}", at + 1)))
        };
        Ok(AllowList(lines.map(parse).collect::<Result<_>>()?))
    }

    fn allows(&self, key: &str) -> bool {
        self.0.iter().any(|line| line.is_match(key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_as_sysctl_and_the_reference_do_and_stay_below_net() {
        let places = |key: &str| {
            let resolved = Setting::resolve(key, "1", "eth0.5").map_err(|error| error.msg)?;
            Ok(resolved.places.iter().map(|place| place.display().to_string()).collect::<Vec<_>>())
        };
        for (key, expected) in [
            ("net.core.somaxconn", Ok(vec!["/proc/sys/net/core/somaxconn"])),
            ("net/core/somaxconn", Ok(vec!["/proc/sys/net/core/somaxconn"])),
            ("net.ipv4.conf.IFNAME.arp_filter", Ok(vec!["/proc/sys/net/ipv4/conf/eth0.5/arp_filter"])),
            ("net/ipv4/conf/IFNAME/arp_filter", Ok(vec!["/proc/sys/net/ipv4/conf/eth0.5/arp_filter"])),
            (
                "net/ipv4/conf/vlan.7/arp_filter",
                Ok(vec![
                    "/proc/sys/net/ipv4/conf/vlan.7/arp_filter",
                    "/proc/sys/net/ipv4/conf/vlan/7/arp_filter",
                ]),
            ),
            (
                "net.ipv4.conf/all/arp_filter",
                Ok(vec!["/proc/sys/net/ipv4/conf.all.arp_filter", "/proc/sys/net/ipv4/conf/all/arp_filter"]),
            ),
            ("kernel.hostname", Err("sysctl: \"kernel.hostname\" is not below net")),
            ("net", Err("sysctl: \"net\" is not below net")),
            ("", Err("sysctl: \"\" is not below net")),
            ("net/../kernel/hostname", Err("sysctl: \"net/../kernel/hostname\" is not below net")),
            (
                "/net/ipv4/../../kernel/hostname",
                Err("sysctl: \"/net/ipv4/../../kernel/hostname\" is not below net"),
            ),
        ] {
            let found: std::result::Result<Vec<String>, String> = places(key);
            let expected = expected.map(|list: Vec<&str>| list.into_iter().map(str::to_owned).collect());
            assert_eq!(found, expected.map_err(str::to_owned), "{key}");
        }
    }

    #[test]
    fn allow_list_listed_accepted_others_refused() {
        let list = AllowList::parse("^net\\.core\\.somaxconn$\n\n  \narp_\n").expect("valid");
        for (key, expected) in [
            ("net.core.somaxconn", true),
            ("net.core.somaxconn2", false),
            ("net.ipv4.conf.IFNAME.arp_filter", true),
            ("net.ipv4.ip_forward", false),
        ] {
            assert_eq!(list.allows(key), expected, "{key}");
        }
        assert!(!AllowList::parse("").expect("empty").allows("net.core.somaxconn"));
        let error = AllowList::parse("ok\n(").err().expect("no regular expression");
        assert!(error.msg.contains("allowlist.conf: line 2: \"(\""), "{error}");
    }
}
