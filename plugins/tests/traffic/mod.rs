//! Real packets between namespaces: servers that tell each client the address they saw, and clients.
#![allow(dead_code, reason = "every test binary compiles its own copy and uses part of it")]

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use kernel::Netns;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long silence must last to count as silence. All is on one machine: what isn't dropped arrives at once.
const SILENCE: Duration = Duration::from_millis(400);

/// A server until it is dropped.
pub struct Server {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Answers TCP connections to `address` in `netns` with the client's address.
    pub fn tcp(netns: &Netns, address: &str) -> Self {
        let listener = netns.run(|| TcpListener::bind(address)).expect("enter").expect(address);
        listener.set_nonblocking(true).expect("non-blocking");
        Self::start(move || match listener.accept() {
            Ok((mut stream, peer)) => {
                let _ = stream.write_all(peer.ip().to_canonical().to_string().as_bytes());
            }
            Err(_) => std::thread::yield_now(),
        })
    }

    /// Answers UDP packets to `address` in `netns` with `name`.
    pub fn udp(netns: &Netns, address: &str, name: &'static str) -> Self {
        let socket = netns.run(|| UdpSocket::bind(address)).expect("enter").expect(address);
        socket.set_read_timeout(Some(Duration::from_millis(20))).expect("a time-out");
        Self::start(move || {
            let mut buffer = [0; 64];
            if let Ok((_, peer)) = socket.recv_from(&mut buffer) {
                let _ = socket.send_to(name.as_bytes(), peer);
            }
        })
    }

    fn start(mut serve: impl FnMut() + Send + 'static) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                serve();
            }
        });
        Server { stop, thread: Some(thread) }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Connects from `netns` to `address` and returns the client address that the server saw.
pub fn ask_tcp(netns: &Netns, address: &str) -> io::Result<IpAddr> {
    ask_tcp_within(netns, address, PATIENCE)
}

fn ask_tcp_within(netns: &Netns, address: &str, patience: Duration) -> io::Result<IpAddr> {
    let address: SocketAddr = address.parse().expect("an address");
    netns
        .run(|| {
            let mut stream = TcpStream::connect_timeout(&address, patience)?;
            stream.set_read_timeout(Some(patience))?;
            let mut seen = String::new();
            stream.read_to_string(&mut seen)?;
            seen.parse().map_err(|_| io::Error::other(format!("not an address: {seen:?}")))
        })
        .expect("enter")
}

/// What the server saw.
#[track_caller]
pub fn reaches(netns: &Netns, address: &str) -> IpAddr {
    ask_tcp(netns, address).unwrap_or_else(|error| panic!("{address} is not reached: {error}"))
}

/// Refused, or no answer.
#[track_caller]
pub fn is_out_of_reach(netns: &Netns, address: &str) {
    if let Ok(seen) = ask_tcp_within(netns, address, SILENCE) {
        panic!("{address} is reached, as {seen}");
    }
}

/// A UDP client that keeps its port.
pub struct UdpClient {
    socket: UdpSocket,
}

impl UdpClient {
    /// A client in `netns` that talks to `server`.
    pub fn new(netns: &Netns, server: &str) -> Self {
        let any = if server.starts_with('[') { "[::]:0" } else { "0.0.0.0:0" };
        let socket = netns.run(|| UdpSocket::bind(any)).expect("enter").expect("a port");
        socket.connect(server).expect(server);
        socket.set_read_timeout(Some(Duration::from_millis(100))).expect("a time-out");
        UdpClient { socket }
    }

    /// Sends until somebody answers, and says who; `None` when nobody does.
    pub fn ask(&self) -> Option<String> {
        self.ask_until(Instant::now() + SILENCE, |_| true)
    }

    /// Sends until `who` answers.
    #[track_caller]
    pub fn hears(&self, who: &str) {
        let heard = self.ask_until(Instant::now() + PATIENCE, |name| name == who);
        assert!(heard.is_some(), "{who} never answered");
    }

    fn ask_until(&self, deadline: Instant, is_it: impl Fn(&str) -> bool) -> Option<String> {
        let mut buffer = [0; 64];
        while Instant::now() < deadline {
            let _ = self.socket.send(b"?");
            let Ok(length) = self.socket.recv(&mut buffer) else { continue };
            let name = String::from_utf8_lossy(&buffer[..length]).into_owned();
            if is_it(&name) {
                return Some(name);
            }
        }
        None
    }
}
