//! What an account tool was asked for, by its arguments.
//!
//! For attempts that were blocked before any database could be written: the arguments are then all there is. They say what was
//! wanted, not what would have happened.

use crate::model::event::AccountState;
use crate::model::event::Change;
use crate::model::redact;
use crate::model::redact::REDACTED;
use crate::model::redact::printable;

mod options;

use options::Options;

/// Programs that administer accounts, by base name: shadow-utils, Debian's adduser, busybox and toybox, systemd, libuser.
const TOOLS: [&str; 36] = [
    "useradd",
    "adduser",
    "userdel",
    "deluser",
    "usermod",
    "groupadd",
    "addgroup",
    "groupdel",
    "delgroup",
    "groupmod",
    "groupmems",
    "gpasswd",
    "passwd",
    "chpasswd",
    "chgpasswd",
    "newusers",
    "vipw",
    "vigr",
    "chage",
    "chfn",
    "chsh",
    "pwconv",
    "pwunconv",
    "grpconv",
    "grpunconv",
    "systemd-sysusers",
    "homectl",
    "update-passwd",
    "luseradd",
    "lusermod",
    "luserdel",
    "lgroupadd",
    "lgroupmod",
    "lgroupdel",
    "lpasswd",
    "lchsh",
];

/// Most groups of one `-G` list that are told.
const MAX_GROUPS: usize = 100;

/// Whether a program of this base name administers accounts.
#[must_use]
pub fn is_account_tool(base_name: &[u8]) -> bool {
    TOOLS.iter().any(|tool| tool.as_bytes() == base_name)
}

/// The changes that `argv` of an account tool asks for; evidence `arguments`. Empty when the program is no account tool or its
/// arguments name no account. A tool may be called by its path, as an applet (`busybox adduser …`) or as a script
/// (`perl /usr/sbin/adduser …`).
#[must_use]
pub fn from_arguments(argv: &[String]) -> Vec<Change> {
    // a hash that stands where a name should is no name to be shown
    let argv: Vec<String> = argv.iter().map(|word| redact::without_hashes(word)).collect();
    let Some((tool, arguments)) = tool_of(&argv) else { return Vec::new() };
    match tool {
        "useradd" | "luseradd" => useradd(&Options::read(&options::USERADD, arguments)),
        "adduser" => adduser(&Options::read(&options::ADDUSER, arguments)),
        "usermod" | "lusermod" => usermod(&Options::read(&options::USERMOD, arguments)),
        "userdel" | "luserdel" => removed(&Options::read(&options::USERDEL, arguments), "account_removed", PASSWD),
        "deluser" => member_or(&Options::read(&options::DELUSER, arguments), "account_removed", "membership_removed"),
        "groupadd" | "lgroupadd" => group_added(&Options::read(&options::GROUPADD, arguments)),
        "addgroup" => addgroup(&Options::read(&options::ADDGROUP, arguments)),
        "groupdel" | "lgroupdel" => removed(&Options::read(&options::GROUPDEL, arguments), "group_removed", GROUP),
        "delgroup" => delgroup(&Options::read(&options::DELUSER, arguments)),
        "groupmod" | "lgroupmod" => groupmod(&Options::read(&options::GROUPADD, arguments)),
        "gpasswd" => gpasswd(&Options::read(&options::GPASSWD, arguments)),
        "passwd" | "lpasswd" => passwd(&Options::read(&options::PASSWD, arguments)),
        "chsh" | "lchsh" => modified(&Options::read(&options::CHSH, arguments)),
        "chfn" => modified(&Options::read(&options::CHFN, arguments)),
        "chage" => modified(&Options::read(&options::CHAGE, arguments)),
        _ => Vec::new(),
    }
}

const PASSWD: &str = "/etc/passwd";
const SHADOW: &str = "/etc/shadow";
const GROUP: &str = "/etc/group";

/// The tool that `argv` runs and the arguments it gets.
fn tool_of(argv: &[String]) -> Option<(&str, &[String])> {
    let (program, arguments) = argv.split_first()?;
    let program = base_name(program);
    if is_account_tool(program.as_bytes()) {
        return Some((program, arguments));
    }
    let runs_another = ["busybox", "toybox", "perl", "sh", "dash", "bash", "ash", "env"].contains(&program)
        || program.starts_with("python");
    if !runs_another {
        return None;
    }
    let first = arguments.iter().position(|argument| !argument.starts_with('-'))?;
    let (script, arguments) = arguments.get(first..)?.split_first()?;
    let script = base_name(script);
    is_account_tool(script.as_bytes()).then_some((script, arguments))
}

