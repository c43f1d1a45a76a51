//! Carries out calls for the process that made them, so that nothing which was decided can be exchanged before the kernel acts.
//!
//! `plan` says what is to be done, on arguments read once ([`remembering`]); a [`Helper`] does it as the process would have.
//! A helper is kept for the namespaces it was started for; one that waits in an open (a FIFO without a reader, a terminal
//! without a carrier) is set aside with its call, and ends with it.
//!
//! Invariants: a call is planned on the same bytes that were decided about; what cannot be carried out for want of a helper is an
//! error here, and policy's to decide. Deliberately absent: any decision about databases.

mod attributes;
mod failure;
pub mod hand;
mod in_flight;
mod layers;
mod mounts;
mod opens;
mod plan;
pub mod quota;
pub mod remembering;
mod waiting;

use std::collections::VecDeque;
use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use crate::kernel::Errno;
use crate::kernel::broker;
use crate::kernel::broker::BrokerError;
use crate::kernel::broker::Call;
use crate::kernel::broker::CredentialError;
use crate::kernel::broker::Credentials;
use crate::kernel::broker::Done;
use crate::kernel::broker::Helper;
use crate::kernel::broker::Home;
use crate::kernel::broker::Mount;
use crate::kernel::broker::Operation as Deed;
use crate::kernel::broker::Starter;
use crate::kernel::foreign_root::Searched;
use crate::kernel::interruption::Watch;
use crate::kernel::placed;
use crate::kernel::seccomp_notify::Added;
use crate::kernel::seccomp_notify::Answer;
use crate::kernel::seccomp_notify::Listener;
use crate::kernel::seccomp_notify::ListenerError;
use crate::kernel::seccomp_notify::Notification;
use crate::kernel::shared_area::Entry;
use crate::kernel::shared_area::Ledger;
use crate::kernel::thread::StatusFile;
use crate::supervise::broker::hand::Hand;
use crate::supervise::broker::plan::Plan;
use crate::supervise::broker::plan::Planner;
use crate::supervise::broker::quota::Quota;
use crate::supervise::broker::remembering::Remembering;
use crate::supervise::broker::waiting::Waiting;
use crate::supervise::decode::Request;
use crate::supervise::decode::abi::Abi;
use crate::supervise::target::Target;
use crate::supervise::target::TargetError;

pub use crate::supervise::broker::failure::CannotCarryOut;
pub use crate::supervise::broker::in_flight::InFlight;
pub use crate::supervise::broker::in_flight::KeptSlot;

/// How long a helper may take to start.
const START_LIMIT: Duration = Duration::from_secs(5);
/// How long a listener waits for a helper before it goes on without it.
const PATIENCE: Duration = Duration::from_millis(50);
/// How often meanwhile it is looked whether the process still waits.
const STEP: Duration = Duration::from_millis(5);
/// How long anything but an open may take, whoever watches over it: a file system that hangs holds up its own container only.
const LONG_PATIENCE: Duration = broker::WORK_LIMIT.saturating_add(Duration::from_secs(10));
/// Bit of CAP_DAC_READ_SEARCH (linux/capability.h).
const CAP_DAC_READ_SEARCH: u32 = 2;

/// What became of a call.
#[derive(Debug, Clone)]
pub enum CarriedOut {
    /// It returned this.
    Value(i64),
    /// It failed so.
    Failed(Errno),
    /// It opened this.
    Opened {
        /// To be put into the process's table.
        file: Arc<OwnedFd>,
        /// Closed on exec there.
        close_on_exec: bool,
    },
    /// It failed with `EFBIG`, and the process is told by a signal, too (setrlimit(2), `RLIMIT_FSIZE`).
    Exceeded,
    /// Somebody exchanged what was decided about: decide again.
    Again,
    /// The kernel may carry it out as it stands: nothing that could be exchanged matters.
    LetGo,
    /// It is answered when it is done, by a thread of its own.
    Later,
    /// Something else waits for the process, which it would leave the call for: answered so.
    Interrupted(Answer),
    /// The process is gone.
    Gone,
}

/// Carries out the calls that one listener delivers.
#[derive(Debug)]
pub struct Broker {
    starter: Starter,
    helpers: Vec<Helper>,
    /// Of threads that made a call lately.
    statuses: VecDeque<StatusFile>,
    waiting: Waiting,
    quota: Arc<Quota>,
    hand: Arc<Hand>,
    in_flight: Option<InFlight>,
}

