//! Many nf_tables requests as one step, all or nothing.

use std::os::fd::AsRawFd;

use super::answer::{NLMSG_ERROR, read_answer};
use super::sockopt::set_option;
use super::{Message, Op, Socket};
use crate::{Error, Result};

const NFNL_MSG_BATCH_BEGIN: u16 = 0x10;
const NFNL_MSG_BATCH_END: u16 = 0x11;
const NFNL_BATCH_GENID: u16 = 1;

impl Socket {
    /// Sends nf_tables requests as one atomic batch: all or nothing.
    ///
    /// With `generation` the kernel refuses the batch (ERESTART) when the ruleset changed since that generation was
    /// read. Only the last request asks for an acknowledgement, so the answers to a large batch can't overflow.
    ///
    /// # Errors
    /// The first refusal in the batch's order; nothing was changed then.
    pub fn transaction(&mut self, subsystem: u16, generation: Option<u32>, ops: &[Op]) -> Result<()> {
        let Some(last_op) = ops.last() else { return Ok(()) };
        let begin = self.next_sequence();
        let mut bytes = Vec::with_capacity(ops.len() * 128 + 64);
        batch_edge(NFNL_MSG_BATCH_BEGIN, subsystem, generation).seal(begin, 0, &mut bytes);
        let first = self.sequence;
        for (index, op) in ops.iter().enumerate() {
            let ack = if index + 1 == ops.len() { libc::NLM_F_ACK as u16 } else { 0 };
            op.message.seal(self.next_sequence(), ack, &mut bytes);
        }
        let last = self.sequence.wrapping_sub(1);
        let end = self.next_sequence();
        batch_edge(NFNL_MSG_BATCH_END, subsystem, None).seal(end, 0, &mut bytes);
        self.ensure_send_buffer(bytes.len());
        self.send(&bytes, &last_op.doing)?;

        let mut failure: Option<Error> = None;
        let mut finished = false;
        while !finished {
            self.receive(&last_op.doing, |of, kind, flags, payload| {
                if kind != NLMSG_ERROR {
                    return true;
                }
                let answer = read_answer(payload, flags);
                let index = of.wrapping_sub(first) as usize;
                if of == begin || of == end {
                    finished |= answer.errno != 0;
                    let whole = Op::new("commit an nf_tables batch", Message::new(0, 0, &[]));
                    failure = failure.take().or(whole.judge(answer).err());
                } else if let Some(op) = ops.get(index) {
                    failure = failure.take().or(op.judge(answer).err());
                    finished |= of == last;
                }
                true
            })?;
        }
        failure.map_or(Ok(()), Err)
    }

    fn ensure_send_buffer(&self, bytes: usize) {
        const DEFAULT: usize = 128 * 1024;
        if bytes > DEFAULT {
            let size = i32::try_from(bytes.saturating_mul(2)).unwrap_or(i32::MAX);
            // Without CAP_NET_ADMIN in the initial user namespace the forced form fails; the plain one is capped.
            if set_option(self.fd.as_raw_fd(), libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, size).is_err() {
                let _ = set_option(self.fd.as_raw_fd(), libc::SOL_SOCKET, libc::SO_SNDBUF, size);
            }
        }
    }
}

fn batch_edge(kind: u16, subsystem: u16, generation: Option<u32>) -> Message {
    let [high, low] = subsystem.to_be_bytes();
    let mut message = Message::new(kind, 0, &[0, 0, high, low]);
    if let Some(generation) = generation {
        message.u32_be(NFNL_BATCH_GENID, generation);
    }
    message
}
