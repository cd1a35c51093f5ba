//! How long it takes to connect through a ClusterIP, pod to pod: several clusters in turn, so that whatever else the machine
//! does hits all of them.

use std::cmp::Ordering;
use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use lab::cluster::Joined;

use crate::measure::Stage;
use crate::objects::real;

const CLUSTER_IP: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 97, 0, 1));
/// Connections in a row before it is another's turn.
const TURN: usize = 10;
const TURNS: usize = 1_000;
/// Turns that are not counted.
const WARM: usize = 50;
/// Into so many parts the run is cut to see how far medians are apart by chance.
pub const PARTS: usize = 10;

/// Connects through each stage's proxy in turn; every duration, by stage, in order.
pub fn in_turn(stages: &[&Stage]) -> Vec<Vec<Duration>> {
    let clients: Vec<Joined> = stages.iter().map(|stage| client(stage)).collect();
    std::thread::scope(|scope| {
        let workers: Vec<_> = clients
            .iter()
            .map(|client| {
                let (ask, asked) = mpsc::channel::<()>();
                let (tell, told) = mpsc::channel();
                scope.spawn(move || {
                    client.pod.run(move || {
                        // All on the same one: what else runs there then delays all of them alike.
                        lab::pin_to_one_processor();
                        while asked.recv().is_ok() {
                            let turn: Vec<Duration> = (0..TURN).map(|_| once()).collect();
                            let _ = tell.send(turn);
                        }
                    });
                });
                (ask, told)
            })
            .collect();
        let mut took = vec![Vec::new(); workers.len()];
        for turn in 0..WARM + TURNS {
            for place in 0..workers.len() {
                // Nobody always comes after the same one.
                let which = if turn % 2 == 0 { place } else { workers.len() - 1 - place };
                let (ask, told) = &workers[which];
                ask.send(()).expect("a client waits for its turn");
                let one = told.recv().expect("a client tells what it found");
                if turn >= WARM {
                    took[which].extend(one);
                }
            }
        }
        took
    })
}

/// By how many percent connections of `many` take longer than those of `few`: the median over all turns, each of which is
/// compared with the one right before or after it; and the least and the most of the parts.
pub fn compared(few: &[Duration], many: &[Duration]) -> (f64, f64, f64) {
    let turns = few.chunks(TURN).zip(many.chunks(TURN));
    let above = |(few, many)| median::<Duration>(many).as_secs_f64() / median::<Duration>(few).as_secs_f64();
    let ratios: Vec<f64> = turns.map(above).collect();
    let percent = |ratios: &[f64]| (median(ratios) - 1.0) * 100.0;
    let parts: Vec<f64> = ratios.chunks(ratios.len().div_ceil(PARTS).max(1)).map(percent).collect();
    let least = parts.iter().copied().fold(f64::INFINITY, f64::min);
    let most = parts.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    (percent(&ratios), least, most)
}

/// The one in the middle.
pub fn median<T: Copy + PartialOrd + Default>(values: &[T]) -> T {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(|a, b| a.partial_cmp(b).unwrap_or(Ordering::Equal));
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}

/// A pod that reaches another through the ClusterIP.
fn client(stage: &Stage) -> Joined {
    let (client, backend) = (stage.cluster.pod(0, "client"), stage.cluster.pod(0, "backend"));
    let ip = backend.ips()[0];
    let listener = backend.pod.run(|| TcpListener::bind((ip, 8080))).expect("a listener");
    std::thread::spawn(move || {
        let _pod = backend;
        // To wake a thread elsewhere costs a client more than all rules.
        lab::pin_to_one_processor();
        while let Ok((stream, _)) = listener.accept() {
            drop(stream)
        }
    });
    real(CLUSTER_IP, ip).into_iter().for_each(|object| stage.server.put(object));
    // A packet from before it is programmed would be remembered as going nowhere, and so would a later one from its port.
    stage.until_idle();
    let reached = || TcpStream::connect_timeout(&to(), Duration::from_millis(500)).ok();
    stage.until("a Service that answers", || client.pod.run(reached));
    client
}

fn to() -> SocketAddr {
    SocketAddr::new(CLUSTER_IP, 80)
}

fn once() -> Duration {
    let started = Instant::now();
    let mut stream = TcpStream::connect(to()).expect("a connection");
    let took = started.elapsed();
    // The server closes; so it is the one that waits out the connection.
    let _ = stream.read(&mut [0]);
    took
}
