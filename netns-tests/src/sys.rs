//! The lab's system calls: the only unsafe code of this crate.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;

use kernel::{Error, Result};

fn check(doing: impl Into<String>, status: libc::c_int) -> Result<()> {
    if status == 0 { Ok(()) } else { Err(Error::io(doing, io::Error::last_os_error())) }
}

/// Moves the calling thread into new namespaces. With CLONE_NEWNS the thread also stops sharing its root and
/// working directory with the process, as the kernel demands.
pub(crate) fn unshare(flags: libc::c_int, doing: &str) -> Result<()> {
    // SAFETY: unshare takes no pointer; it changes the calling thread only, which the callers made for that.
    check(doing, unsafe { libc::unshare(flags) })
}

/// Moves the calling thread into the namespace behind `file`.
pub(crate) fn setns(file: &File, kind: libc::c_int, doing: &str) -> Result<()> {
    // SAFETY: setns only reads the descriptor, which outlives the call.
    check(doing, unsafe { libc::setns(file.as_raw_fd(), kind) })
}

/// mount(2).
pub(crate) fn mount(source: &str, target: &Path, kind: &str, flags: libc::c_ulong, data: &str) -> Result<()> {
    let doing = format!("mount {source} on {}", target.display());
    let target = c_path(target)?;
    let (source, kind, data) = (c_text(source)?, c_text(kind)?, c_text(data)?);
    // SAFETY: four NUL-terminated strings that outlive the call.
    let status =
        unsafe { libc::mount(source.as_ptr(), target.as_ptr(), kind.as_ptr(), flags, data.as_ptr().cast()) };
    check(doing, status)
}

/// umount2(2), lazily: users of the mount keep it until they are done.
pub(crate) fn unmount(target: &Path) -> Result<()> {
    let name = c_path(target)?;
    // SAFETY: a NUL-terminated string that outlives the call.
    check(format!("unmount {}", target.display()), unsafe { libc::umount2(name.as_ptr(), libc::MNT_DETACH) })
}

/// Whether the process runs with root's rights.
pub(crate) fn is_root() -> bool {
    // SAFETY: geteuid cannot fail and takes nothing.
    unsafe { libc::geteuid() == 0 }
}

/// Makes the whole process root of a user namespace of its own, so that the lab runs without privilege. Does nothing
/// for root.
///
/// # Errors
/// With the kernel's reason where unprivileged user namespaces are off, or when the process has more than one thread.
pub fn own_user_namespace() -> Result<()> {
    if is_root() {
        return Ok(());
    }
    // SAFETY: neither call can fail or takes anything.
    let (uid, gid) = unsafe { (libc::getuid(), libc::getgid()) };
    unshare(libc::CLONE_NEWUSER, "enter a user namespace of our own (or run as root)")?;
    let write = |file: &str, text: String| {
        std::fs::write(file, text).map_err(|e| Error::io(format!("write {file}"), e))
    };
    write("/proc/self/setgroups", "deny".into())?;
    write("/proc/self/uid_map", format!("0 {uid} 1"))?;
    write("/proc/self/gid_map", format!("0 {gid} 1"))
}

/// One ICMP or ICMPv6 datagram socket; the kernel fills in identifier and checksum.
pub(crate) fn ping_socket(v6: bool) -> Result<std::net::UdpSocket> {
    let (family, protocol) =
        if v6 { (libc::AF_INET6, libc::IPPROTO_ICMPV6) } else { (libc::AF_INET, libc::IPPROTO_ICMP) };
    // SAFETY: plain socket creation; the result is checked before it is owned.
    let fd = unsafe { libc::socket(family, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, protocol) };
    if fd < 0 {
        return Err(Error::io("open a ping socket", io::Error::last_os_error()));
    }
    // SAFETY: fd is a fresh datagram socket that nobody else owns; UdpSocket only sends and receives on it.
    Ok(unsafe { std::net::UdpSocket::from_raw_fd(fd) })
}

/// Makes ping sockets and others of `socket`'s family refuse to send what would have to be fragmented on the way.
pub(crate) fn forbid_fragments(socket: &std::net::UdpSocket, v6: bool) -> Result<()> {
    let (level, option) = if v6 {
        (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER)
    } else {
        (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER)
    };
    set_option(socket.as_raw_fd(), level, option, libc::IP_PMTUDISC_DO, "forbid fragments")
}

fn set_option(
    fd: libc::c_int,
    level: libc::c_int,
    option: libc::c_int,
    value: libc::c_int,
    doing: &str,
) -> Result<()> {
    let size = std::mem::size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the value is an int that outlives the call, and its size is given.
    check(doing, unsafe { libc::setsockopt(fd, level, option, (&raw const value).cast(), size) })
}

