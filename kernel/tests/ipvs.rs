//! What IPVS is told, as bytes, and what it answers: kernels that run the tests rarely have it. proxy/tests/ipvs.rs tells
//! a real one in an emulated machine.

use std::net::SocketAddr;
use std::time::Duration;

use kernel::dual;
use kernel::ipvs::{
    Destination, Family, Forward, Key, Persistence, Scheduler, Service, Timeouts, parse_destination,
    parse_service,
};
use kernel::netlink::{Op, Reply};
use proptest::prelude::*;

const FAMILY: u16 = 0x21;

fn ipvs() -> Family {
    Family::numbered(FAMILY)
}

fn key(address: &str) -> Key {
    Key::Address { address: address.parse().unwrap(), protocol: 6 }
}

fn service(key: Key) -> Service {
    Service { key, scheduler: "rr".to_owned(), scheduler_flags: 0, persistence: None, one_packet: false }
}

/// Message type, then payload, in hexadecimal, a line for each group of four bytes.
fn hex(op: &Op) -> String {
    let bytes: Vec<String> = op.message.payload().iter().map(|byte| format!("{byte:02x}")).collect();
    bytes.chunks(4).map(<[String]>::concat).collect::<Vec<_>>().join(" ")
}

/// The same attributes as an answer: the kernel spells objects as it wants them spelled.
fn answer(op: &Op) -> Reply {
    Reply { kind: op.message.kind(), payload: op.message.payload().to_vec() }
}

#[test]
fn requests_are_these_bytes() {
    let web = key("10.96.0.10:80");
    let sticky = Service {
        scheduler: "sh".to_owned(),
        scheduler_flags: Scheduler::FALLBACK | Scheduler::PORT,
        persistence: Some(Persistence { timeout: Duration::from_secs(10800), prefix: 24 }),
        ..service(web)
    };
    let to = Destination {
        address: "10.1.0.6:8080".parse().unwrap(),
        forward: Forward::Masquerade,
        weight: 1,
        upper: 0,
        lower: 0,
    };
    let mark = Service { one_packet: true, ..service(Key::Mark { family: dual::Family::V6, mark: 7 }) };
    let timeouts = Timeouts { tcp: Some(Duration::from_secs(900)), tcp_fin: None, udp: None };
    // Command and version; then for each attribute its length and type and its bytes. 0050 is 80 and 1f90 is 8080, in
    // network order; all else is in this machine's.
    let of_web =
        "06000100 02000000 06000200 06000000 14000300 0a60000a 00000000 00000000 00000000 06000400 00500000";
    let rows = [
        (
            ipvs().add_service(&sticky),
            format!("01010000 54000180 {of_web} 07000600 73680000 0c000700 19000000 ffffffff 08000800 302a0000 08000900 ffffff00"),
        ),
        (ipvs().delete_service(web), format!("03010000 30000180 {of_web}")),
        (
            ipvs().set_service(&mark),
            "02010000 38000180 06000100 0a000000 08000500 07000000 07000600 72720000 0c000700 04000000 ffffffff \
             08000800 00000000 08000900 80000000"
                .to_owned(),
        ),
        (
            ipvs().add_destination(web, &to),
            format!(
                "05010000 30000180 {of_web} 48000280 14000100 0a010006 00000000 00000000 00000000 06000200 1f900000 \
                 06000b00 02000000 08000300 00000000 08000400 01000000 08000500 00000000 08000600 00000000"
            ),
        ),
        (
            ipvs().delete_destination(key("[fd00:96::10]:80"), "[fd00:10:1::6]:8080".parse().unwrap()),
            "07010000 30000180 06000100 0a000000 06000200 06000000 14000300 fd000096 00000000 00000000 00000010 \
             06000400 00500000 28000280 14000100 fd000010 00010000 00000000 00000006 06000200 1f900000 06000b00 0a000000"
                .to_owned(),
        ),
        (ipvs().set_timeouts(timeouts), "0c010000 08000400 84030000".to_owned()),
    ];
    for (op, expected) in rows {
        assert_eq!(op.message.kind(), FAMILY, "{}", op.doing);
        assert_eq!(hex(&op), expected, "{}", op.doing);
    }
}

