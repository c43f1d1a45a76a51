//! The edit of `config.json`: it can be read again, twice is once, and nothing is changed that is not ours.

use std::path::Path;

use acctguard::model::database_path::DatabasePath;
use acctguard::model::policy::Ground;
use acctguard::oci::launcher_edit::{self, Launcher, Listening};
use acctguard::oci::seccomp_closed::UnknownCalls;
use acctguard::oci::seccomp_merge::Listener;
use acctguard::oci::spec_edit::{self, Edit, Interception, Placement, Reader, Signals};
use serde_json::Value;

const LISTENER: Listener<'static> = Listener { path: "/run/acctguard/listener.sock", metadata: "acctguard/1" };

/// The first byte says what is asked, the rest is the document.
pub fn check(data: &[u8]) {
    let Some((asked, text)) = data.split_first() else { return };
    let Ok(spec) = serde_json::from_slice::<Value>(text) else { return };
    let databases = [DatabasePath::new("/etc/passwd").expect("a path")];
    let signals = match asked & 96 {
        0 => Signals::Cancel { reason: "an old runtime" },
        64 => Signals::WaitByLauncher,
        _ => Signals::Wait,
    };
    let listening = Listening { line: 8, filter: 9, must: false, container: "c1", exec: None };
    let launcher = Launcher {
        descriptor: 7,
        databases: (asked & 128 == 0).then_some(&databases[..]),
        lend: asked & 8 != 0,
        listening: (signals == Signals::WaitByLauncher).then_some(listening),
    };
    let placement = Placement { ground: Ground::Seal, reasons: &[], launcher: Some(launcher), runtime_copy: None };
    let edit = Edit {
        hook_program: Path::new("/usr/bin/acctguard-hook"),
        config_file: None,
        listener: LISTENER,
        interception: match asked & 3 {
            0 => Interception::Off,
            1 => Interception::Unprotected { reason: "no daemon" },
            _ => Interception::Install,
        },
        unknown_calls: if asked & 16 != 0 { UnknownCalls::Refused } else { UnknownCalls::AsProfile },
        signals,
        placement: (asked & 4 != 0).then_some(placement),
        reader: if asked.count_ones() % 2 == 0 { Reader::AsSpecified } else { Reader::Youki },
    };
    let Ok(edited) = spec_edit::edit(&spec, &edit) else { return };
    let written = serde_json::to_vec(&edited.spec).expect("a document has a JSON form");
    assert_eq!(serde_json::from_slice::<Value>(&written).expect("what was written is JSON"), edited.spec);
    assert_eq!(edited.changed, edited.spec != spec);
    assert_eq!(edited.intercepted, edit.interception == Interception::Install);
    let again = spec_edit::edit(&edited.spec, &edit).expect("what was edited can be edited");
    assert!(!again.changed, "twice is not once:\n{}\n{}", edited.spec, again.spec);
    assert_eq!(again.intercepted, edited.intercepted);
    assert!(spec_edit::own_seccomp(&edited.spec).is_some());
    untouched(&spec, &edited.spec);
}

/// Everything but the hooks, the profile and the process is as it was, and the process leads back to the workload's own.
fn untouched(before: &Value, after: &Value) {
    let others = |spec: &Value| {
        let mut spec = spec.clone();
        let object = spec.as_object_mut().expect("an object");
        object.shift_remove("hooks");
        object.shift_remove("process");
        let is_empty = object.get_mut("linux").and_then(Value::as_object_mut).is_some_and(|linux| {
            linux.shift_remove("seccomp");
            linux.is_empty()
        });
        if is_empty || object.get("linux").is_some_and(Value::is_null) {
            object.shift_remove("linux");
        }
        spec
    };
    assert_eq!(others(before), others(after));
    let arguments = |spec: &Value| launcher_edit::own(spec).pointer("/process/args").cloned();
    assert_eq!(arguments(before), arguments(after));
}
