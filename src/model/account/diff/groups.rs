//! Changes of group, gshadow, subuid and subgid.

use std::collections::HashSet;

use crate::model::account::diff::Families;
use crate::model::account::diff::accounts::flag;
use crate::model::account::diff::named;
use crate::model::account::families::Pairing;
use crate::model::account::group::GroupEntry;
use crate::model::account::gshadow::GshadowEntry;
use crate::model::account::shadow::Password;
use crate::model::account::subid::SubidEntry;
use crate::model::account::table::is_compat;
use crate::model::event::AccountState;
use crate::model::event::Change;
use crate::model::redact::printable;

/// Groups whose members are as good as root on usual systems.
const PRIVILEGED: [&[u8]; 8] = [b"root", b"sudo", b"wheel", b"admin", b"shadow", b"disk", b"docker", b"lxd"];

/// Most members that a state lists.
const MAX_LISTED_MEMBERS: usize = 100;

/// Tells every group that differs in group.
pub(super) fn group(path: &str, pairing: &Pairing<'_, GroupEntry>, families: &Families<'_>, changes: &mut Vec<Change>) {
    for (old, duplicate) in &pairing.removed {
        let mut change = of_group("group_removed", path, old);
        change.before = Some(state(old));
        flag(&mut change, "duplicate_name", *duplicate);
        changes.push(change);
    }
    for (new, duplicate) in &pairing.added {
        let mut change = of_group("group_added", path, new);
        change.after = Some(state(new));
        flag(&mut change, "gid_zero", new.gid == Some(0));
        flag(&mut change, "duplicate_name", *duplicate || families.before.group(&new.name).is_some());
        flag(&mut change, "compat_entry", is_compat(&new.name));
        changes.push(change);
        if new.password != b"x" && Password::of_field(&new.password) == Password::Set {
            changes.push(password(path, &new.name, new.gid, Password::Missing, Password::Set));
        }
    }
    for (old, new) in &pairing.modified {
        modified(path, old, new, changes);
    }
}

fn modified(path: &str, old: &GroupEntry, new: &GroupEntry, changes: &mut Vec<Change>) {
    let told = changes.len();
    let password_differs = old.password != new.password;
    if password_differs && new.password != b"x" {
        let (before, after) = (Password::of_field(&old.password), Password::of_field(&new.password));
        changes.push(password(path, &new.name, new.gid, before, after));
    }
    for (kind, member) in membership(&old.members, &new.members) {
        changes.push(of_member(kind, path, &new.name, new.gid, member));
    }
    if old.gid != new.gid || changes.len() == told {
        let mut change = of_group("group_modified", path, new);
        change.before = Some(state(old));
        change.after = Some(state(new));
        flag(&mut change, "gid_zero", new.gid == Some(0) && old.gid != Some(0));
        changes.push(change);
    }
}

/// Tells every group that differs in gshadow, except what its line in group tells already.
pub(super) fn gshadow(
    path: &str,
    pairing: &Pairing<'_, GshadowEntry>,
    families: &Families<'_>,
    changes: &mut Vec<Change>,
) {
    for (old, duplicate) in &pairing.removed {
        let gid = families.after.group(&old.name).and_then(|group| group.gid);
        if *duplicate || families.after.group(&old.name).is_some() {
            let mut change = named("group_modified", path, &old.name, &[]);
            change.gid = gid;
            change.before = Some(only_password(Password::of_field(&old.password)));
            flag(&mut change, "duplicate_name", *duplicate);
            changes.push(change);
        } else if families.before.group(&old.name).is_none() {
            changes.push(named("group_removed", path, &old.name, &["no_group_entry"]));
        }
    }
    for (new, duplicate) in &pairing.added {
        gshadow_added(path, new, *duplicate, families, changes);
    }
    for (old, new) in &pairing.modified {
        gshadow_modified(path, old, new, families, changes);
    }
}

fn gshadow_added(path: &str, new: &GshadowEntry, duplicate: bool, families: &Families<'_>, changes: &mut Vec<Change>) {
    let group = families.after.group(&new.name);
    let gid = group.and_then(|group| group.gid);
    let after = Password::of_field(&new.password);
    let group_is_new = families.before.group(&new.name).is_none();
    if group.is_none() {
        changes.push(named("group_added", path, &new.name, &["no_group_entry"]));
    } else if duplicate || !group_is_new {
        let mut change = named("group_modified", path, &new.name, &[]);
        change.gid = gid;
        change.after = Some(only_password(after));
        flag(&mut change, "duplicate_name", duplicate);
        changes.push(change);
    }
    if after == Password::Set {
        changes.push(password(path, &new.name, gid, Password::Missing, after));
    }
    let known = group.map(|group| group.members.as_slice()).unwrap_or_default();
    for (kind, member) in membership(known, &new.members) {
        if kind == "membership_added" {
            changes.push(of_member(kind, path, &new.name, gid, member));
        }
    }
}

