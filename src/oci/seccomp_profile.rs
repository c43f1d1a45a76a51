//! `linux.seccomp` of a `config.json` as runc and crun read it: which rules of a profile take effect.
//!
//! Sources: runtime-spec config-linux.md "seccomp"; runc libcontainer/seccomp/seccomp_linux.go (`matchCall`, `getAction`);
//! crun src/libcrun/seccomp.c (`libcrun_generate_seccomp`). Both skip rules whose action is the default one, and split a
//! rule that names an argument twice into one rule per condition.

use serde_json::Map;
use serde_json::Value;

use crate::oci::seccomp_condition::Comparison;
use crate::oci::seccomp_condition::Condition;

/// EPERM, what `SCMP_ACT_ERRNO` and `SCMP_ACT_TRACE` return when the profile does not say (config-linux.md, `errnoRet`).
const EPERM: u64 = 1;

/// What a filter does with a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// `SCMP_ACT_ALLOW`.
    Allow,
    /// `SCMP_ACT_LOG`: allowed and logged.
    Log,
    /// `SCMP_ACT_NOTIFY`.
    Notify,
    /// `SCMP_ACT_ERRNO` with this errno.
    Errno(u64),
    /// `SCMP_ACT_TRACE` with this value.
    Trace(u64),
    /// `SCMP_ACT_TRAP`.
    Trap,
    /// `SCMP_ACT_KILL` and `SCMP_ACT_KILL_THREAD`, which are one (seccomp_init(3)).
    KillThread,
    /// `SCMP_ACT_KILL_PROCESS`.
    KillProcess,
}

impl Action {
    /// The action of a profile's words.
    #[must_use]
    pub fn parse(name: &str, errno: Option<u64>) -> Option<Self> {
        Some(match name {
            "SCMP_ACT_ALLOW" => Self::Allow,
            "SCMP_ACT_LOG" => Self::Log,
            "SCMP_ACT_NOTIFY" => Self::Notify,
            "SCMP_ACT_ERRNO" => Self::Errno(errno.unwrap_or(EPERM)),
            "SCMP_ACT_TRACE" => Self::Trace(errno.unwrap_or(EPERM)),
            "SCMP_ACT_TRAP" => Self::Trap,
            "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => Self::KillThread,
            "SCMP_ACT_KILL_PROCESS" => Self::KillProcess,
            _ => return None,
        })
    }

    /// Whether the call is carried out.
    #[must_use]
    pub const fn allows(self) -> bool {
        matches!(self, Self::Allow | Self::Log)
    }

    /// The members of a profile's rule that say this action.
    #[must_use]
    pub fn to_json(self) -> Map<String, Value> {
        let (name, errno) = match self {
            Self::Allow => ("SCMP_ACT_ALLOW", None),
            Self::Log => ("SCMP_ACT_LOG", None),
            Self::Notify => ("SCMP_ACT_NOTIFY", None),
            Self::Errno(errno) => ("SCMP_ACT_ERRNO", Some(errno)),
            Self::Trace(value) => ("SCMP_ACT_TRACE", Some(value)),
            Self::Trap => ("SCMP_ACT_TRAP", None),
            Self::KillThread => ("SCMP_ACT_KILL_THREAD", None),
            Self::KillProcess => ("SCMP_ACT_KILL_PROCESS", None),
        };
        let mut members = Map::new();
        members.insert("action".to_owned(), Value::from(name));
        if let Some(errno) = errno {
            members.insert("errnoRet".to_owned(), Value::from(errno));
        }
        members
    }
}

/// One rule for one call: the action when all conditions hold. No argument is named twice.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Rule {
    /// What is done.
    pub action: Action,
    /// When; always if empty.
    pub conditions: Vec<Condition>,
}

/// A seccomp section that is not what the runtime specification says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProfileError {
    /// A member of the wrong type.
    #[error("linux.seccomp.{member} of config.json is not {expected}; correct the profile the container was given")]
    Type {
        /// Where.
        member: String,
        /// What it should be.
        expected: &'static str,
    },
    /// An action no runtime knows.
    #[error(
        "linux.seccomp.{member} of config.json names the unknown action {name:?}; see seccomp_init(3) for those that exist"
    )]
    Action {
        /// Where.
        member: String,
        /// What it says, cut.
        name: String,
    },
    /// A comparison no runtime knows.
    #[error(
        "linux.seccomp.{member} of config.json names the unknown comparison {name:?}; see seccomp_rule_add(3) for those that exist"
    )]
    Comparison {
        /// Where.
        member: String,
        /// What it says, cut.
        name: String,
    },
}

/// One entry of `syscalls`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Names, as listed.
    pub names: Vec<String>,
    /// The rules it stands for, in the order in which the runtime adds them.
    pub rules: Vec<Rule>,
}

/// A profile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Profile {
    /// `defaultAction` with `defaultErrnoRet`.
    pub default: Action,
    /// `architectures`; `None` when not given.
    pub architectures: Option<Vec<String>>,
    /// `listenerPath`, when not empty.
    pub listener_path: Option<String>,
    /// `syscalls`.
    pub entries: Vec<Entry>,
}

fn text<'a>(object: &'a Value, key: &str, member: &str) -> Result<Option<&'a str>, ProfileError> {
    match object.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(ProfileError::Type { member: format!("{member}{key}"), expected: "a string" }),
    }
}

