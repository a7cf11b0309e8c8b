//! The disk below the data directory: how much room, and how long a small write takes to be durable.

use std::{io, sync::Arc, time::Duration};

use mesh::runtime::clock;
use proto::admin::v1 as pb;

use crate::raft::storage::Files;

/// Beside the replica's own files; removed after the look.
const FILE: &str = "diagnose.tmp";
/// The median of so few is not moved by one slow write.
const WRITES: usize = 5;
const BYTES: usize = 4096;
/// A disk that hangs is told of, not waited for.
const WAIT: Duration = Duration::from_secs(5);

/// Looks; blocks a thread of the runtime's blocking pool, not a worker.
pub(super) async fn look(files: &Arc<dyn Files>, reserve_mib: u64) -> pb::Disk {
    let free = files.free_bytes().unwrap_or(0) >> 20;
    let files = Arc::clone(files);
    let writing = tokio::task::spawn_blocking(move || sync_time(files.as_ref()));
    let synced = match tokio::time::timeout(WAIT, writing).await {
        Ok(Ok(Ok(median))) => Ok(median),
        Ok(Ok(Err(error))) => Err(error.to_string()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("{WRITES} small writes were not durable within {WAIT:?}")),
    };
    let (sync_us, error) = match synced {
        Ok(median) => (
            u64::try_from(median.as_micros()).unwrap_or(u64::MAX).max(1),
            String::new(),
        ),
        Err(error) => (0, error),
    };
    pb::Disk {
        free_mib: free,
        reserve_mib,
        sync_us,
        error,
    }
}

fn sync_time(files: &dyn Files) -> io::Result<Duration> {
    let timed = (|| {
        let file = files.create(FILE)?;
        let (mut times, mut at) = ([Duration::ZERO; WRITES], 0);
        for time in &mut times {
            let begun = clock::now();
            file.write_at(at, &[0; BYTES])?;
            file.sync()?;
            *time = begun.elapsed();
            at += BYTES as u64;
        }
        times.sort();
        Ok(times[WRITES / 2])
    })();
    // What is left over is overwritten by the next look.
    let _ = files.remove(FILE);
    timed
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::storage::Directory;

    #[test]
    fn a_look_leaves_nothing_and_a_missing_folder_is_an_error() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let files = Directory::new(folder.path().to_owned());
        assert!(sync_time(&files).expect("writable") > Duration::ZERO);
        assert_eq!(std::fs::read_dir(folder.path()).expect("readable").count(), 0);
        assert!(sync_time(&Directory::new(folder.path().join("gone"))).is_err());
    }
}
