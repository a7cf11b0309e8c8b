//! Rows of figures: medians of rounds, ratios, bars; as a table for people and as JSON.

use std::{fmt, path::Path};

use serde::Serialize;

/// What was asked of a figure.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) enum Bar {
    /// The ratio to the peer, or the figure where there is no peer, is at least so much.
    #[serde(rename = "at least")]
    AtLeast(f64),
    /// It is at most so much.
    #[serde(rename = "at most")]
    AtMost(f64),
}

/// One figure.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Row {
    figure: String,
    unit: &'static str,
    /// Median of the rounds.
    ours: f64,
    /// Median of the rounds.
    peer: Option<f64>,
    /// Median of the rounds' own ratios.
    ratio: Option<f64>,
    bar: Bar,
    met: bool,
    rounds: usize,
    /// Lowest and highest of what the bar judges.
    spread: [f64; 2],
}

/// All figures of a run.
#[derive(Debug, Default)]
pub(crate) struct Report {
    rows: Vec<Row>,
}

impl Report {
    /// A figure that was taken of both sides in each round.
    pub(crate) fn compare(&mut self, figure: &str, unit: &'static str, rounds: &[(f64, f64)], bar: Bar) {
        let ratios: Vec<f64> = rounds.iter().map(|(ours, peer)| ours / peer).collect();
        let ratio = median(&ratios);
        self.push(Row {
            figure: figure.to_owned(),
            unit,
            ours: median(&rounds.iter().map(|round| round.0).collect::<Vec<_>>()),
            peer: Some(median(&rounds.iter().map(|round| round.1).collect::<Vec<_>>())),
            ratio: Some(ratio),
            bar,
            met: bar.is_met(ratio),
            rounds: rounds.len(),
            spread: spread(&ratios),
        });
    }

    /// A figure of this side alone.
    pub(crate) fn alone(&mut self, figure: &str, unit: &'static str, rounds: &[f64], bar: Bar) {
        let ours = median(rounds);
        self.push(Row {
            figure: figure.to_owned(),
            unit,
            ours,
            peer: None,
            ratio: None,
            bar,
            met: bar.is_met(ours),
            rounds: rounds.len(),
            spread: spread(rounds),
        });
    }

    fn push(&mut self, row: Row) {
        println!("{row}");
        self.rows.push(row);
    }

    /// Writes the rows.
    pub(crate) fn save(&self, path: &Path) -> anyhow::Result<()> {
        std::fs::write(path, serde_json::to_vec_pretty(&self.rows)?)?;
        println!("written to {}", path.display());
        Ok(())
    }
}

impl Bar {
    fn is_met(self, figure: f64) -> bool {
        match self {
            Self::AtLeast(bar) => figure >= bar,
            Self::AtMost(bar) => figure <= bar,
        }
    }
}

impl fmt::Display for Bar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtLeast(bar) => write!(f, ">= {bar}"),
            Self::AtMost(bar) => write!(f, "<= {bar}"),
        }
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.2}"));
        write!(
            f,
            "{:<52} {:>12.2} {:>12} {:>7} {:>10} {:>5}  {} rounds, {:.2} to {:.2}",
            format!("{} ({})", self.figure, self.unit),
            self.ours,
            number(self.peer),
            number(self.ratio),
            self.bar.to_string(),
            if self.met { "met" } else { "MISS" },
            self.rounds,
            self.spread[0],
            self.spread[1],
        )
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:<52} {:>12} {:>12} {:>7} {:>10} {:>5}",
            "figure", "isthmus", "etcd", "ratio", "bar", ""
        )?;
        self.rows.iter().try_for_each(|row| writeln!(f, "{row}"))
    }
}

fn sorted(values: &[f64]) -> Vec<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
}

fn median(values: &[f64]) -> f64 {
    quantile(values, 0.5)
}

fn spread(values: &[f64]) -> [f64; 2] {
    [quantile(values, 0.0), quantile(values, 1.0)]
}

/// The value below which a share of the values lies; not a number when there are none.
pub(crate) fn quantile(values: &[f64], share: f64) -> f64 {
    let sorted = sorted(values);
    let last = sorted.len().saturating_sub(1) as f64;
    let at = (last * share).round() as usize;
    sorted.get(at).copied().unwrap_or(f64::NAN)
}
