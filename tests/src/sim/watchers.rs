//! Who watches a region: follows any node, leaves at any time, and comes back to another one with the position it holds.

use std::{collections::BTreeMap, time::Duration};

use mesh::model::{Held, Key, Resource, ServiceName, Update};
use registry::watch::{Scope, Subscriber};

use super::{
    heal,
    place::{Place, region as name},
    world::Sim,
};

/// Watchers of a region.
const WATCHERS: u8 = 3;

/// What a watcher holds.
#[derive(Default)]
pub(crate) struct View {
    pub(crate) held: Option<Held>,
    pub(crate) resources: BTreeMap<Key, Resource>,
}

impl View {
    fn apply(&mut self, update: Update) {
        if update.full {
            self.resources.clear();
        }
        for key in &update.removed {
            self.resources.remove(key);
        }
        for resource in update.upserts {
            self.resources.insert(resource.key(), resource);
        }
        self.held = Some(update.held);
    }
}

/// Starts the watchers of all regions.
pub(crate) fn start(sim: &Sim) {
    for region in 0..sim.regions() {
        for number in 0..WATCHERS {
            sim.spawn(run(sim.clone(), region, number));
        }
    }
}

fn scope(sim: &Sim, region: u8, number: u8) -> Scope {
    match number {
        0 => Scope::Everything,
        1 => {
            let services: [ServiceName; 2] = ["s0.shop".parse().unwrap(), "s1.shop".parse().unwrap()];
            Scope::Services(services.into())
        }
        _ if sim.regions() > 1 => Scope::ExportedTo(name((region + 1) % sim.regions())),
        _ => Scope::Everything,
    }
}

async fn run(sim: Sim, region: u8, number: u8) {
    let scope = scope(&sim, region, number);
    let mut view = View::default();
    loop {
        let wait = fastrand::u64(10..1_000);
        tokio::time::sleep(Duration::from_millis(wait)).await;
        let found = if sim.is_calm() {
            heal::any_member(&sim, region)
        } else {
            sim.any(region)
        };
        let Some((place, running)) = found else { continue };
        sim.step(
            "watch",
            Place::of(region),
            place,
            view.held.map_or(0, |held| held.revision.0),
        );
        let mut subscriber = Subscriber::new(&running.hub, scope.clone(), view.held);
        drop(running);
        let leave = Duration::from_millis(fastrand::u64(100..20_000));
        let follow = follow(&sim, (region, number), place, &scope, &mut subscriber, &mut view);
        // Left, or the node has gone, or it is behind.
        let _ = tokio::time::timeout(leave, follow).await;
    }
}

/// Follows one node until it goes, or shows something older than what is held.
async fn follow(
    sim: &Sim,
    (region, number): (u8, u8),
    place: Place,
    scope: &Scope,
    subscriber: &mut Subscriber,
    view: &mut View,
) {
    let mut last = None;
    while let Some(update) = subscriber.next().await {
        let held = update.held;
        sim.step("seen", place, Place::of(region), held.revision.0);
        sim.laws(|laws, _| laws.held.given(place, last, held));
        last = Some(held);
        if view
            .held
            .is_some_and(|own| own.incarnation == held.incarnation && held.revision < own.revision)
        {
            // As mesh's subscription does: it looks for a node that is not behind.
            return;
        }
        view.apply(update);
        sim.laws(|laws, _| laws.watchers.saw((region, number), scope, view));
        sim.laws(|laws, _| laws.check_view((region, number), scope, view));
    }
}
