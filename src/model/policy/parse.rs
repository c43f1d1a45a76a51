//! Policy documents from YAML.
//!
//! A file may hold several documents. Unknown fields are errors, so that a misspelt condition cannot silently match
//! everything. Every mistake is told with file, line, column and the line itself.

use serde_saphyr::DefaultMessageFormatter;
use serde_saphyr::MessageFormatter;
use sha2::Digest;
use sha2::Sha256;

use crate::model::diagnostic::SourceError;
use crate::model::policy::rule::PolicyDocument;

mod raw;
mod values;

/// `apiVersion` of every document.
pub const API_VERSION: &str = "acctguard.io/v1alpha1";

/// `kind` of every document.
pub const KIND: &str = "AccountPolicy";

/// A mistake in a policy document.
pub type PolicyError = SourceError;

/// Parses all documents of `text`; `file` is how errors name it. A file without any document is fine.
///
/// # Errors
/// The first [`PolicyError`]: malformed YAML, an unknown field, a value that is not allowed.
pub fn parse_documents(file: &str, text: &str) -> Result<Vec<PolicyDocument>, PolicyError> {
    let mut documents = Vec::new();
    for part in parts(text) {
        let raw = match serde_saphyr::from_str::<raw::Document>(part.text) {
            Ok(raw) => raw,
            Err(error) => return Err(of_yaml(file, text, part.lines_before, &error)),
        };
        let source = values::Source { file, text, lines_before: part.lines_before };
        let digest = digest(part.text);
        documents.push(values::document(&source, raw, digest)?);
    }
    Ok(documents)
}

/// SHA-256 of a document's text.
pub(in crate::model::policy) fn digest(text: &str) -> String {
    crate::model::digest_text(&Sha256::digest(text.as_bytes()))
}

/// One document of a file.
struct Part<'a> {
    text: &'a str,
    lines_before: usize,
}

/// The documents of a file. A line that begins with `---` begins a document, one that begins with `...` ends it, wherever
/// it stands (YAML 1.2.2, 9.1.2 and production 206 `c-forbidden`: not even inside a block scalar). Parts without any
/// content are no documents; directives go with the document that follows.
fn parts(text: &str) -> Vec<Part<'_>> {
    let mut parts = Vec::new();
    let (mut start, mut lines_before) = (0_usize, 0_usize);
    let (mut has_content, mut has_directives) = (false, false);
    let (mut offset, mut line_number) = (0_usize, 0_usize);
    let mut push = |from: usize, to: usize, lines_before: usize| {
        if let Some(text) = text.get(from..to) {
            parts.push(Part { text, lines_before });
        }
    };
    for line in text.split_inclusive('\n') {
        let next = offset.saturating_add(line.len());
        let starts = is_marker(line, "---");
        let ends = is_marker(line, "...");
        if (starts && !has_directives) || ends {
            if has_content {
                push(start, offset, lines_before);
            }
            (start, lines_before) = if ends { (next, line_number.saturating_add(1)) } else { (offset, line_number) };
            has_content = false;
        }
        let body = line.get(if starts { 3 } else { 0 }..).unwrap_or_default().trim();
        has_directives = !has_content && !starts && !ends && (has_directives || body.starts_with('%'));
        has_content |= !ends && !body.is_empty() && !body.starts_with('#');
        offset = next;
        line_number = line_number.saturating_add(1);
    }
    if has_content {
        push(start, offset, lines_before);
    }
    parts
}

fn is_marker(line: &str, marker: &str) -> bool {
    line.strip_prefix(marker).is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']))
}

fn of_yaml(file: &str, text: &str, lines_before: usize, error: &serde_saphyr::Error) -> PolicyError {
    let error = error.without_snippet();
    let message = DefaultMessageFormatter.format_message(error).replace('\n', " ");
    let Some(location) = error.location() else {
        return SourceError::of_file(file, message);
    };
    let line = usize::try_from(location.line()).unwrap_or(usize::MAX).saturating_add(lines_before);
    let column = usize::try_from(location.column()).unwrap_or(usize::MAX);
    SourceError::at(file, text, line, column, message)
}

#[cfg(test)]
mod tests;
