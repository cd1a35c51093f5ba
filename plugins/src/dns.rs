//! Whose name resolution a result carries.

use cni::{Dns, NetConf, Result};
use serde::Deserialize;

/// What a configuration says of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said(Option<Dns>);

impl Said {
    /// Reads the configuration's `dns`: before anything is made, because it may be refused.
    ///
    /// # Errors
    /// An undecodable `dns`.
    pub fn parse(conf: &NetConf) -> Result<Said> {
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct Raw {
            nameservers: Option<Vec<String>>,
            domain: String,
            search: Option<Vec<String>>,
            options: Option<Vec<String>>,
        }
        let Some(value) = conf.member("dns") else { return Ok(Said(None)) };
        let raw: Raw = cni::json::decode_at("dns", value)?;
        let lists = [&raw.nameservers, &raw.search, &raw.options];
        let says_nothing = raw.domain.is_empty() && lists.iter().all(|list| list.is_none());
        Ok(Said((!says_nothing).then(|| Dns {
            nameservers: raw.nameservers.unwrap_or_default(),
            domain: raw.domain,
            search: raw.search.unwrap_or_default(),
            options: raw.options.unwrap_or_default(),
        })))
    }

    /// The configuration's word when it says anything at all, else what the IPAM plug-in said. An empty list says
    /// something: `"nameservers": []` means none.
    #[must_use]
    pub fn or(&self, ipam: Dns) -> Dns {
        self.0.clone().unwrap_or(ipam)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_key_of_dns_replaces_what_ipam_said() {
        let ipam = Dns { nameservers: vec!["192.0.2.53".into()], domain: "ipam".into(), ..Dns::default() };
        let own = |domain: &str| Dns { domain: domain.into(), ..Dns::default() };
        for (dns, chosen) in [
            ("null", ipam.clone()),
            ("{}", ipam.clone()),
            (r#"{"domain": ""}"#, ipam.clone()),
            (r#"{"nameservers": null}"#, ipam.clone()),
            (r#"{"nameservers": []}"#, Dns::default()),
            (r#"{"Search": []}"#, Dns::default()),
            (r#"{"domain": "x"}"#, own("x")),
        ] {
            let text = format!(r#"{{"cniVersion": "1.1.0", "name": "n", "type": "t", "dns": {dns}}}"#);
            let conf = NetConf::parse(text.as_bytes()).unwrap();
            assert_eq!(Said::parse(&conf).unwrap().or(ipam.clone()), chosen, "{dns}");
        }
    }
}
