//! Real packets: echo servers that tell whom they saw, clients, pings, and a meter.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::wait::{patience, until};
use crate::{Space, sys};

/// How long an answer that must not come is waited for: a retransmission fits in.
const SILENCE: Duration = Duration::from_millis(1500);

/// How long one TCP connection is tried: what was translated otherwise when its first packet came stays so, and only
/// another one finds what has come meanwhile.
const ONE_FLOW: Duration = Duration::from_millis(3500);

/// A server in some space, answering until it is dropped. TCP and UDP answer with the peer's address as they saw it.
#[derive(Debug)]
pub struct Server {
    /// The address it listens on.
    pub address: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Answers TCP connections to `address` with `<name> <peer>`.
    ///
    /// # Panics
    /// When the address cannot be bound.
    pub fn tcp(space: &Space, address: impl Into<SocketAddr>, name: &str) -> Server {
        let address = address.into();
        let listener = bind(space, address, "tcp", TcpListener::bind);
        listener.set_nonblocking(true).expect("a listener can be made non-blocking");
        let name = name.to_owned();
        let bound = listener.local_addr().expect("a bound socket has an address");
        Self::start(bound, move || match listener.accept() {
            Ok((mut stream, peer)) => {
                let _ = stream.write_all(format!("{name} {}", peer.ip().to_canonical()).as_bytes());
            }
            // Nobody there: the pause between two looks.
            Err(_) => std::thread::sleep(Duration::from_millis(1)),
        })
    }

    /// Answers UDP packets to `address` with `<name> <peer>`.
    ///
    /// # Panics
    /// When the address cannot be bound.
    pub fn udp(space: &Space, address: impl Into<SocketAddr>, name: &str) -> Server {
        let address = address.into();
        let socket = bind(space, address, "udp", UdpSocket::bind);
        socket.set_read_timeout(Some(Duration::from_millis(20))).expect("a time-out can be set");
        let bound = socket.local_addr().expect("a bound socket has an address");
        let name = name.to_owned();
        let mut packet = [0; 64];
        Self::start(bound, move || {
            if let Ok((_, peer)) = socket.recv_from(&mut packet) {
                let _ = socket.send_to(format!("{name} {}", peer.ip().to_canonical()).as_bytes(), peer);
            }
        })
    }

    fn start(address: SocketAddr, mut serve: impl FnMut() + Send + 'static) -> Server {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                serve();
            }
        });
        Server { address, stop, thread: Some(thread) }
    }
}

/// Binds, and where the address is taken goes on trying for a while: a program that another test starts at this moment
/// holds a former server's socket until it is executed.
fn bind<S: Send>(
    space: &Space,
    address: SocketAddr,
    protocol: &str,
    bind: impl Fn(SocketAddr) -> std::io::Result<S> + Sync,
) -> S {
    let bound = until(&format!("{protocol} {address} to be free"), || match space.run(|| bind(address)) {
        Err(e) if e.kind() == ErrorKind::AddrInUse => None,
        other => Some(other),
    });
    bound.unwrap_or_else(|e| panic!("listen on {protocol} {address}: {e}"))
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Connects by TCP and gives the server's answer; tries again until [`patience`] is over, then `None`.
pub fn ask_tcp(from: &Space, to: impl Into<SocketAddr>) -> Option<String> {
    ask_tcp_within(from, to.into(), patience())
}

/// Whether nobody answers a TCP connection to `to` for [`SILENCE`].
pub fn is_silent_tcp(from: &Space, to: impl Into<SocketAddr>) -> bool {
    ask_tcp_within(from, to.into(), SILENCE).is_none()
}

fn ask_tcp_within(from: &Space, to: SocketAddr, limit: Duration) -> Option<String> {
    let deadline = Instant::now() + limit;
    from.run(|| {
        loop {
            let left = deadline.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())?;
            let answer = TcpStream::connect_timeout(&to, left.min(ONE_FLOW)).and_then(|mut stream| {
                stream.set_read_timeout(Some(left))?;
                let mut answer = String::new();
                stream.read_to_string(&mut answer).map(|_| answer)
            });
            match answer {
                Ok(answer) if !answer.is_empty() => return Some(answer),
                // Refused or unreachable for now: the pause between two tries.
                _ => std::thread::sleep(Duration::from_millis(10)),
            }
        }
    })
}

/// Sends UDP packets until one is answered; `None` when none is within [`patience`].
pub fn ask_udp(from: &Space, to: impl Into<SocketAddr>) -> Option<String> {
    UdpClient::new(from, to).ask()
}

/// Whether nobody answers UDP packets to `to` for [`SILENCE`].
pub fn is_silent_udp(from: &Space, to: impl Into<SocketAddr>) -> bool {
    UdpClient::new(from, to).ask_within(SILENCE).is_none()
}

/// A UDP client that keeps its port, so that all its packets are one flow.
#[derive(Debug)]
pub struct UdpClient {
    socket: UdpSocket,
    to: SocketAddr,
}

impl UdpClient {
    /// A client in `from` that talks to `to`.
    ///
    /// # Panics
    /// When no socket can be made.
    pub fn new(from: &Space, to: impl Into<SocketAddr>) -> UdpClient {
        let to = to.into();
        let any: SocketAddr =
            if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }.parse().expect("a valid address");
        let socket = from.run(|| UdpSocket::bind(any)).expect("a UDP socket can be made");
        socket.set_read_timeout(Some(Duration::from_millis(100))).expect("a time-out can be set");
        UdpClient { socket, to }
    }

    /// One question, repeated until [`patience`] is over; the answer.
    pub fn ask(&self) -> Option<String> {
        self.ask_within(patience())
    }

    fn ask_within(&self, limit: Duration) -> Option<String> {
        let deadline = Instant::now() + limit;
        let mut packet = [0; 128];
        while Instant::now() < deadline {
            // An unreachable destination may be reported here and be reachable on the next try.
            let _ = self.socket.send_to(b"?", self.to);
            if let Ok((n, _)) = self.socket.recv_from(&mut packet) {
                return Some(String::from_utf8_lossy(&packet[..n]).into_owned());
            }
        }
        None
    }
}

