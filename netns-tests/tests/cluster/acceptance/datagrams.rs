//! UDP clients that keep their port: their flow outlives endpoints, and must not lead where nobody is.

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use super::ground::{Ground, answers, at, balanced, balancer_ips, cluster_ips, ready, service};
use super::stories;
use lab::Space;
use lab::traffic::UdpClient;
use lab::wait::until;
use serde_json::json;

const ASK: &[(&str, &str, u16)] = &[("ask", "UDP", 8080)];

fn until_named(client: &UdpClient, name: &str) {
    until(&format!("{name} to answer"), || {
        client.ask().filter(|answer| answer.starts_with(&format!("{name} ")))
    });
}

stories! {
    /// By every kind of address, by everybody, with both policies, to the same node and to another one.
    fn flows_follow_their_service(mode) {
        let ground = Ground::new(mode, 2, 3);
        ground.route_to(&balancer_ips(), 0);
        let web = service("web", 10, &[("ask", "UDP", 80, 30080)]);
        let node_ports = [at(&ground.node_ips(0), 30080), at(&ground.node_ips(1), 30080)].concat();
        let (client, node): (&Space, &Space) = (&ground.client, ground.cluster.node(0));
        let cluster_ip = at(&cluster_ips(10), 80);
        let outside = ground.cluster.outside();
        // Who, where to; the second endpoint is on another node than the first, or on the same.
        let rows: [(&str, &Space, &[SocketAddr], usize); 6] = [
            ("{}", outside, &node_ports, 1),
            ("{}", client, &cluster_ip, 1),
            (r#"{"internalTrafficPolicy": "Local"}"#, client, &cluster_ip, 2),
            ("{}", node, &cluster_ip, 1),
            ("{}", outside, &at(&balancer_ips(), 80), 1),
            (r#"{"externalTrafficPolicy": "Local"}"#, outside, &at(&balancer_ips(), 80), 2),
        ];
        for (words, from, to, second) in rows {
            ground.put(balanced(web.clone(), &serde_json::from_str(words).expect("JSON")));
            ground.slice("web", "1", ASK, &ready(2, [0]));
            answers("UDP", from, to, &["s0"]);
            let clients: Vec<UdpClient> = to.iter().map(|to| UdpClient::new(from, *to)).collect();
            clients.iter().for_each(|client| until_named(client, "s0"));
            ground.slice("web", "1", ASK, &ready(2, [second]));
            clients.iter().for_each(|client| until_named(client, &format!("s{second}")));
            ground.slice("web", "1", &[("ask", "UDP", 8081)], &ready(2, [second]));
            clients.iter().for_each(|client| until_named(client, &format!("s{second}-b")));
        }
    }

    /// Packets sent before there was an endpoint, or the Service at all, lead nowhere for good.
    fn what_came_too_early_is_forgotten(mode) {
        let ground = Ground::new(mode, 2, 1);
        let sockets: Vec<(UdpSocket, SocketAddr)> = at(&cluster_ips(10), 80)
            .into_iter()
            .chain(at(&cluster_ips(11), 80))
            .map(|to| {
                let any: SocketAddr = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }.parse().expect("an address");
                let socket = ground.client.run(|| UdpSocket::bind(any)).expect("a socket");
                socket.set_read_timeout(Some(Duration::from_millis(100))).expect("a time-out");
                (socket, to)
            })
            .collect();
        let ask = |(socket, to): &(UdpSocket, SocketAddr)| {
            // What was refused before is told at the next packet.
            let _ = socket.send_to(b"?", to);
            let mut answer = [0; 64];
            socket.recv_from(&mut answer).is_ok()
        };
        ground.put(service("web", 10, &[("ask", "UDP", 80, 0)]));
        for round in 0..3 {
            sockets.iter().for_each(|socket| assert!(!ask(socket), "nobody is there, round {round}"));
        }
        ground.slice("web", "1", ASK, &ready(2, [0]));
        ground.put(service("late", 11, &[("ask", "UDP", 80, 0)]));
        ground.slice("late", "1", ASK, &ready(2, [0]));
        for socket in &sockets {
            until(&format!("{} to answer the old socket", socket.1), || ask(socket).then_some(()));
        }
        // A Service that goes takes its flows along, and the same clients find the next one.
        ground.delete("web");
        until("the flow to be gone", || (!ask(&sockets[0])).then_some(()));
        let mut again = service("again", 10, &[("ask", "UDP", 80, 0)]);
        again["metadata"]["annotations"] = json!({"again": "yes"});
        ground.put(again);
        ground.slice("again", "1", &[("ask", "UDP", 8081)], &ready(2, [0]));
        until("the next Service", || ask(&sockets[0]).then_some(()));
    }
}
