//! Reading: events by time, kind, container, analytic and position; containers; cursors.

use rusqlite::Connection;
use rusqlite::OptionalExtension;
use rusqlite::types::Value;

use crate::model::event::Attack;
use crate::model::event::Event;
use crate::model::event::EventTime;
use crate::model::event::Kind;

/// Which events. The default is the first 500 of all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    /// Only after this sequence number.
    pub after: u64,
    /// Not older than this.
    pub since: Option<EventTime>,
    /// Of the container with this id, or with an id that starts so.
    pub container: Option<String>,
    /// Of these kinds; empty for all.
    pub kinds: Vec<Kind>,
    /// Of this analytic or data component.
    pub attack: Option<String>,
    /// At most so many.
    pub limit: usize,
}

impl Default for Filter {
    fn default() -> Self {
        Self { after: 0, since: None, container: None, kinds: Vec::new(), attack: None, limit: 500 }
    }
}

/// A stored event and its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// Sequence number.
    pub seq: u64,
    /// The event.
    pub event: Event,
}

/// Events of one query.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Page {
    /// Oldest first.
    pub events: Vec<Stored>,
    /// Where to go on from: the last row seen, readable or not. `None` when there was no row.
    pub last_seq: Option<u64>,
    /// Sequence numbers of rows whose JSON is no event known to this version; they are passed over.
    pub unreadable: Vec<u64>,
}

/// What the daemon keeps about one container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredContainer {
    /// Container id.
    pub id: String,
    /// The daemon's own JSON.
    pub json: String,
}

/// Nanoseconds since 1970, clamped to what a 64-bit column holds (years 1677 to 2262).
pub fn nanoseconds(time: EventTime) -> i64 {
    let clamped = time.0.as_nanosecond().clamp(i128::from(i64::MIN), i128::from(i64::MAX));
    i64::try_from(clamped).unwrap_or(i64::MAX)
}

/// `AN1239`, `DC0072` …
pub fn attack_name(attack: &Attack) -> &str {
    match attack {
        Attack::DataComponent { data_component } => data_component,
        Attack::Analytic { analytic, .. } => analytic,
    }
}

fn to_seq(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

fn to_column(seq: u64) -> i64 {
    i64::try_from(seq).unwrap_or(i64::MAX)
}

/// Highest sequence number ever given, of rows since deleted too.
pub fn latest(connection: &Connection) -> rusqlite::Result<u64> {
    let seq: Option<i64> = connection
        .query_row("SELECT seq FROM sqlite_sequence WHERE name = 'events'", [], |row| row.get(0))
        .optional()?;
    Ok(seq.map_or(0, to_seq))
}

/// Lowest sequence number there.
pub fn oldest(connection: &Connection) -> rusqlite::Result<Option<u64>> {
    let seq: Option<i64> = connection.query_row("SELECT min(seq) FROM events", [], |row| row.get(0))?;
    Ok(seq.map(to_seq))
}

/// Events that pass `filter`.
pub fn events(connection: &Connection, filter: &Filter) -> rusqlite::Result<Page> {
    let (sql, values) = statement(filter);
    let mut prepared = connection.prepare_cached(&sql)?;
    let mut rows = prepared.query(rusqlite::params_from_iter(values))?;
    let mut page = Page::default();
    while let Some(row) = rows.next()? {
        let seq = to_seq(row.get(0)?);
        page.last_seq = Some(seq);
        match serde_json::from_str(row.get_ref(1)?.as_str()?) {
            Ok(event) => page.events.push(Stored { seq, event }),
            Err(_) => page.unreadable.push(seq),
        }
    }
    Ok(page)
}

fn statement(filter: &Filter) -> (String, Vec<Value>) {
    let mut sql = "SELECT seq, json FROM events WHERE seq > ?".to_owned();
    let mut values = vec![Value::Integer(to_column(filter.after))];
    if let Some(since) = filter.since {
        sql.push_str(" AND time_ns >= ?");
        values.push(Value::Integer(nanoseconds(since)));
    }
    if let Some(prefix) = &filter.container {
        // a range serves the index; column and bound compare as bytes (BINARY)
        sql.push_str(" AND container >= ? AND container < ?");
        values.push(Value::Text(prefix.clone()));
        values.push(Value::Text(format!("{prefix}\u{10ffff}")));
    }
    if !filter.kinds.is_empty() {
        let marks = vec!["?"; filter.kinds.len()].join(",");
        sql.push_str(" AND kind IN (");
        sql.push_str(&marks);
        sql.push(')');
        values.extend(filter.kinds.iter().map(|kind| Value::Text(kind.as_str().to_owned())));
    }
    if let Some(attack) = &filter.attack {
        sql.push_str(" AND attack = ?");
        values.push(Value::Text(attack.clone()));
    }
    sql.push_str(" ORDER BY seq LIMIT ?");
    values.push(Value::Integer(i64::try_from(filter.limit).unwrap_or(i64::MAX)));
    (sql, values)
}

/// The event with this id, when it is there and readable.
pub fn event(connection: &Connection, id: &str) -> rusqlite::Result<Option<Event>> {
    let json: Option<String> =
        connection.query_row("SELECT json FROM events WHERE id = ?", [id], |row| row.get(0)).optional()?;
    Ok(json.and_then(|text| serde_json::from_str(&text).ok()))
}

/// All containers.
pub fn containers(connection: &Connection) -> rusqlite::Result<Vec<StoredContainer>> {
    let mut prepared = connection.prepare_cached("SELECT id, json FROM containers ORDER BY id")?;
    let rows = prepared.query_map([], |row| Ok(StoredContainer { id: row.get(0)?, json: row.get(1)? }))?;
    rows.collect()
}

/// Up to where `sink` has read.
pub fn cursor(connection: &Connection, sink: &str) -> rusqlite::Result<Option<u64>> {
    let seq: Option<i64> =
        connection.query_row("SELECT seq FROM cursors WHERE sink = ?", [sink], |row| row.get(0)).optional()?;
    Ok(seq.map(to_seq))
}

/// Moves a cursor.
pub fn set_cursor(connection: &Connection, sink: &str, seq: u64) -> rusqlite::Result<()> {
    connection
        .prepare_cached("INSERT INTO cursors (sink, seq) VALUES (?1, ?2) ON CONFLICT (sink) DO UPDATE SET seq = ?2")?
        .execute((sink, to_column(seq)))
        .map(drop)
}