/// Whether `to` answers an ICMP echo from `from` within [`patience`].
pub fn ping(from: &Space, to: impl Into<IpAddr>) -> bool {
    ping_within(from, to.into(), patience())
}

/// Whether `to` answers no ICMP echo from `from` for [`SILENCE`].
pub fn is_silent_ping(from: &Space, to: impl Into<IpAddr>) -> bool {
    !ping_within(from, to.into(), SILENCE)
}

/// What became of an ICMP echo request of a given size that must not be fragmented.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It was answered.
    Answered,
    /// It was refused as too big, at once or by an ICMP error from the way.
    TooBig,
    /// Neither within [`patience`].
    Lost,
}

/// Sends ICMP echo requests of `bytes` bytes with their IP header, forbidding fragments, until the fate of one is
/// known. The answer has the same size.
///
/// # Panics
/// When `bytes` is less than the headers.
pub fn ping_of_size(from: &Space, to: impl Into<IpAddr>, bytes: usize) -> Fate {
    let to = to.into();
    let (header, kind) = if to.is_ipv6() { (40, 128) } else { (20, 8) };
    assert!(bytes >= header + 8, "{bytes} bytes are less than the headers");
    let mut request = vec![0; bytes - header];
    request[..8].copy_from_slice(&[kind, 0, 0, 0, 0, 0, 0, 1]);
    from.write("/proc/sys/net/ipv4/ping_group_range", "0 0");
    let socket = from.run(|| {
        let socket = sys::ping_socket(to.is_ipv6()).expect("a ping socket can be made");
        sys::forbid_fragments(&socket, to.is_ipv6()).expect("a socket may forbid fragments");
        socket
    });
    socket.set_read_timeout(Some(Duration::from_millis(100))).expect("a time-out can be set");
    let deadline = Instant::now() + patience();
    let mut reply = vec![0; bytes + 1];
    while Instant::now() < deadline {
        match socket.send_to(&request, (to, 0)) {
            Err(e) if e.raw_os_error() == Some(libc::EMSGSIZE) => return Fate::TooBig,
            // Unreachable for now: the pause between two tries.
            Err(_) => std::thread::sleep(Duration::from_millis(10)),
            Ok(_) => match socket.recv_from(&mut reply) {
                Ok((n, _)) if n == request.len() && matches!(reply[0], 0 | 129) => return Fate::Answered,
                Err(e) if e.raw_os_error() == Some(libc::EMSGSIZE) => return Fate::TooBig,
                _ => {}
            },
        }
    }
    Fate::Lost
}

fn ping_within(from: &Space, to: IpAddr, limit: Duration) -> bool {
    let address = SocketAddr::new(to, 0);
    from.write("/proc/sys/net/ipv4/ping_group_range", "0 0");
    let Ok(socket) = from.run(|| sys::ping_socket(to.is_ipv6())) else { return false };
    socket.set_read_timeout(Some(Duration::from_millis(100))).expect("a time-out can be set");
    let request = [if to.is_ipv6() { 128 } else { 8 }, 0, 0, 0, 0, 0, 0, 1, b'b', b'o', b'w'];
    let deadline = Instant::now() + limit;
    let mut reply = [0; 64];
    while Instant::now() < deadline {
        if socket.send_to(&request, address).is_err() {
            // Unreachable for now: the pause between two tries.
            std::thread::sleep(Duration::from_millis(10));
            continue;
        }
        if let Ok((n, _)) = socket.recv_from(&mut reply)
            && n >= request.len()
            && matches!(reply[0], 0 | 129)
        {
            return true;
        }
    }
    false
}

/// Bits per second that one TCP connection carries from `from` to a fresh server at `to` in `server`, counted by
/// the receiver over `time`.
///
/// # Panics
/// When no connection comes about.
pub fn throughput(from: &Space, server: &Space, to: impl Into<SocketAddr>, time: Duration) -> u64 {
    let to = to.into();
    let listener = server.run(|| TcpListener::bind(to)).unwrap_or_else(|e| panic!("listen on {to}: {e}"));
    let port = listener.local_addr().expect("a bound socket has an address").port();
    let to = SocketAddr::new(to.ip(), port);
    let deadline = Instant::now() + time;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut stream = from
                .run(|| TcpStream::connect_timeout(&to, patience()))
                .unwrap_or_else(|e| panic!("{to}: {e}"));
            stream.set_write_timeout(Some(Duration::from_millis(200))).expect("a time-out can be set");
            let block = [0; 16 * 1024];
            while Instant::now() < deadline {
                let _ = stream.write(&block);
            }
        });
        let (mut stream, _) = listener.accept().expect("the sender connects");
        stream.set_read_timeout(Some(Duration::from_millis(100))).expect("a time-out can be set");
        let (started, mut bytes, mut block) = (Instant::now(), 0_u64, vec![0; 64 * 1024]);
        while Instant::now() < deadline {
            bytes += stream.read(&mut block).unwrap_or(0) as u64;
        }
        (bytes as f64 * 8.0 / started.elapsed().as_secs_f64()) as u64
    })
}
