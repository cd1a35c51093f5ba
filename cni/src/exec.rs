//! Running one foreign plug-in: find it, feed it, hear it out, understand how it failed.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use serde::Deserialize;

use crate::{Code, Error, Result, json};

/// One run of a plug-in's program.
#[derive(Debug)]
pub struct Run<'a> {
    /// The program, as [`find`] returned it.
    pub program: &'a Path,
    /// Variables set on top of the current environment.
    pub env: &'a [(String, String)],
    /// What the plug-in reads.
    pub stdin: &'a [u8],
    /// When the plug-in is killed; never, if absent.
    pub deadline: Option<Instant>,
}

/// What a successful plug-in printed.
#[derive(Debug)]
pub struct Output {
    /// The result, or nothing.
    pub stdout: Vec<u8>,
    /// Free-form log.
    pub stderr: Vec<u8>,
}

/// The first regular file called `plugin_type` in `path`. The execute bit is not looked at.
///
/// # Errors
/// Code 7: no name, a name with a slash, or no such file.
pub fn find(plugin_type: &str, path: &[PathBuf]) -> Result<PathBuf> {
    if plugin_type.is_empty() {
        return Err(Error::config("no plugin name provided"));
    }
    if plugin_type.contains('/') || plugin_type.contains('\0') {
        return Err(Error::config(format!("type: {plugin_type:?} is not a plugin name")));
    }
    if path.is_empty() {
        return Err(Error::config(format!("no paths provided to find plugin {plugin_type:?}")));
    }
    let candidates = path.iter().map(|dir| dir.join(plugin_type));
    candidates.into_iter().find(|file| file.is_file()).ok_or_else(|| {
        let dirs: Vec<_> = path.iter().map(|dir| dir.display().to_string()).collect();
        Error::config(format!("failed to find plugin {plugin_type:?} in path [{}]", dirs.join(" ")))
    })
}

impl Run<'_> {
    /// Runs the program to its end.
    ///
    /// # Errors
    /// The plug-in's own error object; else code 999 with whatever the plug-in said, code 5 when it could not be
    /// started or fed, and code 11 when it was killed at the deadline.
    pub fn run(&self) -> Result<Output> {
        let mut child = self.start()?;
        let (sender, closed) = channel();
        let stdin = child.stdin.take();
        let input = self.stdin.to_vec();
        self.beside(&mut child, move || {
            // A plug-in may answer without reading; its answer then tells.
            let _ = stdin.map(|mut pipe| pipe.write_all(&input));
        })?;
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        for (index, pipe) in [stdout.map(pipe), stderr.map(pipe)].into_iter().enumerate() {
            let sender = sender.clone();
            self.beside(&mut child, move || {
                let mut text = Vec::new();
                let result = pipe.map_or(Ok(0), |mut pipe| pipe.read_to_end(&mut text));
                // The receiver is gone once the deadline has passed.
                let _ = sender.send((index, result.map(|_| text)));
            })?;
        }
        let (status, [stdout, stderr]) = self.hear_out(&mut child, &closed)?;
        if status.success() {
            return Ok(Output { stdout, stderr });
        }
        Err(failure(self.program, status, &stdout, &stderr))
    }

    /// Does `work` beside the program's. Where no thread can be had the program is ended.
    fn beside(&self, child: &mut Child, work: impl FnOnce() + Send + 'static) -> Result<()> {
        let started = thread::Builder::new().stack_size(128 * 1024).spawn(work);
        started.map(|_| ()).map_err(|e| {
            let _ = child.kill();
            let _ = child.wait();
            Error::new(Code::IO, format!("run {}: start a thread: {e}", self.program.display()))
        })
    }

    /// A program that is just being replaced on disk is busy: six tries, a second apart.
    fn start(&self) -> Result<Child> {
        const TRIES: u32 = 6;
        let mut command = Command::new(self.program);
        command.envs(self.env.iter().map(|(k, v)| (k, v)));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut tries = 1;
        loop {
            match command.spawn() {
                Ok(child) => return Ok(child),
                Err(e) if e.kind() == std::io::ErrorKind::ExecutableFileBusy && tries < TRIES => {
                    tries += 1;
                    // Nothing tells when the writer is done.
                    thread::sleep(Duration::from_secs(1));
                }
                Err(e) => return Err(Error::new(Code::IO, format!("run {}: {e}", self.program.display()))),
            }
        }
    }

    /// Waits for both pipes to close and for the process to end, or kills it at the deadline.
    fn hear_out(&self, child: &mut Child, closed: &Receiver<Heard>) -> Result<(ExitStatus, [Vec<u8>; 2])> {
        let unreadable = |e: std::io::Error| Error::new(Code::IO, format!("{}: {e}", self.program.display()));
        let mut texts = [Vec::new(), Vec::new()];
        for _ in 0..texts.len() {
            let heard = match self.deadline {
                None => closed.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(at) => closed.recv_timeout(at.saturating_duration_since(Instant::now())),
            };
            match heard {
                Ok((index, text)) => texts[index] = text.map_err(unreadable)?,
                Err(RecvTimeoutError::Timeout) => return Err(self.killed(child)),
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        loop {
            let ended = match self.deadline {
                None => Some(child.wait().map_err(unreadable)?),
                Some(_) => child.try_wait().map_err(unreadable)?,
            };
            match ended {
                Some(status) => return Ok((status, texts)),
                None if self.deadline.is_some_and(|at| at <= Instant::now()) => {
                    return Err(self.killed(child));
                }
                // Its pipes are closed, so it is about to end.
                None => thread::sleep(Duration::from_micros(200)),
            }
        }
    }

    fn killed(&self, child: &mut Child) -> Error {
        // It may have ended just now: then there is nothing to kill, and waiting returns at once.
        let _ = child.kill();
        let _ = child.wait();
        Error::new(Code::TRY_AGAIN, format!("{}: killed, it did not finish in time", self.program.display()))
    }
}

/// One closed pipe: 0 is stdout, 1 is stderr.
type Heard = (usize, std::io::Result<Vec<u8>>);

fn pipe(pipe: impl Read + Send + 'static) -> Box<dyn Read + Send> {
    Box::new(pipe)
}

/// What a plug-in that ended without success meant to say.
fn failure(program: &Path, status: ExitStatus, stdout: &[u8], stderr: &[u8]) -> Error {
    let name = program.file_name().unwrap_or(program.as_os_str()).to_string_lossy();
    let (stdout, stderr) = (String::from_utf8_lossy(stdout), String::from_utf8_lossy(stderr));
    if stdout.trim().is_empty() {
        return Error::internal(match stderr.trim() {
            "" => format!("{name} failed with no error message: {status}"),
            text => format!("{name} failed with no error message: {text:?}"),
        });
    }
    parse_error(stdout.as_bytes()).unwrap_or_else(|e| {
        Error::internal(format!("{name} failed but its error message {:?} is unreadable: {e}", stdout.trim()))
    })
}

/// Reads an error object.
///
/// # Errors
/// Code 6: not JSON, or of the wrong shape.
pub fn parse_error(bytes: &[u8]) -> Result<Error> {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Raw {
        code: u32,
        msg: String,
        details: String,
    }
    let value = json::parse(bytes).map_err(|e| Error::new(Code::DECODE, e.to_string()))?;
    let Raw { code, msg, details } = json::decode(&value)?;
    Ok(Error { code: Code(code), msg, details })
}
