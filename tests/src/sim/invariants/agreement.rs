//! Replicas of a region at the same revision have the same state.

use std::sync::Arc;

use registry::{catalog::State, watch::Published};

use super::{Found, broken};
use crate::sim::place::Place;

/// Compares what a node shows with what was shown at that revision before.
pub(super) fn check(place: Place, known: &Arc<State>, published: &Published) -> Found {
    if **known == *published.state {
        return Ok(());
    }
    let differing: Vec<String> = known
        .keys()
        .chain(published.state.keys())
        .filter(|key| known.resource(key) != published.state.resource(key))
        .map(|key| key.to_string())
        .take(5)
        .collect();
    Err(broken(
        "replicas of a region at the same revision have the same state",
        format_args!("{place} shows at revision {} what others show", published.revision),
        format_args!("other records (of resources: {differing:?})"),
    ))
}
