//! Load on a Service: new connections without end, each of which counts.

use std::io::Read;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crate::Space;
use crate::wait::until;

/// New connections to a Service, one after the other, as fast as they go. The first that fails ends its thread.
#[derive(Debug)]
pub struct Load {
    stop: Arc<AtomicBool>,
    made: Arc<AtomicU64>,
    threads: Vec<std::thread::JoinHandle<Vec<String>>>,
}

impl Load {
    /// Begins, from `from` to each of `to` in turn, in four threads.
    pub fn start(from: &Space, to: &[SocketAddr]) -> Load {
        let (stop, made) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let threads = (0..4).map(|at| {
            let (from, to, stop, made) =
                (from.clone(), to[at % to.len()], Arc::clone(&stop), Arc::clone(&made));
            std::thread::spawn(move || from.run(|| connect_again_and_again(to, &stop, &made)))
        });
        Load { threads: threads.collect(), stop, made }
    }

    /// How many were made so far.
    pub fn made(&self) -> u64 {
        self.made.load(Ordering::Relaxed)
    }

    /// Waits for that many more.
    ///
    /// # Panics
    /// When one fails, or they take too long.
    pub fn goes_on(&self, more: u64) {
        let goal = self.made() + more;
        until(&format!("{more} more connections"), || {
            assert!(!self.threads.iter().any(std::thread::JoinHandle::is_finished), "a connection failed");
            (self.made() >= goal).then_some(())
        });
    }

    /// Ends, and gives how many were made and what failed.
    ///
    /// # Panics
    /// When a thread has.
    pub fn end(self) -> (u64, Vec<String>) {
        self.stop.store(true, Ordering::Relaxed);
        let failures = self.threads.into_iter().flat_map(|thread| thread.join().expect("no panic")).collect();
        (self.made.load(Ordering::Relaxed), failures)
    }
}

fn connect_again_and_again(to: SocketAddr, stop: &AtomicBool, made: &AtomicU64) -> Vec<String> {
    while !stop.load(Ordering::Relaxed) {
        let mut answer = String::new();
        let outcome = TcpStream::connect_timeout(&to, Duration::from_secs(20)).and_then(|mut stream| {
            stream.set_read_timeout(Some(Duration::from_secs(20)))?;
            stream.read_to_string(&mut answer)
        });
        match outcome {
            Ok(_) if !answer.is_empty() => made.fetch_add(1, Ordering::Relaxed),
            Ok(_) => return vec![format!("{to}: no answer")],
            Err(error) => return vec![format!("{to}: {error}")],
        };
    }
    Vec::new()
}
