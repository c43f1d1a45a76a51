//! What changed between two snapshots, account by account.
//!
//! Entries are paired by name. An account that is new is told once, by its line in passwd; its line in shadow adds
//! `password_set` when it holds a hash. Whatever differs in the bytes but in no entry is a `database_changed`, so no
//! difference goes untold; except in nsswitch.conf, which is about much else than accounts: there only its lines about
//! accounts are compared.

use std::collections::BTreeSet;

use crate::model::account::families::DIRECTORIES;
use crate::model::account::families::Family;
use crate::model::account::families::Pairing;
use crate::model::account::snapshot::Content;
use crate::model::account::snapshot::Database;
use crate::model::account::snapshot::Databases;
use crate::model::account::table::Entry;
use crate::model::account::table::Table;
use crate::model::database_path::DatabasePath;
use crate::model::event::Change;
use crate::model::redact::printable;

mod accounts;
mod groups;
mod lookups;

/// Most changes that one diff lists. Beyond it the flagged ones stay, and a last `database_changed` with the flag
/// `more_changes` says that there were others.
pub const MAX_CHANGES: usize = 1000;

/// The words of [`Change::change`].
pub const KINDS: [&str; 16] = [
    "account_added",
    "account_removed",
    "account_modified",
    "password_set",
    "password_removed",
    "password_locked",
    "group_added",
    "group_removed",
    "group_modified",
    "membership_added",
    "membership_removed",
    "lookup_changed",
    "database_created",
    "database_removed",
    "database_changed",
    "permissions_changed",
];

/// What changed from `before` to `after`; evidence `content`.
#[must_use]
pub fn diff(before: &Databases, after: &Databases) -> Vec<Change> {
    with_evidence(changes(before, after), "content")
}

/// What a blocked attempt was about to put in place: `database` with the content `proposed`; evidence `intended`.
#[must_use]
pub fn intended(before: &Databases, database: &DatabasePath, proposed: &[u8]) -> Vec<Change> {
    with_evidence(changes(before, &before.with(database, Some(proposed))), "intended")
}

fn with_evidence(mut changes: Vec<Change>, evidence: &str) -> Vec<Change> {
    for change in &mut changes {
        evidence.clone_into(&mut change.evidence);
    }
    changes
}

fn changes(before: &Databases, after: &Databases) -> Vec<Change> {
    let mut changes = Vec::new();
    let mut told = BTreeSet::new();
    for directory in DIRECTORIES {
        let paths = ["passwd", "shadow", "group", "gshadow"].map(|name| format!("{directory}/{name}"));
        if paths.iter().any(|path| before.get(path) != after.get(path)) {
            let families = Families { before: Family::of(before, directory), after: Family::of(after, directory) };
            for path in &paths {
                database(path, before.get(path), after.get(path), Some(&families), &mut changes);
            }
        }
        told.extend(paths);
    }
    let rest: BTreeSet<&str> = before.paths().chain(after.paths()).map(DatabasePath::as_str).collect();
    for path in rest.into_iter().filter(|path| !told.contains(*path)) {
        database(path, before.get(path), after.get(path), None, &mut changes);
    }
    bounded(changes)
}

/// The two versions of the databases that a database is read together with.
struct Families<'a> {
    before: Family<'a>,
    after: Family<'a>,
}

