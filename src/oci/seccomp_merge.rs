//! Merges the interception into a workload's own seccomp profile.
//!
//! The relation between the profile before and after, call by call (proved by `seccomp_proof` on compiled filters):
//! * a call that was refused (ERRNO, TRAP, KILL, TRACE) is refused the same way, with the same errno;
//! * a call that was allowed (ALLOW, LOG) and passes the test of [`crate::oci::intercepted`] is handed to the daemon;
//! * every other call gets the action it had.
//!
//! Where rules cannot say that exactly, the first line wins over the second, and the second is done too generously: more
//! calls than needed go to the daemon, which lets them go on. That happens when allowing and refusing rules overlap
//! (libseccomp's own order decides between them and must stay), when a rule compares by other than EQ and MASKED_EQ
//! (libseccomp 2.5.4 reads several such rules otherwise than they say, and that too must stay), and when rules compare
//! several arguments (see `argument`).
//! Only where a profile allows by default and refuses one of our calls under conditions that cannot be turned around, or
//! by several arguments, a part of its calls stays unwatched; [`Merged::gaps`] names it and policy decides.
//!
//! Other consequences: an intercepted call that was under LOG is no longer logged; names that a profile does not mention
//! are not introduced where the default refuses, because runc derives the newest call a profile knows from its names.

use serde_json::Map;
use serde_json::Value;
use serde_json::json;

use crate::oci::intercepted;
use crate::oci::intercepted::InterceptedCall;
use crate::oci::seccomp_condition::Condition;
use crate::oci::seccomp_flags;
use crate::oci::seccomp_profile::Action;
use crate::oci::seccomp_profile::Profile;
use crate::oci::seccomp_profile::ProfileError;
use crate::oci::seccomp_profile::Rule;

/// Most parts that what is left of one call may have, so that filters stay short (BPF_MAXINSNS).
pub(super) const MAX_PARTS: usize = 64;
/// Most rules that one call may become by telling writes from reads in each of them; beyond, reads are intercepted too.
const MAX_RULES: usize = 64;

/// Where the daemon takes listeners.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listener<'a> {
    /// `listenerPath`.
    pub path: &'a str,
    /// `listenerMetadata`.
    pub metadata: &'a str,
}

/// Why a profile cannot carry the interception: a task has one seccomp listener at most (seccomp_unotify(2)).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Conflict {
    /// Another agent's listener.
    #[error("the container's seccomp profile already has a listener at {path:?}, and a container can have only one")]
    ForeignListener {
        /// Its socket.
        path: String,
    },
    /// Rules for a listener that is not named.
    #[error("the container's seccomp profile uses SCMP_ACT_NOTIFY without a listenerPath")]
    ForeignNotify,
}

/// A profile with the interception in it.
#[derive(Debug, Clone, PartialEq)]
pub struct Merged {
    /// The new section.
    pub section: Value,
    /// Calls that are intercepted in part only, and why.
    pub gaps: Vec<String>,
}

/// What became of a merge.
#[derive(Debug, Clone, PartialEq)]
pub enum Merge {
    /// The section already is acctguard's.
    Unchanged,
    /// The new section.
    Merged(Merged),
    /// It cannot be done; policy decides.
    Conflict(Conflict),
}

/// Merges the interception into `section`, a `linux.seccomp` value; `None` or null when the workload has none.
///
/// # Errors
/// [`ProfileError`] when the section is not what the runtime specification says.
pub fn merge(section: Option<&Value>, listener: Listener<'_>) -> Result<Merge, ProfileError> {
    let Some(section) = section.filter(|section| !section.is_null()) else {
        let own = intercepted::localhost_profile(intercepted::host_architectures(), listener.path, listener.metadata);
        return Ok(Merge::Merged(Merged { section: without_comments(own), gaps: Vec::new() }));
    };
    let profile = Profile::parse(section)?;
    match &profile.listener_path {
        Some(path) if path == listener.path => return Ok(Merge::Unchanged),
        Some(path) => return Ok(Merge::Conflict(Conflict::ForeignListener { path: path.clone() })),
        None => {}
    }
    let mut actions = profile.entries.iter().flat_map(|entry| entry.rules.iter().map(|rule| rule.action));
    if profile.default == Action::Notify || actions.any(|action| action == Action::Notify) {
        return Ok(Merge::Conflict(Conflict::ForeignNotify));
    }
    let mut gaps = Vec::new();
    let mut replaced = Vec::new();
    for call in intercepted::calls() {
        if let Some(rules) = rules_for(call, &profile, &mut gaps) {
            replaced.push((call.name, rules));
        }
    }
    Ok(Merge::Merged(Merged { section: rewrite(section, &replaced, listener), gaps }))
}

