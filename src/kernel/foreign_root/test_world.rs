//! What the targets of the agreement tests live in: a random tree of links, mounts, overlays and procfs.

use std::fs;
use std::path::Path;

use nix::mount::MsFlags;
use nix::mount::mount;

/// xorshift64*: the same paths on every run, and a seed to name in a report.
pub struct Random(pub u64);

impl Random {
    /// A number below `below`.
    pub fn next(&mut self, below: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % below
    }

    /// Whether a chance of one in `many` came.
    pub fn one_in(&mut self, many: usize) -> bool {
        self.next(many) == 0
    }

    /// One of `list`, which is not empty.
    pub fn pick<'list, T: ?Sized>(&mut self, list: &[&'list T]) -> &'list T {
        list[self.next(list.len())]
    }
}

/// Directories of every tree.
pub const DIRECTORIES: [&str; 10] = ["a", "b", "c", "a/a", "a/b", "b/a", "c/c", "a/a/b", "b/a/c", "m"];
const FILES: [&str; 6] = ["f", "a/f", "b/g", "a/b/f", "b/a/f", "c/c/f"];
const NAMES: [&str; 14] = ["a", "a", "b", "c", "f", "f", "h", "m", "p", "o", "etc", "missing", "proc", "stiff"];
/// Beginnings that lead into procfs.
const STARTS: [&str; 28] = [
    "proc/self/root",
    "proc/self/cwd",
    "proc/self/exe",
    "proc/self/fd",
    "proc/thread-self/cwd",
    "proc/thread-self/root",
    "proc/self/ns/mnt",
    "proc/mounts",
    "proc/net",
    "proc/self/task",
    "proc/self",
    "proc/thread-self",
    "proc/self/status",
    "hostproc/self/root",
    "hostproc/self",
    "hostproc/thread-self/cwd",
    "hostproc/self/cwd",
    "hostproc/mounts",
    "proc/1",
    "proc/self/../self/root",
    "proc/self/fdinfo/..",
    "a/../proc/self/root/a",
    "proc/self/root/proc/self/root",
    "proc/selfish",
    "outerproc/self",
    "outerproc/self/root",
    "outerproc/self/fd",
    "outerproc/thread-self/cwd",
];
/// The lower files of the overlays, of which some are copied up while the test runs.
pub const OVERLAY_FILES: [&str; 8] = ["o/f", "o/a/f", "o/a/g", "o/etc", "o2/f", "o2/a/f", "o2/a/g", "o2/etc"];

/// A path of up to five parts made without looking: most lead nowhere.
pub fn blind_path(random: &mut Random, descriptors: &[i32]) -> String {
    let mut path = String::new();
    if random.one_in(2) {
        path.push('/');
    }
    match random.next(10) {
        0 | 1 => path.push_str(random.pick(&STARTS)),
        2 => {
            let number = descriptors.get(random.next(descriptors.len() + 1)).copied().unwrap_or(999);
            let folder = random.pick(&["proc/self/fd", "proc/thread-self/fd", "hostproc/self/fd"]);
            path.push_str(&format!("{folder}/{number}"));
        }
        3 => path.push_str(&format!("k{}", random.next(46))),
        _ => path.push_str(&blind_component(random)),
    }
    for _ in 0..random.next(4) {
        path.push_str(random.pick(&["/", "/", "/", "/", "//", "/./"]));
        path.push_str(&blind_component(random));
    }
    if random.one_in(7) {
        path.push_str(random.pick(&["/", "//", "/.", "/.."]));
    }
    path
}

/// A component made without looking.
pub fn blind_component(random: &mut Random) -> String {
    match random.next(20) {
        0..=3 => "..".to_owned(),
        4 => ".".to_owned(),
        5..=10 => format!("l{}", random.next(40)),
        11 if random.one_in(4) => "x".repeat(254 + random.next(3)),
        _ => random.pick(&NAMES).to_owned(),
    }
}

