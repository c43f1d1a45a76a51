//! Who started something on the host: the process, its login session and its ancestors up to pid 1.
//!
//! The kernel's word only (`/proc`), plus the host's own `/etc/passwd` for names. The name service switch is not asked: a
//! directory server that does not answer must not hold up a container (`pitfalls.md` 34), so a user who is known only there
//! is told by uid. Login uid and audit session are what pam_loginuid(8) set at login; they survive su and sudo, and a holder
//! of CAP_AUDIT_CONTROL may forge them.

use std::io::Read;

use crate::kernel::process;
use crate::kernel::process::Facts;
use crate::model::event::Creator;
use crate::model::event::Process;
use crate::model::redact;

/// Longest ancestry that is recorded, the first process included.
pub const MAX_ANCESTRY: usize = 32;

/// As much of the host's `/etc/passwd` as is read for names.
const MAX_PASSWD_BYTES: u64 = 4 * 1024 * 1024;

/// Who `pid` acts for: its real uid, its login session, and the processes from itself up to pid 1, at most [`MAX_ANCESTRY`].
///
/// `pid` is the *caller* of the runtime: the hook passes its runtime's parent, the shim its own parent. A process that is
/// already gone leaves a creator with no ancestry and uid 0, the uid every caller of an OCI runtime on a host has.
#[must_use]
pub fn creator_of(pid: u32) -> Creator {
    let chain = process::ancestry(pid, MAX_ANCESTRY);
    let Some(first) = chain.first() else {
        return Creator::default();
    };
    let names = host_passwd();
    Creator {
        uid: first.real_uid,
        user: user_name(&names, first.real_uid),
        login_uid: first.loginuid,
        login_user: first.loginuid.and_then(|uid| user_name(&names, uid)),
        audit_session: first.sessionid,
        ancestry: chain.iter().map(recorded).collect(),
        service_account: None,
        principal: None,
        owner: None,
    }
}

/// One ancestor as events show it, arguments redacted.
#[must_use]
pub fn recorded(facts: &Facts) -> Process {
    Process {
        pid: facts.pid,
        container_pid: None,
        exe: facts.exe.as_deref().map(redact::printable),
        argv: redact::argv(&facts.argv.iter().map(|argument| redact::printable(argument)).collect::<Vec<_>>()),
        uid: facts.effective_uid,
    }
}

fn host_passwd() -> Vec<u8> {
    let mut bytes = Vec::new();
    // no file, no names: the uid is in the record all the same
    if let Ok(file) = std::fs::File::open("/etc/passwd") {
        let _ = file.take(MAX_PASSWD_BYTES).read_to_end(&mut bytes);
    }
    bytes
}

/// The first name with `uid` in the text of a passwd(5) file, as getpwuid(3) would pick it.
fn user_name(passwd: &[u8], uid: u32) -> Option<String> {
    let wanted = uid.to_string();
    passwd.split(|byte| *byte == b'\n').find_map(|line| {
        let mut fields = line.split(|byte| *byte == b':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        (fields.nth(1)? == wanted.as_bytes()).then(|| redact::printable(name))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_name_takes_the_first_entry_of_a_uid() {
        let passwd =
            b"root:x:0:0::/root:/bin/sh\ntoor:x:0:0::/:\n\nbroken\nalice:x:1000:1000:Alice:/home/alice:/bin/bash\n";
        for (uid, expected) in [(0, Some("root")), (1000, Some("alice")), (7, None)] {
            assert_eq!(user_name(passwd, uid).as_deref(), expected, "uid {uid}");
        }
    }

    #[test]
    fn our_own_creator_is_this_process_and_its_ancestors() {
        let creator = creator_of(std::process::id());
        assert_eq!(creator.uid, nix::unistd::getuid().as_raw());
        assert_eq!(creator.user.as_deref(), Some("root"), "this test runs as root");
        assert_eq!(creator.ancestry.first().map(|process| process.pid), Some(std::process::id()));
        assert_eq!(creator.ancestry.last().map(|process| process.pid), Some(1), "the chain ends at pid 1");
        assert!(creator.ancestry.len() <= MAX_ANCESTRY);
        let exe = std::env::current_exe().expect("own executable");
        assert_eq!(creator.ancestry.first().and_then(|process| process.exe.clone()), Some(exe.display().to_string()));
    }

    #[test]
    fn secrets_in_an_ancestor_s_arguments_are_redacted() {
        let mut child = std::process::Command::new("sh")
            .args(["-c", "read line", "sh", "--password", "s3cret"])
            .stdin(std::process::Stdio::piped())
            .spawn()
            .expect("sh");
        // the kernel lets go of vfork(2)'s parent a moment before the new arguments can be read
        let argv = (0..200)
            .map(|_| {
                std::thread::sleep(std::time::Duration::from_millis(5));
                creator_of(child.id()).ancestry.first().map(|process| process.argv.join(" ")).unwrap_or_default()
            })
            .find(|argv| argv.contains("--password"))
            .unwrap_or_default();
        drop(child.stdin.take());
        child.wait().expect("sh ends");
        assert!(argv.contains("--password") && !argv.contains("s3cret"), "{argv}");
    }

    #[test]
    fn a_process_that_is_gone_has_no_ancestry() {
        assert!(creator_of(u32::MAX >> 1).ancestry.is_empty());
    }
}
