//! Reading TOML with places in its mistakes, and setting keys in it so that all the rest stays as it was, comments and order included.

use std::path::Path;

use toml::Table;
use toml::Value;
use toml_edit::DocumentMut;
use toml_edit::InlineTable;
use toml_edit::Item;
use toml_edit::TableLike;

use crate::engines::EngineError;
use crate::model::diagnostic::SourceError;

/// A key, table by table, and what it is to be. Never a table: those come of themselves.
pub type Setting = (Vec<String>, Value);

/// The tables of `text`, the content of `path`.
///
/// # Errors
/// [`EngineError::Mistake`] with file, line and column.
pub fn parse(path: &Path, text: &str) -> Result<Table, EngineError> {
    toml::from_str(text).map_err(|error| {
        let name = path.display().to_string();
        let message =
            format!("{}; correct the file, which its engine could not read either", error.message().replace('\n', " "));
        EngineError::Mistake(match error.span() {
            Some(span) => SourceError::at_offset(&name, text, span.start, message),
            None => SourceError::of_file(&name, message),
        })
    })
}

/// The value below `keys`.
#[must_use]
pub fn get<'a>(table: &'a Table, keys: &[&str]) -> Option<&'a Value> {
    let (last, parents) = keys.split_last()?;
    let mut table = table;
    for key in parents {
        table = table.get(*key)?.as_table()?;
    }
    table.get(*last)
}

/// The table below `keys`.
#[must_use]
pub fn table<'a>(table: &'a Table, keys: &[&str]) -> Option<&'a Table> {
    get(table, keys)?.as_table()
}

/// The text below `keys`; an empty one is as none, which is how engines take it.
#[must_use]
pub fn text<'a>(table: &'a Table, keys: &[&str]) -> Option<&'a str> {
    get(table, keys)?.as_str().filter(|text| !text.is_empty())
}

/// Lays `upper` over `lower`: tables are merged key by key, anything else is replaced.
pub fn merge(lower: &mut Table, upper: &Table) {
    for (key, value) in upper {
        match (lower.get_mut(key), value) {
            (Some(Value::Table(below)), Value::Table(above)) => merge(below, above),
            _ => {
                lower.insert(key.clone(), value.clone());
            }
        }
    }
}

/// What `table` is made of, key by key, each with `prefix` before it. Empty tables are left out.
#[must_use]
pub fn settings(prefix: &[&str], table: &Table) -> Vec<Setting> {
    let mut found = Vec::new();
    for (key, value) in table {
        let keys: Vec<&str> = prefix.iter().copied().chain([key.as_str()]).collect();
        match value {
            Value::Table(inner) => found.extend(settings(&keys, inner)),
            value => found.push(setting(&keys, value.clone())),
        }
    }
    found
}

/// One [`Setting`].
#[must_use]
pub fn setting(keys: &[&str], value: impl Into<Value>) -> Setting {
    (keys.iter().map(|key| (*key).to_owned()).collect(), value.into())
}

/// What a key that is not there means, too.
#[must_use]
pub fn is_empty(value: &Value) -> bool {
    match value {
        Value::String(text) => text.is_empty(),
        Value::Integer(number) => *number == 0,
        Value::Boolean(is_set) => !is_set,
        Value::Array(items) => items.is_empty(),
        Value::Float(_) | Value::Datetime(_) | Value::Table(_) => false,
    }
}

/// `text`, the content of `path`, with `settings` in it and everything else as it was.
///
/// # Errors
/// [`EngineError::Mistake`]; [`EngineError::Unsupported`] when the settings have no place in it, or the result would not say exactly
/// what the file said and the settings.
pub fn edit(path: &Path, text: &str, settings: &[Setting]) -> Result<String, EngineError> {
    let mut expected = parse(path, text)?;
    let unsupported = |what: &str| EngineError::Unsupported {
        path: path.to_owned(),
        what: what.to_owned(),
        remedy: "write the settings that --dry-run with an empty file shows there by hand",
    };
    let mut document: DocumentMut =
        text.parse().map_err(|_| unsupported("is written in a way that acctguard does not edit"))?;
    for (keys, value) in settings {
        let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
        put(&mut expected, &keys, value).ok_or_else(|| unsupported(&format!("{} is no table", keys.join("."))))?;
        set(&mut document, &keys, value).ok_or_else(|| unsupported(&format!("{} is no table", keys.join("."))))?;
    }
    let edited = document.to_string();
    if parse(path, &edited).is_ok_and(|found| found == expected) {
        Ok(edited)
    } else {
        Err(unsupported("is written in a way that acctguard does not edit"))
    }
}

fn put(table: &mut Table, keys: &[&str], value: &Value) -> Option<()> {
    let (last, parents) = keys.split_last()?;
    let mut table = table;
    for key in parents {
        table = table.entry(*key).or_insert_with(|| Value::Table(Table::new())).as_table_mut()?;
    }
    table.insert((*last).to_owned(), value.clone());
    Some(())
}

