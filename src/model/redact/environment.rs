//! Values of environment variables in command lines: `podman run -e NAME=VALUE`, `--env NAME=VALUE`, `--env=NAME=VALUE`,
//! `env NAME=VALUE program`. Assignments inside a shell text are hidden by their names only (`shell_text`).

use crate::model::redact::REDACTED;

/// Programs whose `-e` sets a variable. Elsewhere it is a script or a flag (sed, perl, echo).
const CONTAINER_TOOLS: [&str; 11] = [
    "docker",
    "podman",
    "nerdctl",
    "buildah",
    "ctr",
    "crictl",
    "kubectl",
    "runc",
    "crun",
    "youki",
    "acctguard-runtime",
];

/// Words at the beginning among which the program's name is looked for (`sudo -u x podman`).
const NAME_WORDS: usize = 6;

/// A list of words without the values of the variables they set, one for one.
pub(super) fn words(words: &[String]) -> Vec<String> {
    let base = |word: &String| word.rsplit('/').next().unwrap_or_default().to_owned();
    let sets_by_letter = words.iter().take(NAME_WORDS).map(base).any(|name| CONTAINER_TOOLS.contains(&name.as_str()));
    let mut value_next = false;
    let mut of_env = false;
    let mut show = |word: &String| {
        // env(1): options, then assignments, then the program
        let assigns = of_env && word.contains('=') && !word.starts_with('-');
        of_env = word == "env" || word.ends_with("/env") || (of_env && (assigns || word.starts_with('-')));
        if assigns {
            return variable(word);
        }
        if std::mem::take(&mut value_next) {
            return variable(word);
        }
        if word == "--env" || (sets_by_letter && word == "-e") {
            value_next = true;
            return word.clone();
        }
        if let Some(value) = word.strip_prefix("--env=") {
            return format!("--env={}", variable(value));
        }
        match word.strip_prefix("-e").filter(|_| sets_by_letter) {
            Some(value) if value.contains('=') => format!("-e{}", variable(value)),
            _ => word.clone(),
        }
    };
    words.iter().map(&mut show).collect()
}

/// `NAME=VALUE` without the value; a name alone stays; anything else is a value as a whole.
fn variable(text: &str) -> String {
    let name = text.split_once('=').map_or(text, |(name, _)| name);
    let is_name = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte));
    match (is_name, name.len() == text.len()) {
        (true, true) => text.to_owned(),
        (true, false) => format!("{name}={REDACTED}"),
        (false, _) => REDACTED.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_hidden_and_names_stay() {
        for (given, expected) in [
            (&["podman", "run", "-e", "A=b", "img"][..], &["podman", "run", "-e", "A=[redacted]", "img"][..]),
            (&["/usr/bin/docker", "run", "-eA=b=c", "img"], &["/usr/bin/docker", "run", "-eA=[redacted]", "img"]),
            (&["podman", "run", "-e", "A", "img"], &["podman", "run", "-e", "A", "img"]),
            (&["runc", "exec", "--env", "A=b", "c", "sh"], &["runc", "exec", "--env", "A=[redacted]", "c", "sh"]),
            (&["agent", "--env={\"A\":\"b\"}"], &["agent", "--env=[redacted]"]),
            (&["agent", "--env", "{\"A\": 1}"], &["agent", "--env", "[redacted]"]),
            (&["agent", "--env=A=b"], &["agent", "--env=A=[redacted]"]),
            (&["sed", "-e", "s/a=b/c/"], &["sed", "-e", "s/a=b/c/"]),
            (&["webpack", "--env", "production"], &["webpack", "--env", "production"]),
            (&["podman", "run", "-e"], &["podman", "run", "-e"]),
            (&["env", "A=b", "C=d", "prog", "E=f"], &["env", "A=[redacted]", "C=[redacted]", "prog", "E=f"]),
            (&["sudo", "/usr/bin/env", "-i", "A=b", "sh"], &["sudo", "/usr/bin/env", "-i", "A=[redacted]", "sh"]),
        ] {
            let given: Vec<String> = given.iter().map(|word| (*word).to_owned()).collect();
            assert_eq!(words(&given), expected, "{given:?}");
        }
    }
}
