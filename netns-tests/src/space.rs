//! A place to stand: a network namespace together with the mounts seen from it.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;

use kernel::{Error, Result};

use crate::sys;

/// Directories that every node has for itself besides /run, so that no state of the host is written.
const OWN: [&str; 4] = ["/var/lib", "/var/log", "/etc", "/opt"];

/// A network namespace and a mount namespace. Cloning shares both; the last clone's drop frees them.
#[derive(Debug, Clone)]
pub struct Space {
    net: Arc<File>,
    mounts: Arc<File>,
}

impl Space {
    /// A new network namespace with its own view of /run (which starts empty), /var/lib, /var/log, /etc and /opt
    /// (layers on a private tmpfs over what the host has).
    pub fn new_node() -> Result<Space> {
        on_a_thread(|| {
            sys::unshare(libc::CLONE_NEWNS | libc::CLONE_NEWNET, "make a node's namespaces")?;
            sys::mount("none", Path::new("/"), "none", libc::MS_REC | libc::MS_PRIVATE, "")?;
            mount_own_directories()?;
            // Refused in some user namespaces; then /sys/class/net shows the host's links.
            let _ = mount_own_sys();
            Self::of_this_thread()
        })
    }

    /// A new network namespace that shares the mounts of `self`.
    pub fn new_net(&self) -> Result<Space> {
        self.run(|| {
            sys::unshare(libc::CLONE_NEWNET, "make a network namespace")?;
            Self::of_this_thread()
        })
    }

    /// The network namespace of `self` as seen among the mounts of `other`.
    #[must_use]
    pub fn with_mounts_of(&self, other: &Space) -> Space {
        Space { net: Arc::clone(&self.net), mounts: Arc::clone(&other.mounts) }
    }

    fn of_this_thread() -> Result<Space> {
        let open = |kind: &str| {
            let path = format!("/proc/thread-self/ns/{kind}");
            File::open(&path).map(Arc::new).map_err(|e| Error::io(format!("open {path}"), e))
        };
        Ok(Space { net: open("net")?, mounts: open("mnt")? })
    }