fn number(object: &Value, key: &str, member: &str) -> Result<Option<u64>, ProfileError> {
    match object.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => value.as_u64().map(Some).ok_or_else(|| ProfileError::Type {
            member: format!("{member}{key}"),
            expected: "a number from 0 to 2^64-1",
        }),
    }
}

fn list<'a>(object: &'a Value, key: &str, member: &str) -> Result<&'a [Value], ProfileError> {
    match object.get(key) {
        None | Some(Value::Null) => Ok(&[]),
        Some(Value::Array(items)) => Ok(items),
        Some(_) => Err(ProfileError::Type { member: format!("{member}{key}"), expected: "a list" }),
    }
}

fn cut(text: &str) -> String {
    text.chars().take(80).collect()
}

fn action(object: &Value, key: &str, errno_key: &str, member: &str) -> Result<Action, ProfileError> {
    let name = text(object, key, member)?.unwrap_or_default();
    let errno = number(object, errno_key, member)?;
    Action::parse(name, errno).ok_or_else(|| ProfileError::Action { member: format!("{member}{key}"), name: cut(name) })
}

fn condition(argument: &Value, member: &str) -> Result<Condition, ProfileError> {
    let index = number(argument, "index", member)?.unwrap_or(0);
    let index = u32::try_from(index)
        .ok()
        .filter(|index| *index < 6)
        .ok_or_else(|| ProfileError::Type { member: format!("{member}index"), expected: "a number from 0 to 5" })?;
    let name = text(argument, "op", member)?.unwrap_or_default();
    let comparison = Comparison::parse(name)
        .ok_or_else(|| ProfileError::Comparison { member: format!("{member}op"), name: cut(name) })?;
    let value = number(argument, "value", member)?.unwrap_or(0);
    let value_two = match comparison {
        Comparison::MaskedEqual => number(argument, "valueTwo", member)?.unwrap_or(0),
        _ => 0,
    };
    Ok(Condition { index, comparison, value, value_two })
}

fn entry(value: &Value, member: &str) -> Result<Entry, ProfileError> {
    let action = action(value, "action", "errnoRet", member)?;
    let mut names = Vec::new();
    for name in list(value, "names", member)? {
        let Value::String(name) = name else {
            return Err(ProfileError::Type { member: format!("{member}names"), expected: "a list of strings" });
        };
        names.push(name.clone());
    }
    let mut conditions = Vec::new();
    for (number, argument) in list(value, "args", member)?.iter().enumerate() {
        conditions.push(condition(argument, &format!("{member}args[{number}]."))?);
    }
    let twice = |index: u32| conditions.iter().filter(|one| one.index == index).count() > 1;
    let rules = if (0..6).any(twice) {
        conditions.iter().map(|one| Rule { action, conditions: vec![*one] }).collect()
    } else {
        vec![Rule { action, conditions }]
    };
    Ok(Entry { names, rules })
}

impl Profile {
    /// Reads a `linux.seccomp` section.
    ///
    /// # Errors
    /// [`ProfileError`] when it is not what the specification says; the runtime would refuse it as well.
    pub fn parse(section: &Value) -> Result<Self, ProfileError> {
        if !section.is_object() {
            return Err(ProfileError::Type { member: String::new(), expected: "an object" });
        }
        let default = action(section, "defaultAction", "defaultErrnoRet", "")?;
        let architectures = match section.get("architectures") {
            None | Some(Value::Null) => None,
            Some(_) => {
                let names = list(section, "architectures", "")?.iter();
                let names: Option<Vec<String>> = names.map(|name| name.as_str().map(ToOwned::to_owned)).collect();
                Some(names.ok_or_else(|| ProfileError::Type {
                    member: "architectures".to_owned(),
                    expected: "a list of strings",
                })?)
            }
        };
        let listener_path = text(section, "listenerPath", "")?.filter(|path| !path.is_empty()).map(ToOwned::to_owned);
        let mut entries = Vec::new();
        for (number, value) in list(section, "syscalls", "")?.iter().enumerate() {
            entries.push(entry(value, &format!("syscalls[{number}]."))?);
        }
        Ok(Self { default, architectures, listener_path, entries })
    }

    /// The rules for `name` that the runtime adds, in its order: those equal to the default are gone.
    #[must_use]
    pub fn added(&self, name: &str) -> Vec<Rule> {
        let naming = self.entries.iter().filter(|entry| entry.names.iter().any(|listed| listed == name));
        let rules = naming.flat_map(|entry| &entry.rules);
        rules.filter(|rule| rule.action != self.default).cloned().collect()
    }

    /// The rules for `name` that take effect, in the order in which the runtime adds them: the first without conditions is
    /// the only one, because libseccomp lets it replace those before it and ignores those after it.
    #[must_use]
    pub fn effective(&self, name: &str) -> Vec<Rule> {
        let mut rules = self.added(name);
        for rule in &mut rules {
            // libseccomp passes over comparisons under an empty mask; a rule of nothing else is unconditional.
            rule.conditions.retain(|one| one.comparison != Comparison::MaskedEqual || one.value != 0);
        }
        match rules.iter().find(|rule| rule.conditions.is_empty()) {
            Some(unconditional) => vec![unconditional.clone()],
            None => rules,
        }
    }
}
