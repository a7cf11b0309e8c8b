//! Every watcher's view is the catalogue at the position that it holds, and in the end the newest one.

use std::collections::BTreeMap;

use mesh::model::Held;
use registry::watch::{History, Moment, Scope};

use super::{Found, broken, chronicle::Chronicle};
use crate::sim::watchers::View;

const LAW: &str = "every watcher converges to the catalogue";
/// One in so many updates is compared in full.
const CHECKED_EVERY: u8 = 4;

/// Where the watchers stand.
#[derive(Default)]
pub(crate) struct Watchers {
    pub(crate) held: BTreeMap<(u8, u8), Held>,
}

impl Watchers {
    pub(crate) fn saw(&mut self, who: (u8, u8), _: &Scope, view: &View) {
        if let Some(held) = view.held {
            self.held.insert(who, held);
        }
    }
}

/// Compares a view with the catalogue at its position.
pub(super) fn check(chronicle: &Chronicle, who: (u8, u8), scope: &Scope, view: &View) -> Found {
    let held = view.held.filter(|_| fastrand::u8(..CHECKED_EVERY) == 0);
    let Some((held, state)) = held.and_then(|held| Some((held, chronicle.held(held)?))) else {
        return Ok(());
    };
    let moment = Moment {
        state: state.clone(),
        revision: held.revision,
        history: History::new(held.revision, 1),
    };
    let Some(whole) = scope.snapshot(&moment) else {
        return Ok(());
    };
    let expected: BTreeMap<_, _> = whole.upserts.into_iter().map(|one| (one.key(), one)).collect();
    if expected == view.resources {
        return Ok(());
    }
    let keys = expected.keys().chain(view.resources.keys());
    let key = keys
        .into_iter()
        .find(|key| expected.get(key) != view.resources.get(key));
    let (wanted, found) = match key {
        Some(key) => (expected.get(key), view.resources.get(key)),
        None => (None, None),
    };
    Err(broken(
        LAW,
        format_args!(
            "watcher {who:?} of {scope:?} at {}: {key:?} = {wanted:?}",
            held.revision
        ),
        format_args!("{found:?}"),
    ))
}
