//! The records of one event put together, and what is known of the domains that refuse.

use std::collections::HashMap;
use std::collections::VecDeque;
use std::time::Duration;
use std::time::Instant;

use crate::kernel::audit_netlink::record::Access;
use crate::kernel::audit_netlink::record::Body;
use crate::kernel::audit_netlink::record::EventId;
use crate::kernel::audit_netlink::record::Record;
use crate::kernel::audit_netlink::record::Syscall;

/// How long records of one event may be apart; the kernel sends them one after another.
const PATIENCE: Duration = Duration::from_millis(100);
/// Most events whose records are waited for.
const MAX_PENDING: usize = 1024;
/// Most refusals of one event.
const MAX_ACCESSES: usize = 16;
/// Most domains remembered: one for each sealed process tree, and those that workloads make.
const MAX_DOMAINS: usize = 65_536;

/// Something that Landlock refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Number of the domain that refused.
    pub domain: u64,
    /// Pid of who made the domain, in the initial pid namespace; `None` when that was before we listened.
    pub maker: Option<u32>,
    /// Program of who made the domain, when it did.
    pub maker_exe: Option<Vec<u8>>,
    /// The rights that were missing: `fs.write_file`, `fs.make_reg` …
    pub blockers: Vec<String>,
    /// The object, as a path from the root of the process: for what was to be made, removed or renamed its directory.
    pub path: Option<Vec<u8>>,
    /// Inode number of that object.
    pub inode: Option<u64>,
    /// Who was refused; `None` for a task that is older than the kernel's auditing.
    pub caller: Option<Caller>,
}

/// Who was refused, as the kernel saw it at that moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// Thread group id in the initial pid namespace.
    pub pid: u32,
    /// Its parent's.
    pub parent: u32,
    /// `AUDIT_ARCH_…` of the call.
    pub architecture: u32,
    /// Number of the call.
    pub number: i32,
    /// What the call returned.
    pub exit: i32,
    /// Effective uid in the initial user namespace.
    pub effective_uid: u32,
    /// Effective gid there.
    pub effective_gid: u32,
    /// Login uid; `None` when unset.
    pub login_uid: Option<u32>,
    /// Program.
    pub exe: Option<Vec<u8>>,
    /// Arguments, cut to 128 bytes in all.
    pub argv: Vec<Vec<u8>>,
}

/// Records of an event so far.
struct Pending {
    event: EventId,
    since: Instant,
    accesses: Vec<Access>,
    syscall: Option<Syscall>,
    title: Vec<u8>,
    has_ended: bool,
}

/// What is being put together.
#[derive(Default)]
pub struct Assembly {
    pending: VecDeque<Pending>,
    domains: HashMap<u64, (u32, Option<Vec<u8>>)>,
    gone: Vec<u64>,
}

impl std::fmt::Debug for Assembly {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Assembly").field("pending", &self.pending.len()).finish_non_exhaustive()
    }
}

impl Assembly {
    /// Takes a record in.
    pub fn take(&mut self, record: Record, now: Instant) {
        match record.body {
            Body::DomainMade { domain, pid, exe } => {
                if self.domains.len() >= MAX_DOMAINS {
                    self.domains.clear();
                }
                self.domains.insert(domain, (pid, exe));
            }
            // refusals of it may still wait for their last record
            Body::DomainGone { domain } => self.gone.push(domain),
            Body::Access(access) => {
                if let Some(pending) = self.pending(record.event, now)
                    && pending.accesses.len() < MAX_ACCESSES
                {
                    pending.accesses.push(access);
                }
            }
            Body::Syscall(syscall) => self.known(record.event, |pending| pending.syscall = Some(syscall)),
            Body::ProcessTitle(title) => self.known(record.event, |pending| pending.title = title),
            Body::End => self.known(record.event, |pending| pending.has_ended = true),
        }
    }

    /// The event, begun when it is new. Its Landlock records come first; events without any are never begun.
    fn pending(&mut self, event: EventId, now: Instant) -> Option<&mut Pending> {
        if !self.pending.iter().any(|pending| pending.event == event) {
            let title = Vec::new();
            let new = Pending { event, since: now, accesses: Vec::new(), syscall: None, title, has_ended: false };
            self.pending.push_back(new);
        }
        self.pending.iter_mut().rev().find(|pending| pending.event == event)
    }

    fn known(&mut self, event: EventId, change: impl FnOnce(&mut Pending)) {
        if let Some(pending) = self.pending.iter_mut().rev().find(|pending| pending.event == event) {
            change(pending);
        }
    }

    /// How long until [`Assembly::complete`] gives something though no record comes; `None` when it will not.
    #[must_use]
    pub fn wait(&self, now: Instant) -> Option<Duration> {
        let oldest = self.pending.front()?;
        Some(PATIENCE.saturating_sub(now.saturating_duration_since(oldest.since)))
    }

    /// The refusals whose event has ended or is waited for no longer.
    pub fn complete(&mut self, now: Instant) -> Vec<Refusal> {
        let mut refusals = Vec::new();
        while let Some(pending) = self.pending.front() {
            let is_over = now.saturating_duration_since(pending.since) >= PATIENCE;
            if !pending.has_ended && !is_over && self.pending.len() <= MAX_PENDING {
                break;
            }
            let Some(pending) = self.pending.pop_front() else { break };
            let caller = pending.syscall.map(|syscall| caller(syscall, &pending.title));
            for access in pending.accesses {
                let maker = self.domains.get(&access.domain);
                refusals.push(Refusal {
                    domain: access.domain,
                    maker: maker.map(|(pid, _)| *pid),
                    maker_exe: maker.and_then(|(_, exe)| exe.clone()),
                    blockers: access.blockers,
                    path: access.path,
                    inode: access.inode,
                    caller: caller.clone(),
                });
            }
        }
        if self.pending.is_empty() {
            for domain in self.gone.drain(..) {
                self.domains.remove(&domain);
            }
        }
        refusals
    }
}

