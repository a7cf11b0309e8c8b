//! `isthmus status --watch`: on a terminal the screen is drawn again and again; elsewhere each change is one line of JSON.
//! Survives the loss of the registry, which it says once, and ends at Ctrl-C as if all were done.

use std::{io::IsTerminal, time::Duration};

use mesh::runtime::clock;
use proto::admin::v1::{ReadOptions, Status, StatusRequest};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::text;
use crate::{
    cmd::Context,
    connect::Client,
    failure::{Exit, Failure, Outcome},
    render::print,
};

/// Slow enough to read, fast enough to follow an election.
const REFRESH: Duration = Duration::from_secs(1);
/// Moves to the top left and clears what is below.
const CLEAR: &str = "\x1b[H\x1b[2J";
/// What moves by itself is no change.
const RESTLESS: [&str; 8] = [
    "age_ms",
    "lag_ms",
    "lag",
    "round_trip_us",
    "clock_ahead_ms",
    "acknowledged_revision",
    "held_revision",
    "node",
];

pub(super) async fn run(context: &Context) -> Outcome {
    let redraws = std::io::stdout().is_terminal() && !context.printer.is_json();
    let mut screen = Screen {
        redraws,
        last: None,
        shown: None,
        lost: None,
    };
    let mut client = None;
    loop {
        let asked = tokio::select! {
            // Only here and below is waited for long.
            interrupted = tokio::signal::ctrl_c() => return Ok(interrupted?),
            asked = ask(context, &mut client) => asked,
        };
        match asked {
            Ok(status) => screen.show(status)?,
            Err(failure) => screen.lose(&failure)?,
        }
        tokio::select! {
            interrupted = tokio::signal::ctrl_c() => return Ok(interrupted?),
            () = tokio::time::sleep(REFRESH) => {}
        }
    }
}

/// Asks over the connection that stands, else over a new one: while a node is away, another one answers. Without a quorum
/// it shows what the answering node holds, and says so.
async fn ask(context: &Context, client: &mut Option<Client>) -> Outcome<Status> {
    let current = match client.take() {
        Some(current) => current,
        None => context.client().await?,
    };
    let asked = match super::ask(&current).await {
        Err(failure) if failure.exit == Exit::Unreachable => {
            let request = StatusRequest {
                read: Some(ReadOptions { local: true }),
            };
            let held = current
                .call(|mut admin| async move { admin.get_status(request).await })
                .await;
            held.map(|mut status| {
                let why = failure.to_string();
                let why = why.lines().next().unwrap_or_default();
                status
                    .warnings
                    .insert(0, format!("no quorum, shown is what this node holds: {why}"));
                status
            })
        }
        asked => asked,
    };
    if asked.is_ok() {
        *client = Some(current);
    }
    asked
}

/// What was shown last.
struct Screen {
    redraws: bool,
    last: Option<Status>,
    /// The lasting part of what was written as a line.
    shown: Option<Value>,
    lost: Option<Instant>,
}

impl Screen {
    fn show(&mut self, status: Status) -> Outcome {
        self.lost = None;
        if self.redraws {
            print(&format!("{CLEAR}{}", text(&status)))?;
            self.last = Some(status);
            return Ok(());
        }
        let value = serde_json::to_value(&status).map_err(|error| Failure::new(Exit::Failed, error))?;
        let lasting = lasting(value.clone());
        if self.shown.as_ref() != Some(&lasting) {
            self.shown = Some(lasting);
            print(&value.to_string())?;
        }
        Ok(())
    }

    fn lose(&mut self, failure: &Failure) -> Outcome {
        let is_new = self.lost.is_none();
        let since = *self.lost.get_or_insert_with(clock::now);
        let why = failure.to_string();
        let why = why.lines().next().unwrap_or_default();
        if self.redraws {
            let above = self.last.as_ref().map(text).unwrap_or_default();
            let seconds = since.elapsed().as_secs();
            return print(&format!(
                "{CLEAR}{above}\n! not reached for {seconds} s, above is what was seen last: {why}"
            ));
        }
        if is_new {
            // Whatever comes back is news, also when it is as before.
            self.shown = None;
            print(&json!({ "unreachable": why }).to_string())?;
        }
        Ok(())
    }
}

/// Without what moves by itself.
fn lasting(value: Value) -> Value {
    match value {
        Value::Object(fields) => Value::Object(
            fields
                .into_iter()
                .filter(|(name, _)| !RESTLESS.contains(&name.as_str()))
                .map(|(name, value)| (name, lasting(value)))
                .collect(),
        ),
        Value::Array(items) => Value::Array(items.into_iter().map(lasting).collect()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use proto::admin::v1::{Peer, Position};

    use super::*;

    #[test]
    fn only_what_lasts_is_a_change() {
        let status = |age, revision, connected| {
            let peer = Peer {
                region: "us".into(),
                age_ms: Some(age),
                connected,
                ..Peer::default()
            };
            let status = Status {
                position: Some(Position {
                    revision,
                    age_ms: age,
                    ..Position::default()
                }),
                peers: vec![peer],
                ..Status::default()
            };
            lasting(serde_json::to_value(&status).unwrap())
        };
        assert_eq!(status(1, 5, true), status(900, 5, true));
        assert_ne!(status(1, 5, true), status(1, 6, true));
        assert_ne!(status(1, 5, true), status(1, 5, false));
    }
}