fn base_name(path: &str) -> &str {
    let name = path.rsplit('/').next().unwrap_or(path);
    // a login shell's argv[0] begins with '-'
    name.strip_prefix('-').unwrap_or(name)
}

fn change(kind: &str, database: &str, name: &str) -> Change {
    Change {
        change: kind.to_owned(),
        database: database.to_owned(),
        name: Some(printable(name.as_bytes())),
        evidence: "arguments".to_owned(),
        ..Change::default()
    }
}

fn flag(change: &mut Change, flag: &str, holds: bool) {
    if holds {
        change.flags.push(flag.to_owned());
    }
}

/// The account as the options describe it, when they describe anything.
fn described(options: &Options<'_>) -> (Change, Option<AccountState>) {
    let text = |key: char| options.value(key).map(|value| printable(value.as_bytes()));
    let number = |key: char| options.value(key).and_then(|value| value.parse::<u32>().ok());
    let state = AccountState {
        uid: number('u'),
        gid: number('g'),
        gecos: text('c'),
        home: text('d'),
        shell: text('s'),
        password: options.value('p').map(|_| REDACTED.to_owned()),
        ..AccountState::default()
    };
    let change = Change {
        uid: state.uid,
        gid: state.gid,
        home: state.home.clone(),
        shell: state.shell.clone(),
        ..Change::default()
    };
    (change, (state != AccountState::default()).then_some(state))
}

fn account(kind: &str, name: &str, options: &Options<'_>) -> Change {
    let (described, after) = described(options);
    let named = change(kind, PASSWD, name);
    let mut change = Change {
        change: named.change,
        database: named.database,
        name: named.name,
        evidence: named.evidence,
        after,
        ..described
    };
    let zero = change.uid == Some(0);
    flag(&mut change, "uid_zero", zero);
    change
}

fn memberships(kind: &str, member: &str, groups: Option<&str>) -> Vec<Change> {
    let groups = groups.unwrap_or_default().split(',').map(str::trim).filter(|group| !group.is_empty());
    groups
        .take(MAX_GROUPS)
        .map(|group| Change { member: Some(printable(member.as_bytes())), ..change(kind, GROUP, group) })
        .collect()
}

/// `useradd -D` shows or changes the defaults; to busybox's adduser `-D` means no password.
fn useradd(options: &Options<'_>) -> Vec<Change> {
    if options.has('D') { Vec::new() } else { account_added(options) }
}

fn account_added(options: &Options<'_>) -> Vec<Change> {
    let Some(name) = options.operand(0) else { return Vec::new() };
    let mut changes = vec![account("account_added", name, options)];
    if options.has('p') {
        changes.push(change("password_set", SHADOW, name));
    }
    changes.extend(memberships("membership_added", name, options.value('G')));
    changes
}

/// Debian's and busybox's: two operands mean a member for a group; `--group` a group.
fn adduser(options: &Options<'_>) -> Vec<Change> {
    match (options.operand(0), options.operand(1)) {
        (Some(name), Some(group)) => memberships("membership_added", name, Some(group)),
        (Some(name), None) if options.has('\u{1}') && !options.has('\u{2}') => {
            vec![change("group_added", GROUP, name)]
        }
        _ => account_added(options),
    }
}

fn usermod(options: &Options<'_>) -> Vec<Change> {
    let Some(name) = options.operand(0) else { return Vec::new() };
    let mut changes = Vec::new();
    let modification = account("account_modified", name, options);
    if modification.after.is_some() || options.has('l') || options.has('e') || options.has('f') {
        changes.push(modification);
    }
    if let Some(new_name) = options.value('l') {
        changes.push(change("account_added", PASSWD, new_name));
    }
    for (option, kind) in [('p', "password_set"), ('L', "password_locked"), ('U', "password_set")] {
        if options.has(option) {
            let mut password = change(kind, SHADOW, name);
            flag(&mut password, "unlocked", option == 'U');
            changes.push(password);
        }
    }
    let kind = if options.has('r') { "membership_removed" } else { "membership_added" };
    changes.extend(memberships(kind, name, options.value('G')));
    if changes.is_empty() {
        changes.push(change("account_modified", PASSWD, name));
    }
    changes
}

