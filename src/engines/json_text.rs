//! Reading JSON with places in its mistakes, and setting members in it so that all the rest stays as it was, byte for byte.

use std::path::Path;

use jsonc_parser::ParseOptions;
use jsonc_parser::cst::CstInputValue;
use jsonc_parser::cst::CstObject;
use jsonc_parser::cst::CstRootNode;
use serde_json::Map;
use serde_json::Value;

use crate::engines::EngineError;
use crate::model::diagnostic::SourceError;

/// A member, object by object, and what it is to be.
pub type Setting = (Vec<String>, Value);

/// The object that `text`, the content of `path`, is. Nothing but white space counts as an empty one, as dockerd takes it.
///
/// # Errors
/// [`EngineError::Mistake`] with file, line and column.
pub fn parse(path: &Path, text: &str) -> Result<Map<String, Value>, EngineError> {
    if text.trim().is_empty() {
        return Ok(Map::new());
    }
    let name = path.display().to_string();
    match serde_json::from_str(text) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err(EngineError::Mistake(SourceError::at(
            &name,
            text,
            1,
            1,
            "is no JSON object; correct the file, which its engine could not read either".to_owned(),
        ))),
        Err(error) => {
            let told = error.to_string();
            let said = told.split(" at line ").next().unwrap_or(&told);
            let message = format!("{said}; correct the file, which its engine could not read either");
            Err(EngineError::Mistake(SourceError::at(&name, text, error.line(), error.column(), message)))
        }
    }
}

/// `text`, the content of `path`, with `settings` in it and everything else as it was.
///
/// # Errors
/// [`EngineError::Mistake`]; [`EngineError::Unsupported`] when a setting has no place in it, or the result would not say exactly what
/// the file said and the settings (as where a member is there twice).
pub fn edit(path: &Path, text: &str, settings: &[Setting]) -> Result<String, EngineError> {
    let unsupported = |what: String| EngineError::Unsupported {
        path: path.to_owned(),
        what,
        remedy: "write the settings that --dry-run with an empty file shows there by hand",
    };
    let mut expected = parse(path, text)?;
    for (keys, value) in settings {
        put(&mut expected, keys, value).ok_or_else(|| unsupported(format!("{} is no object", keys.join("."))))?;
    }
    if text.trim().is_empty() {
        let pretty = serde_json::to_string_pretty(&expected).unwrap_or_default();
        return Ok(format!("{pretty}\n"));
    }
    let odd = || unsupported("is written in a way that acctguard does not edit".to_owned());
    let root = CstRootNode::parse(text, &ParseOptions::default()).map_err(|_| odd())?;
    let object = root.object_value().ok_or_else(odd)?;
    for (keys, value) in settings {
        set(&object, keys, value).ok_or_else(odd)?;
    }
    let edited = root.to_string();
    if parse(path, &edited).is_ok_and(|found| found == expected) { Ok(edited) } else { Err(odd()) }
}

fn put(object: &mut Map<String, Value>, keys: &[String], value: &Value) -> Option<()> {
    let (last, parents) = keys.split_last()?;
    let mut object = object;
    for key in parents {
        object = object.entry(key.clone()).or_insert_with(|| Value::Object(Map::new())).as_object_mut()?;
    }
    object.insert(last.clone(), value.clone());
    Some(())
}

fn set(object: &CstObject, keys: &[String], value: &Value) -> Option<()> {
    let (last, parents) = keys.split_last()?;
    let mut object = object.clone();
    for (index, key) in parents.iter().enumerate() {
        if object.get(key).is_none() {
            // what is missing is written as one value, so that it is laid out as a whole
            let rest = keys.get(index.saturating_add(1)..)?;
            let whole = rest
                .iter()
                .rev()
                .fold(value.clone(), |inner, key| Value::Object(Map::from_iter([(key.clone(), inner)])));
            object.append(key, input(&whole));
            return Some(());
        }
        object = object.object_value(key)?;
    }
    match object.get(last) {
        Some(property) if property.value().and_then(|found| found.to_serde_value()).as_ref() == Some(value) => {}
        Some(property) => property.set_value(input(value)),
        None => {
            object.append(last, input(value));
        }
    }
    Some(())
}

