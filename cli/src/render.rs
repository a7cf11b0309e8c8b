//! How answers are written: aligned tables for people, one JSON value for programs. Promises that a closed pipe ends the
//! output quietly; knows no command.

use std::{fmt::Write as _, io::Write as _};

use serde::Serialize;

use crate::{
    args::Output,
    failure::{Exit, Failure, Outcome},
};

/// Writes answers in the form that was asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Printer {
    output: Output,
}

impl Printer {
    pub(crate) fn new(output: Output) -> Self {
        Self { output }
    }

    /// Writes a value: as JSON, or as the text that `people` makes of it.
    pub(crate) fn show<T: Serialize>(self, value: &T, people: impl FnOnce(&T) -> String) -> Outcome {
        match self.output {
            Output::Table => print(&people(value)),
            Output::Json => {
                let text = serde_json::to_string_pretty(value).map_err(|error| Failure::new(Exit::Failed, error))?;
                print(&text)
            }
        }
    }

    /// Whether programs read the answer.
    pub(crate) fn is_json(self) -> bool {
        self.output == Output::Json
    }
}

/// Writes text and one line end to standard output. A reader that went away (`| head`) is no failure.
pub(crate) fn print(text: &str) -> Outcome {
    let mut out = std::io::stdout().lock();
    match writeln!(out, "{}", text.trim_end_matches('\n')).and_then(|()| out.flush()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        done => Ok(done?),
    }
}

/// Writes a line to standard error, where what is not the answer goes.
pub(crate) fn note(text: &str) {
    // Nothing can be said about a standard error that does not take text.
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

/// Rows under headings, each column as wide as its widest cell. Columns of numbers only are aligned to the right.
#[derive(Debug)]
pub(crate) struct Table {
    head: Vec<&'static str>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new(head: &[&'static str]) -> Self {
        Self {
            head: head.to_vec(),
            rows: Vec::new(),
        }
    }

    /// Adds a row; a missing or empty cell is shown as `-`.
    pub(crate) fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push(cells.into());
    }

    /// The text, or `none` where there are no rows.
    pub(crate) fn text(&self, none: &str) -> String {
        if self.rows.is_empty() {
            return none.to_owned();
        }
        let columns: Vec<Column> = (0..self.head.len()).map(|at| self.column(at)).collect();
        let mut text = String::new();
        let head: Vec<String> = self.head.iter().map(|&title| title.to_owned()).collect();
        for row in std::iter::once(&head).chain(&self.rows) {
            let mut line = String::new();
            for (at, column) in columns.iter().enumerate() {
                let cell = shown(row.get(at));
                let gap = " ".repeat(column.width - cell.chars().count());
                let (before, after) = if column.right {
                    (gap.as_str(), "")
                } else {
                    ("", gap.as_str())
                };
                // Writing to a String cannot fail.
                let _ = write!(line, "{before}{cell}{after}  ");
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }

    fn column(&self, at: usize) -> Column {
        let cells = || self.rows.iter().map(|row| shown(row.get(at)));
        let widest = cells().map(|cell| cell.chars().count()).max().unwrap_or(0);
        let number =
            |cell: &str| cell == "-" || cell.starts_with(|c: char| c.is_ascii_digit()) && !cell.contains([':', '/']);
        Column {
            width: widest.max(self.head[at].len()),
            right: cells().all(number) && cells().any(|cell| cell != "-"),
        }
    }
}

struct Column {
    width: usize,
    right: bool,
}

fn shown(cell: Option<&String>) -> &str {
    cell.map(String::as_str).filter(|cell| !cell.is_empty()).unwrap_or("-")
}

/// "3 services", "1 service".
pub(crate) fn count(n: u64, noun: &str) -> String {
    let plural = if n == 1 { "" } else { "s" };
    format!("{n} {noun}{plural}")
}

/// A span of milliseconds in the unit that people would use.
pub(crate) fn millis(ms: u64) -> String {
    match ms {
        0..1_000 => format!("{ms}ms"),
        1_000..10_000 => format!("{:.1}s", ms as f64 / 1e3),
        10_000..120_000 => format!("{}s", ms / 1_000),
        120_000..7_200_000 => format!("{}min", ms / 60_000),
        _ => format!("{}h", ms / 3_600_000),
    }
}

/// A number without a useless fraction; "unlimited" for 0, as in quotas.
pub(crate) fn limit(value: f64) -> String {
    if value == 0.0 {
        "unlimited".to_owned()
    } else if value.fract() == 0.0 {
        format!("{value:.0}")
    } else {
        format!("{value:.2}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cell(text: &str) -> String {
        text.to_owned()
    }

    #[test]
    fn table_aligns_names_left_and_numbers_right() {
        let mut table = Table::new(&["NAME", "READY"]);
        table.row([cell("pay.shop"), cell("2")]);
        table.row([cell("a.b"), cell("120")]);
        assert_eq!(
            table.text("none"),
            "NAME      READY\npay.shop      2\na.b         120\n"
        );
    }

    #[test]
    fn empty_cell_is_a_dash_and_an_empty_table_a_sentence() {
        let mut table = Table::new(&["A", "B"]);
        assert_eq!(table.text("no peers"), "no peers");
        table.row([cell(""), cell("é")]);
        assert_eq!(table.text("no peers"), "A  B\n-  é\n");
    }

    #[test]
    fn spans_are_shown_in_the_unit_that_people_use() {
        let cases = [
            (0, "0ms"),
            (999, "999ms"),
            (1_500, "1.5s"),
            (65_000, "65s"),
            (180_000, "3min"),
            (9_000_000, "2h"),
        ];
        for (ms, text) in cases {
            assert_eq!(millis(ms), text);
        }
    }

    #[test]
    fn zero_means_unlimited() {
        assert_eq!(limit(0.0), "unlimited");
        assert_eq!(limit(20.0), "20");
        assert_eq!(limit(33.333), "33.33");
    }
}
