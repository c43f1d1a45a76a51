//! Databases that belong together: passwd and group with their shadows, in `/etc` and in `/var/lib/extrausers`.

use std::collections::HashMap;
use std::collections::HashSet;

use crate::model::account::group::GroupEntry;
use crate::model::account::passwd::PasswdEntry;
use crate::model::account::shadow::Password;
use crate::model::account::shadow::ShadowEntry;
use crate::model::account::snapshot::Content;
use crate::model::account::snapshot::Databases;
use crate::model::account::table::Entry;
use crate::model::account::table::Table;

/// Directories that hold a passwd, a shadow, a group and a gshadow.
pub(in crate::model::account) const DIRECTORIES: [&str; 2] = ["/etc", "/var/lib/extrausers"];

/// The four files of one directory in one snapshot, with the look-ups that a diff needs.
pub(in crate::model::account) struct Family<'a> {
    accounts: HashMap<&'a [u8], &'a PasswdEntry>,
    shadows: HashMap<&'a [u8], &'a ShadowEntry>,
    groups: HashMap<&'a [u8], &'a GroupEntry>,
    uids: HashMap<u32, HashSet<&'a [u8]>>,
}

impl<'a> Family<'a> {
    pub(in crate::model::account) fn of(databases: &'a Databases, directory: &str) -> Self {
        let content = |name: &str| databases.get(&format!("{directory}/{name}")).map(|database| &database.content);
        let mut uids: HashMap<u32, HashSet<&'a [u8]>> = HashMap::new();
        let accounts = match content("passwd") {
            Some(Content::Passwd(table)) => {
                for entry in table.entries() {
                    if let Some(uid) = entry.uid {
                        uids.entry(uid).or_default().insert(&entry.name);
                    }
                }
                first_by_name(table)
            }
            _ => HashMap::new(),
        };
        let shadows = match content("shadow") {
            Some(Content::Shadow(table)) => first_by_name(table),
            _ => HashMap::new(),
        };
        let groups = match content("group") {
            Some(Content::Group(table)) => first_by_name(table),
            _ => HashMap::new(),
        };
        Self { accounts, shadows, groups, uids }
    }

    /// The account that a look-up by name finds.
    pub(in crate::model::account) fn account(&self, name: &[u8]) -> Option<&'a PasswdEntry> {
        self.accounts.get(name).copied()
    }

    /// The group that a look-up by name finds.
    pub(in crate::model::account) fn group(&self, name: &[u8]) -> Option<&'a GroupEntry> {
        self.groups.get(name).copied()
    }

    /// The password that counts for an account: its own field, or the shadow line when that field is `x`.
    pub(in crate::model::account) fn password(&self, entry: &PasswdEntry) -> Password {
        if entry.password != b"x" {
            return Password::of_field(&entry.password);
        }
        self.shadows.get(entry.name.as_slice()).map_or(Password::Missing, |shadow| Password::of_field(&shadow.password))
    }

    /// Whether another name has this uid too.
    pub(in crate::model::account) fn shares_uid(&self, uid: u32, name: &[u8]) -> bool {
        self.uids.get(&uid).is_some_and(|names| names.iter().any(|other| *other != name))
    }
}

fn first_by_name<E: Entry>(table: &Table<E>) -> HashMap<&[u8], &E> {
    let mut entries = HashMap::new();
    for entry in table.entries() {
        entries.entry(entry.name()).or_insert(entry);
    }
    entries
}

/// Entries of two versions of a file, paired by name.
pub(in crate::model::account) struct Pairing<'a, E> {
    /// New entries; `true` when another entry of that name is there too.
    pub added: Vec<(&'a E, bool)>,
    /// Entries gone; `true` when another entry of that name is still there.
    pub removed: Vec<(&'a E, bool)>,
    /// Entries whose content changed, or which were pushed aside by another order of duplicates.
    pub modified: Vec<(&'a E, &'a E)>,
}

impl<'a, E: Entry> Pairing<'a, E> {
    /// Pairs in linear time: equal entries cancel out, what is left of a name is paired in order.
    pub(in crate::model::account) fn of(before: Option<&'a Table<E>>, after: Option<&'a Table<E>>) -> Self {
        let before = by_name(before);
        let after = by_name(after);
        let mut pairing = Self { added: Vec::new(), removed: Vec::new(), modified: Vec::new() };
        for (name, old) in &before.lists {
            if !after.index.contains_key(name) {
                pairing.removed.extend(old.iter().map(|entry| (*entry, false)));
            }
        }
        for (name, new) in &after.lists {
            match before.list(name) {
                Some(old) => pairing.compare(old, new),
                None => {
                    let mut fresh = new.iter();
                    pairing.added.extend(fresh.next().map(|entry| (*entry, new.len() > 1)));
                    pairing.added.extend(fresh.map(|entry| (*entry, true)));
                }
            }
        }
        pairing
    }

    fn compare(&mut self, old: &[&'a E], new: &[&'a E]) {
        if old == new {
            return;
        }
        let gone = without(old, new);
        let come = without(new, old);
        if gone.is_empty() && come.is_empty() {
            if let (Some(first), Some(effective)) = (old.first(), new.first())
                && first != effective
            {
                self.modified.push((first, effective));
            }
            return;
        }
        self.modified.extend(gone.iter().copied().zip(come.iter().copied()));
        self.added.extend(come.iter().skip(gone.len()).map(|entry| (*entry, true)));
        self.removed.extend(gone.iter().skip(come.len()).map(|entry| (*entry, true)));
    }

    /// Whether no entry differs.
    pub(in crate::model::account) fn is_empty(&self) -> bool {
        self.added.is_empty() && self.removed.is_empty() && self.modified.is_empty()
    }
}

/// The entries of `list` that are not in `other`, counted with their multiplicity, in order.
fn without<'a, E: Entry>(list: &[&'a E], other: &[&'a E]) -> Vec<&'a E> {
    let mut counts: HashMap<&E, usize> = HashMap::new();
    for entry in other {
        let count = counts.entry(entry).or_default();
        *count = count.saturating_add(1);
    }
    let mut rest = Vec::new();
    for entry in list {
        match counts.get_mut(entry) {
            Some(count) if *count > 0 => *count = count.saturating_sub(1),
            _ => rest.push(*entry),
        }
    }
    rest
}

/// Lists of entries of one name, in the order in which the names first appear.
struct ByName<'a, E> {
    lists: Vec<(&'a [u8], Vec<&'a E>)>,
    index: HashMap<&'a [u8], usize>,
}

impl<'a, E> ByName<'a, E> {
    fn list(&self, name: &[u8]) -> Option<&[&'a E]> {
        let position = self.index.get(name)?;
        self.lists.get(*position).map(|(_, list)| list.as_slice())
    }
}

fn by_name<E: Entry>(table: Option<&Table<E>>) -> ByName<'_, E> {
    let mut sorted = ByName { lists: Vec::new(), index: HashMap::new() };
    for entry in table.into_iter().flat_map(Table::entries) {
        let end = sorted.lists.len();
        let position = *sorted.index.entry(entry.name()).or_insert(end);
        match sorted.lists.get_mut(position) {
            Some((_, list)) => list.push(entry),
            None => sorted.lists.push((entry.name(), vec![entry])),
        }
    }
    sorted
}
