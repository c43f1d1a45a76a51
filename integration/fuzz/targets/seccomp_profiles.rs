//! The merge of the interception into a profile: what comes out is a profile, and merging twice is merging once.

use acctguard::oci::seccomp_merge::{Listener, Merge, merge, remove};
use acctguard::oci::seccomp_profile::Profile;
use serde_json::Value;

const LISTENER: Listener<'static> = Listener { path: "/run/acctguard/listener.sock", metadata: "acctguard/1" };

/// A `linux.seccomp` section.
pub fn check(data: &[u8]) {
    let Ok(section) = serde_json::from_slice::<Value>(data) else { return };
    let Ok(Merge::Merged(merged)) = merge(Some(&section), LISTENER) else { return };
    let profile = Profile::parse(&merged.section).expect("what comes out is a profile");
    assert_eq!(profile.listener_path.as_deref(), Some(LISTENER.path));
    assert_eq!(merge(Some(&merged.section), LISTENER).expect("a profile"), Merge::Unchanged);
    let removed = remove(&merged.section, LISTENER.path).expect("it is ours");
    let bare = Profile::parse(&removed).expect("what is left is a profile");
    assert_eq!(bare.listener_path, None);
    if !section.is_null() {
        assert_eq!(bare.default, Profile::parse(&section).expect("it was merged").default);
    }
    assert!(remove(&merged.section, "/elsewhere").is_none());
    assert!(merged.gaps.iter().all(|gap| !gap.contains('\n')));
}
