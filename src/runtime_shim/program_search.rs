//! Looking before the launcher is put in front: whether the runtime would find the program and the kernel would run it.
//!
//! A runtime that does not find the program says so and the engine turns that into its own message; the launcher could only
//! end with 127. So where the program is not found, or it is not plain that it will run, nothing is put in front of it, and
//! the runtime reports what it always did. Searched as runc (Go's exec.LookPath) and crun do: a name with a slash from the
//! working directory, any other in the PATH of `process.env`.

use std::path::Path;

use serde_json::Value;

use crate::kernel::Errno;
use crate::kernel::assembled_root::AssembledRoot;
use crate::kernel::assembled_root::Credentials;
use crate::kernel::program_format::HEAD_BYTES;
use crate::kernel::program_format::ProgramFormat;
use crate::model::redact;

/// How many interpreters may follow one another (execve(2), "Interpreter scripts": Linux allows 4 levels, 5 with the first).
const MAX_INTERPRETERS: usize = 4;

/// The root of a container that is about to be created: `root.path` with the mounts of its specification.
///
/// # Errors
/// The folder cannot be opened.
pub fn root_to_be(spec: &Value, bundle: &Path) -> Result<AssembledRoot, Errno> {
    let path = spec.pointer("/root/path").and_then(Value::as_str).unwrap_or("rootfs");
    let mut root = AssembledRoot::open(bundle.join(path).as_os_str().as_encoded_bytes())?;
    let mounts = spec.get("mounts").and_then(Value::as_array);
    for mount in mounts.into_iter().flatten() {
        let Some(destination) = mount["destination"].as_str() else { continue };
        let has = |wanted: &[&str]| {
            let options = mount["options"].as_array();
            options.into_iter().flatten().any(|option| wanted.iter().any(|wanted| option == wanted))
        };
        if has(&["tmpcopyup"]) {
            // starts as a copy of what it hides
            continue;
        }
        let bound = mount["type"] == "bind" || has(&["bind", "rbind"]);
        let source = mount["source"].as_str().filter(|_| bound).map(|source| bundle.join(source));
        root.mount(destination.as_bytes(), source.as_deref().map(|source| source.as_os_str().as_encoded_bytes()));
    }
    Ok(root)
}

/// The user of a `process`, as the host numbers it.
fn credentials(spec: &Value, process: &Value) -> Credentials {
    let number = |key: &str| process.pointer(key).and_then(Value::as_u64).unwrap_or(0);
    let uid = number("/user/uid");
    let groups = process.pointer("/user/additionalGids").and_then(Value::as_array);
    let groups = groups.into_iter().flatten().filter_map(Value::as_u64).chain([number("/user/gid")]);
    let effective = process.pointer("/capabilities/effective").and_then(Value::as_array);
    let overrides = effective.is_some_and(|set| set.iter().any(|held| held == "CAP_DAC_OVERRIDE"));
    Credentials {
        uid: on_host(spec, "uidMappings", uid),
        gids: groups.map(|gid| on_host(spec, "gidMappings", gid)).collect(),
        // any other user's capabilities are gone when the launcher runs
        overrides: uid == 0 && overrides,
    }
}

/// An id of the container as the host numbers it. One that is not mapped is nobody's.
fn on_host(spec: &Value, mappings: &str, id: u64) -> u32 {
    let namespaces = spec.pointer("/linux/namespaces").and_then(Value::as_array);
    let in_user_namespace = namespaces.into_iter().flatten().any(|namespace| namespace["type"] == "user");
    let mappings = spec.pointer("/linux").and_then(|linux| linux.get(mappings)).and_then(Value::as_array);
    let mapped = mappings.into_iter().flatten().find_map(|mapping| {
        let part = |key: &str| mapping.get(key).and_then(Value::as_u64);
        let offset = id.checked_sub(part("containerID")?).filter(|offset| Some(*offset) < part("size"))?;
        part("hostID")?.checked_add(offset)
    });
    let id = if in_user_namespace { mapped } else { Some(id) };
    id.and_then(|id| u32::try_from(id).ok()).unwrap_or(u32::MAX)
}

/// Whether the program of `process` will be found in `root` and run by the kernel; why not, in one line.
///
/// # Errors
/// The line.
pub fn look(root: &AssembledRoot, spec: &Value, process: &Value) -> Result<(), String> {
    let who = credentials(spec, process);
    let base = process["cwd"].as_str().unwrap_or("/");
    let Some(name) = process.pointer("/args/0").and_then(Value::as_str) else {
        return Err("its process has no arguments".to_owned());
    };
    let shown = redact::printable(name.as_bytes());
    let missing = || format!("the program {shown:?} is not found in the container; the runtime reports that itself");
    let path = if name.contains('/') {
        name.to_owned()
    } else {
        let variables = process["env"].as_array();
        let search = variables.into_iter().flatten().filter_map(Value::as_str).rev();
        let search = search.filter_map(|variable| variable.strip_prefix("PATH=")).next().unwrap_or("");
        let folders = search.split(':').filter(|folder| folder.starts_with('/') && !name.is_empty());
        let mut candidates = folders.map(|folder| format!("{}/{name}", folder.trim_end_matches('/')));
        let is_program = |candidate: &String| {
            root.find(b"/", candidate.as_bytes(), &who).is_ok_and(|object| object.is_program_for(&who))
        };
        candidates.find(is_program).ok_or_else(missing)?
    };
    will_run(root, base, &path, &who, MAX_INTERPRETERS).map_err(|errno| match errno {
        Errno::NOENT => missing(),
        Errno::XDEV => format!("what is mounted over the program {shown:?} cannot be looked into beforehand"),
        errno => format!("the program {shown:?} will not run ({errno}); the runtime reports that itself"),
    })
}

