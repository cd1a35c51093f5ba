//! Whose connections to a pod's mapped ports are masqueraded: the sets, and the rules that ask them.

use std::net::{IpAddr, Ipv4Addr};

use ipnetwork::IpNetwork;
use kernel::nft::{Batch, Element, Family, Field, Rule, RuleInfo, Set, Type, Value};

use super::config::{Config, Mapping};
use super::layout::{POSTROUTING, ip_type, table_of};

/// What the sets' names begin with.
pub(super) const MASQUERADE: &str = "masquerade-";

/// Whose connections to a pod are masqueraded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sources {
    /// Everybody's.
    Any,
    /// Those of the pod's neighbours on its subnet, and of the host's loopback address.
    Subnet(IpNetwork),
    /// The pod's own, and those of the host's loopback address: it has no neighbours. One set serves all such pods.
    Itself(IpAddr),
}

impl Sources {
    /// As `config` asks for the pod with this address; none when no source is hidden.
    pub(super) fn of(config: &Config, pod: IpNetwork) -> Option<Self> {
        let whole = if pod.is_ipv4() { 32 } else { 128 };
        match (config.snat, config.masq_all) {
            (false, _) => None,
            (true, true) => Some(Sources::Any),
            (true, false) if pod.prefix() == whole => Some(Sources::Itself(pod.ip())),
            (true, false) => IpNetwork::new(pod.network(), pod.prefix()).ok().map(Sources::Subnet),
        }
    }

    /// The name of the set.
    pub(super) fn set(self) -> String {
        match self {
            Sources::Any => format!("{MASQUERADE}any"),
            Sources::Subnet(subnet) => format!("{MASQUERADE}{}", subnet.to_string().replace(':', "_")),
            Sources::Itself(_) => format!("{MASQUERADE}itself"),
        }
    }

    /// The elements for `mapping` to port `to` of `pod`.
    pub(super) fn elements(self, mapping: &Mapping, pod: IpAddr) -> Vec<Element> {
        let key = [
            pod.into(),
            Value::Proto(mapping.protocol.number()),
            Value::Port(mapping.container_port),
            Value::Port(mapping.host_port),
        ];
        let from = |source: IpAddr| Element::new(&[source.into(), key[0], key[1], key[2], key[3]]);
        match self {
            Sources::Any | Sources::Subnet(_) => vec![Element::new(&key)],
            Sources::Itself(own) if own.is_ipv4() => vec![from(own), from(Ipv4Addr::LOCALHOST.into())],
            Sources::Itself(own) => vec![from(own)],
        }
    }

    /// How many leading fields of the key are left out: the source is in it only where it decides.
    fn skipped(self) -> usize {
        usize::from(!matches!(self, Sources::Itself(_)))
    }

    /// The set and its rules.
    pub(super) fn declare(self, family: Family, batch: &mut Batch) {
        let address = ip_type(family);
        let kinds = [address, address, Type::Proto, Type::Port, Type::Port];
        batch.create_set(&table_of(family), &Set::new(&self.set(), &kinds[self.skipped()..]));
        self.declare_rules(family, batch);
    }

    /// The rules alone.
    pub(super) fn declare_rules(self, family: Family, batch: &mut Batch) {
        for rule in self.rules(family) {
            batch.add_rule(&table_of(family), POSTROUTING.name, &rule);
        }
    }

    fn rules(self, family: Family) -> Vec<Rule> {
        let key =
            [Field::Saddr(family), Field::Daddr(family), Field::L4proto, Field::Dport, Field::OriginalDport];
        let set = self.set();
        let rule = || Rule::in_family(family).ct_dnat();
        let sources = match self {
            Sources::Subnet(subnet) if family == Family::Ip => {
                vec![rule().within(key[0], subnet), rule().within(key[0], loopback_addresses())]
            }
            Sources::Subnet(subnet) => vec![rule().within(key[0], subnet)],
            Sources::Any | Sources::Itself(_) => vec![rule()],
        };
        let masquerade =
            |source: Rule| source.in_set(&key[self.skipped()..], &set).masquerade().comment(&set);
        sources.into_iter().map(masquerade).collect()
    }

    /// What of its rules is missing from the table's `rules`; none when all are there.
    pub(super) fn lost(self, family: Family, rules: &[RuleInfo]) -> Option<String> {
        let set = self.set();
        let own = rules.iter().filter(|rule| rule.chain == POSTROUTING.name && rule.comment == set).count();
        let chain = POSTROUTING.name;
        let table = table_of(family);
        (own < self.rules(family).len()).then(|| format!("chain {table} {chain} lacks a rule for set {set}"))
    }
}

/// 127.0.0.0/8.
pub(super) fn loopback_addresses() -> IpNetwork {
    IpNetwork::new(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 0)), 8).expect("8 is a prefix length")
}
