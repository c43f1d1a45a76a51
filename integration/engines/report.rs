//! What was found out about one way of registering acctguard with one engine, and the table of all of them.

/// A column of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Column {
    /// Fields of the DC0072 record.
    Fields,
    /// An account made by a container's own program, in audit: the AN1239 finding.
    FoundProcess,
    /// The same by exec.
    FoundExec,
    /// Refused in enforce, by a container's own program.
    BlockedProcess,
    /// The same by exec.
    BlockedExec,
    /// What changes no account is as without acctguard, and has no finding.
    Benign,
    /// The engine's own operations.
    Operations,
    /// Known traps.
    Traps,
}

impl Column {
    const ALL: [(Self, &'static str); 8] = [
        (Self::Fields, "DC0072"),
        (Self::FoundProcess, "found"),
        (Self::FoundExec, "by exec"),
        (Self::BlockedProcess, "blocked"),
        (Self::BlockedExec, "by exec"),
        (Self::Benign, "benign"),
        (Self::Operations, "operations"),
        (Self::Traps, "traps"),
    ];
}

/// A row of the table.
#[derive(Debug)]
pub struct Report {
    engine: String,
    version: String,
    way: String,
    checks: Vec<(Column, String, Result<(), String>)>,
}

impl Report {
    /// A row without checks.
    pub fn new(engine: &str, version: &str, way: &str) -> Self {
        Self { engine: engine.to_owned(), version: version.to_owned(), way: way.to_owned(), checks: Vec::new() }
    }

    /// One more check.
    pub fn check(&mut self, column: Column, what: &str, outcome: Result<(), String>) {
        self.checks.push((column, what.to_owned(), outcome));
    }

    fn cell(&self, column: Column) -> String {
        let of_column = || self.checks.iter().filter(move |(of, _, _)| *of == column);
        let (kept, all) = (of_column().filter(|(_, _, outcome)| outcome.is_ok()).count(), of_column().count());
        if all == 0 { "-".to_owned() } else { format!("{kept}/{all}") }
    }

    fn words(&self) -> Vec<String> {
        let mut words = vec![self.engine.clone(), self.version.clone(), self.way.clone()];
        words.extend(Column::ALL.map(|(column, _)| self.cell(column)));
        words
    }
}

/// Prints the table, what was checked, and every miss. True when there are checks and no miss.
pub fn print(reports: &[Report]) -> bool {
    let mut lines = vec![["engine", "version", "registered"].map(str::to_owned).to_vec()];
    lines[0].extend(Column::ALL.map(|(_, name)| name.to_owned()));
    lines.extend(reports.iter().map(Report::words));
    let widths: Vec<usize> = (0..lines[0].len())
        .map(|column| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or_default())
        .collect();
    for line in &lines {
        let cells = line.iter().zip(&widths).map(|(word, width)| format!("{word:<width$}", width = *width));
        println!("{}", cells.collect::<Vec<_>>().join("  ").trim_end());
    }
    for (column, name) in [(Column::Operations, "operations"), (Column::Traps, "traps")] {
        println!("\n{name}:");
        for report in reports {
            let of_column = report.checks.iter().filter(|check| check.0 == column);
            let mut whats: Vec<&str> = of_column.map(|check| check.1.split(" (").next().unwrap_or_default()).collect();
            // once, though asked in both modes
            let mut seen = std::collections::BTreeSet::new();
            whats.retain(|what| seen.insert(*what));
            if !whats.is_empty() {
                println!("  {} ({}): {}", report.engine, report.way, whats.join(", "));
            }
        }
    }
    let mut missed = 0;
    let mut kept = 0;
    for report in reports {
        for (column, what, outcome) in &report.checks {
            match outcome {
                Ok(()) => kept += 1,
                Err(reason) => {
                    missed += 1;
                    println!("MISS {} ({}) {column:?}: {what}: {reason}", report.engine, report.way);
                }
            }
        }
    }
    println!("\n{kept} checks kept, {missed} missed");
    missed == 0 && kept > 0
}
