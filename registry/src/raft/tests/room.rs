//! The room on the disk: bounded under churn, and what happens when others fill it.

use std::{
    fs::File,
    io::{ErrorKind, Write},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::Command as Program,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::future::join_all;
use mesh::{
    model::{EndpointState, NodeId},
    runtime::OnExit,
};

use super::world::{World, allocate, allocated, eventually, files};
use crate::{
    catalog::{
        Command, Reply,
        testing::{id, init, workload},
    },
    raft::{Replica, propose, restore, snapshot},
};

const MIB: u64 = 1 << 20;

/// What the files of a folder take from the disk.
fn taken(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).unwrap();
    let bytes = entries.filter_map(Result::ok).map(|entry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => taken(&entry.path()),
        Ok(metadata) => metadata.blocks() * 512,
        Err(_) => 0, // removed meanwhile
    });
    bytes.sum()
}

async fn attach(replica: &Replica, count: usize) -> Vec<(String, u64)> {
    assert_eq!(replica.propose(init("eu", 7)).await.unwrap().reply, Reply::Done);
    let one = |at: usize| async move {
        let name = format!("w-{at}");
        let lease = Arc::new(workload(&name, &["pay.shop"]));
        match replica.propose(Command::AttachWorkload(lease)).await.unwrap().reply {
            Reply::Attached { epoch, .. } => (name, epoch),
            other => panic!("{other:?}"),
        }
    };
    let mut attached = Vec::new();
    for begin in (0..count).step_by(500) {
        attached.extend(join_all((begin..count.min(begin + 500)).map(one)).await);
    }
    attached
}

