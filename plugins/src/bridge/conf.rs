//! The configuration of `bridge`, from text to types that cannot be wrong.

use std::collections::BTreeSet;

use cni::{Error, NetConf, Result};
use kernel::Mac;
use kernel::bridge::{VlanFlags, VlanRange, VlanTable};
use serde::Deserialize;

use crate::backend::Choice;

/// VLAN 1, which the kernel admits on every new port.
const DEFAULT_VLAN: u16 = 1;
const DEFAULT_BRIDGE: &str = "cni0";
const LARGEST_VLAN: i64 = 4094;

/// What the configuration means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conf {
    /// The bridge's name.
    pub bridge: String,
    /// Whether the host is the pods' gateway.
    pub is_gateway: bool,
    /// Whether the pods get a default route by that gateway.
    pub is_default_gateway: bool,
    /// Whether another gateway address on the bridge is replaced.
    pub force_address: bool,
    /// Whether what leaves the network is masqueraded.
    pub ip_masq: bool,
    /// By which packet filter.
    pub ip_masq_backend: Choice,
    /// MTU of bridge and cable, in bytes.
    pub mtu: Option<u32>,
    /// Whether a pod may reach itself by way of the bridge.
    pub hairpin: bool,
    /// Whether the bridge is promiscuous.
    pub promisc: bool,
    /// The VLANs.
    pub vlans: Vlans,
    /// Whether only the pod's own hardware address may send.
    pub spoof_check: bool,
    /// Whether duplicate address detection runs.
    pub enable_dad: bool,
    /// Whether the pod's end stays down.
    pub container_down: bool,
    /// Whether the pods cannot reach each other by way of the bridge.
    pub isolation: bool,
    /// Hardware address of the pod's end.
    pub mac: Option<Mac>,
}

/// Which VLANs a pod is in.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Vlans {
    /// The one it is in untagged.
    pub access: Option<u16>,
    /// Those it may use tagged; `None` when no trunk was configured, which differs from an empty one.
    pub trunk: Option<BTreeSet<u16>>,
    /// Whether the port keeps VLAN 1.
    pub keep_default: bool,
}

impl Vlans {
    /// Whether the bridge has to filter.
    pub fn filtering(&self) -> bool {
        self.access.is_some() || self.trunk.is_some()
    }

    /// What the port's table is to be; `None` when it is left as the kernel made it.
    pub fn table(&self) -> Option<VlanTable> {
        let trunk = self.trunk.as_ref().filter(|trunk| !trunk.is_empty());
        if self.access.is_none() && trunk.is_none() {
            return None;
        }
        let untagged = VlanFlags { pvid: true, untagged: true };
        let mut table = VlanTable::new();
        if self.keep_default {
            let is_access = self.access.is_none();
            table.insert(DEFAULT_VLAN, VlanFlags { pvid: is_access, untagged: true });
        }
        table.extend(trunk.into_iter().flatten().map(|id| (*id, VlanFlags::default())));
        table.insert(self.access.unwrap_or(DEFAULT_VLAN), untagged);
        Some(table)
    }
}