/// A socket that sees every frame of `link`, sent and received, waiting at most 20 ms for each.
pub(crate) fn packet_socket(link: &str) -> Result<OwnedFd> {
    let doing = || format!("listen on link {link}");
    let name = c_text(link)?;
    // SAFETY: a NUL-terminated string that outlives the call.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    if index == 0 {
        return Err(Error::io(doing(), io::Error::last_os_error()));
    }
    let every_protocol = (libc::ETH_P_ALL as u16).to_be();
    // SAFETY: plain socket creation; the result is checked before it is owned.
    let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(Error::io(doing(), io::Error::last_os_error()));
    }
    // SAFETY: fd is a fresh socket that nobody else owns.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    // Refused in a user namespace: then bursts may outrun the reader, which costs packets in the picture only.
    let _ = set_option(fd, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, 8 << 20, &doing());
    let limit = libc::timeval { tv_sec: 0, tv_usec: 20_000 };
    let size = std::mem::size_of_val(&limit) as libc::socklen_t;
    // SAFETY: the value is a timeval that outlives the call, and its size is given.
    check(doing(), unsafe {
        libc::setsockopt(fd, libc::SOL_SOCKET, libc::SO_RCVTIMEO, (&raw const limit).cast(), size)
    })?;
    // SAFETY: all-zero bytes are a valid sockaddr_ll.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = every_protocol;
    address.sll_ifindex = index as libc::c_int;
    let size = std::mem::size_of_val(&address) as libc::socklen_t;
    // SAFETY: the address is a sockaddr_ll that outlives the call, and its size is given.
    check(doing(), unsafe { libc::bind(fd, (&raw const address).cast(), size) })?;
    Ok(socket)
}

/// The next frame's bytes that were put into `frame`, and whether this machine sent it; `None` when none came in time.
pub(crate) fn receive_frame(socket: &OwnedFd, frame: &mut [u8]) -> Option<(usize, bool)> {
    // SAFETY: all-zero bytes are a valid sockaddr_ll.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    let mut size = std::mem::size_of_val(&address) as libc::socklen_t;
    // SAFETY: buffer and address are valid for writes of the sizes given, and outlive the call.
    let received = unsafe {
        libc::recvfrom(
            socket.as_raw_fd(),
            frame.as_mut_ptr().cast(),
            frame.len(),
            0,
            (&raw mut address).cast(),
            &raw mut size,
        )
    };
    let length = usize::try_from(received).ok()?;
    Some((length, address.sll_pkttype == libc::PACKET_OUTGOING))
}

/// Makes the program that `command` starts end when the calling *thread* does, however that ends.
pub(crate) fn end_with_this_thread(command: &mut std::process::Command) {
    use std::os::unix::process::CommandExt;
    // SAFETY: the closure runs between fork and exec and only makes one async-signal-safe system call.
    unsafe {
        command.pre_exec(|| match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        });
    }
}

/// A descriptor of the child `pid`, which the caller has not waited for: it keeps meaning this very process.
pub(crate) fn pidfd(pid: u32) -> Result<OwnedFd> {
    // SAFETY: pidfd_open takes two numbers.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    if fd < 0 {
        return Err(Error::io(format!("open process {pid}"), io::Error::last_os_error()));
    }
    // SAFETY: fd is a fresh descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as libc::c_int) })
}

/// Sends `signal` to the process behind `pidfd`.
pub(crate) fn send_signal(pidfd: &OwnedFd, signal: libc::c_int) -> Result<()> {
    let none = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: the descriptor outlives the call; a null siginfo is what kill(2) sends.
    let status = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, none, 0) };
    check(format!("send signal {signal}"), status as libc::c_int)
}

/// Makes the program that `command` starts stop at its first instruction, traced by the calling thread.
pub(crate) fn ask_to_be_traced(command: &mut std::process::Command) {
    use std::os::unix::process::CommandExt;
    // SAFETY: the closure runs between fork and exec and only makes one async-signal-safe system call.
    unsafe {
        command.pre_exec(|| match libc::ptrace(libc::PTRACE_TRACEME) {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        });
    }
}

