//! Whether all nodes of the region hold the same catalogue. The leader writes the digest of its own into the log; every node
//! compares it with what it had at that revision, and says in the catalogue when that was something else.
//!
//! It mends nothing: a node that differs may be the one that is right.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use mesh::{
    model::{NodeId, Timestamp},
    ops::Metrics,
    runtime::{Clock, OnExit, Stop},
};
use metrics::Gauge;
use tokio::time::MissedTickBehavior;
use tracing::{debug, error, info};

use crate::{
    app::Parts,
    catalog::{Checkpoint, Command, Finding, State, Subject, digest::SCHEME},
    federation::Home,
    watch::Hub,
};

/// How often the leader writes its digest, while anything changes: a difference is reported within twice of it.
const EVERY: Duration = Duration::from_secs(2);

/// The audit of one node.
pub(crate) struct Audit {
    home: Arc<dyn Home>,
    hub: Arc<Hub>,
    node: NodeId,
    clock: Clock,
    metrics: Metrics,
    gauges: BTreeMap<Subject, Gauge>,
    /// What was read at the start was compared with nothing yet.
    is_unseen: bool,
}

impl Audit {
    pub(crate) fn new(home: Arc<dyn Home>, hub: Arc<Hub>, node: NodeId, clock: Clock, metrics: &Metrics) -> Self {
        Self {
            home,
            hub,
            node,
            clock,
            metrics: metrics.clone(),
            gauges: BTreeMap::from([(Subject::Node(node), diverged(metrics, &Subject::Node(node)))]),
            is_unseen: true,
        }
    }

    /// Watches over a node.
    pub(crate) fn start(parts: &Parts, metrics: &Metrics) {
        let (home, hub) = (parts.home(), Arc::clone(&parts.hub));
        let audit = Self::new(home, hub, parts.node, parts.clock(), metrics);
        let run = audit.run(parts.tasks.stop().clone());
        parts.tasks.spawn("audit", OnExit::StopProcess, run);
    }

    /// Runs until the stop.
    pub(crate) async fn run(mut self, stop: Stop) {
        let mut moments = self.hub.moments();
        let mut tick = tokio::time::interval(EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let turn = tokio::select! {
                biased;
                () = stop.ordered() => return,
                _ = tick.tick() => true,
                changed = moments.changed() => match changed {
                    Ok(()) => false,
                    // The hub is gone: the process ends.
                    Err(_) => return stop.ordered().await,
                },
            };
            let state = Arc::clone(&moments.borrow_and_update().state);
            self.count(&state);
            if state.region().is_none() {
                continue;
            }
            let next = match verdict(&self.hub, &state, self.node, self.clock.wall()) {
                Some(found) => Some(found),
                None if turn => self.due(),
                None => None,
            };
            if let Some(command) = next {
                self.propose(command, &stop).await;
            }
        }
    }

    async fn propose(&mut self, command: Command, stop: &Stop) {
        match &command {
            Command::PutFinding { finding: Some(_), .. } => {
                error!(node = %self.node, "this node's catalogue differs from the leader's; see isthmus status");
            }
            Command::PutFinding { finding: None, .. } => {
                info!(node = %self.node, "this node's catalogue agrees again with the leader's");
            }
            _ => {}
        }
        let asks = matches!(command, Command::Checkpoint(None));
        let proposed = tokio::select! {
            () = stop.ordered() => return,
            proposed = self.home.propose(command) => proposed,
        };
        match proposed {
            Ok(_) if asks => self.is_unseen = false,
            Ok(_) => {}
            // The next turn tries again, if it is still so.
            Err(error) => debug!(%error, "audit was not committed"),
        }
    }

    /// What this node has to write: the leader its digest when anything changed since the last one, another one a question
    /// for a digest when it has just read its catalogue from the disk.
    fn due(&mut self) -> Option<Command> {
        let moment = self.hub.moment();
        let (state, known) = (&moment.state, moment.state.checkpoint());
        if self.home.is_leader() {
            // Its own is what the others are compared with.
            self.is_unseen = false;
            let is_known = known.is_some_and(|known| known.scheme == SCHEME && known.sum == state.sum());
            let checkpoint = Checkpoint {
                revision: moment.revision,
                sum: state.sum(),
                scheme: SCHEME,
            };
            return (!is_known).then_some(Command::Checkpoint(Some(checkpoint)));
        }
        let was_compared = known.is_none_or(|known| self.hub.sum_at(known.revision).is_some());
        if self.is_unseen && was_compared {
            self.is_unseen = false;
        }
        self.is_unseen.then_some(Command::Checkpoint(None))
    }

    /// One gauge for this node's own copy, and for each other one that differed since this node runs.
    fn count(&mut self, state: &State) {
        for (subject, gauge) in &self.gauges {
            gauge.set(f64::from(u8::from(state.finding(subject).is_some())));
        }
        for (subject, _) in state.findings() {
            let gauge = self.gauges.entry(subject.clone());
            gauge.or_insert_with(|| diverged(&self.metrics, subject)).set(1.0);
        }
    }
}

fn diverged(metrics: &Metrics, subject: &Subject) -> Gauge {
    metrics.gauge(
        "isthmus_registry_diverged",
        "1 while a copy differs from its original: what is held of a peer, or a node's catalogue",
        &[("copy", &subject.to_string())],
    )
}

