//! A daemon on a node: started, watched, killed, started again.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use crate::{Space, sys, wait};

/// A running program of a space. It is killed when dropped, and with this process, whatever ends it.
#[derive(Debug)]
pub struct Daemon {
    pidfd: OwnedFd,
    pid: u32,
    log: PathBuf,
    /// The thread that started it, waits for it and must live as long: the kernel kills a child with its thread.
    keeper: Option<JoinHandle<ExitStatus>>,
}

/// A program of ours: beside the daemon `$LAB_BOWLINED`, else what `make build` left in `target/release`.
///
/// # Panics
/// When there is none.
pub fn program(name: &str) -> PathBuf {
    let program = place_of(name);
    std::fs::canonicalize(&program).unwrap_or_else(|e| panic!("no {}: {e} (make build)", program.display()))
}

/// [`program`], whether it was built or not.
pub(crate) fn place_of(name: &str) -> PathBuf {
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/release/bowlined");
    std::env::var_os("LAB_BOWLINED").map_or(built, PathBuf::from).with_file_name(name)
}

impl Daemon {
    /// Starts `program` in `space`, with what it says added to the file `log` (seen from this process).
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start(space: &Space, program: &Path, args: &[String], log: &Path) -> Daemon {
        let (tell, told) = mpsc::channel();
        let mut command = Command::new(program);
        command.args(args).env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        let file = std::fs::File::options().create(true).append(true).open(log);
        let file = file.unwrap_or_else(|e| panic!("open {}: {e}", log.display()));
        let copy = file.try_clone().expect("a file can be shared");
        command.stdin(Stdio::null()).stdout(file).stderr(copy);
        sys::end_with_this_thread(&mut command);
        let space = space.clone();
        let keeper = std::thread::spawn(move || {
            space.enter().expect("a space can be entered by who made it");
            let mut child = command.spawn().unwrap_or_else(|e| panic!("cannot start {command:?}: {e}"));
            let pidfd = sys::pidfd(child.id()).expect("a child that was not waited for can be opened");
            let _ = tell.send((child.id(), pidfd));
            child.wait().expect("a child can be waited for")
        });
        let (pid, pidfd) = told.recv().unwrap_or_else(|_| panic!("{} did not start", program.display()));
        Daemon { pidfd, pid, log: log.to_owned(), keeper: Some(keeper) }
    }

    /// Its process number.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// All that it and its predecessors with the same log have said.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Whether it is still there.
    pub fn is_running(&self) -> bool {
        self.keeper.as_ref().is_some_and(|keeper| !keeper.is_finished())
    }

    /// Kills it like a power cut (SIGKILL) and waits for its end.
    pub fn kill(mut self) {
        self.end(libc::SIGKILL);
    }

    /// Asks it to end (SIGTERM), waits, and gives its exit code; 128 and more is a signal's.
    ///
    /// # Panics
    /// When it does not end in time.
    pub fn terminate(mut self) -> i32 {
        self.signal(libc::SIGTERM);
        self.exit_code("to end after SIGTERM")
    }

    /// Waits for its own end and gives its exit code; 128 and more is a signal's.
    ///
    /// # Panics
    /// When it does not end in time, naming `what` was waited for.
    pub fn exit_code(&mut self, what: &str) -> i32 {
        let pid = self.pid;
        wait::until(&format!("process {pid} {what}"), || (!self.is_running()).then_some(()));
        let status = self.keeper.take().map(|keeper| keeper.join().expect("the keeper only waits"));
        status.map_or(-1, |status| status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0)))
    }

    /// Stops it in its tracks (SIGSTOP) until [`Daemon::thaw`].
    pub fn freeze(&self) {
        self.signal(libc::SIGSTOP);
    }

    /// Lets it go on.
    pub fn thaw(&self) {
        self.signal(libc::SIGCONT);
    }

    fn signal(&self, signal: i32) {
        // One that has ended needs no signal.
        let _ = sys::send_signal(&self.pidfd, signal);
    }

    fn end(&mut self, signal: i32) {
        self.signal(signal);
        if let Some(keeper) = self.keeper.take() {
            let _ = keeper.join();
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.end(libc::SIGKILL);
        if std::thread::panicking() {
            eprintln!("-------- {}\n{}", self.log.display(), self.log());
        }
    }
}

/// Asks an HTTP server for `path`; its status and body, or `None` when nobody answers.
pub fn http(from: &Space, server: SocketAddr, path: &str) -> Option<(u16, String)> {
    let limit = Duration::from_secs(5);
    let answer = from.run(|| {
        let mut stream = std::net::TcpStream::connect_timeout(&server, limit).ok()?;
        stream.set_read_timeout(Some(limit)).ok()?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: {server}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        Some(answer)
    })?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some((status, body.to_owned()))
}
