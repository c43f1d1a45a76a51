//! Changes of where accounts are looked up.

use crate::model::account::diff::accounts::flag;
use crate::model::account::diff::named;
use crate::model::account::lookup;
use crate::model::account::lookup::LookupEntry;
use crate::model::account::table::Table;
use crate::model::event::AccountState;
use crate::model::event::Change;
use crate::model::redact::printable;

/// Most sources that a state lists.
const MAX_LISTED_SOURCES: usize = 100;

/// Tells every line about accounts that says something else. Other lines, comments and the order of lines are none.
pub(super) fn lookups(
    path: &str,
    before: Option<&Table<LookupEntry>>,
    after: &Table<LookupEntry>,
    changes: &mut Vec<Change>,
) {
    for ((database, old), (_, new)) in lookup::of_accounts(before).zip(lookup::of_accounts(Some(after))) {
        if old == new {
            continue;
        }
        let lacks = |some: Option<&[Vec<u8>]>, other: Option<&[Vec<u8>]>| {
            let other = other.unwrap_or_default();
            some.unwrap_or_default().iter().any(|source| !other.contains(source))
        };
        let mut change = named("lookup_changed", path, database.as_bytes(), &[]);
        flag(&mut change, "source_added", lacks(new, old));
        flag(&mut change, "source_removed", lacks(old, new));
        change.before = Some(state(old));
        change.after = Some(state(new));
        changes.push(change);
    }
}

fn state(sources: Option<&[Vec<u8>]>) -> AccountState {
    let listed =
        |sources: &[Vec<u8>]| sources.iter().take(MAX_LISTED_SOURCES).map(|source| printable(source)).collect();
    AccountState { sources: sources.map(listed), ..AccountState::default() }
}