/// Most helpers kept for one listener: a container's own namespaces, and those its processes make for themselves.
const MAX_HELPERS: usize = 4;

/// Most threads whose status is kept open for one listener.
const MAX_STATUSES: usize = 4;

/// Whose call it is.
#[derive(Debug)]
pub struct Caller {
    credentials: Credentials,
    home: Home,
}

impl Caller {
    /// Whether it may search every directory, by capability.
    #[must_use]
    pub fn searches_everything(&self) -> bool {
        self.credentials.may_search_everything(&self.home)
    }
}

impl Broker {
    /// A broker without helpers yet, which takes no more of them than the container's `quota` has; `starter` starts them.
    #[must_use]
    pub fn new(starter: Starter, quota: Arc<Quota>) -> Self {
        Self {
            starter,
            helpers: Vec::new(),
            statuses: VecDeque::new(),
            waiting: Waiting::default(),
            quota,
            hand: Arc::default(),
            in_flight: None,
        }
    }

    /// The same, for calls that outlive this process.
    #[must_use]
    pub fn in_flight(self, in_flight: InFlight) -> Self {
        Self { in_flight: Some(in_flight), ..self }
    }

    /// Puts `file` into the table of the thread that waits for notification `id`, where the next worker finds it
    /// ([`placed::place`]).
    ///
    /// # Errors
    /// Those of [`placed::place`].
    pub fn place(
        &self,
        listener: &Listener,
        id: u64,
        file: &OwnedFd,
        close_on_exec: bool,
    ) -> Result<Added, ListenerError> {
        // a call that was answered in this thread's place has left the slot to another one
        let note = self.in_flight.as_ref().map(|_| move |number| self.note_placed(number));
        placed::place(listener, id, file, close_on_exec, note)
    }

    /// Puts down beside the call that is served what it means, for the next worker.
    pub fn note_meant(&self, digest: u64) {
        self.note(|ledger| ledger.note_meant(digest));
    }

    /// Puts down beside the call that is served that what it opened is in its thread's table as `number`.
    pub fn note_placed(&self, number: i32) {
        self.note(|ledger| ledger.note_placed(number));
    }

    /// Puts down beside the call that is served that its caller is about to be told what came of it.
    pub fn note_answers(&self) {
        self.note(Ledger::note_answers);
    }

    fn note(&self, note: impl FnOnce(&Ledger)) {
        let Some(in_flight) = &self.in_flight else { return };
        self.hand.notes(|aside| note(aside.as_ref().unwrap_or(&in_flight.ledger)));
    }

    /// Keeps what came of `call` where the next worker finds it until what this gives is dropped: its caller was not told.
    #[must_use]
    pub fn keep_outcome(&self, call: &Notification, meant: u64, value: i64) -> Option<KeptSlot> {
        let entry = Entry { meant, done: Some(value), ..Entry::default() };
        self.in_flight.as_ref()?.keep_as(call, entry).map(KeptSlot)
    }

    /// By which whoever watches over this thread stops what is being carried out.
    #[must_use]
    pub fn hand(&self) -> Arc<Hand> {
        Arc::clone(&self.hand)
    }

    /// Reads whose call it is that thread `tid` makes. True of a notification that is still valid afterwards.
    ///
    /// # Errors
    /// [`CredentialError`].
    pub fn caller(&mut self, tid: u32) -> Result<Caller, CredentialError> {
        if let Some(position) = self.statuses.iter().position(|status| status.tid() == tid) {
            let known = self.statuses.get(position).map(Credentials::read);
            if let Some(Ok((credentials, home))) = known {
                return Ok(Caller { credentials, home });
            }
            // a thread that is gone; another may have its number
            self.statuses.remove(position);
        }
        let status = StatusFile::open(tid)?;
        let (credentials, home) = Credentials::read(&status)?;
        if self.statuses.len() >= MAX_STATUSES {
            self.statuses.pop_front();
        }
        self.statuses.push_back(status);
        Ok(Caller { credentials, home })
    }