async fn change(replica: &Replica, workloads: &[(String, u64)], state: EndpointState) {
    for part in workloads.chunks(500) {
        let changes = part.iter().map(|(name, epoch)| {
            replica.propose(Command::SetWorkloadState {
                workload: id(name),
                epoch: *epoch,
                state,
            })
        });
        for done in join_all(changes).await {
            assert_eq!(done.unwrap().reply, Reply::Done);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn disk_use_stays_bounded_under_churn() {
    const ENDPOINTS: usize = 1_000;
    const ROUNDS: usize = 100;
    let mut world = World::new();
    (world.log_mib, world.snapshot_every) = (1, 1_000_000);
    world.start(1).await;
    let replica = world.replica(1);
    replica.initialise(world.node(1)).await.unwrap();
    world.leader().await;
    let workloads = attach(&replica, ENDPOINTS).await;
    let log = world.path(1).join("log");
    let first = files(&log).into_iter().min().unwrap();
    let mut most = 0;
    for round in 0..ROUNDS {
        let state = if round % 2 == 0 {
            EndpointState::Draining
        } else {
            EndpointState::Ready
        };
        change(&replica, &workloads, state).await;
        most = most.max(taken(&log));
    }
    let written = replica.core().metrics.borrow().last_log_index.unwrap();
    let is_bounded = || (!files(&log).contains(&first) && taken(&log) < 3 * MIB / 2).then_some(());
    eventually("old entries are gone and the log is within its bound", is_bounded).await;
    assert!(most < 6 * MIB, "the log took up to {most} bytes");
    assert!(files(&world.path(1).join("snapshots")).len() <= 2);
    let all = taken(&world.path(1));
    assert!(all < 160 * MIB, "{all} bytes after {written} entries");
    let before: Vec<_> = replica.state().records().collect();
    drop(replica);
    world.restart(1).await;
    let replica = world.replica(1);
    replica.linearize().await.unwrap();
    assert!(replica.state().records().eq(before), "and nothing is lost");
}

/// A small file system of its own.
struct Small(PathBuf);

impl Small {
    /// None where this machine does not allow it.
    fn new(folder: &Path, mib: u64) -> Option<Self> {
        let mount = folder.join("mount");
        std::fs::create_dir(&mount).ok()?;
        let mut program = Program::new("mount");
        let program = program.args(["-t", "tmpfs", "-o", &format!("size={mib}m"), "tmpfs"]);
        let done = program.arg(&mount).output().ok()?;
        done.status.success().then_some(Self(mount))
    }

    /// Another program takes all the room there is, at once.
    fn fill(&self) {
        let mut file = File::create(self.0.join("filler")).unwrap();
        for part in [vec![1; 1 << 20], vec![1; 1 << 12]] {
            loop {
                match file.write_all(&part) {
                    Ok(()) => {}
                    Err(error) if error.kind() == ErrorKind::StorageFull => break,
                    Err(error) => panic!("{error}"),
                }
            }
        }
    }

    fn make_room(&self) {
        std::fs::remove_file(self.0.join("filler")).unwrap();
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Program::new("umount").arg("-l").arg(&self.0).output();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_others_fill_refuses_writes_and_goes_on_when_there_is_room() {
    let folder = tempfile::tempdir().unwrap();
    let Some(small) = Small::new(folder.path(), 224) else {
        eprintln!("skipped: a full disk needs root and a mount of tmpfs");
        return;
    };
    let mut world = World::within(folder, small.0.clone());
    (world.log_mib, world.disk_reserve_mib) = (8, 16);
    world.start(1).await;
    world.replica(1).initialise(world.node(1)).await.unwrap();
    world.leader().await;
    world.replica(1).linearize().await.unwrap();
    let (acknowledged, refused) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let stopped = Arc::new(AtomicBool::new(false));
    for _ in 0..4 {
        let replica = world.replica(1);
        let (acknowledged, refused, stopped) = (acknowledged.clone(), refused.clone(), stopped.clone());
        let write = async move {
            loop {
                match replica.propose(Command::AllocateNode).await {
                    Ok(committed) => {
                        let Reply::Node(NodeId(id)) = committed.reply else {
                            return;
                        };
                        acknowledged.fetch_max(id, Ordering::Relaxed);
                    }
                    Err(propose::Error::DiskFull { .. }) => {
                        refused.fetch_add(1, Ordering::Relaxed);
                        tokio::time::sleep(Duration::from_millis(5)).await;
                    }
                    Err(propose::Error::Stopped) => {
                        stopped.store(true, Ordering::Relaxed);
                        return;
                    }
                    Err(error) => panic!("{error}"),
                }
            }
        };
        world.running[&1].tasks.spawn("writer", OnExit::Ignore, write);
    }
    for round in 0..3 {
        let before = acknowledged.load(Ordering::Relaxed);
        eventually("writes go on", || {
            (acknowledged.load(Ordering::Relaxed) > before + 100).then_some(())
        })
        .await;
        let refusals = refused.load(Ordering::Relaxed);
        small.fill();
        eventually("writes are refused", || {
            (refused.load(Ordering::Relaxed) > refusals + 200).then_some(())
        })
        .await;
        assert!(
            !stopped.load(Ordering::Relaxed),
            "round {round}: a full disk must not end the node"
        );
        world.replica(1).linearize().await.expect("reads go on");
        assert!(world.replica(1).position().is_leader);
        small.make_room();
    }
    let before = acknowledged.load(Ordering::Relaxed);
    eventually("writes go on", || {
        (acknowledged.load(Ordering::Relaxed) > before + 100).then_some(())
    })
    .await;
    world.restart(1).await;
    assert!(allocated(&world.replica(1)) > acknowledged.load(Ordering::Relaxed));
    allocate(&world.replica(1)).await;
    world.stop(1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_is_saved_at_one_revision_while_writes_go_on() {
    let world = World::single().await;
    let replica = world.replica(1);
    attach(&replica, 3_000).await;
    let mut parts = replica.snapshot();
    let at = replica.state();
    let (mut bytes, mut received) = (Vec::new(), 0);
    while let Some(part) = parts.recv().await {
        // A slow receiver: something is written between any two parts.
        allocate(&replica).await;
        bytes.extend_from_slice(&part);
        received += 1;
    }
    assert!(received > 3, "{received} parts");
    let (header, state) = snapshot::read(&mut bytes.as_slice()).unwrap();
    assert!(
        state.records().eq(at.records()),
        "the records of the revision at which it was asked for"
    );
    let revision = header.last.unwrap().index;
    assert!(replica.position().revision.0 >= revision + received, "writes went on");
    assert_eq!(allocated(&replica), at.next_node().0 + received);
    let folder = tempfile::tempdir().unwrap();
    let mut settings = world.settings(9);
    settings.data_dir = folder.path().join("9");
    let restored = restore(&settings, world.node(1), bytes.as_slice()).unwrap();
    assert_eq!(restored.revision.0, revision);
    assert_ne!(restored.incarnation, at.incarnation());
    let error = restore(&settings, world.node(1), bytes.as_slice()).unwrap_err();
    assert!(error.to_string().contains("is not empty"), "{error}");
}
