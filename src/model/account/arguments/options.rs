//! Command lines of the account tools, read as getopt_long(3) reads them.

/// How one tool's options are spelt. Options that mean the same get the same letter, that of `useradd`; letters below
/// a space stand for options without a short form.
pub(super) struct Syntax {
    /// Short options that take a value, and the letter they are known by.
    pub with_value: &'static [(char, char)],
    /// Long options, the letter they are known by, and whether they take a value.
    pub long: &'static [(&'static str, char, bool)],
}

/// useradd(8) of shadow-utils 4.13.
pub(super) const USERADD: Syntax = Syntax {
    with_value: &[
        ('b', 'b'),
        ('c', 'c'),
        ('d', 'd'),
        ('e', 'e'),
        ('f', 'f'),
        ('g', 'g'),
        ('G', 'G'),
        ('k', 'k'),
        ('K', 'K'),
        ('p', 'p'),
        ('P', 'P'),
        ('R', 'R'),
        ('s', 's'),
        ('u', 'u'),
        ('Z', 'Z'),
    ],
    long: USERADD_LONG,
};

const USERADD_LONG: &[(&str, char, bool)] = &[
    ("base-dir", 'b', true),
    ("comment", 'c', true),
    ("home-dir", 'd', true),
    ("home", 'd', true),
    ("expiredate", 'e', true),
    ("inactive", 'f', true),
    ("gid", 'g', true),
    ("groups", 'G', true),
    ("skel", 'k', true),
    ("key", 'K', true),
    ("password", 'p', true),
    ("prefix", 'P', true),
    ("root", 'R', true),
    ("shell", 's', true),
    ("uid", 'u', true),
    ("selinux-user", 'Z', true),
    ("defaults", 'D', false),
];

/// usermod(8) of shadow-utils 4.13.
pub(super) const USERMOD: Syntax = Syntax {
    with_value: &[
        ('c', 'c'),
        ('d', 'd'),
        ('e', 'e'),
        ('f', 'f'),
        ('g', 'g'),
        ('G', 'G'),
        ('l', 'l'),
        ('p', 'p'),
        ('P', 'P'),
        ('R', 'R'),
        ('s', 's'),
        ('u', 'u'),
        ('v', 'v'),
        ('V', 'v'),
        ('w', 'v'),
        ('W', 'v'),
        ('Z', 'Z'),
    ],
    long: &[
        ("comment", 'c', true),
        ("home", 'd', true),
        ("expiredate", 'e', true),
        ("inactive", 'f', true),
        ("gid", 'g', true),
        ("groups", 'G', true),
        ("login", 'l', true),
        ("lock", 'L', false),
        ("unlock", 'U', false),
        ("password", 'p', true),
        ("prefix", 'P', true),
        ("remove", 'r', false),
        ("root", 'R', true),
        ("shell", 's', true),
        ("uid", 'u', true),
        ("add-subuids", 'v', true),
        ("del-subuids", 'v', true),
        ("add-subgids", 'v', true),
        ("del-subgids", 'v', true),
        ("selinux-user", 'Z', true),
    ],
};

/// adduser(8) of Debian 3.134 and adduser of busybox 1.37; where both are silent, useradd's, since other systems link
/// the one to the other. `-h` and `-g` are busybox's (home, comment): useradd's `-h` takes nothing and ends it.
pub(super) const ADDUSER: Syntax = Syntax {
    with_value: &[
        ('b', 'b'),
        ('c', 'c'),
        ('d', 'd'),
        ('e', 'e'),
        ('f', 'f'),
        ('g', 'c'),
        ('G', 'G'),
        ('h', 'd'),
        ('k', 'k'),
        ('K', 'K'),
        ('p', 'p'),
        ('s', 's'),
        ('u', 'u'),
    ],
    long: &[
        ("home", 'd', true),
        ("shell", 's', true),
        ("uid", 'u', true),
        ("firstuid", '\u{4}', true),
        ("lastuid", '\u{4}', true),
        ("firstgid", '\u{4}', true),
        ("lastgid", '\u{4}', true),
        ("gecos", 'c', true),
        ("comment", 'c', true),
        ("ingroup", 'G', true),
        ("gid", 'g', true),
        ("conf", '\u{4}', true),
        ("skel", 'k', true),
        ("group", '\u{1}', false),
        ("system", '\u{2}', false),
        ("home-dir", 'd', true),
        ("groups", 'G', true),
        ("password", 'p', true),
    ],
};

/// userdel(8).
pub(super) const USERDEL: Syntax =
    Syntax { with_value: &[('P', 'P'), ('R', 'R')], long: &[("prefix", 'P', true), ("root", 'R', true)] };

/// deluser(8) and delgroup(8) of Debian; busybox's have no options.
pub(super) const DELUSER: Syntax = Syntax {
    with_value: &[],
    long: &[("conf", '\u{4}', true), ("backup-to", '\u{4}', true), ("group", '\u{1}', false)],
};

/// groupadd(8) and groupmod(8) of shadow-utils 4.13.
pub(super) const GROUPADD: Syntax = Syntax {
    with_value: &[('g', 'g'), ('K', 'K'), ('n', 'n'), ('p', 'p'), ('P', 'P'), ('R', 'R'), ('U', 'U')],
    long: &[
        ("gid", 'g', true),
        ("key", 'K', true),
        ("new-name", 'n', true),
        ("password", 'p', true),
        ("prefix", 'P', true),
        ("root", 'R', true),
        ("users", 'U', true),
    ],
};