    /// Runs `work` inside, on a scoped thread that ends with it. Sockets and processes made there belong to the space.
    ///
    /// # Panics
    /// With `work`'s own panic, or when the space cannot be entered.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        on_a_thread(|| {
            self.enter().expect("a space can be entered by who made it");
            work()
        })
    }

    /// Moves the calling thread inside for good.
    pub fn enter(&self) -> Result<()> {
        sys::unshare(libc::CLONE_FS, "stop sharing the working directory")?;
        sys::setns(&self.mounts, libc::CLONE_NEWNS, "enter the lab's mounts")?;
        sys::setns(&self.net, libc::CLONE_NEWNET, "enter the lab's network namespace")
    }

    /// Binds the network namespace to `path` (seen from these mounts), as runtimes do.
    pub fn bind_net(&self, path: &Path) -> Result<()> {
        self.run(|| {
            let io = |e| Error::io(format!("make {}", path.display()), e);
            if let Some(parent) = path.parent() {
                std::fs::create_dir_all(parent).map_err(io)?;
            }
            File::create(path).map_err(io)?;
            sys::mount("/proc/thread-self/ns/net", path, "none", libc::MS_BIND, "")
        })
    }

    /// Undoes [`Space::bind_net`]: the path is gone afterwards.
    pub fn unbind_net(&self, path: &Path) -> Result<()> {
        self.run(|| {
            sys::unmount(path)?;
            std::fs::remove_file(path).map_err(|e| Error::io(format!("remove {}", path.display()), e))
        })
    }

    /// Mounts a tmpfs of `bytes` bytes on `path`, or remounts what is there read-only for `bytes` 0.
    pub fn cramp(&self, path: &Path, bytes: u64) -> Result<()> {
        self.run(|| {
            std::fs::create_dir_all(path).map_err(|e| Error::io(format!("make {}", path.display()), e))?;
            if bytes > 0 {
                return sys::mount("tmpfs", path, "tmpfs", 0, &format!("size={bytes}"));
            }
            sys::mount("tmpfs", path, "tmpfs", libc::MS_RDONLY, "")
        })
    }

    /// Bind-mounts `from` on `to`, making the directory `to`.
    pub fn bind_directory(&self, from: &Path, to: &Path) -> Result<()> {
        self.run(|| {
            std::fs::create_dir_all(to).map_err(|e| Error::io(format!("make {}", to.display()), e))?;
            sys::mount(&from.display().to_string(), to, "none", libc::MS_BIND, "")
        })
    }

    /// Unmounts what is on `path`.
    pub fn unmount(&self, path: &Path) -> Result<()> {
        self.run(|| sys::unmount(path))
    }

    /// Runs a program inside and gives back what it said, whatever its status.
    ///
    /// # Panics
    /// When the program is not installed: a missing tool is a failure, never a skip.
    pub fn output<S: AsRef<OsStr> + Sync>(&self, program: &str, args: &[S], stdin: &[u8]) -> Output {
        self.run(|| {
            let mut child = Command::new(program)
                .args(args)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap_or_else(|e| panic!("the lab needs the program {program}: {e}"));
            let mut input = child.stdin.take().expect("stdin was asked for");
            std::thread::scope(|scope| {
                // A program that ends without reading makes this fail, which is its own business.
                scope.spawn(move || input.write_all(stdin).ok());
                child.wait_with_output().expect("a child can be waited for")
            })
        })
    }

    /// Starts a program inside and leaves it running, its output in `log`.
    ///
    /// # Panics
    /// When the program is not installed.
    pub fn start(&self, program: &str, args: &[&str], log: &Path) -> std::process::Child {
        self.run(|| {
            let file = File::create(log).unwrap_or_else(|e| panic!("make {}: {e}", log.display()));
            let copy = file.try_clone().expect("a file can be shared");
            Command::new(program)
                .args(args)
                .stdin(Stdio::null())
                .stdout(file)
                .stderr(copy)
                .spawn()
                .unwrap_or_else(|e| panic!("the lab needs the program {program}: {e}"))
        })
    }

    /// Runs a command line (split at blanks, no shell) and gives back its stdout.
    ///
    /// # Panics
    /// When it is missing or fails.
    pub fn sh(&self, line: &str) -> String {
        self.try_sh(line).unwrap_or_else(|e| panic!("{e}"))
    }

    /// [`Space::sh`] for a command that may fail.
    pub fn try_sh(&self, line: &str) -> Result<String> {
        let mut words = line.split_whitespace();
        let program = words.next().unwrap_or_default();
        let args: Vec<&str> = words.collect();
        let output = self.output(program, &args, b"");
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        Err(Error::Program {
            command: line.to_owned(),
            status: output.status.code().unwrap_or(-1),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// Runs ip(8) commands, one to a line, as one program.
    pub fn ip_batch(&self, commands: &str) -> Result<()> {
        let output = self.output("ip", &["-batch", "-"], commands.as_bytes());
        if output.status.success() {
            return Ok(());
        }
        Err(Error::Program {
            command: format!("ip -batch - with {commands:?}"),
            status: output.status.code().unwrap_or(-1),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// The text of a file inside, trimmed; empty when it cannot be read.
    pub fn read(&self, path: impl AsRef<Path> + Sync) -> String {
        self.run(|| std::fs::read_to_string(path.as_ref()).unwrap_or_default().trim().to_owned())
    }

    /// Writes a file inside, with its directories.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn write(&self, path: impl AsRef<Path> + Sync, text: &str) {
        let path = path.as_ref();
        self.run(|| {
            if let Some(parent) = path.parent() {
                let _ = std::fs::create_dir_all(parent);
            }
            std::fs::write(path, text).unwrap_or_else(|e| panic!("write {}: {e}", path.display()));
        });
    }

    /// The names in a directory inside, sorted; empty when there is none.
    pub fn list(&self, path: impl AsRef<Path> + Sync) -> Vec<String> {
        self.run(|| {
            let entries = std::fs::read_dir(path.as_ref()).into_iter().flatten().flatten();
            let mut names: Vec<String> =
                entries.map(|e| e.file_name().to_string_lossy().into_owned()).collect();
            names.sort();
            names
        })
    }
}

fn on_a_thread<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let inside = std::thread::Builder::new().name("lab".into()).spawn_scoped(scope, work);
        let inside = inside.expect("a thread can be started");
        inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// /sys of this network namespace, with the host's control groups, which container runtimes need.
fn mount_own_sys() -> Result<()> {
    let (sys, groups, aside) = (Path::new("/sys"), Path::new("/sys/fs/cgroup"), Path::new("/run/.cgroup"));
    let bind = libc::MS_BIND | libc::MS_REC;
    std::fs::create_dir_all(aside).map_err(|e| Error::io(format!("make {}", aside.display()), e))?;
    sys::mount("/sys/fs/cgroup", aside, "none", bind, "")?;
    sys::mount("sysfs", sys, "sysfs", 0, "")?;
    sys::mount("/run/.cgroup", groups, "none", bind, "")?;
    sys::unmount(aside)
}

/// One tmpfs, mounted on /run, carries the layers too.
fn mount_own_directories() -> Result<()> {
    let run = Path::new("/run");
    sys::mount("tmpfs", run, "tmpfs", 0, "mode=755")?;
    for directory in OWN.iter().filter(|d| Path::new(d).is_dir()) {
        let layer = run.join(".layers").join(directory.trim_start_matches('/').replace('/', "-"));
        let (upper, work) = (layer.join("upper"), layer.join("work"));
        for made in [&upper, &work] {
            std::fs::create_dir_all(made).map_err(|e| Error::io(format!("make {}", made.display()), e))?;
        }
        let options = format!("lowerdir={directory},upperdir={},workdir={}", upper.display(), work.display());
        sys::mount("overlay", Path::new(directory), "overlay", 0, &options)?;
    }
    // What is there belongs to the host's root, who is nobody in a user namespace; and a node starts without pods.
    let state = Path::new("/var/lib/cni");
    if state.is_dir() {
        sys::mount("tmpfs", state, "tmpfs", 0, "mode=755")?;
    }
    Ok(())
}