/// Takes the interception out of a section that [`merge`] made: what it allowed is allowed again, what it refused stays
/// refused. `None` when the section is not acctguard's.
#[must_use]
pub fn remove(section: &Value, listener_path: &str) -> Option<Value> {
    if section.get("listenerPath")?.as_str()? != listener_path {
        return None;
    }
    let mut section = section.clone();
    seccomp_flags::take_out(&mut section);
    let object = section.as_object_mut()?;
    object.shift_remove("listenerPath");
    object.shift_remove("listenerMetadata");
    for entry in object.get_mut("syscalls").and_then(Value::as_array_mut).into_iter().flatten() {
        if entry.get("action").and_then(Value::as_str) == Some("SCMP_ACT_NOTIFY") {
            entry["action"] = json!("SCMP_ACT_ALLOW");
        }
    }
    Some(section)
}

fn without_comments(mut section: Value) -> Value {
    for entry in section.get_mut("syscalls").and_then(Value::as_array_mut).into_iter().flatten() {
        if let Some(entry) = entry.as_object_mut() {
            entry.shift_remove("comment");
        }
    }
    section
}

/// The new rules of one call; `None` when those it has are to stay as they are.
fn rules_for(call: InterceptedCall, profile: &Profile, gaps: &mut Vec<String>) -> Option<Vec<Rule>> {
    let added = profile.added(call.name);
    if added.iter().flat_map(|rule| &rule.conditions).any(Condition::is_high_only) {
        // What takes effect differs between 64 and 32 bits: only the action may change, rule by rule.
        if profile.default.allows() {
            gaps.push(format!(
                "{}: not intercepted, because the profile masks the high half of an argument",
                call.name
            ));
            return None;
        }
        let swap = |rule: Rule| if rule.action.allows() { notify(&rule.conditions) } else { rule };
        return Some(added.into_iter().map(swap).collect());
    }
    let rules = profile.effective(call.name);
    if let [Rule { action, conditions }] = rules.as_slice()
        && conditions.is_empty()
    {
        return action.allows().then(|| split(call, *action, &[]).unwrap_or_else(|| vec![notify(&[])]));
    }
    let default_allows = profile.default.allows();
    if !default_allows && !rules.iter().any(|rule| rule.action.allows()) {
        return None;
    }
    let unequal = rules.iter().flat_map(|rule| &rule.conditions).any(|condition| !condition.is_equality());
    let rules = if unequal && default_allows {
        let Some(rules) = upright(&rules) else {
            gaps.push(format!(
                "{}: not intercepted, because the profile's conditions on it are too involved",
                call.name
            ));
            return None;
        };
        rules
    } else {
        rules
    };
    let unequal = unequal && !default_allows;
    let allowing = |action: Action| rules.iter().any(|rule| rule.action == action);
    if unequal && allowing(Action::Allow) && allowing(Action::Log) {
        // With one action for both, libseccomp 2.5.4 may lose one of them, and a call would be refused that was allowed.
        gaps.push(format!("{}: not intercepted, because the profile's conditions on it are too involved", call.name));
        return None;
    }
    let tests = call.test.intercepted_when();
    let one_argument = argument(rules.iter().map(|rule| rule.conditions.as_slice()).chain(tests.chunks(1))).is_some();
    let too_many = !one_argument || rules.len() * (tests.len() + 1) > MAX_RULES;
    let overlap = rules.iter().enumerate().any(|(number, rule)| {
        rules
            .iter()
            .skip(number + 1)
            .any(|other| rule.action.allows() != other.action.allows() && may_meet(rule, other))
    });
    let mut new = Vec::new();
    for rule in &rules {
        if !rule.action.allows() {
            new.push(rule.clone());
        } else if overlap || unequal || too_many {
            new.push(notify(&rule.conditions));
        } else {
            new.extend(split(call, rule.action, &rule.conditions).unwrap_or_else(|| vec![notify(&rule.conditions)]));
        }
    }
    if default_allows {
        new.extend(rest(call, &rules, gaps));
    }
    // A rule may come out twice; runtimes fail on none of them, but one is enough.
    let mut unique: Vec<Rule> = Vec::with_capacity(new.len());
    for rule in new {
        if !unique.contains(&rule) {
            unique.push(rule);
        }
    }
    Some(unique)
}