fn gshadow_modified(
    path: &str,
    old: &GshadowEntry,
    new: &GshadowEntry,
    families: &Families<'_>,
    changes: &mut Vec<Change>,
) {
    let groups = (families.before.group(&new.name), families.after.group(&new.name));
    let gid = groups.1.and_then(|group| group.gid);
    let told = changes.len();
    if old.password != new.password {
        let (before, after) = (Password::of_field(&old.password), Password::of_field(&new.password));
        changes.push(password(path, &new.name, gid, before, after));
    }
    if old.administrators != new.administrators {
        let mut change = named("group_modified", path, &new.name, &["administrators"]);
        change.gid = gid;
        changes.push(change);
    }
    let mut explained = false;
    let in_group: HashSet<(&str, &[u8])> = match groups {
        (Some(before), Some(after)) => membership(&before.members, &after.members).collect(),
        _ => HashSet::new(),
    };
    for (kind, member) in membership(&old.members, &new.members) {
        if in_group.contains(&(kind, member)) {
            explained = true;
        } else {
            changes.push(of_member(kind, path, &new.name, gid, member));
        }
    }
    if changes.len() == told && !explained {
        changes.push(Change { gid, ..named("group_modified", path, &new.name, &[]) });
    }
}

/// Tells whose ranges of subordinate ids differ.
pub(super) fn subid(path: &str, pairing: &Pairing<'_, SubidEntry>, changes: &mut Vec<Change>) {
    for (old, _) in &pairing.removed {
        changes.push(named("database_changed", path, &old.owner, &["range_removed"]));
    }
    for (new, _) in &pairing.added {
        changes.push(named("database_changed", path, &new.owner, &["range_added"]));
    }
    for (_, new) in &pairing.modified {
        changes.push(named("database_changed", path, &new.owner, &["range_changed"]));
    }
}

/// Who left and who came.
fn membership<'a>(
    before: &'a [Vec<u8>],
    after: &'a [Vec<u8>],
) -> impl Iterator<Item = (&'static str, &'a [u8])> + use<'a> {
    let old: HashSet<&[u8]> = before.iter().map(Vec::as_slice).collect();
    let new: HashSet<&[u8]> = after.iter().map(Vec::as_slice).collect();
    let mut seen = HashSet::new();
    let come: Vec<&[u8]> =
        after.iter().map(Vec::as_slice).filter(|member| !old.contains(member) && seen.insert(*member)).collect();
    let gone: Vec<&[u8]> =
        before.iter().map(Vec::as_slice).filter(|member| !new.contains(member) && seen.insert(*member)).collect();
    let gone = gone.into_iter().map(|member| ("membership_removed", member));
    gone.chain(come.into_iter().map(|member| ("membership_added", member)))
}

fn of_group(kind: &str, path: &str, entry: &GroupEntry) -> Change {
    Change { gid: entry.gid, ..named(kind, path, &entry.name, &[]) }
}

fn of_member(kind: &str, path: &str, group: &[u8], gid: Option<u32>, member: &[u8]) -> Change {
    let mut change = Change { gid, member: Some(printable(member)), ..named(kind, path, group, &[]) };
    let privileged = gid == Some(0) || PRIVILEGED.contains(&group);
    flag(&mut change, "privileged_group", privileged && kind == "membership_added");
    change
}

fn password(path: &str, group: &[u8], gid: Option<u32>, before: Password, after: Password) -> Change {
    let kind = match after {
        Password::Set => "password_set",
        Password::Empty | Password::Missing => "password_removed",
        Password::Locked if matches!(before, Password::Set | Password::Empty) => "password_locked",
        Password::Locked => "group_modified",
    };
    Change {
        gid,
        before: Some(only_password(before)),
        after: Some(only_password(after)),
        ..named(kind, path, group, &["group_password"])
    }
}

fn state(entry: &GroupEntry) -> AccountState {
    let members = entry.members.iter().take(MAX_LISTED_MEMBERS).map(|member| printable(member)).collect();
    AccountState { gid: entry.gid, members: Some(members), ..AccountState::default() }
}

fn only_password(password: Password) -> AccountState {
    AccountState { password: Some(password.as_str().to_owned()), ..AccountState::default() }
}
