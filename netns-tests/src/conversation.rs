//! A TCP connection that must survive: one side asks, the other answers, all the time, until somebody stops them.

use std::io::{Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::{Space, wait};

/// The pause between an answer and the next question.
const PAUSE: Duration = Duration::from_millis(2);

/// An established connection in permanent use.
#[derive(Debug)]
pub struct Conversation {
    what: String,
    stop: Arc<AtomicBool>,
    answers: Arc<AtomicU64>,
    /// Both ends once more, to be hung up.
    ends: [TcpStream; 2],
    asking: Option<JoinHandle<Result<Duration, String>>>,
    answering: Option<JoinHandle<()>>,
}

impl Conversation {
    /// Connects `from` to a fresh server at `address` of `to` and keeps them talking.
    ///
    /// # Panics
    /// When no connection comes about.
    pub fn start(from: &Space, to: &Space, address: IpAddr) -> Conversation {
        let listener = listen(to, (address, 0).into());
        let server = listener.local_addr().expect("a bound socket has an address");
        Self::with(from, &listener, server)
    }

    /// [`Conversation::start`] through a Service: `from` connects to `frontend`, which leads to a fresh server at `server`
    /// of `to`.
    ///
    /// # Panics
    /// When no connection comes about.
    pub fn through(from: &Space, frontend: SocketAddr, to: &Space, server: SocketAddr) -> Conversation {
        Self::with(from, &listen(to, server), frontend)
    }

    fn with(from: &Space, listener: &TcpListener, server: SocketAddr) -> Conversation {
        let client = from.run(|| connected(server));
        let (served, peer) = listener.accept().expect("the client has connected");
        let (stop, answers) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let ends = [&client, &served].map(|end| end.try_clone().expect("a stream can be shared"));
        let (stopped, counted) = (Arc::clone(&stop), Arc::clone(&answers));
        let answering = std::thread::spawn(move || answer(served));
        let asking = std::thread::spawn(move || ask(client, &stopped, &counted));
        let what = format!("{} > {server}", peer.ip());
        Conversation { what, stop, answers, ends, asking: Some(asking), answering: Some(answering) }
    }

    /// Waits until three more questions were answered: the path carries packets both ways now.
    ///
    /// # Panics
    /// When the connection broke or nothing comes in time.
    pub fn goes_on(&self) {
        let before = self.answers.load(Ordering::Relaxed);
        wait::until(&format!("three more answers in {}", self.what), || {
            let is_over = self.asking.as_ref().is_none_or(JoinHandle::is_finished);
            assert!(!is_over, "the connection {} broke", self.what);
            (self.answers.load(Ordering::Relaxed) > before + 2).then_some(())
        });
    }

    /// Ends it and gives the longest time that an answer took.
    ///
    /// # Panics
    /// When the connection broke.
    pub fn end(mut self) -> Duration {
        let outcome = self.stopped().expect("a conversation ends once");
        outcome.unwrap_or_else(|e| panic!("the connection {} broke: {e}", self.what))
    }

    fn stopped(&mut self) -> Option<Result<Duration, String>> {
        self.stop.store(true, Ordering::Relaxed);
        let outcome = self.asking.take().map(|thread| thread.join().expect("asking does not panic"));
        // Where the path is broken the other side would never hear of the end.
        let _ = self.ends[1].shutdown(Shutdown::Both);
        let _ = self.answering.take().map(JoinHandle::join);
        outcome
    }
}

impl Drop for Conversation {
    fn drop(&mut self) {
        let _ = self.ends[0].shutdown(Shutdown::Both);
        self.stopped();
    }
}

fn listen(space: &Space, address: SocketAddr) -> TcpListener {
    space.run(|| TcpListener::bind(address)).unwrap_or_else(|e| panic!("listen on {address}: {e}"))
}

fn connected(server: SocketAddr) -> TcpStream {
    let stream =
        TcpStream::connect_timeout(&server, wait::patience()).unwrap_or_else(|e| panic!("{server}: {e}"));
    // A retransmission after a lost packet fits in many times.
    stream.set_read_timeout(Some(wait::patience())).expect("a time-out can be set");
    stream.set_nodelay(true).expect("a stream may be hasty");
    stream
}

fn ask(mut stream: TcpStream, stop: &AtomicBool, answers: &AtomicU64) -> Result<Duration, String> {
    let (mut answer, mut longest) = ([0], Duration::ZERO);
    while !stop.load(Ordering::Relaxed) {
        let asked = Instant::now();
        stream.write_all(b"?").and_then(|()| stream.read_exact(&mut answer)).map_err(|e| e.to_string())?;
        longest = longest.max(asked.elapsed());
        answers.fetch_add(1, Ordering::Relaxed);
        // Not a wait: a busy loop would take the machine from those that are tested.
        std::thread::sleep(PAUSE);
    }
    Ok(longest)
}

/// Answers until the other side ends; what goes wrong is seen there.
fn answer(mut stream: TcpStream) {
    let _ = stream.set_nodelay(true);
    let mut question = [0];
    while stream.read_exact(&mut question).is_ok() && stream.write_all(b"!").is_ok() {}
}
