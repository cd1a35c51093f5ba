//! resolv.conf(5) as far as a result's DNS has a place for it.

use std::path::Path;

use cni::{Code, Dns, Error, Result};

/// Bytes of the longest file that is read.
const LONGEST: u64 = 1 << 20;

/// Reads a file.
///
/// # Errors
/// Code 5, naming the key and the file.
pub fn read(path: &Path) -> Result<Dns> {
    let text = kernel::file::read_whole(path, LONGEST)
        .map_err(|e| Error::new(Code::IO, format!("ipam.resolvConf: read {}: {e}", path.display())))?;
    Ok(parse(&String::from_utf8_lossy(&text)))
}

/// Name servers, search domains and options add up over lines; of several domains the last counts.
pub fn parse(text: &str) -> Dns {
    let mut dns = Dns::default();
    for line in text.lines().map(str::trim).filter(|line| !line.starts_with(['#', ';'])) {
        let mut words = line.split_whitespace().map(str::to_owned);
        match words.next().as_deref() {
            Some("nameserver") => dns.nameservers.extend(words.next()),
            Some("domain") => dns.domain = words.next().unwrap_or(dns.domain),
            Some("search") => dns.search.extend(words),
            Some("options") => dns.options.extend(words),
            _ => {}
        }
    }
    dns
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolv_conf_nameservers_domain_search_options_and_comments() {
        let dns = parse(
            "# nameserver 192.0.2.9\n; search example.org\n\nnameserver 192.0.2.1\nnameserver fd00::53\n\
             domain first.test\n  domain second.test\nsearch a.test b.test\nsearch c.test\n\
             options ndots:5 edns0\noptions rotate\nsortlist 10.0.0.0\nnameserver\n",
        );
        assert_eq!(dns.nameservers, ["192.0.2.1", "fd00::53"]);
        assert_eq!(dns.domain, "second.test");
        assert_eq!(dns.search, ["a.test", "b.test", "c.test"]);
        assert_eq!(dns.options, ["ndots:5", "edns0", "rotate"]);
    }

    #[test]
    fn resolv_conf_that_cannot_be_read_names_key_and_file() {
        let error = read(Path::new("/nonexistent/resolv.conf")).expect_err("no such file");
        assert_eq!(error.code, Code::IO);
        assert!(error.msg.starts_with("ipam.resolvConf: read /nonexistent/resolv.conf: "), "{error}");
        let endless = read(Path::new("/dev/zero")).expect_err("no end");
        assert_eq!(endless.msg, "ipam.resolvConf: read /dev/zero: not a regular file");
    }
}