fn database(
    path: &str,
    before: Option<&Database>,
    after: Option<&Database>,
    families: Option<&Families<'_>>,
    changes: &mut Vec<Change>,
) {
    if let (Some(before), Some(after)) = (before, after)
        && let (Some(old), Some(new)) = (&before.permissions, &after.permissions)
    {
        changes.extend(old.change(new, path));
    }
    match (before, after) {
        (None, None) => return,
        (Some(_), None) => return changes.push(whole("database_removed", path, &[])),
        (Some(before), Some(after)) if before.digest == after.digest => return,
        (None, Some(_)) => changes.push(whole("database_created", path, &[])),
        (Some(_), Some(_)) => {}
    }
    if [before, after].into_iter().flatten().any(|database| database.unreadable.is_some()) {
        return changes.push(whole("database_changed", path, &["unreadable"]));
    }
    if [before, after].into_iter().flatten().any(|database| database.too_large) {
        return changes.push(whole("database_changed", path, &["too_large"]));
    }
    let old = before.map(|database| &database.content);
    match (after.map(|database| &database.content), families) {
        (Some(Content::Passwd(new)), Some(families)) => {
            let old = old.and_then(Content::passwd);
            table(path, old, new, changes, |pairing, changes| accounts::passwd(path, pairing, families, changes));
        }
        (Some(Content::Shadow(new)), Some(families)) => {
            let old = old.and_then(Content::shadow);
            table(path, old, new, changes, |pairing, changes| accounts::shadow(path, pairing, families, changes));
        }
        (Some(Content::Group(new)), Some(families)) => {
            let old = old.and_then(Content::group);
            table(path, old, new, changes, |pairing, changes| groups::group(path, pairing, families, changes));
        }
        (Some(Content::Gshadow(new)), Some(families)) => {
            let old = old.and_then(Content::gshadow);
            table(path, old, new, changes, |pairing, changes| groups::gshadow(path, pairing, families, changes));
        }
        (Some(Content::Subid(new)), _) => {
            let old = old.and_then(Content::subid);
            table(path, old, new, changes, |pairing, changes| groups::subid(path, pairing, changes));
        }
        (Some(Content::Lookup(new)), _) => {
            lookups::lookups(path, old.and_then(Content::lookup), new, changes);
        }
        _ if before.is_some() => changes.push(whole("database_changed", path, &[])),
        _ => {}
    }
}

/// Tells the entries that differ, and that other lines differ. `tell` may leave out an entry only when a change of
/// another database of the family tells it.
fn table<'a, E: Entry>(
    path: &str,
    old: Option<&'a Table<E>>,
    new: &'a Table<E>,
    changes: &mut Vec<Change>,
    tell: impl FnOnce(&Pairing<'a, E>, &mut Vec<Change>),
) {
    let pairing = Pairing::of(old, Some(new));
    tell(&pairing, changes);
    if malformed(old) != malformed(Some(new)) {
        changes.push(whole("database_changed", path, &["malformed_lines"]));
    } else if old.is_some() && pairing.is_empty() {
        changes.push(whole("database_changed", path, &["layout"]));
    }
}

fn malformed<E: Entry>(table: Option<&Table<E>>) -> Vec<&[u8]> {
    let mut lines: Vec<&[u8]> = table.into_iter().flat_map(Table::malformed).collect();
    lines.sort_unstable();
    lines
}

/// A change of a database as a whole.
fn whole(change: &str, path: &str, flags: &[&str]) -> Change {
    Change {
        change: change.to_owned(),
        database: path.to_owned(),
        flags: flags.iter().map(|flag| (*flag).to_owned()).collect(),
        ..Change::default()
    }
}

/// A change of one account or group.
fn named(change: &str, path: &str, name: &[u8], flags: &[&str]) -> Change {
    Change { name: Some(printable(name)), ..whole(change, path, flags) }
}

fn bounded(changes: Vec<Change>) -> Vec<Change> {
    let excess = changes.len().saturating_sub(MAX_CHANGES);
    if excess == 0 {
        return changes;
    }
    let mut unflagged_to_drop = excess.saturating_add(1);
    let mut last_database = String::new();
    let mut kept = Vec::with_capacity(MAX_CHANGES);
    let droppable = changes.iter().filter(|change| change.flags.is_empty()).count();
    let mut flagged_to_drop = unflagged_to_drop.saturating_sub(droppable);
    // from the end, so that what is dropped is what comes last
    for change in changes.into_iter().rev() {
        let quota = if change.flags.is_empty() { &mut unflagged_to_drop } else { &mut flagged_to_drop };
        if *quota > 0 {
            *quota = quota.saturating_sub(1);
            last_database = change.database;
        } else {
            kept.push(change);
        }
    }
    kept.reverse();
    kept.push(whole("database_changed", &last_database, &["more_changes"]));
    kept
}

#[cfg(test)]
mod tests;
