//! From what is written to valid values.

use std::time::Duration;

use serde_saphyr::Location;
use serde_saphyr::Spanned;

use crate::model::account::diff::KINDS;
use crate::model::database_path::DatabasePath;
use crate::model::diagnostic::SourceError;
use crate::model::policy::BUILT_IN_NAME;
use crate::model::policy::parse::API_VERSION;
use crate::model::policy::parse::KIND;
use crate::model::policy::parse::PolicyError;
use crate::model::policy::parse::raw;
use crate::model::policy::rule::AllowRule;
use crate::model::policy::rule::CreationRule;
use crate::model::policy::rule::MatchRule;
use crate::model::policy::rule::Pattern;
use crate::model::policy::rule::PolicyDocument;
use crate::model::policy::rule::UidRule;

/// The text that a document stands in.
pub(super) struct Source<'a> {
    pub file: &'a str,
    pub text: &'a str,
    pub lines_before: usize,
}

impl Source<'_> {
    fn line(&self, location: Location) -> usize {
        usize::try_from(location.line()).unwrap_or(usize::MAX).saturating_add(self.lines_before)
    }

    fn error(&self, location: Location, message: String) -> PolicyError {
        let column = usize::try_from(location.column()).unwrap_or(usize::MAX);
        SourceError::at(self.file, self.text, self.line(location), column, message)
    }
}

