//! What goes wrong: one task a world that breaks something every now and then, and mends it later.

use std::time::Duration;

use mesh::{model::NodeId, runtime::clock};

use super::{disk::Fault, node, place::Place, restore, world::Sim};

/// How far a clock may be off, either way.
pub(crate) const SKEW_MAX_MS: i64 = 30_000;

/// For so long a new node is added again when it was given up; a try takes as long at most, and the node waits for both.
const ADD_MAX: Duration = Duration::from_secs(90);

/// A region that is cut off for long: leases of quotas end, and histories that a peer would resume from are forgotten.
const LONG_CUT_MS: std::ops::Range<u64> = 150_000..300_000;

/// Breaks things until the world is calm.
pub(crate) async fn run(sim: Sim) {
    if fastrand::u8(..3) == 0 {
        sim.spawn(isolate(sim.clone()));
    }
    if fastrand::u8(..3) == 0 {
        sim.spawn(restore::run(sim.clone()));
    }
    loop {
        tokio::time::sleep(Duration::from_millis(fastrand::u64(100..2_500))).await;
        if sim.is_calm() || sim.is_over() {
            return;
        }
        let region = fastrand::u8(..sim.regions());
        let places = sim.places(region);
        if places.is_empty() {
            continue;
        }
        let place = places[fastrand::usize(..places.len())];
        let task = sim.clone();
        match fastrand::u8(..100) {
            0..20 => sim.spawn(bounce(task, place)),
            20..26 => sim.spawn(pause(task, place)),
            26..29 => {
                for place in places {
                    sim.spawn(bounce(sim.clone(), place));
                }
            }
            29..44 => sim.spawn(cut(task, place)),
            44..56 => sim.spawn(cut_regions(task, region)),
            56..60 => {
                sim.step("reset", Place::of(region), Place::of(region), 0);
                sim.net().resets += 1;
            }
            60..70 => sim.spawn(storm(task)),
            70..78 => turn_clock(&sim, place),
            78..86 => sim.spawn(spoil_disk(task, place)),
            86..94 => sim.spawn(replace(task, region)),
            _ => sim.spawn(betray(task)),
        }
    }
}

fn sometimes_short(from_ms: u64, to_ms: u64) -> Duration {
    let ms = if fastrand::u8(..3) == 0 {
        fastrand::u64(1..100)
    } else {
        fastrand::u64(from_ms..to_ms)
    };
    Duration::from_millis(ms)
}

/// Kills a node, and starts it again.
async fn bounce(sim: Sim, place: Place) {
    node::crash(&sim, place);
    tokio::time::sleep(sometimes_short(100, 6_000)).await;
    // Calm starts all nodes itself.
    if !sim.is_calm() {
        node::start(&sim, place).await;
    }
}

/// Stops a node in order, and starts it again.
async fn pause(sim: Sim, place: Place) {
    node::stop(&sim, place).await;
    tokio::time::sleep(sometimes_short(100, 6_000)).await;
    if !sim.is_calm() {
        node::start(&sim, place).await;
    }
}

/// Cuts a node off from all or some others, both ways or one way.
async fn cut(sim: Sim, place: Place) {
    sim.step("cut", place, place, 0);
    let ways = fastrand::u8(1..4);
    let all = fastrand::bool();
    let mut cuts = Vec::new();
    for other in sim.places(place.region) {
        if other != place && (all || fastrand::bool()) {
            if ways & 1 != 0 {
                cuts.push((place, other));
            }
            if ways & 2 != 0 {
                cuts.push((other, place));
            }
        }
    }
    sim.net().cut.extend(cuts.iter().copied());
    tokio::time::sleep(sometimes_short(200, 8_000)).await;
    let mut net = sim.net();
    net.cut.retain(|cut| !cuts.contains(cut));
}

/// Cuts a region off from another one, both ways or one way.
async fn cut_regions(sim: Sim, region: u8) {
    if sim.regions() < 2 {
        return;
    }
    let other = (region + fastrand::u8(1..sim.regions())) % sim.regions();
    sim.step("cut", Place::of(region), Place::of(other), 0);
    let mut cuts = vec![(region, other)];
    if fastrand::u8(..3) > 0 {
        cuts.push((other, region));
    }
    sim.net().cut_regions.extend(cuts.iter().copied());
    tokio::time::sleep(sometimes_short(1_000, 20_000)).await;
    let mut net = sim.net();
    net.cut_regions.retain(|cut| !cuts.contains(cut));
}

