//! What clients rely on: the same endpoint again, large packets, connections that outlast confusion.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use super::ground::{Ground, answers, ask, at, balanced, balancer_ips, cluster_ips, ready, service};
use super::stories;
use lab::Space;
use lab::wait::{patience, until};
use serde_json::json;

/// Whether one endpoint answers all of many new flows.
fn is_sticky(protocol: &str, from: &Space, to: SocketAddr) -> bool {
    let first = ask(protocol, from, to);
    !first.is_empty() && (0..12).all(|_| ask(protocol, from, to) == first)
}

stories! {
    /// By ClusterIP, NodePort and load balancer, with both policies, over TCP and UDP, on and off while it lives.
    fn affinity_can_be_switched(mode) {
        let ground = Ground::new(mode, 2, 4);
        ground.route_to(&balancer_ips(), 0);
        let ports = [("http", "TCP", 80, 30080), ("ask", "UDP", 80, 30080)];
        let put = |affinity: &str, policy: &str| {
            let words = json!({"sessionAffinity": affinity, "externalTrafficPolicy": policy,
                "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 600}}});
            ground.put(balanced(service("web", 10, &ports), &words));
        };
        ground.slice("web", "1", &[("http", "TCP", 8080), ("ask", "UDP", 8080)], &ready(2, [0, 1, 2, 3]));
        let outside = ground.cluster.outside();
        let (nodes, balancer) = (at(&ground.node_ips(0), 30080), at(&balancer_ips(), 80));
        for (policy, there) in [("Cluster", &["s0", "s1", "s2", "s3"][..]), ("Local", &["s0", "s2"])] {
            let rows: [(&Space, &[SocketAddr], &[&str]); 3] = [
                (&ground.client, &at(&cluster_ips(10), 80), &["s0", "s1", "s2", "s3"]),
                (outside, &nodes, there),
                (outside, &balancer, there),
            ];
            for affinity in ["None", "ClientIP", "None"] {
                put(affinity, policy);
                for (from, to, all) in rows {
                    for (protocol, to) in ["TCP", "UDP"].into_iter().flat_map(|p| to.iter().map(move |to| (p, *to))) {
                        match affinity {
                            "None" => answers(protocol, from, &[to], all),
                            _ => until(&format!("one endpoint alone for {protocol} {to}"), || is_sticky(protocol, from, to).then_some(())),
                        }
                    }
                }
            }
        }
    }

    /// Endpoints are clients of their own Service too, and get every endpoint of it, themselves included.
    fn endpoints_reach_their_own_service(mode) {
        let ground = Ground::new(mode, 2, 2);
        ground.put(service("web", 10, &[("http", "TCP", 80, 30080), ("ask", "UDP", 80, 30080)]));
        ground.slice("web", "1", &[("http", "TCP", 8080), ("ask", "UDP", 8080)], &ready(2, [0, 1]));
        let nodes = at(&ground.node_ips(0), 30080);
        for (protocol, pod) in ["TCP", "UDP"].into_iter().flat_map(|protocol| [(protocol, 0), (protocol, 1)]) {
            answers(protocol, &ground.pods[pod], &at(&cluster_ips(10), 80), &["s0", "s1"]);
            answers(protocol, &ground.pods[pod], &nodes, &["s0", "s1"]);
        }
    }

    /// 2,000 bytes each way, which UDP needs two packets for.
    fn large_requests_pass(mode) {
        let ground = Ground::new(mode, 2, 2);
        ground.put(service("web", 10, &[("http", "TCP", 80, 30080), ("ask", "UDP", 80, 30080)]));
        ground.slice("web", "1", &[("http", "TCP", 9000), ("ask", "UDP", 9000)], &ready(2, [0, 1]));
        ground.pods.iter().for_each(|pod| echo(pod));
        let question: Vec<u8> = (0..2000).map(|at| b'a' + (at % 26) as u8).collect();
        let nodes = at(&ground.node_ips(1), 30080);
        let cluster_ips = at(&cluster_ips(10), 80);
        let rows: [(&Space, &[SocketAddr]); 3] =
            [(&ground.client, &cluster_ips), (ground.cluster.node(0), &cluster_ips), (ground.cluster.outside(), &nodes)];
        for (from, to) in rows {
            for to in to {
                // Several, so that both endpoints get some.
                for _ in 0..6 {
                    until(&format!("TCP {to} to echo"), || (by_tcp(from, *to, &question)? == question).then_some(()));
                    until(&format!("UDP {to} to echo"), || (by_udp(from, *to, &question)? == question).then_some(()));
                }
            }
        }
    }

    /// A packet of the server that is out of the connection's window, and so is nobody's: the client must not see it
    /// untranslated, or it answers with a reset to a server that takes it.
    fn packets_out_of_window_reset_nothing(mode) {
        let ground = Ground::new(mode, 2, 2);
        ground.put(service("web", 10, &[("http", "TCP", 80, 0)]));
        ground.slice("web", "1", &[("http", "TCP", 9000)], &ready(2, [1]));
        let server = &ground.pods[1];
        let own = server.ips().into_iter().find(IpAddr::is_ipv4).expect("an address");
        let listener = server.run(|| TcpListener::bind((own, 9000))).expect("a free port");
        let to = at(&cluster_ips(10), 80)[0];
        let mut client = until("a connection", || ground.client.run(|| TcpStream::connect_timeout(&to, patience())).ok());
        let (mut answering, peer) = listener.accept().expect("the connection");
        for round in 0..10_u32 {
            stray(server, (own, 9000), peer, round * 100_000_000);
            client.write_all(b"?").expect("a question");
            answering.read_exact(&mut [0]).expect("the server is not reset");
            answering.write_all(b"!").expect("an answer");
            client.read_exact(&mut [0]).expect("the client is not reset");
        }
    }
}

/// Gives back what it gets on port 9000, until the test ends.
fn echo(pod: &Space) {
    let any: SocketAddr = "[::]:9000".parse().expect("an address");
    let udp = pod.run(|| UdpSocket::bind(any)).expect("a socket");
    let tcp = pod.run(|| TcpListener::bind(any)).expect("a listener");
    std::thread::spawn(move || {
        let mut packet = [0; 4096];
        while let Ok((length, peer)) = udp.recv_from(&mut packet) {
            let _ = udp.send_to(&packet[..length], peer);
        }
    });
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = tcp.accept() {
            let mut text = [0; 2000];
            let _ = stream.read_exact(&mut text).and_then(|()| stream.write_all(&text));
        }
    });
}

