//! The engine at the other end, and what it can do by NRI.

/// Most of a version that is shown.
const MAX_SHOWN_CHARACTERS: usize = 40;

/// An engine as it names itself when it configures the plugin.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Engine {
    name: String,
    version: String,
}

impl Engine {
    /// By its own words.
    #[must_use]
    pub fn new(name: &str, version: &str) -> Self {
        let shown = |text: &str| text.chars().take(MAX_SHOWN_CHARACTERS).collect();
        Self { name: shown(name), version: shown(version) }
    }

    /// Name and version.
    #[must_use]
    pub fn shown(&self) -> String {
        format!("{} {}", self.name, self.version)
    }

    /// Whether it takes a seccomp profile of a plugin. NRI has that from 0.10 on, which containerd 2.2 and CRI-O 1.34 brought (their
    /// `go.mod`); older ones skip it without a word. Of an engine that is not known it is taken for granted: the createRuntime hook
    /// looks at the document that came of it.
    #[must_use]
    pub fn takes_seccomp(&self) -> bool {
        self.is_at_least("containerd", (2, 2)).or_else(|| self.is_at_least("cri-o", (1, 34))).unwrap_or(true)
    }

    /// Whether it tells plugins the seccomp profile that a container has, so that one that is not told is none. containerd does from
    /// 2.3 on (containerd/containerd pull request 12768); CRI-O did not by 1.36 (`internal/nri/container_linux.go`).
    #[must_use]
    pub fn tells_seccomp(&self) -> bool {
        self.is_at_least("containerd", (2, 3)).unwrap_or(false)
    }

    /// Whether it is `name` of that version or a later one; `None` when it is another, or of a version that is no number.
    fn is_at_least(&self, name: &str, version: (u32, u32)) -> Option<bool> {
        if self.name != name {
            return None;
        }
        let text = self.version.strip_prefix('v').unwrap_or(&self.version);
        let mut numbers = text.split(|character: char| !character.is_ascii_digit());
        let mut number = || numbers.next()?.parse::<u32>().ok();
        Some((number()?, number()?) >= version)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_engine_can_follows_its_version() {
        for (name, version, takes, tells) in [
            ("containerd", "1.7.24~ds1", false, false),
            ("containerd", "2.1.9+unknown", false, false),
            ("containerd", "v2.2.0", true, false),
            ("containerd", "2.3.4", true, true),
            ("containerd", "10.0", true, true),
            ("containerd", "unknown", true, false),
            ("cri-o", "1.33.9", false, false),
            ("cri-o", "1.36.3", true, false),
            ("another", "0.1", true, false),
        ] {
            let engine = Engine::new(name, version);
            assert_eq!((engine.takes_seccomp(), engine.tells_seccomp()), (takes, tells), "{name} {version}");
        }
    }
}
