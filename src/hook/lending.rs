//! Taking what was lent to the launcher out of the documents again.
//!
//! The runtime has read its `config.json` when createRuntime hooks run (runtime-spec runtime.md, "Lifecycle"), so the
//! container's own process gets the launcher and what it is lent. An exec by words of its command line takes its
//! capabilities from the document later: runc from the bundle's, crun from a copy in its state folder. There nothing lent
//! may be left.

use std::path::Path;

use serde_json::Value;

use crate::model::diagnostic::chain;
use crate::oci::bundle::Bundle;
use crate::oci::bundle::BundleError;
use crate::oci::launcher_edit;

/// Takes the launcher and what it was lent out of the bundle's `config.json` and of the runtime's own copy. One line for
/// each document that could not be changed.
pub fn take_back(bundle: &Path, runtime_copy: Option<&Path>) -> Vec<String> {
    let copy = runtime_copy.filter(|copy| copy.exists());
    [Some((bundle, None)), copy.map(|copy| (bundle, Some(copy)))]
        .into_iter()
        .flatten()
        .filter_map(|(bundle, file)| {
            let error = restore(bundle, file).err()?;
            Some(format!("an exec past acctguard-runtime may get what the launcher was lent: {}", chain(&error)))
        })
        .collect()
}

fn restore(bundle: &Path, file: Option<&Path>) -> Result<(), BundleError> {
    let mut bundle = Bundle::open_with(bundle, file)?;
    let mut config = bundle.config().clone();
    let process: Option<&mut Value> = config.get_mut("process");
    if process.is_some_and(launcher_edit::take_out) { bundle.replace(config) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::launcher_edit::Launcher;
    use serde_json::json;

    #[test]
    fn what_was_lent_is_in_neither_document_any_more() {
        let folder = tempfile::tempdir().expect("folder");
        let own = json!({"process": {"args": ["sh"], "capabilities": {"bounding": ["CAP_KILL"]}}, "x": 1});
        for lend in [true, false] {
            let mut edited = own.clone();
            let launcher = Launcher { descriptor: 3, databases: Some(&[]), lend, listening: None };
            assert!(launcher_edit::put_in(&mut edited["process"], &launcher));
            let files = [folder.path().join("config.json"), folder.path().join("copy")];
            for file in &files {
                std::fs::write(file, edited.to_string()).expect("write");
            }
            assert_eq!(take_back(folder.path(), Some(&files[1])), Vec::<String>::new());
            for file in &files {
                let now: Value = serde_json::from_slice(&std::fs::read(file).expect("read")).expect("JSON");
                assert_eq!(now, if lend { own.clone() } else { edited.clone() }, "what lends nothing stays");
            }
        }
        std::fs::write(folder.path().join("config.json"), "{").expect("write");
        let told = take_back(folder.path(), Some(Path::new("/no/such/copy")));
        assert_eq!(told.len(), 1);
        assert!(told[0].contains("lent") && !told[0].contains('\n'), "{told:?}");
    }
}