    /// Carries out `request`, which `notification` asks for, on what `target` remembers of it. `caller`, when it is known already.
    ///
    /// # Errors
    /// [`CannotCarryOut`].
    pub fn carry_out(
        &mut self,
        listener: &Arc<Listener>,
        notification: &Notification,
        request: &Request,
        target: &Remembering<'_>,
        caller: Option<Caller>,
    ) -> Result<CarriedOut, CannotCarryOut> {
        let _work = self.hand.work();
        // the kernel refuses what it has no convention for; a helper would know how
        if request.abi == Abi::X32 && !broker::has_x32() {
            return Ok(CarriedOut::Failed(Errno::NOSYS));
        }
        self.waiting.end_of(notification.tid);
        let caller = caller.map_or_else(|| self.caller(notification.tid), Ok);
        if !listener.is_valid(notification.id) {
            return Ok(CarriedOut::Gone);
        }
        let Caller { credentials, home } = caller?;
        let arguments = arguments(request, notification);
        let may_open_by_handle = !home.has_user && credentials.has_capability(CAP_DAC_READ_SEARCH);
        target.begin();
        let searches_everything = credentials.may_search_everything(&home);
        let planned = Planner { request, arguments, target, may_open_by_handle, searches_everything }.plan();
        let (deed, on, close_on_exec) = match planned {
            Ok(Plan::LetGo) => return Ok(CarriedOut::LetGo),
            Ok(Plan::Nothing) => return Ok(CarriedOut::Value(0)),
            Ok(Plan::Perform { deed, on, close_on_exec }) => (Ok(deed), on, close_on_exec),
            // what fails by itself fails before any directory is looked at
            Err(TargetError::Unreadable { errno, .. }) => return Ok(CarriedOut::Failed(errno)),
            Err(TargetError::Nowhere(errno)) => (Err(errno), Vec::new(), false),
            Err(TargetError::Gone) => return Ok(CarriedOut::Gone),
            Err(TargetError::Unable(reason)) => return Err(CannotCarryOut::Argument(reason)),
        };
        let searched = if searches_everything { Vec::new() } else { target.searched() };
        let deed = match deed {
            Ok(deed) => deed,
            Err(errno) if searched.is_empty() => return Ok(CarriedOut::Failed(errno)),
            // a directory on the way that may not be searched comes first
            Err(errno) => {
                let search = Deed::Search { links: Vec::new() };
                let work = Work { listener, call: None, waits: false };
                return match self.perform(home, &credentials, search, &[], &searched, &work)? {
                    Done::Failed(refused) => Ok(CarriedOut::Failed(refused)),
                    _ => Ok(CarriedOut::Failed(errno)),
                };
            }
        };
        if matches!(deed, Deed::Mount(Mount::Unmount { .. })) {
            target.let_go_of_files();
        }
        let exceeds = matches!(deed, Deed::Truncate { length, limit: Some(limit) } if length.cast_unsigned() > limit);
        let opens = matches!(deed, Deed::Open { .. } | Deed::OpenEntry { .. });
        // what makes a file never waits, and must not be done twice
        let makes = matches!(deed, Deed::OpenEntry { existing: None, .. });
        let waits = opens && !makes;
        let call = (!exceeds).then_some(Call { id: notification.id, close_on_exec });
        let work = Work { listener, call, waits };
        match self.perform(home, &credentials, deed, &on, &searched, &work) {
            // the limit is looked at before what the file system can hold (fs/attr.c, `inode_newsize_ok`)
            Ok(Done::Failed(Errno::FBIG)) if exceeds => Ok(CarriedOut::Exceeded),
            Ok(done) => Ok(carried_out(done, close_on_exec)),
            Err(CannotCarryOut::Helper(BrokerError::Slow(_))) if waits => {
                self.wait_a_while(listener, notification, close_on_exec)
            }
            Err(CannotCarryOut::Helper(error)) => {
                // whatever it still does, it does not do for the next call
                self.helpers.pop();
                Err(error.into())
            }
            Err(error) => Err(error),
        }
    }