/// Whether execve(2) will run the file: it is executable, of a known format, and so are its interpreters.
fn will_run(root: &AssembledRoot, base: &str, path: &str, who: &Credentials, left: usize) -> Result<(), Errno> {
    let object = root.find(base.as_bytes(), path.as_bytes(), who)?;
    if !object.is_program_for(who) {
        return Err(Errno::ACCESS);
    }
    let interpreter = match ProgramFormat::of(&object.head(HEAD_BYTES)?) {
        ProgramFormat::Static => return Ok(()),
        ProgramFormat::Dynamic(interpreter) | ProgramFormat::Script(interpreter) => interpreter,
        ProgramFormat::Unknown => return Err(Errno::NOEXEC),
    };
    let interpreter = String::from_utf8(interpreter).map_err(|_| Errno::NOEXEC)?;
    let left = left.checked_sub(1).ok_or(Errno::LOOP)?;
    will_run(root, base, &interpreter, who, left)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    fn bundle() -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("folder");
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("mode");
        let mut elf = vec![0_u8; 64];
        elf[..6].copy_from_slice(&[0x7f, b'E', b'L', b'F', 2, 1]);
        for (file, content, mode) in [
            ("rootfs/bin/tool", elf.as_slice(), 0o755),
            ("rootfs/bin/plain", &elf, 0o644),
            ("rootfs/bin/secret", &elf, 0o700),
            ("rootfs/bin/text", b"echo\n", 0o755),
            ("rootfs/bin/script", b"#!/bin/tool\n", 0o755),
            ("rootfs/bin/orphan", b"#!/no/such\n", 0o755),
            ("rootfs/bin/circle", b"#!/bin/circle\n", 0o755),
            ("volume/app", &elf, 0o755),
        ] {
            let path = folder.path().join(file);
            fs::create_dir_all(path.parent().expect("parent")).expect("directory");
            fs::write(&path, content).expect("file");
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("mode");
        }
        folder
    }

    fn spec() -> Value {
        json!({
            "root": {"path": "rootfs"},
            "process": {"args": ["tool"], "cwd": "/bin", "env": ["PATH=relative:/sbin:/bin/:/opt"],
                "capabilities": {"effective": ["CAP_DAC_OVERRIDE"]}},
            "mounts": [
                {"destination": "/opt", "type": "bind", "source": "volume"},
                {"destination": "/hidden", "type": "tmpfs", "source": "tmpfs"},
                {"destination": "/bin", "type": "tmpfs", "options": ["tmpcopyup"]}],
        })
    }

    fn looked(folder: &Path, spec: &Value) -> Result<(), String> {
        look(&root_to_be(spec, folder).expect("root"), spec, &spec["process"])
    }

    #[test]
    fn what_the_runtime_will_find_is_found_and_nothing_else() {
        let folder = bundle();
        for (program, words) in [
            ("tool", None),
            ("/bin/tool", None),
            ("./tool", None),
            ("../bin/tool", None),
            ("script", None),
            ("app", None),
            ("/opt/app", None),
            ("secret", None),
            ("missing", Some("not found")),
            ("", Some("not found")),
            ("/bin/missing", Some("not found")),
            ("plain", Some("not found")),
            ("/bin/plain", Some("will not run")),
            ("/bin", Some("will not run")),
            ("text", Some("will not run")),
            ("orphan", Some("not found")),
            ("circle", Some("will not run")),
            ("/hidden/app", Some("cannot be looked into")),
        ] {
            let mut spec = spec();
            spec["process"]["args"] = json!([program]);
            let found = looked(folder.path(), &spec);
            match words {
                None => assert_eq!(found, Ok(()), "{program}"),
                Some(words) => assert!(found.clone().is_err_and(|line| line.contains(words)), "{program}: {found:?}"),
            }
        }
        let mut empty = spec();
        empty["process"]["args"] = json!([]);
        assert!(looked(folder.path(), &empty).is_err());
    }

    #[test]
    fn the_user_counts_as_the_host_numbers_it() {
        let folder = bundle();
        let mut spec = spec();
        spec["process"]["args"] = json!(["secret"]);
        spec["process"]["user"] = json!({"uid": 7, "gid": 7});
        assert!(looked(folder.path(), &spec).is_err(), "0700 of root is not for user 7, whatever its capabilities");
        spec["linux"] = json!({"namespaces": [{"type": "user"}],
            "uidMappings": [{"containerID": 0, "hostID": 1000, "size": 5}, {"containerID": 7, "hostID": 0, "size": 1}]});
        assert_eq!(on_host(&spec, "uidMappings", 4), 1004);
        assert_eq!(on_host(&spec, "uidMappings", 6), u32::MAX);
        assert_eq!(looked(folder.path(), &spec), Ok(()), "its user 7 is the host's root");
    }
}