fn input(value: &Value) -> CstInputValue {
    match value {
        Value::Null => CstInputValue::Null,
        Value::Bool(value) => CstInputValue::Bool(*value),
        Value::Number(number) => CstInputValue::Number(number.to_string()),
        Value::String(text) => CstInputValue::String(text.clone()),
        Value::Array(items) => CstInputValue::Array(items.iter().map(input).collect()),
        Value::Object(members) => {
            CstInputValue::Object(members.iter().map(|(name, value)| (name.clone(), input(value))).collect())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const PATH: &str = "/etc/d.json";

    fn settings() -> Vec<Setting> {
        let keys = |keys: &[&str]| keys.iter().map(|key| (*key).to_owned()).collect();
        vec![(keys(&["runtimes", "a", "path"]), json!("/p")), (keys(&["default-runtime"]), json!("a"))]
    }

    fn edited(text: &str) -> String {
        edit(Path::new(PATH), text, &settings()).expect("edits")
    }

    #[test]
    fn a_mistake_has_file_line_and_column() {
        for (text, place) in [
            ("{\n  \"a\": 1,\n}\n", "/etc/d.json:3:1: "),
            ("[]", "/etc/d.json:1:1: is no JSON object"),
            ("{\"a\":", "/etc/d.json:1:5: "),
        ] {
            let error = parse(Path::new(PATH), text).unwrap_err().to_string();
            assert!(error.starts_with(place), "{error}");
            assert!(!error.contains(" at line "), "{error}");
        }
    }

    #[test]
    fn only_what_is_set_changes() {
        for (text, expected) in [
            (
                "",
                "{\n  \"runtimes\": {\n    \"a\": {\n      \"path\": \"/p\"\n    }\n  },\n  \"default-runtime\": \"a\"\n}\n",
            ),
            (
                "{\n\t\"log-opts\": {\"max-size\":   \"10m\"},\n\t\"default-runtime\" : \"runc\"\n}",
                "{\n\t\"log-opts\": {\"max-size\":   \"10m\"},\n\t\"default-runtime\" : \"a\",\n\t\"runtimes\": {\n\t\t\"a\": {\n\t\t\t\"path\": \"/p\"\n\t\t}\n\t}\n}",
            ),
        ] {
            let once = edited(text);
            assert_eq!(once, expected);
            assert_eq!(edited(&once), once, "a second time changes nothing");
        }
    }

    #[test]
    fn nothing_is_lost_whatever_the_layout() {
        for text in [
            "{}",
            "{ \"runtimes\": {} }\n",
            "{\"runtimes\": {\"nvidia\": {\"path\": \"/n\", \"runtimeArgs\": []}}, \"default-runtime\": \"nvidia\"}",
            "{\"max-concurrent-downloads\": 1e1, \"big\": 123456789012345678901234567890, \"ü\": \"\\u00fc\"}",
        ] {
            let once = edited(text);
            let mut expected = parse(Path::new(PATH), text).unwrap();
            for (keys, value) in settings() {
                put(&mut expected, &keys, &value).unwrap();
            }
            assert_eq!(parse(Path::new(PATH), &once).unwrap(), expected, "{once}");
            assert_eq!(edited(&once), once);
        }
    }

    #[test]
    fn what_has_no_place_or_is_there_twice_is_refused() {
        for text in ["{\"runtimes\": 1}", "{\"default-runtime\": \"x\", \"default-runtime\": \"y\"}"] {
            let error = edit(Path::new(PATH), text, &settings()).unwrap_err();
            assert!(matches!(error, EngineError::Unsupported { .. }), "{error}");
        }
    }
}
