//! Whose name resolution a result carries.

use cni::{Dns, NetConf, Result};
use serde::Deserialize;

/// The configuration's `dns` when it says anything at all, else what the IPAM plug-in said. An empty list says
/// something: `"nameservers": []` means none.
///
/// # Errors
/// An undecodable `dns`.
pub fn choose(conf: &NetConf, ipam: Dns) -> Result<Dns> {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Said {
        nameservers: Option<Vec<String>>,
        domain: String,
        search: Option<Vec<String>>,
        options: Option<Vec<String>>,
    }
    let Some(value) = conf.member("dns") else { return Ok(ipam) };
    let said: Said = cni::json::decode_at("dns", value)?;
    let silent = said.nameservers.is_none()
        && said.domain.is_empty()
        && said.search.is_none()
        && said.options.is_none();
    if silent {
        return Ok(ipam);
    }
    Ok(Dns {
        nameservers: said.nameservers.unwrap_or_default(),
        domain: said.domain,
        search: said.search.unwrap_or_default(),
        options: said.options.unwrap_or_default(),
    })
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
            assert_eq!(choose(&conf, ipam.clone()), Ok(chosen), "{dns}");
        }
    }
}
