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

/// A capability by its name, `CAP_SYS_ADMIN` or `sys_admin`.
///
/// # Errors
/// A line that names the text when there is no such capability.
pub fn parse(text: &str) -> Result<Capability, String> {
    caps::to_canonical(text).parse().map_err(|_| format!("{text:?} is no capability; names are in capabilities(7)"))
}

/// Drops `capabilities` from the bounding, ambient, inheritable, effective and permitted set, for good.
///
/// The bounding set comes first for all of them, because PR_CAPBSET_DROP needs CAP_SETPCAP in the effective set, which may be
/// among those given back; permitted comes last, because effective must stay a part of it (capset(2)).
///
/// # Errors
/// [`GiveBackError`] at the first that the kernel refuses.
pub fn give_back(capabilities: &[Capability]) -> Result<(), GiveBackError> {
    for set in [CapSet::Bounding, CapSet::Ambient, CapSet::Inheritable, CapSet::Effective, CapSet::Permitted] {
        for capability in capabilities.iter().copied() {
            caps::drop(None, set, capability).map_err(|source| GiveBackError { capability, set, source })?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_taken_with_and_without_prefix() {
        for (text, expected) in [
            ("CAP_SYS_ADMIN", Some(Capability::CAP_SYS_ADMIN)),
            ("sys_admin", Some(Capability::CAP_SYS_ADMIN)),
            ("CAP_NONE", None),
        ] {
            assert_eq!(parse(text).ok(), expected, "{text}");
        }
    }
}
