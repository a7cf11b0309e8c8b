//! What is left after the power is cut, which is not what a killed process leaves: the page cache is lost.
//!
//! The cut is the shutdown of an ext4 file system on a loop device without writing its journal, while writes are under way.
//! That needs root and loop devices; elsewhere the test says that it was skipped.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use mesh::{model::NodeId, runtime::OnExit};

use super::world::{World, allocated, eventually};
use crate::catalog::{self, Reply};

const CUTS: u64 = 3;
const WRITERS: usize = 8;
/// `EXT4_IOC_SHUTDOWN` with `EXT4_GOING_FLAGS_NOLOGFLUSH`.
const SHUTDOWN: &str =
    "open(my $d, '<', $ARGV[0]) or die $!; my $f = pack('L', 2); ioctl($d, 0x8004587d, $f) or die $!;";

/// A file system that can lose its power.
struct Cuttable {
    image: PathBuf,
    mount: PathBuf,
}

fn succeeds(command: &mut Command) -> bool {
    command.output().is_ok_and(|output| output.status.success())
}

impl Cuttable {
    /// None where this machine does not allow it.
    fn new(folder: &Path) -> Option<Self> {
        let (image, mount) = (folder.join("image"), folder.join("mount"));
        std::fs::create_dir(&mount).ok()?;
        std::fs::File::create(&image).ok()?.set_len(512 << 20).ok()?;
        let made = succeeds(Command::new("mkfs.ext4").arg("-q").arg("-F").arg(&image));
        let disk = Self { image, mount };
        (made && disk.mount()).then_some(disk)
    }

    fn mount(&self) -> bool {
        succeeds(
            Command::new("mount")
                .args(["-o", "loop"])
                .arg(&self.image)
                .arg(&self.mount),
        )
    }

    fn unmount(&self) -> bool {
        succeeds(Command::new("umount").arg(&self.mount))
    }

    fn cut(&self) -> bool {
        succeeds(Command::new("perl").args(["-e", SHUTDOWN]).arg(&self.mount))
    }
}

impl Drop for Cuttable {
    fn drop(&mut self) {
        self.unmount();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledged_writes_survive_a_cut_of_the_disk() {
    let folder = tempfile::tempdir().unwrap();
    let Some(disk) = Cuttable::new(folder.path()) else {
        eprintln!("skipped: a cut of the disk needs root, loop devices, mkfs.ext4, mount and perl");
        return;
    };
    let mut world = World::within(folder, disk.mount.clone());
    world.start(1).await;
    world.replica(1).initialise(world.node(1)).await.unwrap();
    world.leader().await;
    let acknowledged = Arc::new(AtomicU64::new(0));
    for round in 1..=CUTS {
        let before = acknowledged.load(Ordering::Relaxed);
        for _ in 0..WRITERS {
            let (replica, acknowledged) = (world.replica(1), Arc::clone(&acknowledged));
            let write = async move {
                while let Ok(committed) = replica.propose(catalog::Command::AllocateNode).await {
                    let Reply::Node(NodeId(id)) = committed.reply else {
                        return;
                    };
                    acknowledged.fetch_max(id, Ordering::Relaxed);
                }
            };
            world.running[&1].tasks.spawn("writer", OnExit::Ignore, write);
        }
        let some = || (acknowledged.load(Ordering::Relaxed) > before + 200).then_some(());
        eventually("some writes are acknowledged", some).await;
        // A flush that waits for the journal while it is shut down can return as if it had been done, which no cut of the
        // power does: what counts is what was acknowledged before, and all after it but the one batch under way.
        let acknowledged_before = acknowledged.load(Ordering::Relaxed);
        assert!(disk.cut(), "the file system refuses the cut");
        let running = world.running.remove(&1).unwrap();
        drop(running.replica);
        let ended = running.tasks.join(Duration::from_secs(60)).await;
        assert!(
            ended.is_err(),
            "a failed disk ends the node: it must not acknowledge anything more"
        );
        drop(running.tasks);
        eventually("the cut file system is released", || disk.unmount().then_some(())).await;
        assert!(disk.mount(), "the file system is mounted again");
        world.start(1).await;
        let replica = world.replica(1);
        replica.linearize().await.unwrap();
        let found = allocated(&replica) - 1;
        assert!(
            found >= acknowledged_before,
            "round {round}: {found} of {acknowledged_before} acknowledged writes are left"
        );
        let lost = acknowledged.swap(found, Ordering::Relaxed).saturating_sub(found);
        assert!(
            lost <= WRITERS as u64,
            "round {round}: {lost} are more than were under way"
        );
    }
    world.stop(1).await;
    eprintln!(
        "{CUTS} cuts, {} acknowledged writes, none lost",
        acknowledged.load(Ordering::Relaxed)
    );
}