    /// Waits for an open that the last of the helpers is in, and sets it aside when it takes longer. One that is not waited for any
    /// more ends at once: others would find somebody at the other end of a FIFO.
    fn wait_a_while(
        &mut self,
        listener: &Arc<Listener>,
        notification: &Notification,
        close_on_exec: bool,
    ) -> Result<CarriedOut, CannotCarryOut> {
        let helper = self.helpers.pop().ok_or(BrokerError::Gone)?;
        let deadline = Instant::now().checked_add(PATIENCE);
        let mut watch = Watch::new(notification.tid);
        while deadline.is_some_and(|deadline| Instant::now() < deadline) {
            let interrupted = watch.look().map(waiting::interrupted_by);
            if !listener.is_valid(notification.id) {
                return Ok(CarriedOut::Gone);
            }
            if let Some(answer) = interrupted {
                return Ok(CarriedOut::Interrupted(answer));
            }
            match helper.wait(STEP) {
                Err(BrokerError::Slow(_)) => {}
                Err(error) => return Err(error.into()),
                Ok(done) => {
                    self.helpers.push(helper);
                    return Ok(carried_out(done, close_on_exec));
                }
            }
        }
        let place = self.quota.waiting().ok_or(CannotCarryOut::TooManyWaiting(quota::MAX_WAITING))?;
        let kept = self.in_flight.as_ref().and_then(|in_flight| in_flight.keep(notification, helper.pid()));
        self.waiting.add(notification, (helper, place), Arc::clone(listener), close_on_exec, kept)?;
        Ok(CarriedOut::Later)
    }

    /// Has the helper of `home` do it; it is the last of those kept then.
    fn perform(
        &mut self,
        home: Home,
        credentials: &Credentials,
        deed: Deed,
        on: &[Arc<OwnedFd>],
        searched: &[Arc<Searched>],
        work: &Work<'_>,
    ) -> Result<Done, CannotCarryOut> {
        match self.helpers.iter().position(|helper| helper.home().is(&home)) {
            Some(position) => {
                let helper = self.helpers.remove(position);
                self.helpers.push(helper);
            }
            None => {
                if self.helpers.len() >= MAX_HELPERS {
                    self.helpers.remove(0);
                }
                let place = self.quota.helper().ok_or(CannotCarryOut::TooManyHelpers(quota::MAX_HELPERS))?;
                let listener = Some(work.listener.as_fd());
                let helper = Helper::start(&self.starter, home, listener, START_LIMIT)?;
                self.helpers.push(helper.holding(Box::new(place)));
            }
        }
        let helper = self.helpers.last().ok_or(BrokerError::Gone)?;
        // from here on the next worker, should there be one, leaves the call to the helper
        let here = self.in_flight.as_ref().map(|in_flight| in_flight.ledger.as_ref());
        let note = |aside: Option<Ledger>| {
            let begun_as = work.call.map_or(0, |call| call.id);
            aside.as_ref().or(here).into_iter().for_each(|ledger| ledger.begin(helper.pid(), work.waits, begun_as));
        };
        if !self.hand.begins(helper.process(), helper.pid(), note) {
            return Err(BrokerError::Gone.into());
        }
        let on: Vec<BorrowedFd<'_>> = on.iter().map(|descriptor| descriptor.as_fd()).collect();
        let searched: Vec<&Searched> = searched.iter().map(Arc::as_ref).collect();
        let limit = if work.waits { STEP } else { LONG_PATIENCE };
        Ok(helper.perform(credentials, deed, &on, &searched, work.call, limit)?)
    }
}

/// For whom a helper works.
struct Work<'a> {
    listener: &'a Arc<Listener>,
    /// What it answers itself if need be.
    call: Option<Call>,
    /// Whether it may wait for ever.
    waits: bool,
}

/// The arguments, as wide as the architecture has them.
fn arguments(request: &Request, notification: &Notification) -> [u64; 6] {
    if request.abi.has_32_bit_arguments() {
        notification.args.map(|argument| argument & 0xFFFF_FFFF)
    } else {
        notification.args
    }
}

/// The errno of a call of which something in memory cannot be read, which is `errno` by itself: the kernel looks at some of its
/// numbers, or along its first path, before.
#[must_use]
pub fn failure(request: &Request, notification: &Notification, target: &dyn Target, errno: Errno) -> Errno {
    let arguments = arguments(request, notification);
    match (Planner { request, arguments, target, may_open_by_handle: true, searches_everything: true }.plan()) {
        Err(TargetError::Unreadable { errno, .. } | TargetError::Nowhere(errno)) => errno,
        _ => errno,
    }
}

fn carried_out(done: Done, close_on_exec: bool) -> CarriedOut {
    match done {
        Done::Value(value) => CarriedOut::Value(value),
        Done::Descriptor(file) => CarriedOut::Opened { file: Arc::new(file), close_on_exec },
        Done::Failed(errno) => CarriedOut::Failed(errno),
        Done::Again => CarriedOut::Again,
    }
}