/// The one argument that all of these compare: `Some(None)` if they compare nothing, `None` if several. Rules are made
/// for one argument only: several rules of one call that compare several can keep libseccomp 2.5.4 busy for ever, and the
/// runtime with it.
pub(super) fn argument<'a>(all: impl Iterator<Item = &'a [Condition]>) -> Option<Option<u32>> {
    let mut found = None;
    for condition in all.flatten() {
        if *found.get_or_insert(condition.index) != condition.index {
            return None;
        }
    }
    Some(found)
}

/// A single rule without inverted comparisons; `None` if that cannot be said. Several rules with other comparisons than
/// EQ and MASKED_EQ are left alone: what libseccomp 2.5.4 makes of them is not always what they say, and has to stay.
fn upright(rules: &[Rule]) -> Option<Vec<Rule>> {
    let [Rule { action, conditions }] = rules else { return None };
    let [condition] = conditions.as_slice() else { return None };
    let same = condition.upright();
    let rule = |condition: Condition| Rule { action: *action, conditions: vec![condition] };
    (!same.lost).then(|| same.conditions.into_iter().map(rule).collect())
}

fn notify(conditions: &[Condition]) -> Rule {
    Rule { action: Action::Notify, conditions: conditions.to_vec() }
}

/// Whether calls may exist for which both rules hold.
fn may_meet(left: &Rule, right: &Rule) -> bool {
    !left.conditions.iter().any(|one| {
        right.conditions.iter().filter(|other| other.index == one.index).any(|other| {
            let common = one.and(other);
            common.conditions.is_empty() && !common.lost
        })
    })
}

/// `conditions` and `condition`, as lists of which no two hold together; `None` if that cannot be said exactly.
fn both(conditions: &[Condition], condition: &Condition) -> Option<Vec<Vec<Condition>>> {
    let Some(position) = conditions.iter().position(|one| one.index == condition.index) else {
        let mut all = conditions.to_vec();
        all.push(*condition);
        return Some(vec![all]);
    };
    let common = conditions.get(position)?.and(condition);
    if common.lost {
        return None;
    }
    let replace = |one: Condition| {
        let mut all = conditions.to_vec();
        all.splice(position..=position, [one]);
        all
    };
    Some(common.conditions.into_iter().map(replace).collect())
}

/// An allowing rule in two parts, what is intercepted and what is not; `None` if that cannot be said exactly.
fn split(call: InterceptedCall, action: Action, conditions: &[Condition]) -> Option<Vec<Rule>> {
    let Some(let_go) = call.test.let_go_when() else {
        return Some(vec![notify(conditions)]);
    };
    let mut rules = Vec::new();
    for test in call.test.intercepted_when() {
        rules.extend(both(conditions, &test)?.iter().map(|conditions| notify(conditions)));
    }
    rules.extend(both(conditions, &let_go)?.into_iter().map(|conditions| Rule { action, conditions }));
    Some(rules)
}

