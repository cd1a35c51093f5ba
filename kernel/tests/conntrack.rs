//! Forgetting real flows, each test in a network namespace of its own. Needs root.

#[allow(dead_code, reason = "this test needs part of it")]
mod netns;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};

use kernel::conntrack::{self, Filter};
use kernel::link::{self, LinkId, Switch};
use kernel::netlink::{Protocol, Socket};
use kernel::nft::{Base, Batch, Chain, ChainKind, Family, Hook, Rule, Table};
use netns::in_new_netns;

const TCP: u8 = 6;
const UDP: u8 = 17;
const SCTP: u8 = 132;

/// A namespace with lo up, tracked flows, two UDP flows over IPv4, one over IPv6, and one TCP flow.
fn with_flows(test: impl FnOnce(&mut Socket) + Send) {
    in_new_netns(|| {
        let lo = LinkId { index: 1, name: "lo".into() };
        Socket::open(Protocol::Route).unwrap().apply(&[link::set_up(&lo, Switch::On)]).unwrap();
        let mut netfilter = Socket::open(Protocol::Netfilter).unwrap();
        let table = Table::new(Family::Inet, "tracking");
        let mut batch = Batch::new();
        batch.add_table(&table);
        batch.add_chain(&table, &Chain::base("output", Base::new(ChainKind::Filter, Hook::Output, 0)));
        batch.add_rule(&table, "output", &Rule::new().ct_established_or_related().accept());
        batch.commit(&mut netfilter).unwrap();
        assert_eq!(conntrack::count(&mut netfilter).unwrap(), 0);
        assert_eq!(conntrack::flush(&mut netfilter, &Filter::default()).unwrap(), 0);

        let flow = |from: &str, to: &str| {
            let (sender, receiver) = (UdpSocket::bind(from).unwrap(), UdpSocket::bind(to).unwrap());
            sender.send_to(b"x", to).unwrap();
            receiver.recv(&mut [0; 1]).unwrap();
        };
        flow("127.0.0.1:4000", "127.0.0.5:5353");
        flow("127.0.0.1:4001", "127.0.0.6:5354");
        flow("[::1]:4000", "[::1]:5353");
        let listener = TcpListener::bind("127.0.0.5:5353").unwrap();
        let mut client = TcpStream::connect("127.0.0.5:5353").unwrap();
        client.write_all(b"x").unwrap();
        listener.accept().unwrap().0.read_exact(&mut [0; 1]).unwrap();
        assert_eq!(conntrack::count(&mut netfilter).unwrap(), 4);
        test(&mut netfilter);
    });
}

fn left_after(socket: &mut Socket, filter: &Filter, flushed: usize) -> u32 {
    assert_eq!(conntrack::flush(socket, filter).unwrap(), flushed, "{filter:?}");
    assert_eq!(conntrack::flush(socket, filter).unwrap(), 0, "a second time: {filter:?}");
    conntrack::count(socket).unwrap()
}

#[test]
fn flows_to_a_udp_port_are_forgotten_in_both_families() {
    with_flows(|socket| {
        let filter = Filter { protocols: vec![UDP], ports: vec![5353, 9999], ..Filter::default() };
        assert_eq!(left_after(socket, &filter, 2), 2);
    });
}

#[test]
fn flows_of_an_address_are_forgotten_but_not_its_tcp_connections() {
    with_flows(|socket| {
        let of = |ip: &str| vec![ip.parse().unwrap()];
        let filter = Filter { protocols: vec![UDP, SCTP], addresses: of("127.0.0.5"), ..Filter::default() };
        assert_eq!(left_after(socket, &filter, 1), 3);
        let filter = Filter { protocols: vec![UDP, SCTP], addresses: of("::1"), ..Filter::default() };
        assert_eq!(left_after(socket, &filter, 1), 2);
    });
}

#[test]
fn a_narrow_question_is_answered_by_the_kernel() {
    with_flows(|socket| {
        let address = vec!["127.0.0.1".parse().unwrap()];
        let filter = Filter { protocols: vec![UDP], ports: vec![5354], addresses: address.clone() };
        assert_eq!(left_after(socket, &filter, 1), 3);
        let filter = Filter { protocols: vec![TCP], ports: vec![], addresses: address };
        assert_eq!(left_after(socket, &filter, 1), 2);
    });
}
