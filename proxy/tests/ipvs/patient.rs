//! Connections that last.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};

use lab::{Space, wait};

/// Where servers that wait are.
pub const PORT: u16 = 8081;

/// Answers each byte of a connection with its name.
pub struct Patient;

impl Patient {
    pub fn new(space: &Space, name: &'static str) -> Patient {
        let at = SocketAddr::new([0, 0, 0, 0].into(), PORT);
        let listener = space.run(|| TcpListener::bind(at)).expect("a listener");
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                std::thread::spawn(move || {
                    let mut stream = stream.expect("a connection");
                    let mut byte = [0];
                    while stream.read(&mut byte).is_ok_and(|read| read > 0) {
                        stream.write_all(format!("{name}\n").as_bytes()).expect("an answer");
                    }
                });
            }
        });
        Patient
    }
}

/// A connection that lasts.
pub struct Conversation(TcpStream);

impl Conversation {
    pub fn new(from: &Space, to: SocketAddr) -> Conversation {
        let stream = from.run(|| TcpStream::connect_timeout(&to, wait::patience())).expect("a connection");
        stream.set_read_timeout(Some(wait::patience())).expect("a time-out can be set");
        Conversation(stream)
    }

    pub fn ask(&mut self) -> String {
        self.0.write_all(b"?").expect("a question");
        let mut answer = Vec::new();
        let mut byte = [0];
        while self.0.read(&mut byte).expect("an answer") > 0 && byte != *b"\n" {
            answer.extend(byte);
        }
        String::from_utf8_lossy(&answer).into_owned()
    }

    /// Ends it by a reset, which is what an answer brings that nobody has read: after that IPVS remembers it for ten
    /// seconds and not for minutes.
    pub fn reset(mut self) {
        self.0.write_all(b"?").expect("a question");
        self.0.peek(&mut [0]).expect("an answer");
    }
}
