//! `isthmus drill`: moves traffic away on purpose. Promises that nothing stays moved when this command ends, however it
//! ends: the order is a lease that only this command renews.

use std::{io::IsTerminal, time::Duration};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use mesh::runtime::{Stop, clock};
use proto::admin::v1::{Drill, DrillList, EndDrillRequest, RenewDrillRequest, StartDrillRequest};
use serde::Serialize;
use tokio::time::Instant;

use super::Context;
use crate::{
    args::{DrillCommand, EvacuateArgs},
    connect::Client,
    daemon,
    failure::{Exit, Failure, Outcome},
    render::{Table, millis, note},
};

/// Between two lines of progress where no bar can be drawn.
const LINE_EVERY: Duration = Duration::from_secs(5);

pub(super) async fn run(context: &Context, command: DrillCommand) -> Outcome {
    match command {
        DrillCommand::Evacuate(args) => evacuate(context, args).await,
        DrillCommand::List => {
            let client = context.client().await?;
            let read = client.read().unwrap_or_default();
            let drills = client
                .call(|mut admin| async move { admin.list_drills(read).await })
                .await?;
            context.printer.show(&drills, listed)
        }
        DrillCommand::End { id } => {
            let client = context.client().await?;
            end(&client, id.clone()).await?;
            context
                .printer
                .show(&Report::new(&id, Outcomes::Interrupted, Duration::ZERO), |_| {
                    format!("drill {id} is over; traffic returns")
                })
        }
    }
}

fn listed(list: &DrillList) -> String {
    let now = clock::wall().0;
    let mut table = Table::new(&["DRILL", "REGION", "PERCENT", "ENDS IN", "REASON"]);
    for drill in &list.drills {
        table.row([
            drill.id.clone(),
            drill.region.clone(),
            drill.percent.to_string(),
            millis(u64::try_from(drill.ends_at_ms - now).unwrap_or(0)),
            drill.reason.clone(),
        ]);
    }
    table.text("no drill goes on")
}

/// How a drill ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
enum Outcomes {
    /// Held for the whole time.
    Succeeded,
    /// Ended by an operator before its time.
    Interrupted,
    /// The lease could not be kept: the override ended by itself.
    Failed,
}

#[derive(Debug, Serialize)]
struct Report {
    id: String,
    outcome: Outcomes,
    held_ms: u64,
}

impl Report {
    fn new(id: &str, outcome: Outcomes, held: Duration) -> Self {
        Self {
            id: id.to_owned(),
            outcome,
            held_ms: u64::try_from(held.as_millis()).unwrap_or(u64::MAX),
        }
    }
}

async fn evacuate(context: &Context, args: EvacuateArgs) -> Outcome {
    let stop = daemon::stop_on_signals()?;
    let client = context.client().await?;
    let request = StartDrillRequest {
        region: args.region.clone(),
        percent: args.percent,
        for_seconds: args.hold.as_secs().max(1),
        reason: args.reason,
        force: args.force,
    };
    let drill = client
        .call(|mut admin| async move { admin.start_drill(request).await })
        .await
        .map_err(|failure| failure.while_doing(format!("region {} is not evacuated", args.region)))?;
    note(&format!(
        "drill {}: {} % of {}'s traffic goes elsewhere for {}; Ctrl-C puts it back",
        drill.id,
        drill.percent,
        drill.region,
        millis(u64::try_from(args.hold.as_millis()).unwrap_or(u64::MAX))
    ));
    let begun = clock::now();
    let outcome = hold(&client, &drill, begun + args.hold, &stop).await;
    // A drill that ended by itself needs no ending; one that cannot be ended expires with its lease.
    let ended = end(&client, drill.id.clone()).await;
    let report = Report::new(&drill.id, outcome, begun.elapsed());
    context.printer.show(&report, |report| {
        let word = match report.outcome {
            Outcomes::Succeeded => "succeeded",
            Outcomes::Interrupted => "was interrupted",
            Outcomes::Failed => "failed",
        };
        format!(
            "drill {} {word} after {}; traffic returns",
            report.id,
            millis(report.held_ms)
        )
    })?;
    match (outcome, ended) {
        (Outcomes::Succeeded, Ok(())) => Ok(()),
        (Outcomes::Succeeded | Outcomes::Interrupted, Err(failure)) if failure.exit != Exit::NotFound => Err(failure
            .while_doing(format!(
                "drill {} could not be ended; it ends by itself within {}",
                drill.id,
                millis(drill.lease_ms)
            ))
            .next(format!("isthmus drill end {}", drill.id))),
        (Outcomes::Succeeded, Err(_)) => Ok(()),
        (Outcomes::Interrupted, _) => Err(Failure::text(Exit::Failed, "interrupted before its time")),
        (Outcomes::Failed, _) => Err(Failure::text(Exit::Failed, "the drill's lease could not be kept")
            .next("`isthmus drill list` shows whether it goes on; `isthmus status` whether there is a leader")),
    }
}

