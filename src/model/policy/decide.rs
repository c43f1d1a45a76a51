//! What policy says to an attempt and to a creation: the one place where failing open or closed is decided.
//!
//! * `off` and `audit` never refuse a call.
//! * `enforce` fails closed: what changes a database, gives it another name, moves what lies above it, opens a way past the
//!   interception, or *could not be understood* is refused with EPERM.
//! * Running an account tool is evidence; it is never refused by itself.
//! * A seccomp listener beside acctguard's is refused by the kernel, in every mode; that is left to it.
//! * `allow` exceptions are parsed and validated but not yet decided: an enforcing policy refuses what they name as well.

use crate::model::attempt::Attempt;
use crate::model::attempt::Effect;
use crate::model::event::CreationVerdict;
use crate::model::event::Creator;
use crate::model::policy::Applied;
use crate::model::policy::Mode;
use crate::model::policy::matching::any_matches;
use crate::model::policy::matching::image_spellings;
use crate::model::policy::matching::list;
use crate::model::policy::rule::CreationRule;
use crate::model::policy::rule::OnUnexpected;
use crate::model::redact::printable;
use crate::model::workload::Workload;

/// `EPERM`, errno(3): the answer to what policy refuses.
pub const EPERM: i32 = 1;

/// What policy says to one attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// The call goes on.
    Allow {
        /// Which part of the policy said so.
        rule: String,
    },
    /// The call is refused.
    Block {
        /// The error the caller gets, positive.
        errno: i32,
        /// Which part of the policy said so.
        rule: String,
    },
    /// The kernel refuses it, whatever policy says.
    RefusedByKernel {
        /// In the place of a rule: why.
        rule: String,
    },
}

/// Decides one attempt. Pure: the same policy and attempt always give the same answer.
#[must_use]
pub fn decide(applied: &Applied, attempt: &Attempt) -> Decision {
    let rule = applied.mode_source.to_owned();
    match (applied.mode, attempt.effect) {
        (_, Effect::Listens) => {
            Decision::RefusedByKernel { rule: "a process has one seccomp listener at most".to_owned() }
        }
        (Mode::Off | Mode::Audit, _) => Decision::Allow { rule },
        (Mode::Enforce, Effect::RunsAccountTool) => Decision::Allow { rule: "account tools may run".to_owned() },
        (
            Mode::Enforce,
            Effect::Writes
            | Effect::Replaces
            | Effect::Aliases
            | Effect::ReplacesAncestor
            | Effect::Bypasses
            | Effect::Unresolved,
        ) => Decision::Block { errno: EPERM, rule },
    }
}

/// Judges a creation. Without a `creation` part every creation is expected. What an engine does not tell cannot be
/// expected: an unknown image or creator is unexpected where the policy asks for one.
#[must_use]
pub fn judge_creation(applied: &Applied, workload: &Workload, creator: &Creator) -> CreationVerdict {
    let Some(rule) = &applied.creation else {
        return CreationVerdict { result: "expected".to_owned(), reasons: Vec::new(), refused: false };
    };
    let reasons: Vec<String> =
        [image_reason(rule, workload), creator_reason(rule, creator)].into_iter().flatten().collect();
    let unexpected = !reasons.is_empty();
    CreationVerdict {
        result: if unexpected { "unexpected" } else { "expected" }.to_owned(),
        refused: unexpected && rule.on_unexpected == OnUnexpected::Refuse,
        reasons,
    }
}

fn image_reason(rule: &CreationRule, workload: &Workload) -> Option<String> {
    let patterns = rule.images.as_deref()?;
    let Some(image) = &workload.container.image else {
        if is_sandbox(workload) {
            return None;
        }
        return Some(format!("the engine does not tell the image; expected {}", list(patterns)));
    };
    let spellings = image_spellings(image);
    if spellings.iter().any(|spelling| any_matches(patterns, spelling)) {
        return None;
    }
    let image = spellings.last().map(|spelling| printable(spelling.as_bytes())).unwrap_or_default();
    Some(format!("image {image} is not among {}", list(patterns)))
}

/// Whether the container is a pod's own sandbox, whose image some engines do not tell: it runs the engine's pause program.
fn is_sandbox(workload: &Workload) -> bool {
    ["io.kubernetes.cri.container-type", "io.kubernetes.cri-o.ContainerType"]
        .iter()
        .any(|key| workload.annotations.get(*key).is_some_and(|value| value == "sandbox"))
}

fn creator_reason(rule: &CreationRule, creator: &Creator) -> Option<String> {
    let patterns = rule.creators.as_deref()?;
    let names = creator_names(creator);
    if names.iter().any(|name| any_matches(patterns, name)) {
        return None;
    }
    let names: Vec<String> = names.iter().map(|name| printable(name.as_bytes())).collect();
    Some(format!("creator {} is not among {}", names.join(", "), list(patterns)))
}

/// Every name a creator is known by: principal, service account, login name, user name, and `uid:N`.
fn creator_names(creator: &Creator) -> Vec<String> {
    [&creator.principal, &creator.service_account, &creator.login_user, &creator.user]
        .into_iter()
        .flatten()
        .cloned()
        .chain([format!("uid:{}", creator.uid)])
        .collect()
}
