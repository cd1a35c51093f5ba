//! nf_tables on the real kernel, each test in a network namespace of its own. Needs root and the `nft` program.

mod netns;

use std::net::IpAddr;
use std::time::Instant;

use kernel::netlink::{Protocol, Socket};
use kernel::nft::{
    self, Base, Batch, Chain, ChainKind, Change, Cmp, Data, Element, Family, Field, Hook, Policy, Ports, Reg,
    Reject, Rule, Set, Table, Type, Value, Verdict,
};
use netns::{in_new_netns, listing, matches_golden};

const INET: Table<'_> = Table { family: Family::Inet, name: "everything", comment: "what it is for" };
const BRIDGE: Table<'_> = Table::new(Family::Bridge, "guard");
const PODS: Set<'_> = Set::new("pods", &[Type::Ipv4]);

fn socket() -> Socket {
    Socket::open(Protocol::Netfilter).unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// A table `inet everything` with an empty set `pods`.
fn table_with_pods(socket: &mut Socket) {
    Batch::new().add_table(&INET).add_set(&INET, &PODS).commit(socket).unwrap();
}

fn pod(last_bytes: u32, owner: &str) -> Element {
    Element::new(&[IpAddr::from((0x0a01_0000 + last_bytes).to_be_bytes()).into()]).comment(owner)
}

#[test]
fn sets_of_every_type_read_as_if_nft_had_made_them() {
    in_new_netns(|| {
        let mut batch = Batch::new();
        batch.add_table(&INET);
        let singles = [Type::Ipv4, Type::Ipv6, Type::Mac, Type::Proto, Type::Port, Type::Mark, Type::IfName];
        let values = [
            Value::Ip(ip("10.1.2.3")),
            Value::Ip(ip("fd00::1")),
            Value::Mac([2, 0, 0, 0, 0, 1]),
            Value::Proto(17),
            Value::Port(8080),
            Value::Mark(0x2000),
            Value::IfName("veth01234567"),
        ];
        for (kind, value) in singles.iter().zip(values) {
            let name = format!("one-{kind:?}").to_lowercase();
            batch.add_set(&INET, &Set::new(&name, &[*kind]).comment("one of a kind"));
            batch.add_elements(&INET, &name, &[Element::new(&[value]).comment("mine")]);
            let name = format!("to-{kind:?}").to_lowercase();
            batch.add_set(&INET, &Set::map(&name, &[Type::Port], &[*kind]));
            batch.add_elements(&INET, &name, &[Element::new(&[Value::Port(1)]).to(&[value])]);
        }
        for (name, range) in [("first-three", 0..3), ("last-five", 2..7)] {
            batch.add_set(&INET, &Set::new(name, &singles[range.clone()]));
            batch.add_elements(&INET, name, &[Element::new(&values[range]).comment("several")]);
        }
        batch.add_set(
            &INET,
            &Set::map("dnat", &[Type::Ipv4, Type::Proto, Type::Port], &[Type::Ipv4, Type::Port]),
        );
        let frontend = [ip("192.0.2.1").into(), Value::Proto(6), Value::Port(80)];
        let backend = [ip("10.1.0.5").into(), Value::Port(8080)];
        batch.add_elements(&INET, "dnat", &[Element::new(&frontend).to(&backend).comment("a mapped port")]);
        batch.commit(&mut socket()).unwrap();
        matches_golden("types", &listing());
    });
}

#[test]
fn intervals_and_verdict_maps_read_as_if_nft_had_made_them() {
    in_new_netns(|| {
        let mut batch = Batch::new();
        batch.add_table(&INET).add_chain(&INET, &Chain::regular("there").comment("a regular chain"));
        batch.add_set(&INET, &Set::new("prefixes", &[Type::Ipv4]).intervals());
        let prefixes =
            ["10.0.0.0/8", "172.16.0.0/12", "255.0.0.0/8"].map(|p| Element::prefix(p.parse().unwrap()));
        batch.add_elements(&INET, "prefixes", &prefixes);
        batch.add_set(&INET, &Set::new("prefixes6", &[Type::Ipv6]).intervals());
        batch.add_elements(
            &INET,
            "prefixes6",
            &[Element::prefix("fd00::/64".parse().unwrap()).comment("six")],
        );
        batch.add_set(&INET, &Set::new("ranges", &[Type::Ipv4, Type::Port]).intervals());
        let first = [ip("10.0.0.0").into(), Value::Port(10)];
        let last = [ip("10.255.255.255").into(), Value::Port(20)];
        batch.add_elements(&INET, "ranges", &[Element::interval(&first, &last).comment("both fields")]);
        batch.add_set(&INET, &Set::verdict_map("fates", &[Type::IfName]));
        let fate = |name, verdict| Element::new(&[Value::IfName(name)]).verdict(verdict);
        batch.add_elements(
            &INET,
            "fates",
            &[
                fate("a", Verdict::Accept).comment("passes"),
                fate("b", Verdict::Drop),
                fate("c", Verdict::Jump("there".into())),
                fate("d", Verdict::Goto("there".into())),
            ],
        );
        batch.commit(&mut socket()).unwrap();
        matches_golden("intervals", &listing());
    });
}

/// Rules that match.
fn matches() -> Vec<Rule> {
    let (v4, v6) = (Family::Ip, Family::Ip6);
    vec![
        Rule::new().is(Field::Iifname, Value::IfName("eth0")).accept(),
        Rule::new().is_not(Field::Oifname, Value::IfName("cni0")).counter().drop(),
        Rule::new()
            .is(Field::Saddr(v4), ip("10.1.0.5").into())
            .is(Field::Daddr(v4), ip("10.1.0.6").into())
            .returns(),
        Rule::new().within(Field::Saddr(v4), "10.1.0.0/16".parse().unwrap()).accept(),
        Rule::new().outside(Field::Daddr(v4), "10.1.0.0/21".parse().unwrap()).accept(),
        Rule::new().within(Field::Daddr(v4), "224.0.0.0/4".parse().unwrap()).returns(),
        Rule::new().within(Field::Daddr(v6), "ff00::/8".parse().unwrap()).returns(),
        Rule::new().outside(Field::Daddr(v6), "fd00:1::/64".parse().unwrap()).accept(),
        Rule::new().within(Field::Daddr(v6), "fd00:1::5/128".parse().unwrap()).accept(),
        Rule::new().is(Field::L4proto, Value::Proto(17)).is(Field::Dport, Value::Port(53)).accept(),
        Rule::new().is(Field::Mark, Value::Mark(0x2000)).accept(),
        Rule::new().has_mark_bits(0x2000).jump("regular"),
        Rule::new().set_mark_bits(0x2000),
        Rule::new().ct_established_or_related().accept(),
        Rule::new().ct_invalid().drop(),
        Rule::new().ct_dnat().accept(),
        Rule::new().to_this_host().goto("regular"),
        Rule::new().in_set(&[Field::Saddr(v4)], "pods").comment("a comment"),
        Rule::new().not_in_set(&[Field::Saddr(v4), Field::L4proto, Field::Dport], "triples").accept(),
        Rule::new().verdict_map(&[Field::Iifname], "fates"),
        Rule::new().reject(Reject::PortUnreachable),
        Rule::new().reject(Reject::AdminProhibited),
        Rule::new().is(Field::L4proto, Value::Proto(6)).reject(Reject::TcpReset),
    ]
}

#[test]
fn every_rule_reads_as_if_nft_had_made_it() {
    in_new_netns(|| {
        let mut batch = Batch::new();
        batch.add_table(&INET).add_set(&INET, &PODS);
        batch.add_set(&INET, &Set::new("triples", &[Type::Ipv4, Type::Proto, Type::Port]));
        batch.add_set(&INET, &Set::verdict_map("fates", &[Type::IfName]));
        batch.add_set(&INET, &Set::map("to4", &[Type::Proto, Type::Port], &[Type::Ipv4, Type::Port]));
        batch.add_set(&INET, &Set::map("to6", &[Type::Ipv6], &[Type::Ipv6]));
        batch.add_chain(&INET, &Chain::regular("regular"));
        let forward = Base { policy: Policy::Drop, ..Base::new(ChainKind::Filter, Hook::Forward, 0) };
        batch.add_chain(&INET, &Chain::base("forward", forward).comment("a base chain"));
        for rule in matches() {
            batch.add_rule(&INET, "forward", &rule);
        }
        batch.add_chain(&INET, &Chain::base("prerouting", Base::new(ChainKind::Nat, Hook::Prerouting, -100)));
        let to4 = Rule::new().ask_family(Family::Ip);
        let by_port = to4.dnat_by_map(Family::Ip, &[Field::L4proto, Field::Dport], "to4", Ports::Mapped);
        batch.add_rule(&INET, "prerouting", &by_port);
        let by_daddr = Rule::new().dnat_by_map(Family::Ip6, &[Field::Daddr(Family::Ip6)], "to6", Ports::Kept);
        batch.add_rule(&INET, "prerouting", &by_daddr);
        let web = Rule::new().is(Field::L4proto, Value::Proto(6)).is(Field::Dport, Value::Port(80));
        batch.add_rule(&INET, "prerouting", &web.clone().dnat(ip("10.1.0.5"), Some(8080)));
        batch.add_rule(&INET, "prerouting", &web.dnat(ip("fd00::5"), None));
        batch
            .add_chain(&INET, &Chain::base("postrouting", Base::new(ChainKind::Nat, Hook::Postrouting, 100)));
        batch.add_rule(&INET, "postrouting", &Rule::new().masquerade());
        batch.insert_rule(&INET, "postrouting", &Rule::new().counter().comment("first"));
        batch.commit(&mut socket()).unwrap();
        matches_golden("rules", &listing());
    });
}

#[test]
fn a_bridge_table_matches_names_and_macs() {
    in_new_netns(|| {
        let mut batch = Batch::new();
        batch.add_table(&BRIDGE).add_set(&BRIDGE, &Set::new("guarded", &[Type::IfName]));
        batch.add_set(&BRIDGE, &Set::new("allowed", &[Type::IfName, Type::Mac]));
        let first = Base::new(ChainKind::Filter, Hook::Prerouting, -300);
        batch.add_chain(&BRIDGE, &Chain::base("prerouting", first));
        let spoofed = Rule::new()
            .in_set(&[Field::Iifname], "guarded")
            .not_in_set(&[Field::Iifname, Field::EtherSaddr], "allowed");
        batch.add_rule(&BRIDGE, "prerouting", &spoofed.drop());
        batch.commit(&mut socket()).unwrap();
        matches_golden("bridge", &listing());
    });
}

#[test]
fn ten_thousand_elements_go_in_one_batch_and_come_back() {
    in_new_netns(|| {
        let mut socket = socket();
        let elements: Vec<Element> = (1..=10_000).map(|n| pod(n, &format!("owner of {n}"))).collect();
        let mut batch = Batch::new();
        batch.add_table(&INET).add_set(&INET, &PODS).create_elements(&INET, "pods", &elements);
        batch.commit(&mut socket).unwrap();
        let mut seen = nft::list_elements(&mut socket, &INET, "pods").unwrap();
        seen.sort_by(|a, b| a.key.cmp(&b.key));
        assert_eq!(seen, elements);
        assert!(!nft::is_empty(&mut socket, &INET, "pods").unwrap());
        Batch::new().delete_elements(&INET, "pods", &elements).commit(&mut socket).unwrap();
        assert!(nft::is_empty(&mut socket, &INET, "pods").unwrap());
    });
}

#[test]
fn a_refused_batch_changes_nothing_and_names_what_was_refused() {
    in_new_netns(|| {
        let mut socket = socket();
        table_with_pods(&mut socket);
        Batch::new().create_elements(&INET, "pods", &[pod(1, "first")]).commit(&mut socket).unwrap();
        let before = listing();
        let mut batch = Batch::new();
        batch.create_elements(&INET, "pods", &[pod(2, "second")]);
        batch.create_elements(&INET, "pods", &[pod(1, "thief")]);
        let error = batch.commit(&mut socket).unwrap_err();
        assert!(error.is_present(), "{error}");
        assert!(error.to_string().contains("create an element of set inet everything pods"), "{error}");
        assert_eq!(listing(), before);
        let again = Batch::new().add_table(&INET).commit(&mut socket);
        assert!(again.is_ok(), "the socket is still usable");
    });
}

#[test]
fn a_batch_for_a_passed_generation_is_outdated() {
    in_new_netns(|| {
        let mut socket = socket();
        table_with_pods(&mut socket);
        let generation = nft::generation(&mut socket).unwrap();
        Batch::new().add_elements(&INET, "pods", &[pod(1, "a")]).commit_at(&mut socket, generation).unwrap();
        let mut late = Batch::new();
        late.add_elements(&INET, "pods", &[pod(2, "b")]);
        let error = late.commit_at(&mut socket, generation).unwrap_err();
        assert!(nft::is_outdated(&error), "{error}");
        assert_eq!(nft::list_elements(&mut socket, &INET, "pods").unwrap().len(), 1);
    });
}

#[test]
fn what_is_absent_is_seen_as_absent() {
    in_new_netns(|| {
        let mut socket = socket();
        nft::probe(&mut socket).unwrap();
        assert!(!nft::table_exists(&mut socket, &INET).unwrap());
        assert!(!nft::chain_exists(&mut socket, &INET, "c").unwrap());
        assert!(!nft::set_exists(&mut socket, &INET, "pods").unwrap());
        assert_eq!(nft::get_element(&mut socket, &INET, "pods", &pod(1, "")).unwrap(), None);
        assert_eq!(nft::list_elements(&mut socket, &INET, "pods").unwrap(), []);
        assert_eq!(nft::list_rules(&mut socket, &INET, None).unwrap(), []);
        assert!(nft::list_chains(&mut socket, &INET).unwrap().is_empty());
        assert!(nft::list_sets(&mut socket, &INET).unwrap().is_empty());
        assert!(nft::is_empty(&mut socket, &INET, "pods").unwrap());
        Batch::new().destroy_table(&INET).commit(&mut socket).unwrap();
        let deletion = Batch::new().delete_table(&INET).commit(&mut socket);
        assert!(deletion.unwrap_err().is_absent());
        table_with_pods(&mut socket);
        assert_eq!(nft::get_element(&mut socket, &INET, "pods", &pod(1, "")).unwrap(), None);
    });
}

#[test]
fn what_is_there_is_listed_with_comment_data_and_handle() {
    in_new_netns(|| {
        let mut socket = socket();
        let mut batch = Batch::new();
        batch.add_table(&INET).add_chain(&INET, &Chain::regular("c")).add_chain(&INET, &Chain::regular("d"));
        batch.add_rule(&INET, "c", &Rule::new().accept().comment("one"));
        batch.add_rule(&INET, "c", &Rule::new().drop().comment("two"));
        batch.add_rule(&INET, "d", &Rule::new().drop());
        batch.add_set(&INET, &Set::map("m", &[Type::Port], &[Type::Ipv4]));
        let element = Element::new(&[Value::Port(80)]).to(&[ip("10.1.0.5").into()]).comment("x".repeat(200));
        batch.add_elements(&INET, "m", std::slice::from_ref(&element));
        batch.commit(&mut socket).unwrap();

        assert_eq!(nft::list_tables(&mut socket, Family::Inet).unwrap(), ["everything"]);
        assert_eq!(nft::list_chains(&mut socket, &INET).unwrap(), ["c", "d"]);
        assert_eq!(nft::list_sets(&mut socket, &INET).unwrap(), ["m"]);
        assert_eq!(nft::list_rules(&mut socket, &INET, None).unwrap().len(), 3);
        let rules = nft::list_rules(&mut socket, &INET, Some("c")).unwrap();
        let comments: Vec<&str> = rules.iter().map(|r| r.comment.as_str()).collect();
        assert_eq!(comments, ["one", "two"]);
        let found =
            nft::get_element(&mut socket, &INET, "m", &Element::new(&[Value::Port(80)])).unwrap().unwrap();
        assert_eq!(found.comment, "x".repeat(128), "cut to what nft can print");
        assert_eq!(found.data, Some(Data::Value(vec![10, 1, 0, 5])));

        let mut batch = Batch::new();
        batch.delete_rule(&INET, "c", rules[0].handle).flush_chain(&INET, "d").flush_set(&INET, "m");
        batch.delete_set(&INET, "m").delete_chain(&INET, "d");
        batch.commit(&mut socket).unwrap();
        let rules = nft::list_rules(&mut socket, &INET, None).unwrap();
        assert_eq!(rules.iter().map(|r| r.comment.as_str()).collect::<Vec<_>>(), ["two"]);
        Batch::new().flush_table(&INET).commit(&mut socket).unwrap();
        assert!(nft::list_rules(&mut socket, &INET, None).unwrap().is_empty());
    });
}

#[test]
fn a_socket_of_another_namespace_has_its_sibling_there() {
    in_new_netns(|| {
        let mut elsewhere = std::thread::spawn(|| in_new_netns(socket)).join().unwrap();
        table_with_pods(&mut elsewhere);
        Batch::new().add_elements(&INET, "pods", &[pod(1, "a")]).commit(&mut elsewhere).unwrap();
        assert!(!nft::is_empty(&mut elsewhere, &INET, "pods").unwrap());
        assert_eq!(listing(), "");
    });
}

#[test]
fn an_element_costs_the_same_in_a_large_set() {
    in_new_netns(|| {
        let mut socket = socket();
        table_with_pods(&mut socket);
        let mut fastest = |from: u32| {
            let one = |n: u32| {
                let start = Instant::now();
                Batch::new().create_elements(&INET, "pods", &[pod(n, "a")]).commit(&mut socket).unwrap();
                start.elapsed()
            };
            (from..from + 50).map(one).min().unwrap()
        };
        let small = fastest(1);
        let bulk: Vec<Element> = (10_000..30_000).map(|n| pod(n, "bulk")).collect();
        Batch::new().add_elements(&INET, "pods", &bulk).commit(&mut self::socket()).unwrap();
        let large = fastest(1000);
        assert!(large < small * 3, "an element took {large:?} among 20,000 and {small:?} among none");
    });
}

#[test]
fn converging_writers_lose_no_update() {
    const WRITERS: u32 = 8;
    const EACH: u32 = 25;
    in_new_netns(|| {
        table_with_pods(&mut socket());
        let here = kernel::Netns::current().unwrap();
        std::thread::scope(|scope| {
            for writer in 0..WRITERS {
                let here = &here;
                scope.spawn(move || {
                    let mut socket = Socket::open_in(here, Protocol::Netfilter).unwrap();
                    for _ in 0..EACH {
                        // Everybody adds one to the counter kept in a comment: a lost update would show.
                        nft::converge(&mut socket, |socket| {
                            let seen = nft::get_element(socket, &INET, "pods", &pod(1, ""))?;
                            let mut batch = Batch::new();
                            if let Some(old) = &seen {
                                batch.delete_elements(&INET, "pods", std::slice::from_ref(old));
                            }
                            let count = seen.map_or(0, |old| old.comment.parse::<u32>().unwrap());
                            batch.create_elements(&INET, "pods", &[pod(1, &(count + 1).to_string())]);
                            Ok(batch)
                        })
                        .unwrap_or_else(|e| panic!("writer {writer}: {e}"));
                    }
                });
            }
        });
        let counted = nft::get_element(&mut socket(), &INET, "pods", &pod(1, "")).unwrap().unwrap();
        assert_eq!(counted.comment, (WRITERS * EACH).to_string());
    });
}

/// The number that a map gives a packet is kept in its priority; from (number, random) the packet learns where it
/// goes, and how a client's choice is remembered.
fn balance(batch: &mut Batch, table: &Table<'_>, family: Family, address: Type) {
    let (key, client, number) = (Reg(0), Reg(1), Reg(6));
    let number_and = |rule: Rule, fields: &[Field]| {
        rule.load_at(key, &[Field::Priority]).bits_at(key, !0xfff, 0).load_at(client, fields)
    };
    let rule = || Rule::in_family(family);
    batch.add_table(table);
    batch.add_set(table, &Set::map("frontends", &[address, Type::Proto, Type::Port], &[Type::ClassId]));
    batch.add_set(table, &Set::verdict_map("chains", &[Type::ClassId]));
    batch.add_set(table, &Set::map("endpoints", &[Type::ClassId, Type::Mark], &[address, Type::Port]));
    batch.add_set(table, &Set::map("slots", &[Type::ClassId, Type::Mark], &[Type::ClassId]));
    batch.add_set(table, &Set::map("numbers", &[Type::ClassId], &[address, Type::Port]));
    batch.add_set(table, &Set::map("clients", &[Type::ClassId, address], &[Type::ClassId]).dynamic(1000));
    let element = Element::new(&[Value::ClassId(0x41000), Value::Mark(0)]);
    batch.add_elements(table, "slots", &[element.to(&[Value::ClassId(0x41800)]).comment("first")]);
    let hook = Base::new(ChainKind::Nat, Hook::Prerouting, -100);
    batch.add_chain(table, &Chain::base("prerouting", hook));
    for chain in ["balance", "two", "two-for-an-hour"] {
        batch.add_chain(table, &Chain::regular(chain));
    }
    let frontend = [Field::Daddr(family), Field::L4proto, Field::Dport];
    batch.add_rule(table, "prerouting", &rule().set_priority_by(&frontend, "frontends").goto("balance"));
    let local = rule().from_this_host().is_not(
        Field::Daddr(family),
        Value::Ip(match family {
            Family::Ip => ip("127.0.0.1"),
            _ => ip("::1"),
        }),
    );
    batch.add_rule(table, "prerouting", &local.set_mark_bits(0x4000));
    batch.add_rule(table, "prerouting", &rule().iifname_starts(Cmp::NotEqual, "cali").returns());
    let way = rule().load_at(key, &[Field::Priority]).bits_at(key, 0xfff, 0).verdict_map_at("chains", key);
    batch.add_rule(table, "balance", &way);
    let random = number_and(rule(), &[]).random_at(client, 2).map_at("endpoints", key, key);
    batch.add_rule(table, "two", &random.set_priority(0).dnat_at(family, key));

    let sticky = "two-for-an-hour";
    let hour = std::time::Duration::from_secs(3600);
    let saddr = [Field::Saddr(family)];
    let known = number_and(rule(), &saddr).map_at("clients", key, key).priority_from(key);
    batch.add_rule(table, sticky, &known);
    let alive = rule().load_at(number, &[Field::Priority]).map_at("numbers", number, number.after(4));
    let again = number_and(alive, &saddr).load_at(number, &[Field::Priority]);
    let again = again.remember(Change::Update, "clients", (key, number), hour);
    batch.add_rule(table, sticky, &again.set_priority(0).dnat_at(family, number.after(4)));
    let gone = number_and(rule(), &saddr).load_at(number, &[Field::Priority]);
    batch.add_rule(table, sticky, &gone.forget("clients", (key, number)));
    let pick = number_and(rule(), &[]).random_at(client, 2).map_at("slots", key, key).priority_from(key);
    batch.add_rule(table, sticky, &pick);
    let new = number_and(rule(), &saddr).load_at(number, &[Field::Priority]);
    batch.add_rule(table, sticky, &new.remember(Change::Add, "clients", (key, number), hour));
    let go = rule().load_at(key, &[Field::Priority]).map_at("numbers", key, key).set_priority(0);
    batch.add_rule(table, sticky, &go.dnat_at(family, key));

    let leaving = Base::new(ChainKind::Nat, Hook::Postrouting, 100);
    batch.add_chain(table, &Chain::base("postrouting", leaving));
    let marked = rule().has_mark_bits(0x4000).clear_mark_bits(0x4000);
    batch.add_rule(table, "postrouting", &marked.masquerade_fully_random());
}

#[test]
fn numbers_kept_in_the_priority_read_as_if_nft_had_made_them() {
    in_new_netns(|| {
        let mut batch = Batch::new();
        balance(&mut batch, &Table::new(Family::Ip, "balance"), Family::Ip, Type::Ipv4);
        balance(&mut batch, &Table::new(Family::Ip6, "balance"), Family::Ip6, Type::Ipv6);
        batch.commit(&mut socket()).unwrap();
        matches_golden("balance", &listing());
    });
}