/// Fills `root` with directories, files, links and mounts.
pub fn build_tree(root: &Path, random: &mut Random) -> std::io::Result<()> {
    for directory in DIRECTORIES {
        fs::create_dir_all(root.join(directory))?;
    }
    for file in FILES {
        fs::write(root.join(file), file)?;
    }
    for directory in DIRECTORIES {
        fs::write(root.join(directory).join("etc"), directory)?;
    }
    let long = "x".repeat(255);
    fs::write(root.join(&long), b"")?;
    fs::create_dir(root.join("a").join(&long))?;
    fs::write(root.join("a").join(&long).join(&long), b"")?;
    fs::hard_link(root.join("a/f"), root.join("b/h"))?;
    nix::unistd::mkfifo(&root.join("p"), nix::sys::stat::Mode::S_IRWXU)?;
    link_web(root, random)?;
    for overlay in ["o", "o2"] {
        mount_overlay(root, overlay)?;
    }
    bind(&root.join("c"), &root.join("a/b"))?;
    bind(&root.join("a"), &root.join("m"))?;
    bind(&root.join("a/f"), &root.join("b/g"))?;
    bind(root, &root.join("c/c"))?;
    // links on this mount are not followed (Linux 5.10)
    let stiff = root.join("stiff");
    fs::create_dir(&stiff)?;
    bind(root, &stiff)?;
    let no_symbolic_links = MsFlags::from_bits_retain(0x100);
    let remount = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | no_symbolic_links;
    mount(None::<&str>, &stiff, None::<&str>, remount, None::<&str>)?;
    Ok(())
}

/// Links that lead to each other, into procfs, upwards and nowhere; chains longer than the kernel follows; a text as long as one may be.
fn link_web(root: &Path, random: &mut Random) -> std::io::Result<()> {
    use std::os::unix::fs::symlink;
    for number in 0..40 {
        let folder = if random.one_in(3) { "." } else { DIRECTORIES[random.next(DIRECTORIES.len())] };
        let text = match random.next(3) {
            0 => format!("/{}", DIRECTORIES[random.next(DIRECTORIES.len())]),
            1 => format!("/{}", FILES[random.next(FILES.len())]),
            _ => blind_path(random, &[]),
        };
        symlink(text, root.join(folder).join(format!("l{number}")))?;
    }
    symlink("a", root.join("k0"))?;
    for number in 1..46 {
        symlink(format!("k{}", number - 1), root.join(format!("k{number}")))?;
    }
    symlink(format!("{}f", "./".repeat(2047)), root.join("a/longest"))?;
    symlink(format!("{}/a", "/".repeat(4090)), root.join("b/slashes"))?;
    Ok(())
}

/// An overlay at `name`; the layers of `o` share a file system, those of `o2` do not.
fn mount_overlay(root: &Path, name: &str) -> std::io::Result<()> {
    let layers = root.join(format!("{name}-layers"));
    fs::create_dir_all(layers.join("lower"))?;
    if name == "o2" {
        mount(Some("tmpfs"), &layers.join("lower"), Some("tmpfs"), MsFlags::empty(), None::<&str>)?;
    }
    for folder in ["lower/a", "upper", "work"] {
        fs::create_dir_all(layers.join(folder))?;
    }
    for file in ["f", "a/f", "a/g", "etc"] {
        fs::write(layers.join("lower").join(file), file)?;
    }
    std::os::unix::fs::symlink("../a/g", layers.join("lower/a/up"))?;
    std::os::unix::fs::symlink("/f", layers.join("lower/down"))?;
    fs::create_dir(root.join(name))?;
    let at = |part: &str| layers.join(part).display().to_string();
    let options = format!("lowerdir={},upperdir={},workdir={}", at("lower"), at("upper"), at("work"));
    mount(Some("overlay"), &root.join(name), Some("overlay"), MsFlags::empty(), Some(options.as_str()))?;
    Ok(())
}

/// Two file systems on top of the calling process's root: `/..` leads to the upper one, `/` to none of them. The roots of both.
pub fn cover_root() -> std::io::Result<Vec<fs::File>> {
    let mut roots = Vec::new();
    for layer in ["one", "two"] {
        mount(Some("tmpfs"), "/", Some("tmpfs"), MsFlags::empty(), None::<&str>)?;
        fs::create_dir_all(format!("/../{layer}/a"))?;
        fs::create_dir_all("/../a/b")?;
        fs::write("/../a/f", layer)?;
        fs::write("/../f", layer)?;
        std::os::unix::fs::symlink("../f", "/../a/l1")?;
        std::os::unix::fs::symlink("../../a", format!("/../{layer}/a/l2"))?;
        std::os::unix::fs::symlink("/a/b", "/../l3")?;
        roots.push(fs::File::open("/..")?);
    }
    Ok(roots)
}

/// Mounts `from` at `to` as well.
pub fn bind(from: &Path, to: &Path) -> nix::Result<()> {
    mount(Some(from), to, None::<&str>, MsFlags::MS_BIND, None::<&str>)
}

/// The procfs of the caller's pid namespace at `name` below `root`.
pub fn mount_procfs(root: &Path, name: &str) -> std::io::Result<()> {
    fs::create_dir_all(root.join(name))?;
    mount(Some("proc"), &root.join(name), Some("proc"), MsFlags::empty(), None::<&str>)?;
    Ok(())
}
