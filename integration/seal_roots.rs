//! The seal alone, on real runtimes and without the listener: root file systems of every shape, and a seal that fails.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::harness::bundle::{Bundle, Spec};
use crate::harness::command::{Done, finish};
use crate::harness::machine::launcher;
use crate::harness::node::{Node, Runtime, policy};

/// Runs a container with the launcher put in front by hand and by the real runtime alone, so that what is refused is refused
/// by the seal and nothing else.
fn run_sealed_by_hand(node: &Node, bundle: &Bundle, options: &[&str], no_new_privileges: bool) -> Done {
    let mut config = bundle.config();
    let own = config["process"]["args"].as_array().expect("args").clone();
    let words = ["/proc/self/fd/3", "--own-descriptor=3"].into_iter().chain(options.iter().copied()).chain(["--"]);
    config["process"]["args"] = words.map(Value::from).chain(own).collect();
    config["process"]["noNewPrivileges"] = json!(no_new_privileges);
    bundle.write_config(&config);
    let bare = node.bare();
    let mut command = Command::new("sh");
    command.args(["-c", "exec 3<\"$0\"; exec \"$@\""]).arg(launcher()).arg(bare.get_program()).args(bare.get_args());
    finish(command.args(["run", "--preserve-fds", "1", "--bundle"]).arg(&bundle.folder).arg(&bundle.id))
}

/// Tries every way that matters to change the accounts and says which succeeded.
const CHANGE_ACCOUNTS: &str = r#"
    use Fcntl;
    my @done;
    sub try { my ($name, $done) = @_; push @done, $name if $done }
    sub spill { my ($path) = @_; my $f; return open($f, ">", $path) && print($f "x") && close($f) }
    for my $path ("/etc/passwd", "/etc/shadow", "/etc/group", @ARGV) {
        try("append $path", open(F, ">>", $path));
        try("truncate $path", truncate($path, 0));
        try("new file for $path", spill("$path.new"));
        spill("/tmp/forged");
        try("rename over $path", rename("/tmp/forged", $path));
        try("link over $path", unlink($path) && symlink("/tmp/forged", $path));
        (my $folder = $path) =~ s,/[^/]*$,,;
        try("move $folder", rename($folder, "/tmp/moved")) if $folder;
        # a directory may be made, and holds no database
        mkdir($folder) if $folder;
        try("make $path", spill($path));
    }
    try("link at /etc", unlink("/etc") && symlink("/tmp", "/etc"));
    print "elsewhere works\n" if spill("/tmp/mine") && rename("/tmp/mine", "/tmp/yours") && mkdir("/mnt/folder");
    print "changed: @done\n";
"#;

/// Nothing of the accounts can be changed, whatever the root file system looks like, and the rest stays writable.
#[test]
fn strange_root_file_systems_are_sealed() {
    type Prepare = fn(&Bundle, &mut Spec);
    let cases: [(&str, Prepare, &[&str]); 8] = [
        ("plain", |_, _| {}, &[]),
        ("no /etc", |bundle, _| move_folder(bundle, "/etc", "/usr/lib/no-etc"), &[]),
        (
            "/etc a link",
            |bundle, _| {
                move_folder(bundle, "/etc", "/usr/lib/etc");
                symlink("usr/lib/etc", bundle.path("/etc")).expect("link");
            },
            &["/usr/lib/etc/passwd"],
        ),
        (
            "/etc behind two links",
            |bundle, _| {
                fs::create_dir_all(bundle.path("/opt/image")).expect("create");
                move_folder(bundle, "/etc", "/opt/image/etc");
                fs::create_dir_all(bundle.path("/srv/links")).expect("create");
                symlink("/opt/image", bundle.path("/srv/links/current")).expect("link");
                symlink("srv/links/current/etc", bundle.path("/etc")).expect("link");
            },
            &["/opt/image/etc/passwd", "/srv/links/current"],
        ),
        (
            "/etc a mount point",
            |bundle, spec| {
                let volume = bundle.folder.join("volume");
                copy_folder(&bundle.path("/etc"), &volume.join("etc"));
                spec.binds.push((volume.join("etc"), "/etc".to_owned()));
                spec.binds.push((volume, "/volume".to_owned()));
            },
            &["/volume/etc/passwd"],
        ),
        (
            "databases are links",
            |bundle, _| {
                fs::create_dir_all(bundle.path("/data")).expect("create");
                fs::rename(bundle.path("/etc/passwd"), bundle.path("/data/passwd")).expect("rename");
                symlink("../data/passwd", bundle.path("/etc/passwd")).expect("link");
                fs::remove_file(bundle.path("/etc/shadow")).expect("remove");
                symlink("/data/not-yet", bundle.path("/etc/shadow")).expect("link");
            },
            &["/data/passwd", "/data/not-yet"],
        ),
        (
            "a database is a bind mount",
            |bundle, spec| {
                let volume = bundle.folder.join("volume");
                fs::create_dir(&volume).expect("create");
                fs::copy(bundle.path("/etc/passwd"), volume.join("accounts")).expect("copy");
                spec.binds.push((volume.join("accounts"), "/etc/passwd".to_owned()));
                spec.binds.push((volume, "/volume".to_owned()));
            },
            &["/volume/accounts"],
        ),
        (
            "databases are missing",
            |bundle, _| {
                for name in ["passwd", "shadow", "group", "gshadow"] {
                    fs::remove_file(bundle.path("/etc").join(name)).expect("remove");
                }
            },
            &[],
        ),
    ];
    for runtime in Runtime::ALL {
        let node = Node::prepare(runtime, &policy("enforce"), "");
        for (name, prepare, more) in &cases {
            for sealed in [true, false] {
                let script = ["perl", "-e", CHANGE_ACCOUNTS];
                let mut spec = Spec::new(&script.into_iter().chain(more.iter().copied()).collect::<Vec<_>>());
                let bundle = node.bundle(&spec);
                prepare(&bundle, &mut spec);
                bundle.rewrite(&spec);
                let done = if sealed { run_sealed_by_hand(&node, &bundle, &[], true) } else { node.run_bare(&bundle) };
                let what = format!("{name} on {}, sealed {sealed}: {done:?}", runtime.name());
                assert_eq!(done.code(), 0, "{what}");
                assert!(done.stdout.contains("elsewhere works\n"), "{what}");
                assert_eq!(done.stdout.ends_with("changed: \n"), sealed, "{what}");
            }
        }
    }
}

/// Moves a folder of the container; a lower folder of an overlay cannot be renamed.
fn move_folder(bundle: &Bundle, from: &str, to: &str) {
    copy_folder(&bundle.path(from), &bundle.path(to));
    fs::remove_dir_all(bundle.path(from)).expect("remove");
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to.parent().expect("parent")).expect("create");
    let done = Command::new("cp").arg("-a").arg(from).arg(to).status().expect("cp(1) runs");
    assert!(done.success());
}

/// A launcher that cannot seal ends with 125 and one line, before anything of the workload ran.
#[test]
fn a_seal_that_fails_starts_nothing() {
    for runtime in Runtime::ALL {
        let node = Node::prepare(runtime, &policy("enforce"), "");
        let bundle = node.bundle(&Spec::shell("echo started > /tmp/started; echo started"));
        let done = run_sealed_by_hand(&node, &bundle, &[], false);
        assert_eq!((done.code(), done.stdout.as_str()), (125, ""), "{done:?}");
        assert_eq!(done.stderr.lines().count(), 1, "{done:?}");
        assert!(done.stderr.starts_with("acctguard-launch: ") && !bundle.path("/tmp/started").exists(), "{done:?}");
    }
}
