//! What a group of nodes promises.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use futures_util::future::join_all;
use mesh::{
    identity::Role,
    model::{NodeId, Revision},
    net::grpc::{Credentials, Timeouts, dial},
    ops::Metrics,
    runtime::{Stop, Tasks},
};
use proto::raft::v1::{Payload, raft_client::RaftClient};

use super::world::{World, allocate, allocated, eventually, files};
use crate::{
    catalog::{Command, Reply},
    raft::{Error, Replica, membership, propose, restore},
    watch::NoPublish,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_keeps_everything() {
    let mut world = World::single().await;
    for _ in 0..20 {
        allocate(&world.replica(1)).await;
    }
    let before = allocated(&world.replica(1));
    let revision = world.replica(1).position().revision;
    world.restart(1).await;
    let replica = world.replica(1);
    assert_eq!(
        allocated(&replica),
        before,
        "read back from the records, before any election"
    );
    assert!(replica.is_initialised().await.unwrap());
    replica.linearize().await.unwrap();
    assert!(
        replica.position().revision > revision,
        "a new leader commits an entry of its own first"
    );
    let published = world.running[&1].published.revisions();
    assert_eq!(published[0], (revision.0, true), "a start publishes what it has read");
    assert!(published.windows(2).all(|pair| pair[0].0 < pair[1].0), "{published:?}");
    assert!(matches!(
        replica.initialise(world.node(1)).await,
        Err(membership::Error::Initialised { node: 1 })
    ));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_proposals_share_few_entries_and_each_has_its_own_reply() {
    let world = World::single().await;
    let replica = world.replica(1);
    let before = replica.position().revision;
    let all = (0..500).map(|_| allocate(&replica));
    let ids: BTreeSet<u64> = join_all(all).await.into_iter().collect();
    assert_eq!(ids.len(), 500, "each its own");
    let entries = replica.position().revision.0 - before.0;
    assert!(entries < 100, "{entries} entries for 500 proposals");
    let rendered = world.running[&1].metrics.render();
    assert!(rendered.contains("isthmus_raft_commands_total 5"), "{rendered}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn followers_pass_proposals_on_and_serve_linearizable_reads() {
    let world = World::three().await;
    let leader = world.leader().await;
    let mut highest = 0;
    for round in 0..10 {
        for id in [1, 2, 3] {
            let node = allocate(&world.replica(id)).await;
            assert!(node > highest, "round {round}: {node} after {highest}");
            highest = node;
            let reader = world.replica(1 + id % 3);
            reader.linearize().await.unwrap();
            assert!(
                allocated(&reader) > highest,
                "a read on another node sees what was acknowledged"
            );
        }
    }
    let follower = world.replica(if leader == 1 { 2 } else { 1 });
    let position = follower.position();
    assert_eq!((position.is_leader, position.leader), (false, Some(NodeId(leader))));
    assert!(position.age.unwrap() < Duration::from_secs(5), "{position:?}");
    let nodes = world.replica(leader).nodes();
    assert_eq!(
        nodes
            .iter()
            .filter(|node| node.voter && node.reachable == Some(true))
            .count(),
        3,
        "{nodes:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_share_a_check() {
    let world = World::single().await;
    let replica = world.replica(1);
    let all = join_all((0..200).map(|_| replica.linearize())).await;
    assert!(
        all.iter().all(Result::is_ok),
        "{:?}",
        all.iter().find(|one| one.is_err())
    );
    let rendered = world.running[&1].metrics.render();
    let line = rendered
        .lines()
        .find(|line| line.starts_with("isthmus_raft_read_checks_total"))
        .unwrap();
    let checks: u64 = line.split(' ').next_back().unwrap().parse().unwrap();
    assert!((1..50).contains(&checks), "{checks} checks for 200 readers");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_go_on_after_the_leaders_loss_and_it_catches_up() {
    let mut world = World::three().await;
    let first = world.leader().await;
    let before = allocate(&world.replica(first)).await;
    world.stop(first).await;
    let other = *world.running.keys().next().unwrap();
    let after = allocate(&world.replica(other)).await;
    assert!(after > before);
    let second = world.leader().await;
    assert_ne!(second, first);
    world.start(first).await;
    let back = world.replica(first);
    back.linearize().await.unwrap();
    assert!(allocated(&back) > after);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_majority_writes_are_refused_in_time_and_local_reads_go_on() {
    let mut world = World::three().await;
    let last = allocate(&world.replica(1)).await;
    world.replica(3).linearize().await.unwrap();
    for id in [1, 2] {
        world.stop(id).await;
    }
    let alone = world.replica(3);
    let refused = tokio::time::timeout(Duration::from_secs(20), alone.propose(Command::Sweep)).await;
    let refused = refused.expect("an answer in time").expect_err("no majority");
    assert!(
        matches!(
            refused,
            propose::Error::NoLeader { majority: 2, .. } | propose::Error::Unknown { .. }
        ),
        "{refused}"
    );
    assert!(alone.linearize().await.is_err());
    assert!(allocated(&alone) > last, "local reads go on");
    world.start(1).await;
    assert!(allocate(&world.replica(3)).await > last, "two of three are a majority");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_is_replaced_while_the_group_runs() {
    let mut world = World::three().await;
    let dead = 3;
    world.stop(dead).await;
    world.start(4).await;
    // Asked on whichever node; passed on to the leader.
    world.replica(2).add_node(NodeId(4), world.node(4)).await.unwrap();
    world.replica(2).remove_node(NodeId(dead)).await.unwrap();
    let replica = world.replica(4);
    let id = allocate(&replica).await;
    replica.linearize().await.unwrap();
    assert!(allocated(&replica) > id);
    let leader = world.leader().await;
    let nodes: Vec<u64> = world.replica(leader).nodes().iter().map(|node| node.id.0).collect();
    assert_eq!(nodes, [1, 2, 4]);
    assert!(matches!(
        world.replica(2).remove_node(NodeId(dead)).await,
        Err(membership::Error::NotFound { node: 3 })
    ));
    // The dead node comes back, finds out, and stops by itself.
    world.start(dead).await;
    let running = world.running.remove(&dead).unwrap();
    tokio::time::timeout(Duration::from_secs(30), running.replica.removed())
        .await
        .expect("learns that it was removed");
    assert_eq!(
        running.replica.propose(Command::Sweep).await,
        Err(propose::Error::Removed)
    );
    running
        .tasks
        .join(Duration::from_secs(10))
        .await
        .expect_err("its end ends the process");
    allocate(&world.replica(4)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_removed_answers_and_stops() {
    let mut world = World::three().await;
    let leader = world.leader().await;
    world.replica(leader).remove_node(NodeId(leader)).await.unwrap();
    let running = world.running.remove(&leader).unwrap();
    tokio::time::timeout(Duration::from_secs(30), running.replica.removed())
        .await
        .expect("learns that it was removed");
    let other = *world.running.keys().next().unwrap();
    allocate(&world.replica(other)).await;
    assert_ne!(world.leader().await, leader);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_would_lose_the_quorum_is_refused() {
    let mut world = World::three().await;
    let leader = world.leader().await;
    let (one, other) = match leader {
        1 => (2, 3),
        2 => (1, 3),
        _ => (1, 2),
    };
    world.stop(one).await;
    eventually("the loss is noticed", || {
        let nodes = world.replica(leader).nodes();
        nodes
            .iter()
            .any(|node| node.id.0 == one && node.reachable == Some(false))
            .then_some(())
    })
    .await;
    let refused = world.replica(leader).remove_node(NodeId(other)).await.unwrap_err();
    assert!(
        matches!(
            refused,
            membership::Error::QuorumLost {
                live: 1,
                voters: 2,
                majority: 2,
                ..
            }
        ),
        "{refused}"
    );
    assert!(refused.to_string().contains("bring"), "{refused}");
    world.replica(leader).remove_node(NodeId(one)).await.unwrap();
    world.replica(leader).remove_node(NodeId(other)).await.unwrap();
    let refused = world.replica(leader).remove_node(NodeId(leader)).await.unwrap_err();
    assert_eq!(refused, membership::Error::LastVoter { node: leader });
    allocate(&world.replica(leader)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_late_node_catches_up_from_a_snapshot() {
    let mut world = World::new();
    world.snapshot_every = 100;
    world.start(1).await;
    world.replica(1).initialise(world.node(1)).await.unwrap();
    for _ in 0..400 {
        allocate(&world.replica(1)).await;
    }
    let purged = || {
        world
            .replica(1)
            .core()
            .metrics
            .borrow()
            .purged
            .map(|log_id| log_id.index)
    };
    eventually("the log is purged", || purged().filter(|index| *index > 100)).await;
    world.start(2).await;
    world.replica(1).add_node(NodeId(2), world.node(2)).await.unwrap();
    let replica = world.replica(2);
    replica.linearize().await.unwrap();
    assert_eq!(allocated(&replica), allocated(&world.replica(1)));
    let published = world.running[&2].published.revisions();
    assert!(
        published[1..].iter().any(|(_, reset)| *reset),
        "a snapshot is published as a reset: {published:?}"
    );
    assert!(
        files(&world.path(2).join("snapshots"))
            .iter()
            .all(|name| name.ends_with(".snapshot"))
    );
    world.restart(2).await;
    let replica = world.replica(2);
    replica.linearize().await.unwrap();
    assert_eq!(allocated(&replica), allocated(&world.replica(1)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_saved_snapshot_restores_into_a_new_life() {
    let mut world = World::single().await;
    let last = allocate(&world.replica(1)).await;
    let mut parts = world.replica(1).snapshot();
    let mut bytes = Vec::new();
    while let Some(part) = parts.recv().await {
        bytes.extend_from_slice(&part);
    }
    let old = world.replica(1).state().incarnation();
    let revision = world.replica(1).position().revision;
    world.stop(1).await;
    assert!(matches!(
        restore(&world.settings(1), world.node(1), bytes.as_slice()),
        Err(Error::NotEmpty { .. })
    ));
    std::fs::remove_dir_all(world.path(1)).unwrap();
    let restored = restore(&world.settings(1), world.node(1), bytes.as_slice()).unwrap();
    assert_ne!(restored.incarnation, old);
    assert_eq!(restored.revision, revision);
    world.start(1).await;
    assert_eq!(
        allocate(&world.replica(1)).await,
        last + 1,
        "the catalogue goes on where it was"
    );
    assert_eq!(world.replica(1).state().incarnation(), restored.incarnation);
    world.start(2).await;
    world.replica(1).add_node(NodeId(2), world.node(2)).await.unwrap();
    world.replica(2).linearize().await.unwrap();
    assert_eq!(allocated(&world.replica(2)), last + 2, "and followers get all of it");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_registry_nodes_are_admitted() {
    let world = World::single().await;
    let address = world.node(1).raft_address;
    let expect = mesh::identity::Expect::TrustDomain(world.identity(Role::Registry).trust_domain());
    for role in [Role::Gateway, Role::Operator] {
        let credentials = Credentials::from(world.identity(role));
        let channel = dial(&address, &credentials, &expect, Timeouts::default())
            .await
            .unwrap();
        let refused = RaftClient::new(channel).vote(Payload::default()).await.unwrap_err();
        assert_eq!(refused.code(), tonic::Code::PermissionDenied, "{role:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folder_of_another_node_or_format_and_too_large_commands_are_refused() {
    let mut world = World::single().await;
    let command = Command::RemovePeer(mesh::model::RegionId::parse("us").unwrap());
    assert!(matches!(
        world.replica(1).propose(command).await.unwrap().reply,
        Reply::Done | Reply::Refused(_)
    ));
    world.stop(1).await;
    let mut settings = world.settings(1);
    settings.node_id = NodeId(7);
    let (metrics, tasks) = (Metrics::default(), Tasks::new(Stop::default()));
    let opened = Replica::open(
        settings,
        world.identity(Role::Registry),
        Arc::new(NoPublish),
        &metrics,
        &tasks,
    )
    .await;
    assert!(matches!(
        opened.err(),
        Some(Error::OtherNode {
            found: 1,
            wanted: 7,
            ..
        })
    ));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_refuses_writes_serves_reads_and_recovers() {
    let world = World::single().await;
    let replica = world.replica(1);
    let last = allocate(&replica).await;
    replica.pretend_room(Some(3));
    let refused = replica.propose(Command::AllocateNode).await.unwrap_err();
    assert!(
        matches!(
            refused,
            propose::Error::DiskFull {
                node: 1,
                free_mib: 3,
                reserve_mib: 64
            }
        ),
        "{refused}"
    );
    assert!(replica.linearize().await.unwrap() > Revision(0));
    replica.pretend_room(None);
    assert_eq!(allocate(&replica).await, last + 1);
}
