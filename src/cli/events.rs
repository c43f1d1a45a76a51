//! `acctguard events`: stored events, as a person reads them or as JSON lines, once or for as long as the reader stays.

use std::io;
use std::io::Write;
use std::ops::ControlFlow;

use clap::Args;
use jiff::SignedDuration;
use jiff::Timestamp;

use crate::cli::CommandError;
use crate::cli::Outcome;
use crate::cli::readable;
use crate::config::Config;
use crate::control::EventQuery;
use crate::control::client::Client;
use crate::model::event::Event;
use crate::model::event::EventTime;
use crate::model::event::Kind;

/// Arguments of `acctguard events`.
#[derive(Debug, Clone, Args)]
pub struct Arguments {
    /// One JSON object a line, valid against acctguard.event-1.schema.json.
    #[arg(long)]
    json: bool,
    /// Go on with new events.
    #[arg(long)]
    follow: bool,
    /// Not older than this: a time (2026-11-22T04:40:01Z) or an age (90s, 15m, 2h, 7d).
    #[arg(long, value_name = "T", value_parser = parse_since)]
    since: Option<EventTime>,
    /// Of this container: its id or a unique beginning of it.
    #[arg(long, value_name = "ID")]
    container: Option<String>,
    /// Of this kind, as account.finding; may be given several times.
    #[arg(long, value_name = "K", value_parser = parse_kind)]
    kind: Vec<Kind>,
    /// Of this ATT&CK analytic or data component, as AN1239 or DC0072.
    #[arg(long, value_name = "NAME", value_parser = parse_attack)]
    analytic: Option<String>,
}

/// Shows events on `output`.
///
/// # Errors
/// [`CommandError`].
pub fn run(config: &Config, arguments: &Arguments, mut output: impl Write) -> Result<Outcome, CommandError> {
    let query = EventQuery {
        since: arguments.since,
        container: arguments.container.clone(),
        kinds: arguments.kind.clone(),
        attack: arguments.analytic.clone(),
        follow: arguments.follow,
    };
    let mut written = Ok(());
    Client::connect(config)?.events(query, |event| {
        written = show(&event, arguments, &mut output);
        if written.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    written?;
    output.flush()?;
    Ok(Outcome::Done)
}

fn show(event: &Event, arguments: &Arguments, output: &mut impl Write) -> io::Result<()> {
    if arguments.json {
        serde_json::to_writer(&mut *output, event)?;
        writeln!(output)?;
    } else {
        writeln!(output, "{}", readable::line(event))?;
    }
    if arguments.follow { output.flush() } else { Ok(()) }
}

fn parse_since(text: &str) -> Result<EventTime, String> {
    if let Ok(time) = text.parse::<Timestamp>() {
        return Ok(EventTime(time));
    }
    age(text)
        .and_then(|age| Timestamp::now().checked_sub(age).ok())
        .map(EventTime)
        .ok_or_else(|| format!("{text:?} is neither a time as 2026-11-22T04:40:01Z nor an age as 90s, 15m, 2h, 7d"))
}

/// `90s`, `15m`, `2h`, `7d`.
fn age(text: &str) -> Option<SignedDuration> {
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let number: u32 = number.parse().ok()?;
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 60 * 60,
        "d" => 24 * 60 * 60,
        _ => return None,
    };
    Some(SignedDuration::from_secs(i64::from(number) * seconds))
}

fn parse_kind(text: &str) -> Result<Kind, String> {
    // the published names are the serialised ones
    serde_json::from_value(serde_json::Value::String(text.to_owned())).map_err(|_| {
        format!(
            "{text:?} is no kind; kinds are container.created, container.exec, container.exited, \
             container.identified, account.attempt, account.finding, protection.degraded, protection.restored"
        )
    })
}

fn parse_attack(text: &str) -> Result<String, String> {
    let digits = text.strip_prefix("AN").or_else(|| text.strip_prefix("DC"));
    if digits.is_some_and(|digits| digits.len() == 4 && digits.bytes().all(|byte| byte.is_ascii_digit())) {
        return Ok(text.to_owned());
    }
    Err(format!("{text:?} is no analytic; acctguard reports AN1239 (account creation) and DC0072 (container creation)"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn since_takes_times_and_ages() {
        let time = parse_since("2026-11-22T04:40:01+01:00").expect("a time");
        assert_eq!(time.to_string(), "2026-11-22T03:40:01.000000000Z");
        for (text, seconds) in [("90s", 90), ("15m", 900), ("2h", 7200), ("7d", 604_800)] {
            let age = Timestamp::now().duration_since(parse_since(text).expect("an age").0);
            assert!((age.as_secs() - seconds).abs() <= 1, "{text}: {age:?}");
        }
        for text in ["", "s", "m15", "-5m", "15 minutes", "5ö", "4294967295d"] {
            assert!(parse_since(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn kinds_and_analytics_are_the_published_ones() {
        assert_eq!(parse_kind("account.finding"), Ok(Kind::AccountFinding));
        assert!(parse_kind("finding").is_err());
        assert_eq!(parse_attack("AN1239").as_deref(), Ok("AN1239"));
        assert!(parse_attack("AN12").is_err() && parse_attack("1239").is_err());
    }
}