/// Cuts a region off from all others for longer than anything is granted.
async fn isolate(sim: Sim) {
    tokio::time::sleep(Duration::from_millis(fastrand::u64(..90_000))).await;
    let region = fastrand::u8(..sim.regions());
    sim.step("isolate", Place::of(region), Place::of(region), 0);
    let others = (0..sim.regions()).filter(|other| *other != region);
    let cuts: Vec<(u8, u8)> = others.flat_map(|other| [(region, other), (other, region)]).collect();
    sim.net().isolated.extend(cuts.iter().copied());
    tokio::time::sleep(Duration::from_millis(fastrand::u64(LONG_CUT_MS))).await;
    let mut net = sim.net();
    net.isolated.retain(|cut| !cuts.contains(cut));
}

/// Loses, doubles and delays messages everywhere.
async fn storm(sim: Sim) {
    sim.step("storm", Place::default(), Place::default(), 0);
    {
        let mut net = sim.net();
        net.loss = fastrand::u8(..30);
        net.twice = fastrand::u8(..30);
        net.late_ms = fastrand::u64(..1_500);
    }
    tokio::time::sleep(sometimes_short(500, 8_000)).await;
    let mut net = sim.net();
    (net.loss, net.twice, net.late_ms) = (0, 0, 0);
}

fn turn_clock(sim: &Sim, place: Place) {
    let skew = fastrand::i64(-SKEW_MAX_MS..=SKEW_MAX_MS);
    sim.step("clock", place, place, skew.unsigned_abs());
    sim.with_node(place, |node| node.clock.set_skew_ms(skew));
}

/// Makes a disk slow, nearly full or full for a while.
async fn spoil_disk(sim: Sim, place: Place) {
    let fault = match fastrand::u8(..4) {
        0 => Fault {
            short: true,
            ..Fault::default()
        },
        1 => Fault {
            full: true,
            ..Fault::default()
        },
        _ => Fault {
            slow_ms: fastrand::u64(5..400),
            ..Fault::default()
        },
    };
    sim.step("disk fault", place, place, fault.slow_ms);
    sim.with_node(place, |node| {
        node.may_end |= fault.full;
        node.disk.set_fault(fault);
    });
    tokio::time::sleep(sometimes_short(500, 5_000)).await;
    let ended = sim.with_node(place, |node| {
        node.disk.set_fault(Fault::default());
        node.running.is_none() && node.may_end
    });
    if ended == Some(true) && !sim.is_calm() {
        node::start(&sim, place).await;
    }
}

/// Removes a node, and adds a new one in its place.
async fn replace(sim: Sim, region: u8) {
    // Not while the region is restored.
    let Ok(_turn) = sim.turns(region).try_read_owned() else {
        return;
    };
    let mut places = sim.places(region);
    // One who removes a node while another adds it would find it a member in the end, and gone.
    places.retain(|place| sim.with_node(*place, |node| node.joining) == Some(false));
    if places.len() < 2 {
        return;
    }
    let old = places[fastrand::usize(..places.len())];
    let Some((_, running)) = sim.any(region) else { return };
    sim.step("remove", Place::of(region), old, 0);
    sim.asked_to_leave(old);
    if running.replica.remove_node(old.id()).await.is_err() {
        return;
    }
    sim.step("removed", Place::of(region), old, 0);
    tokio::time::sleep(Duration::from_millis(fastrand::u64(..3_000))).await;
    sim.with_node(old, |node| node.is_gone = true);
    node::kill(&sim, old, true);
    add(&sim, region).await;
}

/// Adds a new node.
pub(crate) async fn add(sim: &Sim, region: u8) {
    let new = Place::new(region, sim.next_number(region));
    sim.add_node(new);
    sim.with_node(new, |node| node.joining = true);
    if !node::start(sim, new).await {
        return;
    }
    let begun = clock::now();
    while begun.elapsed() < ADD_MAX {
        let Some((_, running)) = sim.any(region) else { break };
        sim.step("add", Place::of(region), new, 0);
        if running
            .replica
            .add_node(NodeId(u64::from(new.node)), new.member())
            .await
            .is_ok()
        {
            sim.step("added", Place::of(region), new, 0);
            sim.with_node(new, |node| node.joining = false);
            return;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    // It ends when it has waited for long.
    sim.asked_to_leave(new);
}

/// Lets peers send what they do not own.
async fn betray(sim: Sim) {
    sim.step("betray", Place::default(), Place::default(), 0);
    sim.net().hostile = true;
    tokio::time::sleep(sometimes_short(500, 8_000)).await;
    sim.net().hostile = false;
}