/// addgroup(8) of Debian and of busybox.
pub(super) const ADDGROUP: Syntax = Syntax {
    with_value: &[('g', 'g')],
    long: &[
        ("gid", 'g', true),
        ("firstgid", '\u{4}', true),
        ("lastgid", '\u{4}', true),
        ("conf", '\u{4}', true),
        ("shell", '\u{4}', true),
    ],
};

/// groupdel(8).
pub(super) const GROUPDEL: Syntax = USERDEL;

/// gpasswd(1).
pub(super) const GPASSWD: Syntax = Syntax {
    with_value: &[('a', 'a'), ('d', 'd'), ('A', 'A'), ('M', 'M'), ('Q', 'Q')],
    long: &[
        ("add", 'a', true),
        ("delete", 'd', true),
        ("administrators", 'A', true),
        ("members", 'M', true),
        ("remove-password", 'r', false),
        ("restrict", 'R', false),
        ("root", 'Q', true),
    ],
};

/// passwd(1) of shadow-utils; busybox's `-a` takes a value, shadow's (all accounts) does not and comes with `-S`.
pub(super) const PASSWD: Syntax = Syntax {
    with_value: &[('i', 'i'), ('n', 'n'), ('w', 'w'), ('x', 'x'), ('r', 'r'), ('R', 'R'), ('P', 'P')],
    long: &[
        ("delete", 'd', false),
        ("expire", 'e', false),
        ("lock", 'l', false),
        ("unlock", 'u', false),
        ("status", 'S', false),
        ("inactive", 'i', true),
        ("mindays", 'n', true),
        ("maxdays", 'x', true),
        ("warndays", 'w', true),
        ("repository", 'r', true),
        ("root", 'R', true),
        ("prefix", 'P', true),
    ],
};

/// chsh(1).
pub(super) const CHSH: Syntax = Syntax {
    with_value: &[('s', 's'), ('R', 'R')],
    long: &[("shell", 's', true), ("root", 'R', true), ("list-shells", '\u{3}', false)],
};

/// chfn(1): every text becomes a part of the comment.
pub(super) const CHFN: Syntax = Syntax {
    with_value: &[('f', 'c'), ('o', 'c'), ('r', 'c'), ('w', 'c'), ('h', 'c'), ('R', 'R')],
    long: &[("full-name", 'c', true), ("room", 'c', true), ("other", 'c', true), ("root", 'R', true)],
};

/// chage(1); `-l` only shows.
pub(super) const CHAGE: Syntax = Syntax {
    with_value: &[
        ('d', '\u{4}'),
        ('E', '\u{4}'),
        ('I', '\u{4}'),
        ('m', '\u{4}'),
        ('M', '\u{4}'),
        ('R', '\u{4}'),
        ('W', '\u{4}'),
    ],
    long: &[
        ("lastday", '\u{4}', true),
        ("expiredate", '\u{4}', true),
        ("inactive", '\u{4}', true),
        ("mindays", '\u{4}', true),
        ("maxdays", '\u{4}', true),
        ("warndays", '\u{4}', true),
        ("root", '\u{4}', true),
        ("list", '\u{3}', false),
    ],
};

/// A command line, read.
#[derive(Default)]
pub(super) struct Options<'a> {
    given: Vec<(char, Option<&'a str>)>,
    operands: Vec<&'a str>,
}

impl<'a> Options<'a> {
    /// Reads `arguments`. Operands and options may be mixed; `--` ends the options; a long option may be shortened to any
    /// beginning that only it has.
    pub(super) fn read(syntax: &Syntax, arguments: &'a [String]) -> Self {
        let mut options = Self::default();
        let mut words = arguments.iter().map(String::as_str);
        while let Some(word) = words.next() {
            if word == "--" {
                options.operands.extend(words.by_ref());
            } else if let Some(long) = word.strip_prefix("--") {
                options.read_long(syntax, long, &mut words);
            } else if word.len() > 1 && word.starts_with('-') {
                options.read_short(syntax, word.get(1..).unwrap_or_default(), &mut words);
            } else {
                options.operands.push(word);
            }
        }
        options
    }

    fn read_long(&mut self, syntax: &Syntax, word: &'a str, words: &mut impl Iterator<Item = &'a str>) {
        let (name, attached) = match word.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (word, None),
        };
        let exact = syntax.long.iter().find(|(long, _, _)| *long == name);
        let found = exact.or_else(|| syntax.long.iter().find(|(long, _, _)| long.starts_with(name)));
        if let Some((_, letter, takes_value)) = found {
            let value = if *takes_value { attached.or_else(|| words.next()) } else { None };
            self.given.push((*letter, value));
        }
    }

    fn read_short(&mut self, syntax: &Syntax, letters: &'a str, words: &mut impl Iterator<Item = &'a str>) {
        for (offset, letter) in letters.char_indices() {
            let Some((_, known)) = syntax.with_value.iter().find(|(short, _)| *short == letter) else {
                self.given.push((letter, None));
                continue;
            };
            let rest = letters.get(offset.saturating_add(letter.len_utf8())..).unwrap_or_default();
            let value = if rest.is_empty() { words.next() } else { Some(rest) };
            self.given.push((*known, value));
            return;
        }
    }

    /// Whether the option was given.
    pub(super) fn has(&self, letter: char) -> bool {
        self.given.iter().any(|(given, _)| *given == letter)
    }

    /// The value of the option; the last one counts.
    pub(super) fn value(&self, letter: char) -> Option<&'a str> {
        self.given.iter().rev().find(|(given, _)| *given == letter).and_then(|(_, value)| *value)
    }

    /// An argument that is no option, from 0.
    pub(super) fn operand(&self, position: usize) -> Option<&'a str> {
        self.operands.get(position).copied()
    }
}
