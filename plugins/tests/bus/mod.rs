//! The serving side of D-Bus, as much as a fake service takes: little-endian calls with text arguments only. The bus
//! between it and the plug-in is the real one, and refuses messages that aren't well formed.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

/// A call of the service.
pub struct Call {
    /// The interface.
    pub interface: String,
    /// The method.
    pub member: String,
    /// Its arguments.
    pub arguments: Vec<String>,
    sender: String,
    serial: u32,
}

/// What the service says.
pub enum Answer {
    /// A text.
    Text(String),
    /// A truth.
    Boolean(bool),
    /// A refusal: its name and its text.
    Error(&'static str, String),
}

impl Answer {
    /// firewalld's way to refuse.
    pub fn exception(text: String) -> Self {
        Answer::Error("org.fedoraproject.FirewallD1.Exception", text)
    }
}

/// A connection that owns names.
pub struct Service {
    stream: UnixStream,
    serial: u32,
}

impl Service {
    /// Connects to the bus.
    pub fn connect(socket: &Path) -> Self {
        let mut stream = UnixStream::connect(socket).expect("the bus listens");
        stream.write_all(b"\0AUTH EXTERNAL\r\nDATA\r\nBEGIN\r\n").expect("write");
        let mut lines = 0;
        while lines < 2 {
            let mut byte = [0];
            stream.read_exact(&mut byte).expect("the bus answers");
            lines += u32::from(byte[0] == b'\n');
        }
        let mut service = Service { stream, serial: 0 };
        service.ask_bus("Hello", "", &[]);
        service
    }

    /// Takes a name.
    pub fn own(&mut self, name: &str) {
        let mut body = text(name);
        body.resize(body.len().next_multiple_of(4), 0);
        body.extend_from_slice(&4u32.to_le_bytes());
        self.ask_bus("RequestName", "su", &body);
    }

    fn ask_bus(&mut self, member: &str, signature: &str, body: &[u8]) {
        let fields = [
            (1, 'o', "/org/freedesktop/DBus"),
            (2, 's', "org.freedesktop.DBus"),
            (3, 's', member),
            (6, 's', "org.freedesktop.DBus"),
            (8, 'g', signature),
        ];
        self.send(1, None, &fields, body);
        while self.read().0 != 2 {}
    }

    /// The next call; none when the bus has ended.
    pub fn next_call(&mut self) -> Option<Call> {
        loop {
            let mut peek = [0];
            if !matches!(self.stream.read(&mut peek), Ok(1)) {
                return None;
            }
            let (kind, call) = self.read_after(peek[0]);
            if kind == 1 {
                return Some(call);
            }
        }
    }

    /// Answers `call`.
    pub fn answer(&mut self, call: &Call, answer: Answer) {
        let to = |signature| [(6, 's', call.sender.as_str()), (8, 'g', signature)];
        match answer {
            Answer::Text(value) => self.send(2, Some(call.serial), &to("s"), &text(&value)),
            Answer::Boolean(value) => {
                self.send(2, Some(call.serial), &to("b"), &u32::from(value).to_le_bytes());
            }
            Answer::Error(name, value) => {
                let fields = [(4, 's', name), to("s")[0], to("s")[1]];
                self.send(3, Some(call.serial), &fields, &text(&value));
            }
        }
    }

    fn send(&mut self, kind: u8, reply_to: Option<u32>, fields: &[(u8, char, &str)], body: &[u8]) {
        self.serial += 1;
        let mut header = Vec::new();
        if let Some(serial) = reply_to {
            header.extend_from_slice(&[5, 1, b'u', 0]);
            header.extend_from_slice(&serial.to_le_bytes());
        }
        for (field, kind, value) in fields.iter().filter(|(_, kind, value)| *kind != 'g' || !value.is_empty())
        {
            header.resize(header.len().next_multiple_of(8), 0);
            header.extend_from_slice(&[*field, 1, *kind as u8, 0]);
            match kind {
                'g' => {
                    header.push(u8::try_from(value.len()).expect("short"));
                    header.extend_from_slice(value.as_bytes());
                    header.push(0);
                }
                _ => header.extend_from_slice(&text(value)),
            }
        }
        let length = |bytes: &[u8]| u32::try_from(bytes.len()).expect("short").to_le_bytes();
        let fixed =
            [&[b'l', kind, 0, 1][..], &length(body), &self.serial.to_le_bytes(), &length(&header)].concat();
        header.resize(header.len().next_multiple_of(8), 0);
        self.stream.write_all(&[fixed, header, body.to_vec()].concat()).expect("the bus takes it");
    }

    fn read(&mut self) -> (u8, Call) {
        let mut first = [0];
        self.stream.read_exact(&mut first).expect("the bus answers");
        self.read_after(first[0])
    }

    fn read_after(&mut self, first: u8) -> (u8, Call) {
        assert_eq!(first, b'l');
        let mut fixed = [0; 15];
        self.stream.read_exact(&mut fixed).expect("a whole message");
        let number = |at: usize| u32::from_le_bytes(fixed[at - 1..at + 3].try_into().expect("four bytes"));
        let (body_length, serial, fields_length) = (number(4) as usize, number(8), number(12) as usize);
        let mut rest = vec![0; fields_length.next_multiple_of(8) + body_length];
        self.stream.read_exact(&mut rest).expect("a whole message");
        let mut call = Call {
            interface: String::new(),
            member: String::new(),
            arguments: Vec::new(),
            sender: String::new(),
            serial,
        };
        let mut at = 0;
        let mut signature = String::new();
        while at < fields_length {
            at = at.next_multiple_of(8);
            let (field, kind) = (rest[at], rest[at + 2]);
            at += 4;
            let value = match kind {
                b'u' => {
                    at += 4;
                    continue;
                }
                b'g' => {
                    let length = usize::from(rest[at]);
                    let value = String::from_utf8(rest[at + 1..at + 1 + length].to_vec()).expect("text");
                    at += length + 2;
                    value
                }
                _ => read_text(&rest, &mut at),
            };
            match field {
                2 => call.interface = value,
                3 => call.member = value,
                7 => call.sender = value,
                8 => signature = value,
                _ => {}
            }
        }
        let mut at = fields_length.next_multiple_of(8);
        for _ in signature.chars().take_while(|kind| *kind == 's') {
            at = at.next_multiple_of(4);
            call.arguments.push(read_text(&rest, &mut at));
        }
        (fixed[0], call)
    }
}

fn text(value: &str) -> Vec<u8> {
    let mut bytes = u32::try_from(value.len()).expect("short").to_le_bytes().to_vec();
    bytes.extend_from_slice(value.as_bytes());
    bytes.push(0);
    bytes
}

fn read_text(bytes: &[u8], at: &mut usize) -> String {
    let length = u32::from_le_bytes(bytes[*at..*at + 4].try_into().expect("four bytes")) as usize;
    let value = String::from_utf8(bytes[*at + 4..*at + 4 + length].to_vec()).expect("text");
    *at += 5 + length;
    value
}