async fn end(client: &Client, id: String) -> Outcome {
    let request = EndDrillRequest { id };
    client
        .call(|mut admin| async move { admin.end_drill(request).await })
        .await?;
    Ok(())
}

/// Renews the lease each third of it until `until`, or until somebody ends the drill.
async fn hold(client: &Client, drill: &Drill, until: Instant, stop: &Stop) -> Outcomes {
    let lease = Duration::from_millis(drill.lease_ms.max(300));
    let mut progress = Progress::new(until);
    let mut renew = tokio::time::interval(lease / 3);
    let mut shown = tokio::time::interval(Duration::from_millis(200));
    let mut renewed = clock::now();
    let mut lapsed = false;
    let outcome = loop {
        tokio::select! {
            // Putting things back outranks everything.
            biased;
            () = stop.ordered() => break Outcomes::Interrupted,
            () = tokio::time::sleep_until(until) => break Outcomes::Succeeded,
            // Cut at the next tick: a hanging call must not hide the lapse of the lease.
            _ = renew.tick() => match tokio::time::timeout(lease / 3, renewal(client, &drill.id)).await {
                Ok(Ok(())) => renewed = clock::now(),
                // Somebody else ended it.
                Ok(Err(failure)) if failure.exit == Exit::NotFound => break Outcomes::Interrupted,
                Ok(Err(_)) | Err(_) => lapsed = renewed.elapsed() > lease,
            },
            _ = shown.tick() => progress.show(),
        }
        if lapsed {
            break Outcomes::Failed;
        }
    };
    progress.clear();
    outcome
}

async fn renewal(client: &Client, id: &str) -> Outcome {
    let request = RenewDrillRequest { id: id.to_owned() };
    client
        .call(|mut admin| async move { admin.renew_drill(request).await })
        .await?;
    Ok(())
}

/// A bar on a terminal, else a line now and then.
struct Progress {
    bar: ProgressBar,
    begun: Instant,
    until: Instant,
    line: Option<Instant>,
}

impl Progress {
    fn new(until: Instant) -> Self {
        let begun = clock::now();
        let terminal = std::io::stderr().is_terminal();
        let length = u64::try_from((until - begun).as_millis()).unwrap_or(u64::MAX);
        let target = if terminal {
            ProgressDrawTarget::stderr()
        } else {
            ProgressDrawTarget::hidden()
        };
        let bar = ProgressBar::with_draw_target(Some(length), target);
        if let Ok(style) = ProgressStyle::with_template("  evacuated {bar:40} {msg}") {
            bar.set_style(style);
        }
        Self {
            bar,
            begun,
            until,
            line: (!terminal).then_some(begun),
        }
    }

    fn show(&mut self) {
        let left = self.until.saturating_duration_since(clock::now());
        let text = format!(
            "{} left",
            millis(u64::try_from(left.as_millis()).unwrap_or(0) / 1_000 * 1_000)
        );
        self.bar
            .set_position(u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(0));
        if let Some(at) = self.line.filter(|at| at.elapsed() >= LINE_EVERY) {
            note(&format!("  evacuated, {text}"));
            self.line = Some(at + LINE_EVERY);
        }
        self.bar.set_message(text);
    }

    fn clear(&self) {
        self.bar.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn list_shows_what_is_left_and_never_a_negative_time() {
        let drill = Drill {
            id: "d1".into(),
            region: "eu".into(),
            percent: 100,
            ends_at_ms: 5,
            ..Drill::default()
        };
        let text = listed(&DrillList {
            position: None,
            drills: vec![drill],
        });
        assert!(text.contains("d1") && text.contains("0ms"), "{text}");
    }

    #[test]
    fn outcomes_have_the_documented_names() {
        let report = Report::new("d1", Outcomes::Interrupted, Duration::from_secs(2));
        let json = serde_json::to_string(&report).unwrap();
        assert_eq!(json, r#"{"id":"d1","outcome":"INTERRUPTED","held_ms":2000}"#);
    }
}
