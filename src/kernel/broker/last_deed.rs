//! What a helper did last, and the answer to it should the supervisor have ended before it could give it: what was done once is not
//! done again, and the caller gets its result.
//!
//! Where calls do not wait killable a signal may have cancelled the call meanwhile, and it comes again under another id, which the
//! helper does not know. So it leaves word of what the call returned, in sealed memory in the place of its standard output, and stays
//! a while; the next supervisor finds the helper by the call's slot, takes the word ([`word_left`]) and ends it. Of a file that was made
//! and opened no word is left: whoever asks again gets what open(2) gives then.

use std::os::fd::AsRawFd;
use std::os::fd::OwnedFd;

use rustix::fs::Mode;
use rustix::fs::OFlags;
use rustix::fs::SealFlags;

use crate::kernel::Errno;
use crate::kernel::broker::message::Call;
use crate::kernel::broker::message::Done;
use crate::kernel::broker::message::Operation;
use crate::kernel::broker::perform::Hands;
use crate::kernel::pidfd::Process;
use crate::kernel::sealed_memory;
use crate::kernel::sealed_memory::Purpose;
use crate::kernel::seccomp_notify::Added;
use crate::kernel::seccomp_notify::Answer;
use crate::kernel::seccomp_notify::Delivery;
use crate::kernel::seccomp_notify::Listener;

/// Where word is left.
const STANDARD_OUTPUT: i32 = 1;

/// An operation that was carried out for a call.
#[derive(Debug)]
pub struct LastDeed {
    call: Call,
    outcome: Outcome,
}

#[derive(Debug)]
enum Outcome {
    Value(i64),
    Failed(Errno),
    /// A file that was made and opened. `O_PATH`: as long as somebody has it open for writing, nobody can execute it (execve(2),
    /// ETXTBSY).
    Made {
        file: OwnedFd,
        flags: OFlags,
    },
}

impl LastDeed {
    /// What is to be remembered of `done`, which `operation` came to. `None` for what may be done again: an open of what was there.
    pub fn of(call: Option<Call>, operation: &Operation, done: &Result<Done, Errno>, hands: &Hands) -> Option<Self> {
        let call = call?;
        let outcome = match done {
            Ok(Done::Value(value)) => Outcome::Value(*value),
            Ok(Done::Failed(errno)) | Err(errno) => Outcome::Failed(*errno),
            Ok(Done::Again) => return None,
            Ok(Done::Descriptor(opened)) => {
                let flags = operation.making_flags()?;
                let file = hands.open_again(opened.as_raw_fd(), OFlags::PATH).ok()?;
                Outcome::Made { file, flags }
            }
        };
        Some(Self { call, outcome })
    }

    /// Whether the caller may have a descriptor of it already, which only the next supervisor can tell
    /// ([`crate::kernel::placed`]).
    pub fn may_be_placed(&self) -> bool {
        matches!(self.outcome, Outcome::Made { .. })
    }

    /// Whether its caller still waits for the answer.
    pub fn is_waited_for(&self, listener: &Listener) -> bool {
        listener.is_valid(self.call.id)
    }

    /// Answers the call. One that is answered, or that nobody waits for any more under its id, stays as it is: then word of it is
    /// left for the next supervisor, since a call that a signal cancelled comes again. True when somebody may want it.
    pub fn answer(self, listener: &Listener, hands: &Hands) -> bool {
        let Call { id, close_on_exec } = self.call;
        if !listener.is_valid(id) {
            return matches!(self.outcome, Outcome::Value(value) if leave_word(id, value));
        }
        let answer = match self.outcome {
            Outcome::Value(value) => Answer::Value(value),
            Outcome::Failed(errno) => Answer::Errno(errno),
            Outcome::Made { file, flags } => {
                let Ok(opened) = hands.open_again(file.as_raw_fd(), without_making(flags)) else { return false };
                match listener.add_descriptor(id, &opened, close_on_exec) {
                    Ok(Added::Number(number)) => Answer::Value(i64::from(number)),
                    Ok(Added::Refused(errno)) => Answer::Errno(errno),
                    Ok(Added::TargetGone) | Err(_) => return false,
                }
            }
        };
        match (listener.answer(id, answer), answer) {
            (Ok(Delivery::TargetGone), Answer::Value(value)) => leave_word(id, value),
            // nobody is left to be told that it failed
            _ => false,
        }
    }
}

/// Puts memory that says that call `id` returned `value` in the place of this process's standard output, which it does not use.
fn leave_word(id: u64, value: i64) -> bool {
    let bytes = [id.to_le_bytes(), value.to_le_bytes()].concat();
    let word = sealed_memory::make("acctguard-word", &bytes, Purpose::Text);
    word.is_ok_and(|word| sealed_memory::place(&word, STANDARD_OUTPUT).is_ok())
}

/// The id of the last call that `helper` carried out and what it returned, if it left word of it.
#[must_use]
pub fn word_left(helper: &Process) -> Option<(u64, i64)> {
    let word = helper.copy_descriptor(STANDARD_OUTPUT).ok()?;
    let seals = rustix::fs::fcntl_get_seals(&word).ok()?;
    let mut bytes = [[0_u8; size_of::<u64>()]; 2];
    let is_whole = seals.contains(SealFlags::WRITE)
        && rustix::io::pread(&word, bytes.as_flattened_mut(), 0).is_ok_and(|count| count == size_of_val(&bytes));
    let [id, value] = bytes;
    is_whole.then(|| (u64::from_le_bytes(id), i64::from_le_bytes(value)))
}

/// The flags by which what was made is opened once more.
fn without_making(flags: OFlags) -> OFlags {
    flags.difference(OFlags::CREATE | OFlags::EXCL | OFlags::TRUNC | OFlags::TMPFILE | OFlags::NOFOLLOW)
}

impl Hands {
    /// Opens what descriptor `number` of this process leads to once more.
    pub(super) fn open_again(&self, number: i32, flags: OFlags) -> Result<OwnedFd, Errno> {
        rustix::fs::openat(&self.own, number.to_string(), flags | OFlags::CLOEXEC, Mode::empty())
    }
}