/// What a default that allows leaves to intercept: everything under the test for which no refusing rule holds.
fn rest(call: InterceptedCall, rules: &[Rule], gaps: &mut Vec<String>) -> Vec<Rule> {
    let refusing = || rules.iter().filter(|rule| !rule.action.allows()).map(|rule| rule.conditions.as_slice());
    let Some(compared) = argument(refusing()) else {
        gaps.push(format!("{}: not intercepted, because the profile refuses it by several arguments", call.name));
        return Vec::new();
    };
    let mut regions: Vec<Vec<Condition>> = vec![Vec::new()];
    let mut lost = false;
    for conditions in refusing() {
        let mut left = Vec::new();
        for region in &regions {
            lost |= !without(region, conditions, &mut left);
            if left.len() > MAX_PARTS {
                break;
            }
        }
        regions = left;
        if regions.len() > MAX_PARTS {
            gaps.push(format!(
                "{}: not intercepted, because the profile refuses it under too many conditions",
                call.name
            ));
            return Vec::new();
        }
    }
    if lost {
        gaps.push(format!(
            "{}: intercepted in part, because the profile's conditions cannot be turned around",
            call.name
        ));
    }
    let tests = call.test.intercepted_when();
    let same = tests.first().is_some_and(|test| compared.is_none_or(|index| index == test.index));
    let fits = same && regions.len() * tests.len() <= MAX_RULES;
    let mut new = Vec::new();
    for region in regions {
        let parts: Option<Vec<_>> = tests.iter().map(|test| both(&region, test)).collect();
        match parts {
            Some(parts) if fits => {
                new.extend(parts.into_iter().flatten().map(|conditions| notify(&conditions)));
            }
            _ => new.push(notify(&region)),
        }
    }
    new
}

/// Adds to `left` what is in `region` but not under `conditions`. False if a part of it is missing. Breaks off with more
/// than [`MAX_PARTS`] in `left`, which is then not to be used.
pub(super) fn without(region: &[Condition], conditions: &[Condition], left: &mut Vec<Vec<Condition>>) -> bool {
    let mut complete = true;
    let mut inside = vec![region.to_vec()];
    for condition in conditions {
        if left.len() > MAX_PARTS || inside.len() > MAX_PARTS {
            left.resize(MAX_PARTS + 1, Vec::new());
            return complete;
        }
        let negated = condition.negated();
        complete &= !negated.lost;
        let mut still_inside = Vec::new();
        for part in &inside {
            for other in &negated.conditions {
                match both(part, other) {
                    Some(parts) => left.extend(parts),
                    None => complete = false,
                }
            }
            match both(part, condition) {
                Some(parts) => still_inside.extend(parts),
                None => complete = false,
            }
        }
        inside = still_inside;
    }
    complete
}

/// The section with the calls of `replaced` taken out of every entry and put, with their new rules, at its end.
fn rewrite(section: &Value, replaced: &[(&str, Vec<Rule>)], listener: Listener<'_>) -> Value {
    let mut section = section.clone();
    let Some(object) = section.as_object_mut() else {
        return section;
    };
    object.insert("listenerPath".to_owned(), json!(listener.path));
    object.insert("listenerMetadata".to_owned(), json!(listener.metadata));
    let mut entries = match object.get("syscalls") {
        Some(Value::Array(entries)) => entries.clone(),
        _ => Vec::new(),
    };
    let is_replaced = |name: &Value| name.as_str().is_some_and(|name| replaced.iter().any(|(known, _)| *known == name));
    entries.retain_mut(|entry| {
        let Some(names) = entry.get_mut("names").and_then(Value::as_array_mut) else {
            return true;
        };
        let before = names.len();
        names.retain(|name| !is_replaced(name));
        !names.is_empty() || before == 0
    });
    let mut groups: Vec<(Vec<&str>, &[Rule])> = Vec::new();
    for (name, rules) in replaced {
        match groups.iter_mut().find(|(_, known)| *known == rules.as_slice()) {
            Some((names, _)) => names.push(name),
            None => groups.push((vec![name], rules)),
        }
    }
    for (names, rules) in groups {
        entries.extend(rules.iter().map(|rule| entry(&names, rule)));
    }
    object.insert("syscalls".to_owned(), Value::Array(entries));
    section
}

/// A rule for these calls as an entry of `syscalls`.
pub(super) fn entry(names: &[&str], rule: &Rule) -> Value {
    let mut object = Map::new();
    object.insert("names".to_owned(), json!(names));
    object.extend(rule.action.to_json());
    if !rule.conditions.is_empty() {
        object.insert("args".to_owned(), rule.conditions.iter().map(Condition::to_json).collect());
    }
    Value::Object(object)
}
