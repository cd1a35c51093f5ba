//! Killing a plug-in at every step, and watching what it executes, by strace(1).

use crate::plugin::{Invocation, Refusal};
use crate::{Node, Space};

/// The system calls at which something can have happened: before each of them the plug-in is killed in turn.
pub const STEPS: &str = "sendto,sendmsg,openat,write,pwrite64,renameat,renameat2,rename,linkat,link,unlinkat,unlink,\
                         mkdirat,mkdir,rmdir,ftruncate,fsync,fdatasync,flock,setns,unshare,ioctl,execve,clone,clone3";

/// Runs `call` under strace and kills it (SIGKILL, before the call has any effect) at the `nth` of [`STEPS`].
/// `None` when it ended before that: all steps were walked.
///
/// # Panics
/// When strace is missing or could not trace.
pub fn run_killed_at(node: &Node, call: &Invocation, nth: u32) -> Option<()> {
    let mut call = call.clone();
    // The first execve is the plug-in's own start, which precedes counting in strace's injection.
    call.under = ["strace", "-f", "-qq", "-o", "/dev/null", "-e"]
        .into_iter()
        .map(str::to_owned)
        .chain([format!("trace={STEPS}"), "-e".to_owned()])
        .chain([format!("inject={STEPS}:signal=SIGKILL:when={nth}")])
        .collect();
    match call.run(node) {
        Err(Refusal { signal: Some(9), .. }) => Some(()),
        Ok(_) => None,
        Err(refusal) => panic!("killing at step {nth}: {refusal}"),
    }
}

/// Runs `call` and gives its outcome with the programs that it executed, itself excluded.
pub fn programs_executed(
    node: &Space,
    call: &Invocation,
) -> (Result<serde_json::Value, Refusal>, Vec<String>) {
    let mut call = call.clone();
    let log = format!("/run/strace.{:?}", std::thread::current().id());
    call.under =
        ["strace", "-f", "-qq", "-o", &log, "-e", "trace=execve,execveat"].map(str::to_owned).to_vec();
    let outcome = call.run(node);
    let lines = node.read(&log);
    let executed = lines.lines().filter(|line| line.contains("execve") && !line.contains("= -1 "));
    (outcome, executed.skip(1).map(str::to_owned).collect())
}