/// Traces the program started by [`ask_to_be_traced`] on this thread, with all its threads and children, to its end.
/// `judge` sees the number of every system call about to be made, whoever makes it; its first `Some` kills them all
/// before that call does anything. Gives what `judge` said and the program's wait status.
///
/// # Panics
/// When the program cannot be traced.
pub(crate) fn trace_to_the_end<T>(
    program: u32,
    mut judge: impl FnMut(libc::c_long) -> Option<T>,
) -> (Option<T>, libc::c_int) {
    let program = program as libc::pid_t;
    let (mut verdict, mut status_of_program) = (None, 0);
    let mut is_started = false;
    loop {
        let mut status = 0;
        // SAFETY: waitpid writes the status it is given; __WNOTHREAD keeps other threads' children out of it.
        let pid = unsafe { libc::waitpid(-1, &mut status, libc::__WALL | libc::__WNOTHREAD) };
        if pid < 0 {
            return (verdict, status_of_program);
        }
        if !libc::WIFSTOPPED(status) {
            if pid == program {
                status_of_program = status;
            }
            continue;
        }
        if !is_started {
            is_started = true;
            let options = libc::PTRACE_O_TRACESYSGOOD
                | libc::PTRACE_O_TRACECLONE
                | libc::PTRACE_O_TRACEFORK
                | libc::PTRACE_O_TRACEVFORK
                | libc::PTRACE_O_TRACEEXEC
                | libc::PTRACE_O_EXITKILL;
            ptrace(libc::PTRACE_SETOPTIONS, pid, options as usize).expect("a stopped child can be traced");
        }
        let signal = libc::WSTOPSIG(status);
        if signal == libc::SIGTRAP | 0x80
            && verdict.is_none()
            && let Some(number) = syscall_about_to_be_made(pid)
        {
            verdict = judge(number);
        }
        if verdict.is_some() {
            // SAFETY: kill takes no pointer; pid is a stopped tracee of this thread.
            unsafe { libc::kill(pid, libc::SIGKILL) };
            if pid != program {
                // SAFETY: as above; the program itself cannot have been waited for while it has running threads.
                unsafe { libc::kill(program, libc::SIGKILL) };
            }
        }
        // Stops of the tracing itself are not passed on; signals meant for the program are.
        let is_own = signal == libc::SIGTRAP | 0x80 || signal == libc::SIGTRAP || signal == libc::SIGSTOP;
        let pass_on = if is_own { 0 } else { signal as usize };
        // A tracee that was killed meanwhile is gone, which the next wait tells.
        let _ = ptrace(libc::PTRACE_SYSCALL, pid, pass_on);
    }
}

/// The system call that a stopped thread is entering; `None` when it is leaving one.
fn syscall_about_to_be_made(pid: libc::pid_t) -> Option<libc::c_long> {
    let mut state = std::mem::MaybeUninit::<libc::ptrace_syscall_info>::zeroed();
    // SAFETY: the kernel writes at most the given size into the struct; zeroed bytes are valid for it.
    let written = unsafe {
        libc::ptrace(
            libc::PTRACE_GET_SYSCALL_INFO,
            pid,
            std::mem::size_of::<libc::ptrace_syscall_info>(),
            state.as_mut_ptr(),
        )
    };
    if written <= 0 {
        return None;
    }
    // SAFETY: initialised by zeroed() and then by the kernel.
    let state = unsafe { state.assume_init() };
    if state.op != libc::PTRACE_SYSCALL_INFO_ENTRY {
        return None;
    }
    // SAFETY: op says that the union holds `entry`.
    Some(unsafe { state.u.entry.nr } as libc::c_long)
}

fn ptrace(request: libc::c_uint, pid: libc::pid_t, data: usize) -> io::Result<()> {
    // SAFETY: these requests take no address and a number as data.
    match unsafe { libc::ptrace(request, pid, 0_usize, data) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn c_text(text: &str) -> Result<std::ffi::CString> {
    std::ffi::CString::new(text).map_err(|_| Error::Invalid { what: format!("{text:?} holds a NUL") })
}

fn c_path(path: &Path) -> Result<std::ffi::CString> {
    use std::os::unix::ffi::OsStrExt;
    std::ffi::CString::new(path.as_os_str().as_bytes())
        .map_err(|_| Error::Invalid { what: format!("{} holds a NUL", path.display()) })
}

/// Keeps the calling thread on the first of the processors that it may use, so that threads that are compared share what
/// else runs there.
pub fn pin_to_one_processor() {
    // SAFETY: all zeroes are a valid, empty cpu_set_t, and both calls are given its size; a thread always exists to itself.
    unsafe {
        let mut allowed: libc::cpu_set_t = std::mem::zeroed();
        if libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &raw mut allowed) != 0 {
            return;
        }
        let most = usize::try_from(libc::CPU_SETSIZE).unwrap_or(0);
        let Some(first) = (0..most).find(|number| libc::CPU_ISSET(*number, &allowed)) else { return };
        let mut one: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(first, &mut one);
        // Refused, it is merely less exact.
        let _ = libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const one);
    }
}
