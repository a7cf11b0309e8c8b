//! When the view is written to disk: at most once an interval, and once more at the end.

use std::{path::PathBuf, sync::Arc, time::Duration};

use tokio::sync::watch;
use tracing::warn;

use super::{Interest, cache};
use crate::{
    model::View,
    runtime::{Tasks, clock},
};

/// What shall be written next: a view, and what it is complete for.
pub(super) type Save = Option<(Arc<View>, Option<Interest>)>;

/// Writes the newest view, at most once an interval, and once more at the end.
pub(super) async fn keep(path: PathBuf, interval: Duration, mut saves: watch::Receiver<Save>, tasks: Tasks) {
    let stop = tasks.stop().clone();
    loop {
        let stopping = tokio::select! {
            () = stop.ordered() => true,
            changed = saves.changed() => changed.is_err(),
        };
        // The writer is gone when the stop was ordered; what it left is then still to be written.
        if !stopping || saves.has_changed().unwrap_or(true) {
            let save = saves.borrow_and_update().clone();
            write(&path, save).await;
        }
        if stopping {
            return stop.ordered().await;
        }
        tokio::select! {
            () = stop.ordered() => {}
            () = tokio::time::sleep(interval) => {}
        }
    }
}

async fn write(path: &std::path::Path, save: Save) {
    let Some((view, interest)) = save else { return };
    let path = path.to_owned();
    let now = clock::wall();
    let written = tokio::task::spawn_blocking(move || cache::save(&path, &view, interest.as_ref(), now)).await;
    match written {
        Ok(Ok(())) => {}
        Ok(Err(error)) => warn!(error = %chain(&error), "view not kept on disk"),
        Err(error) => warn!(%error, "view not kept on disk"),
    }
}

/// An error with its causes, for one line of a log.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
