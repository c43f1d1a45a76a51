//! Giving back lent capabilities: out of all five sets of the process (capabilities(7)), so that the program that follows has
//! exactly what it would have had.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use rustix::io::Errno;
use rustix::thread::CapabilitySet;

use crate::calls::process::Reason;

/// A capability could not be given back.
#[derive(Debug, thiserror::Error)]
#[error("cannot drop {} from the {set} set: {}; lend CAP_SETPCAP too and give it back last", names(*capabilities), Reason(*reason))]
pub struct GiveBackError {
    capabilities: CapabilitySet,
    set: &'static str,
    reason: Errno,
}

/// A capability and the sets it was lent in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Loan {
    /// One capability.
    pub capability: CapabilitySet,
    /// Which of [`SETS`].
    pub sets: [bool; SETS.len()],
}

/// The sets, as runtimes call them and in the order in which they are given back.
///
/// The bounding set comes first for all of them, because PR_CAPBSET_DROP needs CAP_SETPCAP in the effective set, which may be
/// among those given back; the last three go together, for effective must stay a part of permitted (capset(2)).
pub const SETS: [&str; 5] = ["bounding", "ambient", "inheritable", "effective", "permitted"];

/// `CAP_SYS_ADMIN`, out of all sets, or `CAP_SYS_ADMIN=bounding,ambient`.
///
/// # Errors
/// A line that names the text when there is no such capability or set.
pub fn parse(text: &str) -> Result<Loan, String> {
    let (name, sets) = text.split_once('=').map_or((text, None), |(name, sets)| (name, Some(sets)));
    let capability = named(name).ok_or_else(|| format!("{name:?} is no capability; names are in capabilities(7)"))?;
    let mut chosen = [sets.is_none(); SETS.len()];
    for name in sets.into_iter().flat_map(|sets| sets.split(',')) {
        let known = SETS.iter().zip(&mut chosen).find(|(known, _)| **known == name);
        *known.ok_or_else(|| format!("{name:?} is no capability set; they are in capabilities(7)"))?.1 = true;
    }
    Ok(Loan { capability, sets: chosen })
}

/// By its name in whatever case, with or without `CAP_`.
fn named(name: &str) -> Option<CapabilitySet> {
    let upper = name.to_ascii_uppercase();
    CapabilitySet::from_name(upper.strip_prefix("CAP_").unwrap_or(&upper))
}

fn names(capabilities: CapabilitySet) -> String {
    let names: Vec<String> = capabilities.iter_names().map(|(name, _)| format!("CAP_{name}")).collect();
    names.join(", ")
}

/// Drops what was lent from the sets it was lent in, for good.
///
/// What a set holds of its own must stay in the others too: the kernel lowers an ambient capability that leaves the permitted
/// or the inheritable set (capabilities(7)). So only what was lent is touched.
///
/// # Errors
/// [`GiveBackError`] at the first that the kernel refuses.
pub fn give_back(loans: &[Loan]) -> Result<(), GiveBackError> {
    let [bounding, ambient, inheritable, effective, permitted] = core::array::from_fn(|set| lent_in(loans, set));
    for capabilities in bounding.iter() {
        rustix::thread::remove_capability_from_bounding_set(capabilities).map_err(|reason| GiveBackError {
            capabilities,
            set: "bounding",
            reason,
        })?;
    }
    for capabilities in ambient.iter() {
        rustix::thread::configure_capability_in_ambient_set(capabilities, false).map_err(|reason| GiveBackError {
            capabilities,
            set: "ambient",
            reason,
        })?;
    }
    let capabilities = inheritable | effective | permitted;
    if capabilities.is_empty() {
        return Ok(());
    }
    let failed = |reason| GiveBackError { capabilities, set: "permitted", reason };
    let mut sets = rustix::thread::capabilities(None).map_err(failed)?;
    sets.inheritable.remove(inheritable);
    sets.effective.remove(effective);
    sets.permitted.remove(permitted);
    rustix::thread::set_capabilities(None, sets).map_err(failed)
}

/// What was lent in one of [`SETS`].
fn lent_in(loans: &[Loan], set: usize) -> CapabilitySet {
    let lent = loans.iter().filter(|loan| loan.sets.get(set) == Some(&true));
    lent.map(|loan| loan.capability).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_taken_with_and_without_prefix_and_sets() {
        for (text, expected) in [
            ("CAP_SYS_ADMIN", Some((CapabilitySet::SYS_ADMIN, [true; 5]))),
            ("sys_admin", Some((CapabilitySet::SYS_ADMIN, [true; 5]))),
            ("CAP_SETPCAP=ambient,bounding", Some((CapabilitySet::SETPCAP, [true, true, false, false, false]))),
            ("CAP_NONE", None),
            ("CAP_SETPCAP=", None),
            ("CAP_SETPCAP=all", None),
        ] {
            let found = parse(text).ok();
            assert_eq!(found.map(|loan| (loan.capability, loan.sets)), expected, "{text}");
        }
    }

    #[test]
    fn every_capability_is_known_by_its_name() {
        for capability in caps::all() {
            let loan = parse(&capability.to_string()).expect("a capability");
            assert_eq!(loan.capability.bits(), capability.bitmask(), "{capability}");
        }
    }
}
