//! A node of the world: the real replica, federation and expiry over a simulated disk, network and clock, in a life that can
//! end at any moment.

use std::{sync::Arc, time::Duration};

use mesh::{
    ops::Metrics,
    runtime::{Clock, Life, OnExit, Stop, Tasks},
};
use registry::{
    Meters,
    federation::{Federation, Links, Replicated},
    ingest::{self, LeaseTimes, Leases},
    quota::desk::Desk,
    raft::{Replica, Seams, Settings},
    watch::{Hub, Publish, Published},
};

use super::{
    disk::Disk,
    net::{Line, Wire},
    place::Place,
    world::Sim,
};

/// As the daemon's defaults.
pub(crate) const LEASES: LeaseTimes = LeaseTimes {
    ttl: Duration::from_secs(10),
    grace: Duration::from_secs(5),
};
/// How long a node may take to stop in order.
const STOP_MAX: Duration = Duration::from_secs(20);

/// One node, whether it runs or not.
pub(crate) struct Node {
    pub(crate) disk: Disk,
    pub(crate) clock: Clock,
    pub(crate) life: Life,
    /// None while it is down or still opens.
    pub(crate) running: Option<Running>,
    /// Being started or stopped by somebody.
    pub(crate) busy: bool,
    /// Removed from its region for good.
    pub(crate) is_gone: bool,
    /// Somebody adds it to its region, or gave up without knowing what came of it.
    pub(crate) joining: bool,
    /// Its disk has been bad in this life: it may end by itself.
    pub(crate) may_end: bool,
}

/// What runs.
#[derive(Clone)]
pub(crate) struct Running {
    pub(crate) replica: Replica,
    pub(crate) hub: Arc<Hub>,
    pub(crate) federation: Federation,
    pub(crate) leases: Leases,
    pub(crate) tasks: Tasks,
}

impl Node {
    pub(crate) fn new(clock: Clock) -> Self {
        Self {
            disk: Disk::default(),
            clock,
            life: Life::default(),
            running: None,
            busy: false,
            is_gone: false,
            joining: false,
            may_end: false,
        }
    }
}

/// Shows what a node publishes to the invariants, then to its hub.
struct Eye {
    sim: Sim,
    place: Place,
    hub: Arc<Hub>,
}

impl Publish for Eye {
    fn publish(&self, published: Published) {
        self.sim.published(self.place, &published);
        self.hub.publish(published);
    }
}

/// Starts a node; false when it did not come up.
pub(crate) async fn start(sim: &Sim, place: Place) -> bool {
    let life = Life::default();
    let prepared = sim.with_node(place, |node| {
        if node.busy || node.is_gone || node.running.is_some() {
            return None;
        }
        // Over a full disk it may not even start.
        (node.busy, node.may_end) = (true, node.disk.is_full());
        node.life = life.clone();
        Some((node.disk.clone(), node.clock.clone()))
    });
    let Some(Some((disk, clock))) = prepared else {
        return false;
    };
    sim.step("start", place, place, 0);
    let opening = life.spawn(open(sim.clone(), place, disk, clock));
    let opened = opening.await;
    let mut begun = false;
    match opened {
        Ok(Ok(running)) => {
            let tasks = running.tasks.clone();
            sim.with_node(place, |node| {
                node.busy = false;
                node.running = Some(running);
            });
            sim.spawn(mind(sim.clone(), place, tasks));
            begun = true;
        }
        Ok(Err(reason)) => {
            let excused = sim.with_node(place, |node| {
                node.busy = false;
                node.life.end();
                node.may_end
            });
            if excused != Some(true) {
                sim.fail(
                    "a node can always be started again",
                    "it starts",
                    &format!("{place}: {reason}"),
                );
            }
        }
        // It was killed while it started.
        Err(_) => {
            sim.with_node(place, |node| node.busy = false);
        }
    }
    begun
}