/// What is to be said of this node's own copy: none when all is said, or nothing can be compared.
fn verdict(hub: &Hub, state: &State, node: NodeId, at: Timestamp) -> Option<Command> {
    let checkpoint = state.checkpoint().filter(|checkpoint| checkpoint.scheme == SCHEME)?;
    let own = hub.sum_at(checkpoint.revision)?;
    let subject = Subject::Node(node);
    let finding = match (own == checkpoint.sum, state.finding(&subject)) {
        (true, Some(_)) => None,
        (false, None) => Some(Finding {
            revision: checkpoint.revision,
            at,
            parts: Vec::new(),
        }),
        (true, None) | (false, Some(_)) => return None,
    };
    Some(Command::PutFinding { subject, finding })
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use futures_util::{FutureExt, future::BoxFuture};
    use mesh::{
        model::{Audience, Revision},
        runtime::{Tasks, clock},
    };
    use tokio::sync::watch;

    use super::*;
    use crate::{
        catalog::{
            Reply,
            testing::{World, export, id, init, workload},
        },
        raft::propose,
        watch::{Publish, Published},
    };

    /// Three nodes with one log.
    struct Group {
        nodes: Mutex<Vec<(World, Arc<Hub>)>>,
        leader: Mutex<usize>,
    }

    impl Group {
        fn new() -> Arc<Self> {
            let node = |_| {
                let world = World {
                    state: State::default(),
                    revision: 0,
                    at: 0,
                };
                (world, Hub::new(&Metrics::default()))
            };
            let group = Arc::new(Self {
                nodes: Mutex::new((0..3).map(node).collect()),
                leader: Mutex::new(0),
            });
            group.commit(init("eu", 7));
            group
        }

        fn commit(&self, command: Command) -> Reply {
            let mut reply = None;
            for (world, hub) in self.nodes.lock().unwrap().iter_mut() {
                let mut applied = world.apply(vec![command.clone()]);
                reply = Some(applied.replies.remove(0));
                show(world, hub, applied.changes, false);
            }
            reply.unwrap()
        }

        fn hub(&self, node: usize) -> Arc<Hub> {
            Arc::clone(&self.nodes.lock().unwrap()[node].1)
        }

        fn spoil(&self, node: usize) {
            let mut nodes = self.nodes.lock().unwrap();
            let (world, hub) = &mut nodes[node];
            world.state.spoil_endpoint("pay.shop", "ep-w1-pay-shop");
            show(world, hub, Vec::new(), true);
        }

        fn differing(&self) -> Vec<String> {
            let state = self.hub(1).state();
            state.findings().map(|(subject, _)| subject.to_string()).collect()
        }

        async fn come_to(&self, differing: &[&str]) {
            let began = clock::now();
            while self.differing() != differing {
                assert!(began.elapsed() < Duration::from_secs(5), "{:?}", self.differing());
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }

    fn show(world: &World, hub: &Hub, changes: Vec<crate::catalog::Change>, reset: bool) {
        hub.publish(Published {
            state: Arc::new(world.state.clone()),
            revision: Revision(world.revision),
            at: Timestamp(world.at),
            changes,
            reset,
        });
    }

    struct Member(Arc<Group>, usize);

    impl Home for Member {
        fn propose(&self, command: Command) -> BoxFuture<'_, Result<Reply, propose::Error>> {
            async move { Ok(self.0.commit(command)) }.boxed()
        }
        fn catch_up(&self) -> BoxFuture<'_, Result<(), propose::Error>> {
            async { Ok(()) }.boxed()
        }
        fn is_leader(&self) -> bool {
            *self.0.leader.lock().unwrap() == self.1
        }
        fn leader_changed(&self) -> watch::Receiver<Option<NodeId>> {
            watch::channel(None).1
        }
        fn addresses(&self) -> Vec<String> {
            Vec::new()
        }
        fn leader_address(&self) -> Option<String> {
            None
        }
    }

    fn audited(group: &Arc<Group>, node: usize, tasks: &Tasks) {
        let home = Arc::new(Member(Arc::clone(group), node));
        let number = NodeId(node as u64 + 1);
        let audit = Audit::new(home, group.hub(node), number, Clock::system(), &Metrics::default());
        tasks.spawn("audit", OnExit::Ignore, audit.run(tasks.stop().clone()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_that_differs_is_reported_within_five_seconds() {
        let (group, tasks) = (Group::new(), Tasks::new(Stop::default()));
        (0..3).for_each(|node| audited(&group, node, &tasks));
        group.commit(Command::AttachWorkload(Arc::new(workload("w1", &["pay.shop"]))));
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert_eq!(group.differing(), Vec::<String>::new());
        let quiet = group.hub(0).moment().revision;
        tokio::time::sleep(Duration::from_secs(600)).await;
        assert_eq!(
            group.hub(0).moment().revision,
            quiet,
            "where nothing changes nothing is written"
        );
        group.spoil(2);
        group.commit(export("pay.shop", Audience::Everybody));
        group.come_to(&["node/3"]).await;
        // As the leader it is what the others are compared with.
        *group.leader.lock().unwrap() = 2;
        group.commit(Command::RemoveExport(id("pay.shop")));
        group.come_to(&["node/1", "node/2"]).await;
        tasks.stop().order();
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_node_read_from_its_disk_is_compared_although_nothing_changes() {
        let (group, tasks) = (Group::new(), Tasks::new(Stop::default()));
        group.commit(Command::AttachWorkload(Arc::new(workload("w1", &["pay.shop"]))));
        (0..2).for_each(|node| audited(&group, node, &tasks));
        tokio::time::sleep(Duration::from_secs(10)).await;
        group.spoil(2);
        audited(&group, 2, &tasks);
        group.come_to(&["node/3"]).await;
        tasks.stop().order();
    }
}
