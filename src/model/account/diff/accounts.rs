//! Changes of passwd and shadow.

use crate::model::account::diff::Families;
use crate::model::account::diff::named;
use crate::model::account::families::Family;
use crate::model::account::families::Pairing;
use crate::model::account::passwd::PasswdEntry;
use crate::model::account::shadow::Password;
use crate::model::account::shadow::ShadowEntry;
use crate::model::account::table::is_compat;
use crate::model::event::AccountState;
use crate::model::event::Change;
use crate::model::redact::printable;

/// Tells every account that differs in passwd.
pub(super) fn passwd(
    path: &str,
    pairing: &Pairing<'_, PasswdEntry>,
    families: &Families<'_>,
    changes: &mut Vec<Change>,
) {
    for (old, duplicate) in &pairing.removed {
        let mut change = of_account("account_removed", path, old);
        change.before = Some(state(old, &families.before));
        flag(&mut change, "duplicate_name", *duplicate);
        changes.push(change);
    }
    for (new, duplicate) in &pairing.added {
        let mut change = of_account("account_added", path, new);
        let password = families.after.password(new);
        change.after = Some(state(new, &families.after));
        flag_uid(&mut change, new, families);
        flag(&mut change, "duplicate_name", *duplicate);
        flag(&mut change, "no_password", password == Password::Empty);
        flag(&mut change, "compat_entry", is_compat(&new.name));
        changes.push(change);
        if new.password != b"x" && password == Password::Set {
            let mut change = of_account("password_set", path, new);
            flag(&mut change, "uid_zero", new.uid == Some(0));
            change.after = Some(only_password(password));
            changes.push(change);
        }
    }
    for (old, new) in &pairing.modified {
        modified(path, old, new, families, changes);
    }
}

fn modified(path: &str, old: &PasswdEntry, new: &PasswdEntry, families: &Families<'_>, changes: &mut Vec<Change>) {
    let before = families.before.password(old);
    let after = families.after.password(new);
    let password_differs = old.password != new.password;
    let shadowed = password_differs && new.password == b"x";
    let same_fields = PasswdEntry { password: old.password.clone(), ..new.clone() } == *old;
    if !same_fields || shadowed {
        let mut change = of_account("account_modified", path, new);
        change.before = Some(state(old, &families.before));
        change.after = Some(state(new, &families.after));
        if old.uid != new.uid {
            flag_uid(&mut change, new, families);
        }
        flag(&mut change, "password_shadowed", shadowed);
        changes.push(change);
    }
    if password_differs && !shadowed {
        let (kind, flags) = password_kind(before, after);
        let mut change = of_account(kind, path, new);
        flag(&mut change, "uid_zero", new.uid == Some(0));
        change.before = Some(only_password(before));
        change.after = Some(only_password(after));
        flag(&mut change, flags, !flags.is_empty());
        flag(&mut change, "unlocked", unlocks(&old.password, &new.password));
        changes.push(change);
    }
}

/// Tells every account that differs in shadow, except what its line in passwd tells already.
pub(super) fn shadow(
    path: &str,
    pairing: &Pairing<'_, ShadowEntry>,
    families: &Families<'_>,
    changes: &mut Vec<Change>,
) {
    for (old, duplicate) in &pairing.removed {
        shadow_removed(path, old, *duplicate, families, changes);
    }
    for (new, duplicate) in &pairing.added {
        shadow_added(path, new, *duplicate, families, changes);
    }
    for (old, new) in &pairing.modified {
        let account = families.after.account(&new.name);
        let (before, after) = (Password::of_field(&old.password), Password::of_field(&new.password));
        let (kind, flags) =
            if old.password == new.password { ("account_modified", "ageing") } else { password_kind(before, after) };
        let mut change = password_change(kind, path, &new.name, account);
        change.before = Some(only_password(before));
        change.after = Some(only_password(after));
        flag(&mut change, flags, !flags.is_empty());
        flag(&mut change, "unlocked", unlocks(&old.password, &new.password));
        changes.push(change);
    }
}