fn caller(syscall: Syscall, title: &[u8]) -> Caller {
    let title = title.strip_suffix(b"\0").unwrap_or(title);
    let argv = if title.is_empty() { Vec::new() } else { title.split(|byte| *byte == 0).map(<[u8]>::to_vec).collect() };
    Caller {
        pid: syscall.pid,
        parent: syscall.parent,
        architecture: syscall.architecture,
        number: syscall.number,
        exit: syscall.exit,
        effective_uid: syscall.effective_uid,
        effective_gid: syscall.effective_gid,
        login_uid: syscall.login_uid,
        exe: syscall.exe,
        argv,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::audit_netlink::record::parse;

    const STAMP: &str = "audit(1795533324.109:6): ";

    fn take(assembly: &mut Assembly, now: Instant, kind: u16, text: &str) {
        if let Some(record) = parse(kind, text.as_bytes()) {
            assembly.take(record, now);
        }
    }

    /// The order and words of Linux 6.18.
    #[test]
    fn the_records_of_one_event_make_one_refusal_with_its_caller() {
        let now = Instant::now();
        let mut assembly = Assembly::default();
        let mut record = |kind, text: &str| take(&mut assembly, now, kind, &format!("{STAMP}{text}"));
        record(1423, r#"domain=1edff400b blockers=fs.remove_file,fs.make_reg path="/etc" dev="vda" ino=10018988"#);
        record(1424, r#"domain=1edff400b status=allocated mode=enforcing pid=1131 uid=0 exe="/launch" comm="launch""#);
        record(
            1300,
            r#"arch=c000003e syscall=264 success=no exit=-13 a0=ffffff9c a1=7f a2=ffffff9c a3=7e items=0 ppid=1131 pid=1134 auid=4294967295 uid=0 gid=0 euid=0 suid=0 fsuid=0 egid=0 sgid=0 fsgid=0 tty=(none) ses=4294967295 comm="mv" exe="/usr/bin/mv" key=(null)"#,
        );
        record(1327, "proctitle=6D76002F6574632F686F737473002F6574632F706173737764");
        record(1320, "");
        let refusals = assembly.complete(now);
        let [refusal] = refusals.as_slice() else { panic!("{refusals:?}") };
        assert_eq!((refusal.domain, refusal.maker, refusal.inode), (0x1_edff_400b, Some(1131), Some(10_018_988)));
        assert_eq!(refusal.maker_exe.as_deref(), Some(&b"/launch"[..]));
        assert_eq!(refusal.blockers, ["fs.remove_file", "fs.make_reg"]);
        assert_eq!(refusal.path.as_deref(), Some(&b"/etc"[..]));
        let caller = refusal.caller.as_ref().expect("caller");
        assert_eq!((caller.pid, caller.parent, caller.number, caller.exit), (1134, 1131, 264, -13));
        assert_eq!(caller.argv, [&b"mv"[..], b"/etc/hosts", b"/etc/passwd"]);
        assert_eq!((caller.login_uid, caller.exe.as_deref()), (None, Some(&b"/usr/bin/mv"[..])));
        assert_eq!((assembly.complete(now).len(), assembly.wait(now)), (0, None));
    }

    /// A task that is older than auditing has no system call record, and each of its records is an event of its own.
    #[test]
    fn a_refusal_that_stays_alone_is_told_after_a_while() {
        let now = Instant::now();
        let mut assembly = Assembly::default();
        take(&mut assembly, now, 1423, r#"audit(1.000:5): domain=7 blockers=fs.write_file path="/etc/passwd" ino=9"#);
        take(&mut assembly, now, 1424, "audit(1.000:6): domain=7 status=allocated mode=enforcing pid=3 uid=0 exe=2F61");
        assert!(assembly.complete(now).is_empty());
        assert_eq!(assembly.wait(now), Some(PATIENCE));
        let refusals = assembly.complete(now + PATIENCE);
        assert_eq!(refusals.len(), 1);
        assert_eq!((refusals[0].maker, refusals[0].caller.as_ref()), (Some(3), None));
        take(&mut assembly, now, 1424, "audit(1.000:7): domain=7 status=deallocated denials=1");
        take(&mut assembly, now, 1423, r#"audit(1.000:8): domain=7 blockers=fs.write_file path="/etc/passwd" ino=9"#);
        assert_eq!(assembly.complete(now + PATIENCE)[0].maker, Some(3), "still known while one waits");
        assert!(assembly.domains.is_empty());
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let now = Instant::now();
        let mut assembly = Assembly::default();
        for number in 0..MAX_PENDING * 2 {
            for _ in 0..MAX_ACCESSES + 5 {
                let text = format!("audit(1.000:{number}): domain=7 blockers=fs.write_file path=\"/etc/passwd\" ino=9");
                take(&mut assembly, now, 1423, &text);
            }
            take(&mut assembly, now, 1320, &format!("audit(2.000:{number}): "));
        }
        let refusals = assembly.complete(now);
        assert_eq!(refusals.len(), MAX_PENDING * MAX_ACCESSES, "the older half is given, the rest is waited for");
        for domain in 0..MAX_DOMAINS + 10 {
            take(&mut assembly, now, 1424, &format!("audit(1.0:1): domain={domain:x} status=allocated pid=1"));
        }
        assert!(assembly.domains.len() <= MAX_DOMAINS);
    }
}
