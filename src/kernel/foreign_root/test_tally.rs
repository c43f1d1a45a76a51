//! How many paths of which sort were compared, and what differed.

use crate::kernel::foreign_root::AT_FDCWD;
use crate::kernel::foreign_root::test_paths::Asked;
use crate::kernel::foreign_root::test_target::CLOSED_DESCRIPTOR;
use crate::kernel::foreign_root::test_target::IN_DELETED;
use crate::kernel::foreign_root::test_target::Kind;
use crate::kernel::foreign_root::test_target::LOOK_UP_BASE;
use crate::kernel::foreign_root::test_target::LOOK_UP_LINK;
use crate::kernel::foreign_root::test_target::OTHER_ROOT;

/// A sort of case, and whether a case is of it.
type Sort = (&'static str, fn(&Asked, u8) -> bool);

/// The sorts that every kind of target must have seen; a case may be of several.
const SORTS: [Sort; 17] = [
    ("links", |asked, _| any(asked, |part| matches!(part, [b'l' | b'k', digits @ ..] if is_number(digits)))),
    ("..", |asked, _| any(asked, |part| part == b"..")),
    ("self", |asked, _| any(asked, |part| part == b"self")),
    ("thread-self", |asked, _| any(asked, |part| part == b"thread-self")),
    ("procfs numbers", |asked, _| any_two(asked, |one, two| one.ends_with(b"proc") && is_number(two))),
    ("root", |asked, _| any(asked, |part| part == b"root")),
    ("cwd", |asked, _| any(asked, |part| part == b"cwd")),
    ("exe", |asked, _| any(asked, |part| part == b"exe")),
    ("fd", |asked, _| any_two(asked, |one, two| one == b"fd" && is_number(two))),
    ("descriptors as base", |asked, _| !matches!(asked.base, AT_FDCWD | CLOSED_DESCRIPTOR)),
    ("closed descriptors", |asked, _| asked.base == CLOSED_DESCRIPTOR),
    ("AT_EMPTY_PATH", |asked, _| asked.what == LOOK_UP_BASE),
    ("O_NOFOLLOW", |asked, _| asked.what == LOOK_UP_LINK),
    ("trailing slashes", |asked, _| asked.path.len() > 1 && asked.path.ends_with(b"/")),
    ("names of 255 bytes", |asked, _| any(asked, |part| part.len() == 255)),
    ("paths of about 4096 bytes", |asked, _| asked.path.len() > 4090),
    ("deleted working directory", |_, state| state & IN_DELETED != 0),
];

/// Sorts that only targets with a tree of their own at the root have.
const SORTS_OF_TREES: [Sort; 2] = [
    ("overlays", |asked, _| any(asked, |part| matches!(part, b"o" | b"o2"))),
    ("another root", |_, state| state & OTHER_ROOT != 0),
];

fn parts(asked: &Asked) -> impl Iterator<Item = &[u8]> {
    asked.path.split(|byte| *byte == b'/').filter(|part| !part.is_empty())
}

fn any(asked: &Asked, test: impl Fn(&[u8]) -> bool) -> bool {
    parts(asked).any(test)
}

fn any_two(asked: &Asked, test: impl Fn(&[u8], &[u8]) -> bool) -> bool {
    parts(asked).zip(parts(asked).skip(1)).any(|(one, two)| test(one, two))
}

fn is_number(part: &[u8]) -> bool {
    !part.is_empty() && part.iter().all(u8::is_ascii_digit)
}

impl Asked {
    /// For a report, shortened.
    pub fn shown(&self) -> String {
        let text: String = String::from_utf8_lossy(&self.path).chars().take(300).collect();
        format!("what {} base {} {text:?} ({} bytes)", self.what, self.base, self.path.len())
    }
}

/// What was compared.
#[derive(Default)]
pub struct Tally {
    /// Cases.
    pub cases: usize,
    /// Those that led to an object.
    pub found: usize,
    /// Those that the kernel refused to look up, to the target as to us.
    pub refused: usize,
    /// Those of which the walker says that it does not know.
    pub untold: usize,
    /// Files that the kernel made where the walker said it would.
    pub created: usize,
    /// Those that were asked with restrictions too.
    pub restricted: usize,
    /// Those that a restriction stopped, with its errno.
    pub stopped: usize,
    /// Paths that the walker gave to an object and that did not lead to it.
    pub paths_wrong: Vec<String>,
    /// Where walker and kernel differ.
    pub differences: Vec<String>,
    paths_due: usize,
    of_sort: [(usize, usize); SORTS.len() + SORTS_OF_TREES.len()],
}

impl Tally {
    /// Takes a case in.
    pub fn count(&mut self, asked: &Asked, state: u8, found: bool) {
        self.cases += 1;
        self.found += usize::from(found);
        for ((_, is_of), (cases, with_object)) in SORTS.iter().chain(&SORTS_OF_TREES).zip(&mut self.of_sort) {
            if is_of(asked, state) {
                *cases += 1;
                *with_object += usize::from(found);
            }
        }
    }

    /// Takes a difference in.
    pub fn differ(&mut self, asked: &Asked, how: &str) {
        self.differences.push(format!("{}: {how}", asked.shown()));
    }

    /// Whether it is time to try whether a path that the walker gave to an object leads to it: every third.
    pub fn is_turn_of_path(&mut self) -> bool {
        self.paths_due += 1;
        self.paths_due.is_multiple_of(3)
    }

    /// Sorts of which fewer than one in five hundred cases were.
    pub fn rare(&self, kind: Kind) -> Vec<&'static str> {
        let expected = match kind {
            Kind::HostRoot | Kind::CoveredRoot => SORTS.len(),
            _ => SORTS.len() + SORTS_OF_TREES.len(),
        };
        let sorts = SORTS.iter().chain(&SORTS_OF_TREES).zip(&self.of_sort).take(expected);
        sorts.filter(|(_, (cases, _))| cases * 500 < self.cases).map(|((name, _), _)| *name).collect()
    }
}

impl std::fmt::Display for Tally {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { cases, found, created, refused, untold, .. } = self;
        write!(formatter, "{cases} cases, {found} led to an object, {refused} were refused, {created} created, ")?;
        write!(formatter, "{untold} not known, {} paths tried", self.paths_due / 3)?;
        for ((name, _), (cases, found)) in SORTS.iter().chain(&SORTS_OF_TREES).zip(&self.of_sort) {
            write!(formatter, "\n    {name}: {cases}, {found} to an object")?;
        }
        Ok(())
    }
}
