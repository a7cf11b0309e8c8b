//! Who counts, who comes, who goes, and what an upgrade may do.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use mesh::{
    identity::Role,
    model::NodeId,
    ops::Metrics,
    runtime::{Stop, Tasks, clock},
};

use super::world::{World, allocate, eventually};
use crate::{
    catalog::{Command, LEVEL},
    raft::{Error, Node, Replica, keeper::FAREWELL, membership, propose},
    watch::NoPublish,
};

/// A node that nobody ever reaches.
fn silent() -> Node {
    Node {
        raft_address: "127.0.0.1:1".into(),
        ..Node::default()
    }
}

fn voters(replica: &Replica) -> Vec<u64> {
    let nodes = replica.nodes();
    nodes.iter().filter(|node| node.voter).map(|node| node.id.0).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_learner_does_not_count_for_the_quorum() {
    let mut world = World::single().await;
    world.start(2).await;
    world.replica(1).add_node(NodeId(2), world.node(2)).await.unwrap();
    world.start(3).await;
    let leader = world.leader().await;
    let replica = world.replica(leader);
    replica.core().raft.add_learner(3, world.node(3), true).await.unwrap();
    let learner = world.replica(3);
    learner.linearize().await.expect("it reads");
    assert!(!learner.votes(), "but has no vote, and is not ready");
    assert!(replica.votes());
    world.stop(3 - leader).await;
    let refused = replica.propose(Command::Sweep).await.expect_err("one of two voters");
    assert!(
        matches!(
            refused,
            propose::Error::NoLeader { .. } | propose::Error::Unknown { .. }
        ),
        "{refused}"
    );
    world.start(3 - leader).await;
    allocate(&world.replica(3)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_dies_while_it_joins_blocks_nobody() {
    let mut world = World::single().await;
    let (joining, begun) = (world.replica(1), clock::now());
    let never = async { joining.add_node(NodeId(9), silent()).await };
    let replica = world.replica(1);
    let others = async {
        eventually("the dead node is a learner", || {
            replica
                .nodes()
                .iter()
                .any(|node| node.id.0 == 9 && !node.voter)
                .then_some(())
        })
        .await;
        world.start(2).await;
        world.replica(1).add_node(NodeId(2), world.node(2)).await.unwrap();
        world.replica(1).remove_node(NodeId(2)).await.unwrap();
        begun.elapsed()
    };
    let (refused, took) = tokio::join!(never, others);
    assert!(
        matches!(refused, Err(membership::Error::NotCaughtUp { node: 9, .. })),
        "{refused:?}"
    );
    assert!(took < begun.elapsed(), "the others did not wait for it: {took:?}");
    let left: Vec<u64> = world.replica(1).nodes().iter().map(|node| node.id.0).collect();
    assert_eq!(left, [1], "the dead one was taken out again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_node_is_removed_once_its_replacement_votes() {
    let after = Duration::from_secs(3);
    let mut world = World::three_with(after).await;
    let dead = world.leader().await;
    world.stop(dead).await;
    let stopped = clock::now();
    let one = *world.running.keys().next().unwrap();
    eventually("it is silent for long, and still a member", || {
        assert_eq!(
            voters(&world.replica(one)).len(),
            3,
            "without a replacement nothing is removed"
        );
        (stopped.elapsed() > after * 2).then_some(())
    })
    .await;
    world.start(4).await;
    // On a busy machine it may not catch up at once; to ask again is what an operator would do.
    while let Err(error) = world.replica(one).add_node(NodeId(4), world.node(4)).await {
        assert!(stopped.elapsed() < Duration::from_secs(60), "{error}");
    }
    let wanted: Vec<u64> = [1, 2, 3, 4].into_iter().filter(|id| *id != dead).collect();
    eventually("the dead node is removed", || {
        (voters(&world.replica(4)) == wanted).then_some(())
    })
    .await;
    allocate(&world.replica(4)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_added_again_before_it_has_left_stays() {
    let world = World::three().await;
    let leader = world.leader().await;
    let gone = leader % 3 + 1;
    let (here, there) = (world.replica(leader), world.replica(gone));
    here.remove_node(NodeId(gone)).await.unwrap();
    let noticed = tokio::time::timeout(Duration::from_secs(30), there.removed()).await;
    noticed.expect("it learns that it was removed, and says good-bye");
    here.add_node(NodeId(gone), world.node(gone)).await.unwrap();
    // By then one that leaves is gone.
    tokio::time::sleep(FAREWELL * 2).await;
    there.linearize().await.expect("it goes on");
    assert!(there.votes());
    allocate(&there).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_given_up_while_it_joins_waits_to_be_added_again() {
    let mut world = World::single().await;
    world.start(2).await;
    let (here, there) = (world.replica(1), world.replica(2));
    here.core().raft.add_learner(2, world.node(2), true).await.unwrap();
    there.linearize().await.expect("it reads");
    here.remove_node(NodeId(2)).await.unwrap();
    assert_eq!(there.linearize().await, Err(propose::Error::Removed), "it is told");
    // By then one that voted is gone.
    tokio::time::sleep(FAREWELL * 2).await;
    assert_eq!(there.linearize().await, Err(propose::Error::Removed));
    here.add_node(NodeId(2), world.node(2)).await.expect("it runs");
    let goes_on = async {
        while there.linearize().await.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), goes_on)
        .await
        .expect("it serves again");
    assert!(there.votes());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_adds_a_node_hears_when_this_one_has_ended() {
    let mut world = World::single().await;
    let replica = world.replica(1);
    let adding = async {
        let refused = replica.add_node(NodeId(9), silent()).await;
        (refused, clock::now())
    };
    let ending = async {
        eventually("the silent node is a learner", || {
            replica.nodes().iter().any(|node| node.id.0 == 9).then_some(())
        })
        .await;
        world.stop(1).await;
        clock::now()
    };
    let ((refused, answered), ended) = tokio::join!(adding, ending);
    assert!(matches!(refused, Err(membership::Error::Unavailable(_))), "{refused:?}");
    // Sooner than a silent node is given up.
    let waited = answered.saturating_duration_since(ended);
    assert!(waited < Duration::from_secs(3), "{waited:?} after the end");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_stops_hands_over_first() {
    let mut world = World::three().await;
    let mut gaps = BTreeMap::new();
    for round in 0..3 {
        let leader = world.leader().await;
        allocate(&world.replica(leader)).await;
        let begun = clock::now();
        assert!(
            world.replica(leader).hand_over().await,
            "round {round}: somebody takes over"
        );
        // Through the old leader, which follows now.
        allocate(&world.replica(leader)).await;
        gaps.insert(round, begun.elapsed());
        let next = world.leader().await;
        assert_ne!(next, leader, "round {round}");
        world.restart(leader).await;
        world.replica(leader).linearize().await.unwrap();
    }
    // A leader that was elected a moment ago goes on leading until its heir may stand: that is most of it.
    eprintln!("from the order to stop to the next write through the old leader: {gaps:?}");
    let worst = gaps.values().max().unwrap();
    assert!(*worst < Duration::from_secs(10), "{gaps:?}");
    let follower = world
        .running
        .keys()
        .copied()
        .find(|id| !world.replica(*id).position().is_leader)
        .unwrap();
    let handed_over = world.replica(follower).hand_over().await;
    // On a slow machine it may have been elected in between.
    assert!(
        !handed_over || world.leader().await != follower,
        "a follower has nothing to hand over"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_feature_level_rises_when_every_node_can_read_it() {
    let mut world = World::three().await;
    let away = if world.leader().await == 3 { 2 } else { 3 };
    world.stop(away).await;
    let here = world.replica(1);
    assert_eq!(here.state().level(), 1);
    here.propose(world.first_command()).await.unwrap();
    let begun = clock::now();
    eventually("the leader has asked", || {
        (begun.elapsed() > Duration::from_secs(4)).then_some(())
    })
    .await;
    assert_eq!(here.state().level(), 1, "a node that is away may be older");
    world.start(away).await;
    for id in [1, 2, 3] {
        let replica = world.replica(id);
        eventually("the level is raised", || {
            (replica.state().level() == LEVEL).then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_that_is_older_than_its_region_stops_and_does_not_start() {
    let mut world = World::single().await;
    // As if a newer program had led.
    let newer = LEVEL + 1;
    let raised = world.replica(1).propose(Command::RaiseLevel(newer)).await;
    assert!(
        matches!(raised, Ok(_) | Err(propose::Error::Unknown { .. })),
        "{raised:?}"
    );
    let running = world.running.remove(&1).unwrap();
    drop(running.replica);
    let ended = running.tasks.join(Duration::from_secs(20)).await;
    assert!(ended.is_err(), "it stops instead of serving what it cannot read");
    drop(running.tasks);
    let (metrics, tasks) = (Metrics::default(), Tasks::new(Stop::default()));
    let opened = Replica::open(
        world.settings(1),
        world.identity(Role::Registry),
        Arc::new(NoPublish),
        &metrics,
        &tasks,
    )
    .await;
    let Some(Error::Storage { reason, .. }) = opened.err() else {
        panic!("it opened");
    };
    assert!(reason.contains(&format!("feature level {newer}")), "{reason}");
}
