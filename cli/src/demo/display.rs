//! What the demo shows while it runs: a live display on a terminal, else plain lines. Measures nothing.

use std::{io::IsTerminal, time::Duration};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use mesh::runtime::{Stop, clock};
use tokio::time::Instant;

use super::tally::{Figures, Tally};
use crate::render::{note, print};

const REFRESH: Duration = Duration::from_millis(250);
/// Between two status lines where nothing can be redrawn.
const LINE_EVERY: Duration = Duration::from_secs(5);
/// The figures shown are those of the last second.
const WINDOW: Duration = Duration::from_secs(1);

/// Where the story goes.
#[derive(Clone)]
pub(crate) enum Display {
    /// Lines and bars on a terminal.
    Live(Live),
    /// Lines on standard output.
    Plain,
    /// Lines on standard error: standard output is for programs.
    Aside,
}

#[derive(Clone)]
pub(crate) struct Live {
    all: MultiProgress,
    act: ProgressBar,
    regions: Vec<(String, ProgressBar)>,
    figures: ProgressBar,
}

impl Display {
    pub(crate) fn new(plain: bool, json: bool, regions: &[String]) -> Self {
        if json {
            return Self::Aside;
        }
        if plain || !std::io::stdout().is_terminal() {
            return Self::Plain;
        }
        let all = MultiProgress::with_draw_target(ProgressDrawTarget::stdout());
        let line = |length, template: &str| {
            let bar = all.add(ProgressBar::new(length));
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style);
            }
            bar
        };
        let act = line(0, "\n{spinner:.cyan} {msg:.bold}");
        act.enable_steady_tick(Duration::from_millis(120));
        let regions = regions.iter().map(|region| {
            let bar = line(100, "    {prefix:4} {bar:40.green/dim} {msg}");
            bar.set_prefix(region.clone());
            (region.clone(), bar)
        });
        let regions = regions.collect();
        let figures = line(0, "    {msg}");
        Self::Live(Live {
            all,
            act,
            regions,
            figures,
        })
    }

    /// One line of the story.
    pub(crate) fn say(&self, text: &str) {
        match self {
            // What cannot be drawn is lost; the report tells it again.
            Self::Live(live) => drop(live.all.println(text)),
            Self::Plain => drop(print(text)),
            Self::Aside => note(text),
        }
    }

    /// The headline of what goes on now.
    pub(crate) fn act(&self, name: &str, text: &str) {
        self.say(&format!("\n{name}: {text}"));
        if let Self::Live(live) = self {
            live.act.set_message(format!("{name}: {text}"));
        }
    }

    /// Shows how the load fares until `stop`.
    pub(crate) async fn follow(self, tally: Tally, regions: Vec<String>, stop: Stop) {
        let mut tick = tokio::time::interval(REFRESH);
        let mut line = clock::now();
        loop {
            tokio::select! {
                () = stop.ordered() => return,
                _ = tick.tick() => {}
            }
            let now = clock::now();
            let figures = tally.window(now - WINDOW, now);
            match &self {
                Self::Live(live) => live.show(&figures, &tally, now),
                Self::Plain | Self::Aside if line.elapsed() >= LINE_EVERY => {
                    line = now;
                    self.say(&format!("  {}  {}", shares(&figures, &regions), summary(&figures)));
                }
                Self::Plain | Self::Aside => {}
            }
        }
    }

    /// Takes the bars away; lines stay.
    pub(crate) fn finish(&self) {
        if let Self::Live(live) = self {
            live.act.finish_and_clear();
            live.figures.finish_and_clear();
            for (_, bar) in &live.regions {
                bar.finish_and_clear();
            }
        }
    }
}

impl Live {
    fn show(&self, figures: &Figures, tally: &Tally, now: Instant) {
        for (region, bar) in &self.regions {
            let share = figures.share(region);
            // Between 0 and 100.
            bar.set_position(share.round() as u64);
            bar.set_message(format!("{share:.0}%"));
        }
        let total = tally.total(now);
        self.figures.set_message(format!(
            "{}   in all: {} requests, {} failed",
            summary(figures),
            total.requests,
            total.failed
        ));
    }
}

fn shares(figures: &Figures, regions: &[String]) -> String {
    let shares: Vec<_> = regions
        .iter()
        .map(|region| format!("{region} {:.0}%", figures.share(region)))
        .collect();
    shares.join("  ")
}

/// The last second in a few words.
fn summary(figures: &Figures) -> String {
    format!(
        "{} req/s  success {:.1}%  p50 {:.1}ms  p99 {:.1}ms",
        figures.requests,
        figures.success(),
        figures.latency(0.5).as_secs_f64() * 1e3,
        figures.latency(0.99).as_secs_f64() * 1e3
    )
}
