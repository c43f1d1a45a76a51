//! Policy documents from the folder of the configuration.

use std::io;
use std::path::Path;
use std::path::PathBuf;

use crate::config::file::ReadError;
use crate::config::file::read_trusted;
use crate::config::file::trusted;
use crate::model::diagnostic::SourceError;
use crate::model::policy::PolicySet;
use crate::model::policy::parse::PolicyError;
use crate::model::policy::parse::parse_documents;
use crate::model::policy::rule::PolicyDocument;

/// Reads all policy files of `directory`, `*.yaml` and `*.yml`, in the order of their names; hidden files are passed over.
/// A folder that does not exist holds none: then the built-in audit default is all there is.
///
/// # Errors
/// Every mistake of every file, at least one.
pub fn load(directory: &Path) -> Result<PolicySet, Vec<PolicyError>> {
    let files = list(directory).map_err(|error| vec![error])?;
    read(&files)
}

/// Reads the given policy files in the given order.
///
/// # Errors
/// Every mistake of every file, at least one; two documents of one name are a mistake too.
pub fn read(files: &[PathBuf]) -> Result<PolicySet, Vec<PolicyError>> {
    let mut documents: Vec<PolicyDocument> = Vec::new();
    let mut errors = Vec::new();
    for file in files {
        let name = file.display().to_string();
        let parsed = read_trusted(file).map_err(|error| unreadable(&name, &error));
        match parsed.and_then(|text| parse_documents(&name, &text)) {
            Ok(found) => documents.extend(found),
            Err(error) => errors.push(error),
        }
    }
    for (position, document) in documents.iter().enumerate() {
        let earlier = documents.iter().take(position).find(|earlier| earlier.name == document.name);
        if let Some(earlier) = earlier {
            let message = format!(
                "policy name {:?} is taken by the document at {}:{}; choose another, events tell policies by name",
                document.name, earlier.file, earlier.line
            );
            let error = SourceError::of_file(&document.file, message);
            errors.push(SourceError { line: document.line, column: 1, ..error });
        }
    }
    if errors.is_empty() { Ok(PolicySet { documents }) } else { Err(errors) }
}

/// The policy files of `directory` in the order in which they are read.
///
/// # Errors
/// A [`PolicyError`] when the folder cannot be read or can be written by others.
pub fn list(directory: &Path) -> Result<Vec<PathBuf>, PolicyError> {
    let name = directory.display().to_string();
    let metadata = match std::fs::metadata(directory) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(unreadable(&name, &ReadError::Io(error))),
    };
    trusted(&metadata).map_err(|error| unreadable(&name, &error))?;
    let entries = std::fs::read_dir(directory).map_err(|error| unreadable(&name, &ReadError::Io(error)))?;
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.map_err(|error| unreadable(&name, &ReadError::Io(error)))?.path();
        let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        let policy = path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml");
        if policy && !hidden {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn unreadable(name: &str, error: &ReadError) -> PolicyError {
    let message = match error {
        ReadError::Io(error) => format!("read policy: {error}; check the path and who may read it"),
        ReadError::Untrusted(problem) => format!("policy {problem}"),
    };
    SourceError::of_file(name, message)
}