async fn open(sim: Sim, place: Place, disk: Disk, clock: Clock) -> Result<Running, String> {
    let (metrics, tasks) = (Metrics::default(), Tasks::new(Stop::default()));
    let hub = Hub::new(&metrics);
    let mut settings = Settings::new(place.to_string().into(), place.id());
    settings.snapshot_every = sim.snapshot_every();
    // Who is removed is decided by the faults.
    settings.replace_after = Duration::ZERO;
    let seams = Seams {
        storage: disk.storage(&sim, place),
        transport: Arc::new(Wire {
            sim: sim.clone(),
            me: place,
        }),
        clock: clock.clone(),
    };
    let publish = Arc::new(Eye {
        sim: sim.clone(),
        place,
        hub: Arc::clone(&hub),
    });
    let opened = Box::pin(Replica::open_on(seams, settings, publish, &metrics, &tasks)).await;
    let replica = opened.map_err(|error| error.to_string())?;
    let federation = Federation::over(Links {
        home: Arc::new(Replicated::new(replica.clone(), vec![place.address()])),
        hub: Arc::clone(&hub),
        dial: Arc::new(Line {
            sim: sim.clone(),
            me: place,
        }),
        clock,
        tasks: tasks.clone(),
        metrics: metrics.clone(),
    });
    let leases = Leases::default();
    let watch = ingest::Watch {
        replica: replica.clone(),
        node: place.id(),
        leases: leases.clone(),
        times: LEASES,
        stop: tasks.stop().clone(),
    };
    let expiry = ingest::watch(watch, Meters::new(&metrics));
    tasks.spawn("expiry", OnExit::StopProcess, expiry);
    let desk = Desk::new(place.id(), &metrics);
    tasks.spawn(
        "quotas",
        OnExit::StopProcess,
        desk.run(replica.clone(), tasks.stop().clone()),
    );
    Ok(Running {
        replica,
        hub,
        federation,
        leases,
        tasks,
    })
}

/// Notices that a node has ended by itself.
async fn mind(sim: Sim, place: Place, tasks: Tasks) {
    tasks.stop().ordered().await;
    let mine = |node: &Node| {
        let running = node.running.as_ref()?;
        let same = running.tasks.stop().is_ordered() && !node.busy;
        same.then_some(node.may_end)
    };
    let Some(Some(may_end)) = sim.with_node(place, |node| mine(node)) else {
        return;
    };
    sim.step("ended", place, place, 0);
    if !may_end && !sim.may_be_removed(place) {
        sim.fail(
            "a node ends only when its disk fails or when it was removed",
            "it runs",
            &format!("{place} ended by itself"),
        );
    }
    // In order, as far as it goes.
    let ended = tasks.join(STOP_MAX).await;
    drop(ended);
    kill(&sim, place, true);
}

/// Ends a node at once. `clean` = nothing is lost on its disk.
pub(crate) fn kill(sim: &Sim, place: Place, clean: bool) {
    let running = sim.with_node(place, |node| {
        node.life.end();
        if clean {
            node.disk.close();
        } else {
            node.disk.crash();
        }
        node.running.take()
    });
    // Outside of the lock: what it drops may publish.
    drop(running);
}

/// Cuts a node's power.
pub(crate) fn crash(sim: &Sim, place: Place) {
    sim.step("crash", place, place, 0);
    kill(sim, place, false);
}

/// Stops a node in order.
pub(crate) async fn stop(sim: &Sim, place: Place) {
    let tasks = sim.with_node(place, |node| {
        if node.busy {
            return None;
        }
        let tasks = node.running.as_ref()?.tasks.clone();
        node.busy = true;
        Some(tasks)
    });
    let Some(Some(tasks)) = tasks else { return };
    sim.step("stop", place, place, 0);
    tasks.stop().order();
    // A failure of its disk is no failure of the stop.
    let _ = tasks.join(STOP_MAX).await;
    kill(sim, place, true);
    sim.with_node(place, |node| node.busy = false);
}