fn set(document: &mut DocumentMut, keys: &[&str], value: &Value) -> Option<()> {
    let (last, parents) = keys.split_last()?;
    let mut table: &mut dyn TableLike = document.as_table_mut();
    let mut is_inline = false;
    for key in parents {
        if !table.contains_key(key) {
            table.insert(key, new_table(is_inline));
        }
        let item = table.get_mut(key)?;
        is_inline = item.is_inline_table();
        table = item.as_table_like_mut()?;
    }
    let new: toml_edit::Value = value.to_string().parse().ok()?;
    match table.get_mut(last).and_then(Item::as_value_mut) {
        Some(old) if is_same(old, value) => {}
        Some(old) => {
            let decor = old.decor().clone();
            *old = new;
            *old.decor_mut() = decor;
        }
        None => {
            table.insert(last, Item::Value(new));
        }
    }
    Some(())
}

fn new_table(is_inline: bool) -> Item {
    if is_inline {
        return Item::Value(InlineTable::new().into());
    }
    let mut table = toml_edit::Table::new();
    table.set_implicit(true);
    Item::Table(table)
}

fn is_same(old: &toml_edit::Value, new: &Value) -> bool {
    let text = format!("x = {}", old.to_string().trim());
    toml::from_str::<Table>(&text).is_ok_and(|table| table.get("x") == Some(new))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATH: &str = "/etc/e.toml";

    fn edited(text: &str, settings: &[Setting]) -> String {
        edit(Path::new(PATH), text, settings).expect("edits")
    }

    #[test]
    fn a_mistake_has_file_line_and_column() {
        let error = parse(Path::new(PATH), "version = 2\n[plugins\nx = 1\n").unwrap_err().to_string();
        assert!(error.starts_with("/etc/e.toml:2:9: "), "{error}");
    }

    #[test]
    fn only_what_is_set_changes() {
        let settings = [setting(&["a", "b.c", "name"], "new"), setting(&["a", "b.c", "deep", "list"], vec!["x", "y"])];
        for (text, expected) in [
            ("", "[a.\"b.c\"]\nname = \"new\"\n\n[a.\"b.c\".deep]\nlist = [\"x\", \"y\"]\n"),
            (
                "# head\nversion = 2 # two\n\n[a]\n  [a.\"b.c\"]\n    name = 'old' # why\n    other = 1\n\n# tail\n[z]\ny = 1\n",
                "# head\nversion = 2 # two\n\n[a]\n  [a.\"b.c\"]\n    name = \"new\" # why\n    other = 1\n\n[a.\"b.c\".deep]\nlist = [\"x\", \"y\"]\n\n# tail\n[z]\ny = 1\n",
            ),
        ] {
            let once = edited(text, &settings);
            assert_eq!(once, expected);
            assert_eq!(edited(&once, &settings), once, "a second time changes nothing");
        }
    }

    #[test]
    fn every_way_to_write_a_table_says_the_same_after() {
        let settings = [setting(&["a", "b", "c"], "new"), setting(&["a", "d", "e", "f"], 1)];
        for text in [
            "[a]\nb = { x = 1 }\n",
            "a = { b = { x = 1 } }\n",
            "a.b.x = 1\n",
            "[a.b]\nx = 1",
            "[a]\nb.x = 1\n[a.d]\n[other]\n",
            "[a.d.e]\n[a]\n",
            "a.b = {c = 'old'}\r\n",
        ] {
            let once = edited(text, &settings);
            let mut expected: Table = toml::from_str(text).unwrap();
            for (keys, value) in &settings {
                put(&mut expected, &keys.iter().map(String::as_str).collect::<Vec<_>>(), value).unwrap();
            }
            assert_eq!(toml::from_str::<Table>(&once).unwrap(), expected, "{once}");
            assert_eq!(edited(&once, &settings), once, "{text:?}");
        }
    }

    #[test]
    fn what_is_no_table_is_not_made_one() {
        let error = edit(Path::new(PATH), "a = 1\n", &[setting(&["a", "b"], 1)]).unwrap_err();
        assert!(error.to_string().starts_with("/etc/e.toml: a.b is no table; "), "{error}");
    }

    #[test]
    fn tables_are_merged_and_taken_apart() {
        let mut lower: Table = toml::from_str("a = {x = 1, l = [1]}\nb = 1").unwrap();
        merge(&mut lower, &toml::from_str("a = {y = 2, l = [2]}").unwrap());
        assert_eq!(lower, toml::from_str("a = {x = 1, y = 2, l = [2]}\nb = 1").unwrap());
        let keys: Vec<String> = settings(&["p"], &lower).iter().map(|(keys, _)| keys.join(".")).collect();
        assert_eq!(keys, ["p.a.l", "p.a.x", "p.a.y", "p.b"]);
        assert_eq!(text(&toml::from_str("a = ''").unwrap(), &["a"]), None);
    }
}
