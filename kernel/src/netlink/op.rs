//! One request, and which of its refusals are none.

use super::answer::Answer;
use super::message::Message;
use crate::{Errno, Error, Result};

/// One request with the sentence that says what it does, for errors: "add address 10.1.0.1/24 to cni0".
#[derive(Debug, Clone)]
pub struct Op {
    /// What is being done, on what.
    pub doing: String,
    /// The request.
    pub message: Message,
    tolerate: Tolerate,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tolerate {
    Nothing,
    Present,
    Absent,
    Unsupported,
}

impl Op {
    /// A request whose every refusal is an error.
    pub fn new(doing: impl Into<String>, message: Message) -> Self {
        Op { doing: doing.into(), message, tolerate: Tolerate::Nothing }
    }

    /// EEXIST is success: the thing is there.
    #[must_use]
    pub fn or_present(mut self) -> Self {
        self.tolerate = Tolerate::Present;
        self
    }

    /// Absence is success: the thing is gone ([`Error::is_absent`]).
    #[must_use]
    pub fn or_absent(mut self) -> Self {
        self.tolerate = Tolerate::Absent;
        self
    }

    /// A kernel that cannot do it is success: it was wished for, not needed ([`Error::is_unsupported`]).
    #[must_use]
    pub fn or_unsupported(mut self) -> Self {
        self.tolerate = Tolerate::Unsupported;
        self
    }

    /// Success or error, as this request takes the kernel's `answer`.
    pub(super) fn judge(&self, answer: Answer) -> Result<()> {
        if answer.errno == 0 {
            return Ok(());
        }
        let error =
            Error::Kernel { doing: self.doing.clone(), errno: Errno(answer.errno), hint: answer.hint };
        match self.tolerate {
            Tolerate::Present if error.is_present() => Ok(()),
            Tolerate::Absent if error.is_absent() => Ok(()),
            Tolerate::Unsupported if error.is_unsupported() => Ok(()),
            _ => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn presence_and_absence_are_success_only_where_they_are_wished() {
        type Row = (fn(Op) -> Op, i32, bool);
        let rows: [Row; 6] = [
            (|op| op, 0, true),
            (|op| op, libc::EEXIST, false),
            (Op::or_present, libc::EEXIST, true),
            (Op::or_present, libc::ENOENT, false),
            (Op::or_absent, libc::ENODEV, true),
            (Op::or_absent, libc::EBUSY, false),
        ];
        for (index, (make, errno, fine)) in rows.into_iter().enumerate() {
            let op = make(Op::new("try", Message::new(16, 0, &[])));
            assert_eq!(op.judge(Answer { errno, hint: String::new() }).is_ok(), fine, "row {index}");
        }
    }
}