fn modified(options: &Options<'_>) -> Vec<Change> {
    if options.has('l') || options.has('\u{3}') {
        return Vec::new();
    }
    options.operand(0).map(|name| account("account_modified", name, options)).into_iter().collect()
}

fn removed(options: &Options<'_>, kind: &str, database: &str) -> Vec<Change> {
    options.operand(0).map(|name| change(kind, database, name)).into_iter().collect()
}

/// `deluser USER` and `deluser USER GROUP`.
fn member_or(options: &Options<'_>, kind: &str, membership: &str) -> Vec<Change> {
    match (options.operand(0), options.operand(1)) {
        (Some(name), Some(group)) => memberships(membership, name, Some(group)),
        (Some(name), None) if options.has('\u{1}') => vec![change("group_removed", GROUP, name)],
        (Some(name), None) => vec![change(kind, PASSWD, name)],
        (None, _) => Vec::new(),
    }
}

/// `delgroup GROUP` and `delgroup USER GROUP`.
fn delgroup(options: &Options<'_>) -> Vec<Change> {
    match (options.operand(0), options.operand(1)) {
        (Some(name), Some(group)) => memberships("membership_removed", name, Some(group)),
        _ => removed(options, "group_removed", GROUP),
    }
}

fn group_added(options: &Options<'_>) -> Vec<Change> {
    let Some(name) = options.operand(0) else { return Vec::new() };
    let gid = options.value('g').and_then(|value| value.parse().ok());
    let mut added = Change { gid, ..change("group_added", GROUP, name) };
    flag(&mut added, "gid_zero", gid == Some(0));
    let members = options.value('U').unwrap_or_default().split(',').filter(|member| !member.is_empty());
    let memberships = members.take(MAX_GROUPS).map(|member| Change {
        member: Some(printable(member.as_bytes())),
        gid,
        ..change("membership_added", GROUP, name)
    });
    [added].into_iter().chain(memberships).collect()
}

/// `addgroup GROUP` and `addgroup USER GROUP`.
fn addgroup(options: &Options<'_>) -> Vec<Change> {
    match (options.operand(0), options.operand(1)) {
        (Some(name), Some(group)) => memberships("membership_added", name, Some(group)),
        _ => group_added(options),
    }
}

fn groupmod(options: &Options<'_>) -> Vec<Change> {
    let Some(name) = options.operand(0) else { return Vec::new() };
    let gid = options.value('g').and_then(|value| value.parse().ok());
    let mut changes = vec![Change { gid, ..change("group_modified", GROUP, name) }];
    if let Some(new_name) = options.value('n') {
        changes.push(change("group_added", GROUP, new_name));
    }
    changes
}

fn gpasswd(options: &Options<'_>) -> Vec<Change> {
    let Some(group) = options.operand(0) else { return Vec::new() };
    for (option, kind) in [('a', "membership_added"), ('d', "membership_removed")] {
        if let Some(member) = options.value(option) {
            return memberships(kind, member, Some(group));
        }
    }
    let kind = if options.has('r') {
        "password_removed"
    } else if options.has('A') || options.has('M') || options.has('R') {
        "group_modified"
    } else {
        "password_set"
    };
    vec![change(kind, GROUP, group)]
}

fn passwd(options: &Options<'_>) -> Vec<Change> {
    let Some(name) = options.operand(0).filter(|_| !options.has('S')) else { return Vec::new() };
    let (kind, flags) = if options.has('l') {
        ("password_locked", "")
    } else if options.has('d') {
        ("password_removed", "no_password")
    } else if options.has('u') {
        ("password_set", "unlocked")
    } else if ['e', 'n', 'x', 'w', 'i'].iter().any(|option| options.has(*option)) {
        ("account_modified", "ageing")
    } else {
        ("password_set", "")
    };
    let mut change = change(kind, SHADOW, name);
    flag(&mut change, flags, !flags.is_empty());
    vec![change]
}

#[cfg(test)]
mod tests;