/// The entries of a table as ranges of equal flags. A PVID stands alone, for the kernel takes none in a range.
pub fn ranges(table: &VlanTable) -> Vec<(VlanRange, VlanFlags)> {
    let mut ranges: Vec<(VlanRange, VlanFlags)> = Vec::new();
    for (id, flags) in table {
        match ranges.last_mut() {
            Some((range, of)) if range.last + 1 == *id && of == flags && !flags.pvid => range.last = *id,
            _ => ranges.push((VlanRange::one(*id), *flags)),
        }
    }
    ranges
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Raw {
    bridge: Option<String>,
    #[serde(rename = "isGateway")]
    is_gateway: bool,
    is_default_gateway: bool,
    force_address: bool,
    ip_masq: bool,
    ip_masq_backend: Option<String>,
    mtu: i64,
    hairpin_mode: bool,
    promisc_mode: bool,
    vlan: i64,
    vlan_trunk: Option<Vec<RawTrunk>>,
    preserve_default_vlan: bool,
    #[serde(rename = "macspoofchk")]
    mac_spoof_check: bool,
    #[serde(rename = "enabledad")]
    enable_dad: bool,
    disable_container_interface: bool,
    port_isolation: bool,
    runtime_config: RawMac,
    args: RawArgs,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RawTrunk {
    id: Option<i64>,
    #[serde(rename = "minID")]
    min_id: Option<i64>,
    #[serde(rename = "maxID")]
    max_id: Option<i64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RawArgs {
    cni: RawMac,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RawMac {
    mac: String,
}

impl Conf {
    /// Reads the configuration and CNI_ARGS.
    ///
    /// # Errors
    /// Names key and value.
    pub fn parse(conf: &NetConf, args: &str) -> Result<Conf> {
        let raw: Raw = conf.decode()?;
        if raw.hairpin_mode && raw.promisc_mode {
            return Err(Error::config("bridge: hairpinMode and promiscMode cannot both be true"));
        }
        if raw.disable_container_interface && !conf.ipam_type.is_empty() {
            return Err(Error::config(format!(
                "bridge: disableContainerInterface: true cannot go with ipam: type {}",
                conf.ipam_type
            )));
        }
        let mac = choose_mac(&raw, args)?;
        let vlans = Vlans {
            access: in_range("vlan", raw.vlan, 0)?.filter(|id| *id != 0),
            trunk: raw.vlan_trunk.as_deref().map(parse_trunk).transpose()?,
            keep_default: raw.preserve_default_vlan,
        };
        Ok(Conf {
            bridge: parse_name(
                raw.bridge.as_deref().filter(|name| !name.is_empty()).unwrap_or(DEFAULT_BRIDGE),
            )?,
            is_gateway: raw.is_gateway || raw.is_default_gateway,
            is_default_gateway: raw.is_default_gateway,
            force_address: raw.force_address,
            ip_masq: raw.ip_masq,
            ip_masq_backend: Choice::parse("bridge", "ipMasqBackend", raw.ip_masq_backend.as_deref())?,
            mtu: parse_mtu("bridge", raw.mtu)?,
            hairpin: raw.hairpin_mode,
            promisc: raw.promisc_mode,
            vlans,
            spoof_check: raw.mac_spoof_check,
            enable_dad: raw.enable_dad,
            container_down: raw.disable_container_interface,
            isolation: raw.port_isolation,
            mac,
        })
    }
}

impl Conf {
    /// For DEL, which must not fail for what only matters to ADD: a configuration that ADD would refuse counts as one
    /// in which everything may be left over.
    pub fn parse_for_del(conf: &NetConf) -> Conf {
        let lost = || Conf {
            bridge: DEFAULT_BRIDGE.to_owned(),
            is_gateway: false,
            is_default_gateway: false,
            force_address: false,
            ip_masq: true,
            ip_masq_backend: Choice::default(),
            mtu: None,
            hairpin: false,
            promisc: false,
            vlans: Vlans::default(),
            spoof_check: true,
            enable_dad: false,
            container_down: false,
            isolation: false,
            mac: None,
        };
        Conf::parse(conf, "").unwrap_or_else(|_| lost())
    }
}

/// CNI_ARGS, then `args.cni.mac`, then `runtimeConfig.mac`: the last that is given counts.
fn choose_mac(raw: &Raw, args: &str) -> Result<Option<Mac>> {
    let known = cni::args::parse(args, &["MAC"])?;
    let sources = [
        ("runtimeConfig.mac", Some(&raw.runtime_config.mac)),
        ("args.cni.mac", Some(&raw.args.cni.mac)),
        ("CNI_ARGS: MAC", known.get("MAC")),
    ];
    let given = sources.into_iter().find_map(|(key, text)| Some((key, text.filter(|t| !t.is_empty())?)));
    let Some((key, text)) = given else { return Ok(None) };
    match text.parse::<Mac>() {
        Ok(mac) if mac.is_assignable() => Ok(Some(mac)),
        _ => {
            Err(Error::config(format!("bridge: {key}: `{text}` is no hardware address of an Ethernet link")))
        }
    }
}

fn parse_name(name: &str) -> Result<String> {
    let refused = |e: Error| Error::config(format!("bridge: bridge: `{name}`: {}", e.msg));
    cni::IfName::parse(name).map(|name| name.to_string()).map_err(refused)
}

/// An MTU in bytes; 0 is the default's.
///
/// # Errors
/// Outside what Ethernet links take.
pub fn parse_mtu(plugin: &str, mtu: i64) -> Result<Option<u32>> {
    match u32::try_from(mtu) {
        Ok(0) => Ok(None),
        Ok(mtu @ 68..=65535) => Ok(Some(mtu)),
        _ => Err(Error::config(format!("{plugin}: mtu: {mtu} is outside 68..65535"))),
    }
}

/// A VLAN id of at least `least`.
fn in_range(key: &str, id: i64, least: i64) -> Result<Option<u16>> {
    if !(least..=LARGEST_VLAN).contains(&id) {
        return Err(Error::config(format!("bridge: {key}: {id} is outside {least}..{LARGEST_VLAN}")));
    }
    Ok(u16::try_from(id).ok())
}

fn parse_trunk(entries: &[RawTrunk]) -> Result<BTreeSet<u16>> {
    let mut ids = BTreeSet::new();
    for (at, entry) in entries.iter().enumerate() {
        let key = |name: &str| format!("vlanTrunk[{at}].{name}");
        match (entry.min_id, entry.max_id) {
            (None, None) => {}
            (Some(min), Some(max)) => {
                let first = in_range(&key("minID"), min, 1)?;
                let last = in_range(&key("maxID"), max, 1)?;
                if min > max {
                    let key = key("minID");
                    return Err(Error::config(format!("bridge: {key}: {min} is greater than maxID {max}")));
                }
                ids.extend(first.zip(last).into_iter().flat_map(|(first, last)| first..=last));
            }
            (Some(min), None) => {
                let text = format!("bridge: {}: {min} needs a maxID", key("minID"));
                return Err(Error::config(text));
            }
            (None, Some(max)) => {
                let text = format!("bridge: {}: {max} needs a minID", key("maxID"));
                return Err(Error::config(text));
            }
        }
        if let Some(id) = entry.id {
            ids.extend(in_range(&key("id"), id, 1)?);
        }
    }
    Ok(ids)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn parse(keys: &Value) -> Result<Conf> {
        parse_with(keys, "")
    }

    fn parse_with(keys: &Value, args: &str) -> Result<Conf> {
        let mut conf = json!({ "cniVersion": "1.1.0", "name": "n", "type": "bridge" });
        conf.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
        Conf::parse(&NetConf::parse(conf.to_string().into_bytes()).unwrap(), args)
    }

    fn refusal(keys: &Value) -> String {
        parse(keys).expect_err("refused").msg
    }

    #[test]
    fn every_default() {
        let conf = parse(&json!({})).unwrap();
        assert_eq!((conf.bridge.as_str(), conf.mtu, conf.mac.as_ref()), ("cni0", None, None));
        assert!(!conf.is_gateway && !conf.ip_masq && !conf.vlans.filtering() && !conf.enable_dad);
        assert_eq!(conf.ip_masq_backend, Choice::Nftables);
        assert!(parse(&json!({ "isDefaultGateway": true })).unwrap().is_gateway);
    }

    #[test]
    fn vlan_range_refused_while_loading() {
        for id in [-100, 5000, 4095] {
            assert_eq!(refusal(&json!({ "vlan": id })), format!("bridge: vlan: {id} is outside 0..4094"));
        }
        assert_eq!(parse(&json!({ "vlan": 4094 })).unwrap().vlans.access, Some(4094));
        assert_eq!(parse(&json!({ "vlan": 0 })).unwrap().vlans.access, None);
    }

    #[test]
    fn trunk_parse_four_valid_shapes() {
        for (trunk, ids) in [
            (json!([{ "id": 101 }]), vec![101]),
            (json!([{ "minID": 200, "maxID": 203 }]), vec![200, 201, 202, 203]),
            (json!([{ "id": 5, "minID": 7, "maxID": 8 }]), vec![5, 7, 8]),
            (json!([{ "id": 4094 }, { "minID": 1, "maxID": 2 }, { "id": 2 }]), vec![1, 2, 4094]),
        ] {
            let conf = parse(&json!({ "vlanTrunk": trunk })).unwrap();
            assert_eq!(conf.vlans.trunk, Some(ids.into_iter().collect()));
        }
        assert_eq!(parse(&json!({ "vlanTrunk": [] })).unwrap().vlans.trunk, Some(BTreeSet::new()));
        assert!(parse(&json!({ "vlanTrunk": [] })).unwrap().vlans.filtering());
    }

    #[test]
    fn trunk_parse_nine_invalid_shapes() {
        for (entry, said) in [
            (json!({ "minID": 10 }), "vlanTrunk[0].minID: 10 needs a maxID"),
            (json!({ "maxID": 10 }), "vlanTrunk[0].maxID: 10 needs a minID"),
            (json!({ "minID": 10, "maxID": 5 }), "vlanTrunk[0].minID: 10 is greater than maxID 5"),
            (json!({ "id": -1 }), "vlanTrunk[0].id: -1 is outside 1..4094"),
            (json!({ "minID": -1, "maxID": 5 }), "vlanTrunk[0].minID: -1 is outside 1..4094"),
            (json!({ "minID": 1, "maxID": -5 }), "vlanTrunk[0].maxID: -5 is outside 1..4094"),
            (json!({ "id": 4095 }), "vlanTrunk[0].id: 4095 is outside 1..4094"),
            (json!({ "minID": 4095, "maxID": 4096 }), "vlanTrunk[0].minID: 4095 is outside 1..4094"),
            (json!({ "minID": 1, "maxID": 4096 }), "vlanTrunk[0].maxID: 4096 is outside 1..4094"),
        ] {
            assert_eq!(refusal(&json!({ "vlanTrunk": [entry] })), format!("bridge: {said}"));
        }
    }

    #[test]
    fn contradictions_and_bad_values_are_named() {
        for (keys, said) in [
            (json!({ "hairpinMode": true, "promiscMode": true }), "hairpinMode and promiscMode"),
            (
                json!({ "disableContainerInterface": true, "ipam": { "type": "static" } }),
                "disableContainerInterface: true cannot go with ipam: type static",
            ),
            (json!({ "mtu": -1 }), "mtu: -1 is outside 68..65535"),
            (json!({ "mtu": 70_000 }), "mtu: 70000 is outside"),
            (json!({ "bridge": "a-name-that-is-too-long" }), "bridge: `a-name-that-is-too-long`"),
            (json!({ "runtimeConfig": { "mac": "pear" } }), "runtimeConfig.mac: `pear`"),
            (
                json!({ "runtimeConfig": { "mac": "01:00:5e:00:00:01" } }),
                "runtimeConfig.mac: `01:00:5e:00:00:01`",
            ),
            (
                json!({ "args": { "cni": { "mac": "00:00:00:00:00:00" } } }),
                "args.cni.mac: `00:00:00:00:00:00`",
            ),
            (json!({ "ipMasqBackend": "pear" }), "ipMasqBackend: \"pear\""),
        ] {
            let refusal = refusal(&keys);
            assert!(refusal.starts_with("bridge: ") && refusal.contains(said), "{refusal}");
        }
        let error = parse(&json!({ "isGateway": "yes" })).expect_err("no boolean");
        assert!(error.msg.contains("isGateway") && error.msg.contains("yes"), "{error}");
    }

    #[test]
    fn explicit_mac_runtime_config_wins() {
        let (a, b, c) = ("02:00:00:00:00:0a", "02:00:00:00:00:0b", "02:00:00:00:00:0c");
        let cni_args = format!("MAC={a}");
        let args = json!({ "args": { "cni": { "mac": b } } });
        let both = json!({ "args": { "cni": { "mac": b } }, "runtimeConfig": { "mac": c } });
        for (keys, text, chosen) in [
            (&json!({}), "", None),
            (&json!({}), cni_args.as_str(), Some(a)),
            (&args, cni_args.as_str(), Some(b)),
            (&both, cni_args.as_str(), Some(c)),
        ] {
            let mac = parse_with(keys, text).unwrap().mac;
            assert_eq!(mac.map(|m| m.to_string()).as_deref(), chosen);
        }
        assert!(parse_with(&json!({}), "PEAR=1").is_err());
        assert!(parse_with(&json!({}), "IgnoreUnknown=1;PEAR=1").is_ok());
    }

    #[test]
    fn port_tables() {
        let table = |keys: Value| {
            let table = parse(&keys).unwrap().vlans.table();
            table.map(|table| {
                let flags = |f: &VlanFlags| {
                    format!("{}{}", if f.pvid { "p" } else { "" }, if f.untagged { "u" } else { "" })
                };
                let words: Vec<_> =
                    ranges(&table).iter().map(|(range, f)| format!("{range}{}", flags(f))).collect();
                words.join(" ")
            })
        };
        for (keys, words) in [
            (json!({}), None),
            (json!({ "vlan": 100 }), Some("100pu")),
            (json!({ "vlan": 100, "preserveDefaultVlan": true }), Some("1u 100pu")),
            (json!({ "vlanTrunk": [] }), None),
            (
                json!({ "vlanTrunk": [{ "id": 101 }, { "minID": 200, "maxID": 210 }] }),
                Some("1pu 101 200-210"),
            ),
            (json!({ "vlan": 100, "vlanTrunk": [{ "minID": 99, "maxID": 101 }] }), Some("99 100pu 101")),
        ] {
            assert_eq!(table(keys.clone()).as_deref(), words, "{keys}");
        }
    }
}
