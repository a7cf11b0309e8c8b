//! The registry's own trust follows the catalogue: a peer's anchors hold from the commit of its peering, and end with it.

use std::sync::Arc;

use mesh::{
    identity::{Bundle, Identity},
    runtime::Stop,
};
use tracing::info;

use crate::{catalog::State, watch::Hub};

/// Keeps the identity's bundles equal to the catalogue's until the stop.
pub async fn follow(hub: Arc<Hub>, identity: Identity, stop: Stop) {
    let mut moments = hub.moments();
    let mut known: Vec<Arc<Bundle>> = Vec::new();
    loop {
        let state = Arc::clone(&moments.borrow_and_update().state);
        if let Some(bundles) = news(&known, &state) {
            known.clone_from(&bundles);
            if identity.replace_bundles(bundles) {
                info!(domains = known.len(), "trust bundles changed");
            }
        }
        tokio::select! {
            () = stop.ordered() => return,
            changed = moments.changed() => if changed.is_err() {
                // The hub is gone: the process ends.
                return stop.ordered().await;
            }
        }
    }
}

/// The catalogue's bundles, when they are not those known. Before `Init` there are none, and the identity keeps what it has.
fn news(known: &[Arc<Bundle>], state: &State) -> Option<Vec<Arc<Bundle>>> {
    state.own_bundle()?;
    let bundles: Vec<_> = state.bundles().cloned().collect();
    let is_same = known.len() == bundles.len() && known.iter().zip(&bundles).all(|(a, b)| Arc::ptr_eq(a, b));
    (!is_same).then_some(bundles)
}