/// Checks all values of a document.
pub(super) fn document(source: &Source<'_>, raw: raw::Document, digest: String) -> Result<PolicyDocument, PolicyError> {
    exactly(source, "apiVersion", &raw.api_version, API_VERSION)?;
    exactly(source, "kind", &raw.kind, KIND)?;
    let spec = raw.spec;
    let databases = spec
        .databases
        .iter()
        .map(|path| DatabasePath::new(&path.value).map_err(|error| source.error(path.referenced, error.to_string())));
    Ok(PolicyDocument {
        file: source.file.to_owned(),
        line: source.line(raw.api_version.referenced),
        name: name(source, &raw.metadata.name)?,
        digest,
        matching: matching(source, spec.r#match)?,
        mode: spec.mode,
        landlock: spec.landlock,
        exec: spec.exec,
        on_unprotected: spec.on_unprotected,
        databases: databases.collect::<Result<_, _>>()?,
        allow: spec.allow.into_iter().map(|allow| exception(source, allow)).collect::<Result<_, _>>()?,
        creation: spec.creation.map(|creation| expectation(source, creation)).transpose()?,
    })
}

fn exactly(source: &Source<'_>, field: &str, found: &Spanned<String>, wanted: &str) -> Result<(), PolicyError> {
    if found.value == wanted {
        return Ok(());
    }
    Err(source.error(found.referenced, format!("{field} {:?} is not known; write {wanted}", found.value)))
}

/// A name as Kubernetes wants it (DNS subdomain: at most 253 of `a-z 0-9 - .`), not that of the built-in default.
fn name(source: &Source<'_>, name: &Spanned<String>) -> Result<String, PolicyError> {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'.');
    let text = &name.value;
    let valid = (1..=253).contains(&text.len()) && text.bytes().all(allowed) && !text.starts_with(['-', '.']);
    if !valid {
        let message = format!("name {text:?} is not valid; use at most 253 characters of a-z 0-9 - and .");
        return Err(source.error(name.referenced, message));
    }
    if text == BUILT_IN_NAME {
        let message = format!("name {text:?} is that of the default that ends every list; choose another");
        return Err(source.error(name.referenced, message));
    }
    Ok(text.clone())
}

fn matching(source: &Source<'_>, raw: raw::Match) -> Result<MatchRule, PolicyError> {
    let annotations = raw.annotations.into_iter().map(|(key, value)| Ok((key, pattern(source, &value)?)));
    Ok(MatchRule {
        namespaces: patterns(source, "namespaces", raw.namespaces)?,
        images: patterns(source, "images", raw.images)?,
        pods: patterns(source, "pods", raw.pods)?,
        containers: patterns(source, "containers", raw.containers)?,
        engines: patterns(source, "engines", raw.engines)?,
        clusters: patterns(source, "clusters", raw.clusters)?,
        annotations: annotations.collect::<Result<_, PolicyError>>()?,
        privileged: raw.privileged,
    })
}

fn expectation(source: &Source<'_>, raw: raw::Creation) -> Result<CreationRule, PolicyError> {
    Ok(CreationRule {
        images: patterns(source, "images", raw.images)?,
        creators: patterns(source, "creators", raw.creators)?,
        on_unexpected: raw.on_unexpected,
    })
}

fn exception(source: &Source<'_>, raw: raw::Allow) -> Result<AllowRule, PolicyError> {
    if raw.reason.value.trim().is_empty() {
        let message = "an exception needs a reason; say why it exists".to_owned();
        return Err(source.error(raw.reason.referenced, message));
    }
    Ok(AllowRule {
        reason: raw.reason.value,
        names: patterns(source, "names", raw.accounts.names)?,
        uid: raw.accounts.uid.map_or(Ok(UidRule::AnyButZero), |text| uid(source, &text))?,
        changes: texts(source, "changes", raw.changes, |text| {
            if KINDS.contains(&text) {
                return Ok(());
            }
            Err(format!("change {text:?} is not known; expected one of {}", KINDS.join(" ")))
        })?,
        by: texts(source, "by", raw.by, |path| {
            if DatabasePath::new(path).is_ok_and(|path| !path.is_directory()) {
                return Ok(());
            }
            Err(format!("program {path:?} is not an absolute clean path; write it from the container's root"))
        })?,
        within: raw.within.map(|text| duration(source, &text)).transpose()?,
    })
}

/// `self`, a number, or `FIRST-LAST`; 0 only when it is said by itself.
fn uid(source: &Source<'_>, text: &Spanned<String>) -> Result<UidRule, PolicyError> {
    let value = text.value.trim();
    let error = |message: String| source.error(text.referenced, message);
    if value == "self" {
        return Ok(UidRule::OwnUid);
    }
    let (first, last) = value.split_once('-').unwrap_or((value, value));
    let (Ok(first), Ok(last)) = (first.trim().parse::<u32>(), last.trim().parse::<u32>()) else {
        return Err(error(format!("uid {value:?} is not valid; write self, a number, or a range as 1000-1999")));
    };
    if first > last {
        return Err(error(format!("uid range {value:?} ends before it begins; write {last}-{first}")));
    }
    if first == 0 && last != 0 {
        return Err(error(format!("uid range {value:?} holds 0; begin at 1, or say 0 by itself in another exception")));
    }
    Ok(UidRule::Range { first, last })
}

/// A number and its unit: `90s`, `15m`, `2h`, `1d`.
fn duration(source: &Source<'_>, text: &Spanned<String>) -> Result<Duration, PolicyError> {
    let value = text.value.trim();
    let units = [("s", 1_u64), ("m", 60), ("h", 3600), ("d", 86400)];
    let seconds = units.iter().find_map(|(unit, seconds)| {
        let count = value.strip_suffix(unit)?.parse::<u64>().ok()?;
        count.checked_mul(*seconds)
    });
    match seconds {
        Some(seconds) if seconds > 0 => Ok(Duration::from_secs(seconds)),
        _ => {
            let message = format!("duration {value:?} is not valid; write a whole number and s, m, h or d, as 60s");
            Err(source.error(text.referenced, message))
        }
    }
}

fn patterns(
    source: &Source<'_>,
    field: &str,
    raw: Option<Spanned<raw::Texts>>,
) -> Result<Option<Vec<Pattern>>, PolicyError> {
    let Some(list) = raw else { return Ok(None) };
    not_empty(source, field, &list)?;
    list.value.iter().map(|text| pattern(source, text)).collect::<Result<_, _>>().map(Some)
}

fn pattern(source: &Source<'_>, text: &Spanned<String>) -> Result<Pattern, PolicyError> {
    Pattern::new(&text.value).map_err(|error| source.error(text.referenced, error.to_string()))
}

fn texts(
    source: &Source<'_>,
    field: &str,
    raw: Option<Spanned<raw::Texts>>,
    check: impl Fn(&str) -> Result<(), String>,
) -> Result<Option<Vec<String>>, PolicyError> {
    let Some(list) = raw else { return Ok(None) };
    not_empty(source, field, &list)?;
    let checked = list.value.into_iter().map(|text| match check(&text.value) {
        Ok(()) => Ok(text.value),
        Err(message) => Err(source.error(text.referenced, message)),
    });
    checked.collect::<Result<_, _>>().map(Some)
}

fn not_empty(source: &Source<'_>, field: &str, list: &Spanned<raw::Texts>) -> Result<(), PolicyError> {
    if !list.value.is_empty() {
        return Ok(());
    }
    Err(source
        .error(list.referenced, format!("{field} is an empty list and would match nothing; remove it or fill it")))
}