fn shadow_removed(path: &str, old: &ShadowEntry, duplicate: bool, families: &Families<'_>, changes: &mut Vec<Change>) {
    let account = families.after.account(&old.name);
    let before = Some(only_password(Password::of_field(&old.password)));
    let change = if duplicate {
        let change = password_change("account_modified", path, &old.name, account);
        Change { before, flags: vec!["duplicate_name".to_owned()], ..change }
    } else if account.is_some() {
        let after = Some(only_password(Password::Missing));
        Change { before, after, ..password_change("password_removed", path, &old.name, account) }
    } else if families.before.account(&old.name).is_some() {
        return;
    } else {
        Change { before, ..named("account_removed", path, &old.name, &["no_passwd_entry"]) }
    };
    changes.push(change);
}

fn shadow_added(path: &str, new: &ShadowEntry, duplicate: bool, families: &Families<'_>, changes: &mut Vec<Change>) {
    let account = families.after.account(&new.name);
    let password = Password::of_field(&new.password);
    let after = Some(only_password(password));
    if duplicate {
        let change = password_change("account_modified", path, &new.name, account);
        return changes.push(Change { after, flags: vec!["duplicate_name".to_owned()], ..change });
    }
    let account_is_new = families.before.account(&new.name).is_none();
    if account.is_none() {
        let mut change = named("account_added", path, &new.name, &["no_passwd_entry"]);
        change.after.clone_from(&after);
        flag(&mut change, "no_password", password == Password::Empty);
        changes.push(change);
    }
    if account.is_some() && !account_is_new {
        let (kind, flags) = password_kind(Password::Missing, password);
        let mut change = password_change(kind, path, &new.name, account);
        change.before = Some(only_password(Password::Missing));
        change.after = after;
        flag(&mut change, flags, !flags.is_empty());
        changes.push(change);
    } else if password == Password::Set {
        changes.push(Change { after, ..password_change("password_set", path, &new.name, account) });
    }
}

/// What a change from one password to another is called, and its flag.
fn password_kind(before: Password, after: Password) -> (&'static str, &'static str) {
    match (before, after) {
        (_, Password::Set) => ("password_set", ""),
        (_, Password::Empty) => ("password_removed", "no_password"),
        (_, Password::Missing) => ("password_removed", ""),
        (Password::Set | Password::Empty, Password::Locked) => ("password_locked", ""),
        (Password::Locked | Password::Missing, Password::Locked) => ("account_modified", "locked"),
    }
}

/// `usermod -U`, `passwd -u`: the lock mark before a hash is gone.
fn unlocks(before: &[u8], after: &[u8]) -> bool {
    !after.is_empty() && before.strip_prefix(b"!") == Some(after)
}

fn of_account(kind: &str, path: &str, entry: &PasswdEntry) -> Change {
    Change {
        uid: entry.uid,
        gid: entry.gid,
        home: Some(printable(&entry.home)),
        shell: Some(printable(&entry.shell)),
        ..named(kind, path, &entry.name, &[])
    }
}

fn password_change(kind: &str, path: &str, name: &[u8], account: Option<&PasswdEntry>) -> Change {
    let uid = account.and_then(|account| account.uid);
    let mut change = Change { uid, ..named(kind, path, name, &[]) };
    flag(&mut change, "uid_zero", uid == Some(0));
    change
}

fn state(entry: &PasswdEntry, family: &Family<'_>) -> AccountState {
    AccountState {
        uid: entry.uid,
        gid: entry.gid,
        gecos: Some(printable(&entry.gecos)),
        home: Some(printable(&entry.home)),
        shell: Some(printable(&entry.shell)),
        password: Some(family.password(entry).as_str().to_owned()),
        ..AccountState::default()
    }
}

fn only_password(password: Password) -> AccountState {
    AccountState { password: Some(password.as_str().to_owned()), ..AccountState::default() }
}

fn flag_uid(change: &mut Change, entry: &PasswdEntry, families: &Families<'_>) {
    let Some(uid) = entry.uid else { return };
    let duplicate = families.after.shares_uid(uid, &entry.name);
    flag(change, "uid_zero", uid == 0);
    flag(change, "duplicate_uid", duplicate);
    flag(change, "reused_uid", !duplicate && families.before.shares_uid(uid, &entry.name));
}

/// Adds `flag` when `holds`.
pub(super) fn flag(change: &mut Change, flag: &str, holds: bool) {
    if holds {
        change.flags.push(flag.to_owned());
    }
}
