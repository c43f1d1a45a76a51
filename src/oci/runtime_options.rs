//! Which options of runc and crun take a value: `runc --help` and `crun --help` of every command, runc 1.1.5 to 1.4 and
//! crun 1.8.1 to 1.28, youki's where they differ.

/// Commands of runc, crun and youki. The first of these words that is not an option's value is the command.
pub const COMMANDS: [&str; 22] = [
    "checkpoint",
    "completion",
    "create",
    "delete",
    "events",
    "exec",
    "features",
    "help",
    "info",
    "kill",
    "list",
    "mounts",
    "pause",
    "ps",
    "restore",
    "resume",
    "run",
    "spec",
    "start",
    "state",
    "update",
    "h",
];

/// Global options with a value.
pub const GLOBAL_WITH_VALUE: [&str; 10] =
    ["cgroup-manager", "criu", "l", "log", "log-format", "log-level", "r", "root", "rootless", "handler"];
/// Global options without one.
pub const GLOBAL_WITHOUT_VALUE: [&str; 9] = ["?", "V", "debug", "h", "help", "systemd-cgroup", "usage", "v", "version"];

/// Options of create, run, restore and exec with a value. No letter means two things in them.
pub const COMMAND_WITH_VALUE: [&str; 29] = [
    "additional-gids",
    "apparmor",
    "b",
    "bundle",
    "c",
    "cap",
    "cgroup",
    "config",
    "console-socket",
    "cwd",
    "e",
    "empty-ns",
    "env",
    "f",
    "g",
    "image-path",
    "lsm-mount-context",
    "lsm-profile",
    "manage-cgroups-mode",
    "p",
    "parent-path",
    "pid-file",
    "pidfd-socket",
    "preserve-fds",
    "process",
    "process-label",
    "u",
    "user",
    "work-path",
];
/// Options of create, run, restore and exec without one (crun's `--tty` takes one after `=` only).
pub const COMMAND_WITHOUT_VALUE: [&str; 20] = [
    "?",
    "auto-dedup",
    "d",
    "detach",
    "ext-unix-sk",
    "file-locks",
    "h",
    "help",
    "ignore-paused",
    "keep",
    "lazy-pages",
    "no-new-keyring",
    "no-new-privs",
    "no-pivot",
    "no-subreaper",
    "shell-job",
    "t",
    "tcp-established",
    "tty",
    "usage",
];

/// What is known about an option.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Known {
    /// It takes a value; its full name.
    WithValue(&'static str),
    /// It takes none; its full name.
    WithoutValue(&'static str),
    /// Nothing.
    Unknown,
}

/// Looks an option up: by its name, or by a beginning that only one has (getopt_long(3), which crun uses).
#[must_use]
pub fn look_up(name: &str, with_value: &[&'static str], without_value: &[&'static str]) -> Known {
    if let Some(known) = with_value.iter().find(|known| **known == name) {
        return Known::WithValue(known);
    }
    if let Some(known) = without_value.iter().find(|known| **known == name) {
        return Known::WithoutValue(known);
    }
    let with = with_value.iter().filter(|known| known.len() > 1 && name.len() > 1 && known.starts_with(name));
    let without = without_value.iter().filter(|known| known.len() > 1 && name.len() > 1 && known.starts_with(name));
    let with: Vec<_> = with.collect();
    let without: Vec<_> = without.collect();
    match (with.as_slice(), without.as_slice()) {
        ([known], []) => Known::WithValue(known),
        ([], [known]) => Known::WithoutValue(known),
        _ => Known::Unknown,
    }
}
