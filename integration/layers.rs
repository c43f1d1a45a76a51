//! The floors of the rooms under `src/` and the habits that keep them readable. Needs no root.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// A room and the rooms that it may name, floor by floor. Programs may use every lower room and never each other.
const ROOMS: [(&str, &[&str]); 15] = [
    ("model", &[]),
    ("kernel", &[]),
    ("config", &["model"]),
    ("engines", &["model", "config"]),
    ("oci", &["model", "config"]),
    ("store", &["model"]),
    ("sinks", &["model", "config", "store"]),
    ("control", &["model", "config", "kernel"]),
    ("supervise", &["model", "kernel"]),
    ("daemon", LOWER),
    ("runtime_shim", LOWER),
    ("hook", LOWER),
    ("nri", LOWER),
    ("launch", LOWER),
    ("cli", LOWER),
];
const LOWER: &[&str] = &["model", "kernel", "config", "engines", "oci", "store", "sinks", "control", "supervise"];

/// A source file: where it lies in `src/`, and its code without comments and without the tests at its end.
struct Source {
    path: String,
    lines_before_tests: usize,
    code: Vec<(usize, String)>,
}

impl Source {
    fn room(&self) -> &str {
        self.path.split(['/', '.']).next().unwrap_or_default()
    }
}

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn files_below(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("read folder") {
        let path = entry.expect("entry").path();
        if path.is_dir() {
            files_below(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

fn sources() -> Vec<Source> {
    let root = repository().join("src");
    let mut files = Vec::new();
    files_below(&root, &mut files);
    files.sort();
    files.iter().map(|path| source(&root, path)).collect()
}

fn source(root: &Path, path: &Path) -> Source {
    let text = fs::read_to_string(path).expect("read source");
    let name = path.strip_prefix(root).expect("below src").to_string_lossy().into_owned();
    let only_tests = name.ends_with("tests.rs") || name.contains("/tests/");
    let before: Vec<&str> = text.lines().take_while(|line| !only_tests && line.trim() != "#[cfg(test)]").collect();
    let code = before.iter().enumerate().filter(|(_, line)| !line.trim_start().starts_with("//"));
    Source {
        path: name,
        lines_before_tests: before.len(),
        code: code.map(|(index, line)| (index + 1, (*line).to_owned())).collect(),
    }
}

/// Names that follow `prefix` in `line`.
fn names_after<'a>(line: &'a str, prefix: &str) -> Vec<&'a str> {
    let tails = line.match_indices(prefix).map(|(at, _)| &line[at + prefix.len()..]);
    tails.map(|tail| tail.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or_default()).collect()
}

fn report(found: &[String]) {
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

#[test]
fn rooms_name_only_lower_rooms() {
    let mut found = Vec::new();
    for source in sources().iter().filter(|source| !matches!(source.room(), "lib" | "bin")) {
        let Some((room, allowed)) = ROOMS.iter().find(|(room, _)| *room == source.room()) else {
            found.push(format!("src/{}: {} is no room of src/lib.rs", source.path, source.room()));
            continue;
        };
        for (number, line) in &source.code {
            // the launcher is a crate of its own, compiled of some files of the lower rooms
            for name in names_after(line, "crate::").into_iter().chain(names_after(line, "#[path = \"../")) {
                let known = ROOMS.iter().any(|(other, _)| *other == name);
                if known && name != *room && !allowed.contains(&name) {
                    found.push(format!("src/{}:{number}: {room} may not know {name}", source.path));
                }
            }
        }
    }
    report(&found);
}

#[test]
fn paths_are_written_so_that_floors_can_be_seen() {
    let mut found = Vec::new();
    for source in sources() {
        for (number, line) in &source.code {
            if line.contains("use crate::{") || line.contains("super::super") {
                found.push(format!("src/{}:{number}: write one `use crate::room::…` per line", source.path));
            }
        }
    }
    report(&found);
}

#[test]
fn unsafe_stays_in_one_room() {
    let mut found = Vec::new();
    for source in sources().iter().filter(|source| !source.path.starts_with("kernel/raw")) {
        for (number, line) in &source.code {
            let code = line.split("//").next().unwrap_or_default();
            let allows = code.contains("allow(unsafe_code)");
            if allows || code.contains("unsafe {") || code.contains("unsafe fn") || code.contains("unsafe impl") {
                found.push(format!("src/{}:{number}: unsafe belongs into src/kernel/raw", source.path));
            }
        }
    }
    report(&found);
}

#[test]
fn model_knows_no_operating_system() {
    const FORBIDDEN: [&str; 8] =
        ["std::fs", "std::net", "std::env", "std::process", "SystemTime", "libc::", "rustix::", "nix::"];
    let mut found = Vec::new();
    for source in sources().iter().filter(|source| source.room() == "model") {
        for (number, line) in &source.code {
            for name in FORBIDDEN.iter().filter(|name| line.contains(**name)) {
                found.push(format!("src/{}:{number}: model may not know {name}", source.path));
            }
        }
    }
    report(&found);
}

#[test]
fn kernel_knows_no_accounts() {
    let mut found = Vec::new();
    for source in sources().iter().filter(|source| source.room() == "kernel") {
        for (number, line) in &source.code {
            for name in
                ["/etc/passwd", "/etc/shadow", "useradd", "DatabasePath"].iter().filter(|name| line.contains(**name))
            {
                found.push(format!("src/{}:{number}: kernel may not know {name}", source.path));
            }
        }
    }
    report(&found);
}

#[test]
fn files_are_short() {
    let long = |source: &Source| match source.room() {
        "bin" => source.lines_before_tests > 15,
        _ => source.lines_before_tests > 600,
    };
    let sources = sources();
    let files = sources.iter().filter(|source| long(source));
    report(
        &files
            .map(|source| format!("src/{}: {} lines before its tests", source.path, source.lines_before_tests))
            .collect::<Vec<_>>(),
    );
}

#[test]
fn module_names_say_what_they_do() {
    let vague = BTreeSet::from(["utils", "util", "common", "helpers", "helper", "misc"]);
    let part_is_vague = |path: &str| path.split(['/', '.']).any(|part| vague.contains(part));
    let sources = sources();
    let found = sources.iter().filter(|source| part_is_vague(&source.path));
    report(&found.map(|source| format!("src/{}: a name for everything", source.path)).collect::<Vec<_>>());
}

#[test]
fn nothing_is_left_to_be_done_later() {
    const MARKS: [&str; 5] = ["TODO", "FIXME", "todo!(", "unimplemented!(", "dbg!("];
    let mut files = Vec::new();
    files_below(&repository().join("src"), &mut files);
    let mut found = Vec::new();
    for path in files {
        let text = fs::read_to_string(&path).expect("read source");
        let marked = |line: &str| MARKS.iter().any(|mark| line.contains(mark));
        for (index, line) in text.lines().enumerate().filter(|(_, line)| marked(line)) {
            found.push(format!("{}:{}: {}", path.display(), index + 1, line.trim()));
        }
    }
    report(&found);
}

#[test]
fn the_top_of_the_repository_is_tidy() {
    const FOLDERS: [&str; 8] =
        [".ci", ".git", "hooks", "integration", "packaging", "seccomp-profiles", "src", "target"];
    const FILES: [&str; 10] = [
        ".gitignore",
        ".git",
        "CHANGELOG.md",
        "Cargo.lock",
        "Cargo.toml",
        "LICENSE",
        "README.md",
        "clippy.toml",
        "deny.toml",
        "rustfmt.toml",
    ];
    let mut found = Vec::new();
    let ignored = fs::read_to_string(repository().join(".gitignore")).expect("read .gitignore");
    for entry in fs::read_dir(repository()).expect("read the repository") {
        let entry = entry.expect("entry");
        let name = entry.file_name().to_string_lossy().into_owned();
        if ignored.lines().any(|line| line.trim_start_matches('/') == name) {
            continue;
        }
        let known =
            if entry.path().is_dir() { FOLDERS.contains(&name.as_str()) } else { FILES.contains(&name.as_str()) };
        if !known {
            found.push(format!("{name}: not a folder or file of the repository's top"));
        }
    }
    for name in FILES.iter().filter(|name| **name != ".git" && !repository().join(name).exists()) {
        found.push(format!("{name} is missing"));
    }
    report(&found);
}