#[test]
fn sentences_name_the_virtual_service() {
    let address: SocketAddr = "[fd00::1]:53".parse().unwrap();
    let udp = Key::Address { address, protocol: 17 };
    assert_eq!(ipvs().delete_service(udp).doing, "delete virtual service UDP [fd00::1]:53");
    let to = "[fd00::2]:5353".parse().unwrap();
    let expected = "delete destination [fd00::2]:5353 of virtual service UDP [fd00::1]:53";
    assert_eq!(ipvs().delete_destination(udp, to).doing, expected);
}

#[test]
fn schedulers_are_found_by_their_names() {
    let names: Vec<&str> = Scheduler::ALL.iter().map(|scheduler| scheduler.name()).collect();
    assert_eq!(names.join(" "), "rr wrr lc wlc lblc lblcr sh dh sed nq mh fo ovf twos");
    for scheduler in Scheduler::ALL {
        assert_eq!(Scheduler::named(scheduler.name()), Some(scheduler));
    }
    assert_eq!(Scheduler::named("RR"), None);
}

prop_compose! {
    fn any_key()(v6 in any::<bool>(), mark in prop::option::weighted(0.2, 1u32..), bytes in any::<[u8; 16]>(),
                 port in any::<u16>(), protocol in any::<u8>()) -> Key {
        match (mark, v6) {
            (Some(mark), _) => Key::Mark { family: if v6 { dual::Family::V6 } else { dual::Family::V4 }, mark },
            (None, true) => Key::Address { address: SocketAddr::new(bytes.into(), port), protocol },
            (None, false) => {
                let [a, b, c, d, ..] = bytes;
                Key::Address { address: SocketAddr::new([a, b, c, d].into(), port), protocol }
            }
        }
    }
}

prop_compose! {
    fn any_service()(key in any_key(), scheduler in prop::sample::select(Scheduler::ALL.to_vec()), bits in 0u32..8,
                     persistence in prop::option::of((1u64..1 << 32, any::<u8>())), one_packet in any::<bool>())
                     -> Service {
        let all = key.family().bits();
        let persistence = persistence.map(|(seconds, prefix)| Persistence {
            timeout: Duration::from_secs(seconds),
            prefix: prefix % all + 1,
        });
        Service { key, scheduler: scheduler.name().to_owned(), scheduler_flags: bits << 3, persistence, one_packet }
    }
}

proptest! {
    #[test]
    fn what_is_written_is_read_back(service in any_service(), weight in any::<u32>(), upper in any::<u32>()) {
        let (read, _) = parse_service(&answer(&ipvs().add_service(&service))).expect("a service");
        prop_assert_eq!(&read, &service);
        if let Key::Address { address, .. } = service.key {
            let destination = Destination { address, forward: Forward::Tunnel, weight, upper, lower: 3 };
            let op = ipvs().set_destination(service.key, &destination);
            let read = parse_destination(&answer(&op), service.key.family()).expect("a destination");
            prop_assert_eq!(read.destination, destination);
        }
    }

    #[test]
    fn any_answer_is_read_without_panic(payload in prop::collection::vec(any::<u8>(), 0..300)) {
        for bytes in [payload.clone(), [vec![1, 1, 0, 0, 100, 0, 1, 0], payload.clone()].concat(),
                      [vec![1, 1, 0, 0, 100, 0, 2, 0], payload].concat()] {
            let reply = Reply { kind: FAMILY, payload: bytes };
            let _ = parse_service(&reply);
            let _ = parse_destination(&reply, dual::Family::V4);
            let _ = parse_destination(&reply, dual::Family::V6);
        }
    }
}