fn by_tcp(from: &Space, to: SocketAddr, question: &[u8]) -> Option<Vec<u8>> {
    let mut stream = from.run(|| TcpStream::connect_timeout(&to, patience())).ok()?;
    stream.set_read_timeout(Some(patience())).ok()?;
    stream.write_all(question).ok()?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok()?;
    Some(answer)
}

fn by_udp(from: &Space, to: SocketAddr, question: &[u8]) -> Option<Vec<u8>> {
    let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = from.run(|| UdpSocket::bind(any)).ok()?;
    socket.set_read_timeout(Some(Duration::from_secs(1))).ok()?;
    socket.send_to(question, to).ok()?;
    let mut answer = vec![0; 4096];
    let (length, _) = socket.recv_from(&mut answer).ok()?;
    answer.truncate(length);
    Some(answer)
}

/// Sends one TCP packet from `from` to `to` with an acknowledgement, one byte and a sequence number out of thin air.
fn stray(space: &Space, from: (IpAddr, u16), to: SocketAddr, sequence: u32) {
    use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
    let (IpAddr::V4(source), IpAddr::V4(destination)) = (from.0, to.ip()) else { panic!("IPv4 alone") };
    let mut segment = Vec::new();
    segment.extend(from.1.to_be_bytes());
    segment.extend(to.port().to_be_bytes());
    segment.extend(sequence.to_be_bytes());
    segment.extend(sequence.to_be_bytes());
    // Five words of header, ACK; window, checksum, no urgent data; one byte.
    segment.extend([0x50, 0x10, 0xff, 0xff, 0, 0, 0, 0, b'x']);
    let mut summed =
        [&source.octets()[..], &destination.octets(), &[0, 6], &(segment.len() as u16).to_be_bytes()]
            .concat();
    summed.extend(&segment);
    summed.push(0);
    let words = summed.chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
    let sum = words.sum::<u32>();
    let folded = (sum & 0xffff) + (sum >> 16);
    let checksum = !((folded & 0xffff) + (folded >> 16)) as u16;
    segment[16..18].copy_from_slice(&checksum.to_be_bytes());
    let socket = space.run(|| {
        // SAFETY: plain system call; the descriptor is owned at once.
        let fd = unsafe { libc::socket(libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_TCP) };
        assert!(fd >= 0, "a raw socket: {}", std::io::Error::last_os_error());
        // SAFETY: just opened, and nobody else's.
        unsafe { OwnedFd::from_raw_fd(fd) }
    });
    let address = libc::sockaddr_in {
        sin_family: libc::AF_INET as libc::sa_family_t,
        sin_port: 0,
        sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(destination.octets()) },
        sin_zero: [0; 8],
    };
    // SAFETY: buffer and address live through the call, and their lengths are theirs.
    let sent = unsafe {
        libc::sendto(
            socket.as_raw_fd(),
            segment.as_ptr().cast(),
            segment.len(),
            0,
            std::ptr::from_ref(&address).cast(),
            size_of_val(&address) as libc::socklen_t,
        )
    };
    assert_eq!(sent, segment.len() as isize, "{}", std::io::Error::last_os_error());
}
