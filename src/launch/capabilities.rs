//! Giving back lent capabilities: out of all five sets of the process (capabilities(7)), so that the program that follows has
//! exactly what it would have had.

use caps::CapSet;
use caps::Capability;

/// A capability could not be given back.
#[derive(Debug, thiserror::Error)]
#[error("cannot drop {capability} from the {set:?} set; lend CAP_SETPCAP too and give it back last")]
pub struct GiveBackError {
    capability: Capability,
    set: CapSet,
    #[source]
    source: caps::errors::CapsError,
}

/// A capability and the sets it was lent in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loan {
    capability: Capability,
    /// Which of [`ORDER`].
    sets: [bool; ORDER.len()],
}

/// The sets, in the order in which they are given back.
///
/// The bounding set comes first for all of them, because PR_CAPBSET_DROP needs CAP_SETPCAP in the effective set, which may be
/// among those given back; permitted comes last, because effective must stay a part of it (capset(2)).
const ORDER: [CapSet; 5] =
    [CapSet::Bounding, CapSet::Ambient, CapSet::Inheritable, CapSet::Effective, CapSet::Permitted];

/// What runtimes call them.
const NAMES: [&str; ORDER.len()] = ["bounding", "ambient", "inheritable", "effective", "permitted"];

/// `CAP_SYS_ADMIN`, out of all sets, or `CAP_SYS_ADMIN=bounding,ambient`, as runtimes call the sets.
///
/// # Errors
/// A line that names the text when there is no such capability or set.
pub fn parse(text: &str) -> Result<Loan, String> {
    let (name, sets) = text.split_once('=').map_or((text, None), |(name, sets)| (name, Some(sets)));
    let unknown = |_| format!("{name:?} is no capability; names are in capabilities(7)");
    let capability = caps::to_canonical(name).parse().map_err(unknown)?;
    let mut chosen = [sets.is_none(); ORDER.len()];
    for name in sets.into_iter().flat_map(|sets| sets.split(',')) {
        let known = NAMES.iter().zip(&mut chosen).find(|(known, _)| **known == name);
        *known.ok_or_else(|| format!("{name:?} is no capability set; they are in capabilities(7)"))?.1 = true;
    }
    Ok(Loan { capability, sets: chosen })
}

/// Drops what was lent from the sets it was lent in, for good.
///
/// What a set holds of its own must stay in the others too: the kernel lowers an ambient capability that leaves the permitted
/// or the inheritable set (capabilities(7)). So only what was lent is touched.
///
/// # Errors
/// [`GiveBackError`] at the first that the kernel refuses.
pub fn give_back(loans: &[Loan]) -> Result<(), GiveBackError> {
    for (index, set) in ORDER.into_iter().enumerate() {
        for loan in loans.iter().filter(|loan| loan.sets.get(index) == Some(&true)) {
            let capability = loan.capability;
            caps::drop(None, set, capability).map_err(|source| GiveBackError { capability, set, source })?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_taken_with_and_without_prefix_and_sets() {
        for (text, expected) in [
            ("CAP_SYS_ADMIN", Some((Capability::CAP_SYS_ADMIN, [true; 5]))),
            ("sys_admin", Some((Capability::CAP_SYS_ADMIN, [true; 5]))),
            ("CAP_SETPCAP=ambient,bounding", Some((Capability::CAP_SETPCAP, [true, true, false, false, false]))),
            ("CAP_NONE", None),
            ("CAP_SETPCAP=", None),
            ("CAP_SETPCAP=all", None),
        ] {
            let found = parse(text).ok();
            assert_eq!(found.map(|loan| (loan.capability, loan.sets)), expected, "{text}");
        }
    }
}
