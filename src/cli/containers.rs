//! `acctguard containers`: what the daemon watches, and how.

use std::io::Write;

use clap::Args;

use crate::cli::CommandError;
use crate::cli::Outcome;
use crate::cli::readable;
use crate::config::Config;
use crate::control::ContainerStatus;
use crate::control::Request;
use crate::control::Response;
use crate::control::client::Client;
use crate::control::client::ClientError;

/// Arguments of `acctguard containers`.
#[derive(Debug, Clone, Args)]
pub struct Arguments {
    /// One JSON object a line.
    #[arg(long)]
    json: bool,
}

/// The table's head.
const HEAD: [&str; 8] = ["CONTAINER", "NAME", "ENGINE", "POLICY", "PROTECTION", "LISTENERS", "ATTEMPTS", "BLOCKED"];
/// Characters of a container id that engines show.
const ID_CHARACTERS: usize = 12;

/// Shows the containers on `output`.
///
/// # Errors
/// [`CommandError`].
pub fn run(config: &Config, arguments: &Arguments, mut output: impl Write) -> Result<Outcome, CommandError> {
    let Response::Containers { containers } = Client::connect(config)?.call(&Request::Containers)? else {
        return Err(ClientError::Unexpected { socket: config.control_socket() }.into());
    };
    if arguments.json {
        for container in &containers {
            serde_json::to_writer(&mut output, container).map_err(std::io::Error::from)?;
            writeln!(output)?;
        }
    } else {
        let rows: Vec<[String; HEAD.len()]> = containers.iter().map(row).collect();
        write!(output, "{}", table(&rows))?;
    }
    output.flush()?;
    Ok(Outcome::Done)
}

fn row(status: &ContainerStatus) -> [String; HEAD.len()] {
    let container = &status.workload.container;
    let id: String = container.id.as_str().chars().take(ID_CHARACTERS).collect();
    let name = match (&container.pod, &container.name) {
        (Some(pod), Some(name)) => {
            format!("{}/{}/{}", readable::text(&pod.namespace), readable::text(&pod.name), readable::text(name))
        }
        (Some(pod), None) => format!("{}/{}", readable::text(&pod.namespace), readable::text(&pod.name)),
        (None, Some(name)) => readable::text(name),
        (None, None) => "-".to_owned(),
    };
    [
        id,
        name,
        readable::text(&container.engine),
        format!("{} ({})", readable::text(&status.policy), readable::text(&status.mode)),
        if status.intercepted { "intercepted" } else { "none" }.to_owned(),
        status.listeners.to_string(),
        status.attempts.to_string(),
        status.blocked.to_string(),
    ]
}

/// Columns as wide as their widest cell.
fn table(rows: &[[String; HEAD.len()]]) -> String {
    let head = HEAD.map(str::to_owned);
    let lines = || std::iter::once(&head).chain(rows);
    let width = |column: usize| lines().map(|row| row[column].chars().count()).max().unwrap_or_default();
    let widths: Vec<usize> = (0..HEAD.len()).map(width).collect();
    lines()
        .map(|row| {
            let cells: Vec<String> =
                row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}", width = *width)).collect();
            format!("{}\n", cells.join("  ").trim_end())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn status(id: &str, container: serde_json::Value) -> ContainerStatus {
        let mut container = container;
        container["id"] = json!(id);
        container["engine"] = json!("podman");
        serde_json::from_value(json!({
            "workload": {"container": container}, "pid": 1, "policy": "built-in", "mode": "audit",
            "intercepted": true, "listeners": 1, "attempts": 3, "blocked": 0
        }))
        .expect("a status")
    }

    #[test]
    fn the_table_lines_up_and_hostile_names_stay_in_their_cell() {
        let rows = [
            status("c1", json!({"name": "web"})),
            status("0123456789abcdef", json!({"name": "a\nb", "pod": {"namespace": "prod", "name": "web-0"}})),
        ];
        let shown = table(&rows.iter().map(row).collect::<Vec<_>>());
        assert_eq!(
            shown,
            "CONTAINER     NAME               ENGINE  POLICY            PROTECTION   LISTENERS  ATTEMPTS  BLOCKED\n\
             c1            web                podman  built-in (audit)  intercepted  1          3         0\n\
             0123456789ab  prod/web-0/\"a\\nb\"  podman  built-in (audit)  intercepted  1          3         0\n"
        );
    }
}
