//! The disk below the data directory: how much room, and how long a small write takes to be durable.

use std::{fs, io::Write, path::Path, time::Duration};

use mesh::runtime::clock;
use proto::admin::v1 as pb;

use crate::config::Config;

/// Beside the replica's own files; removed after the look.
const FILE: &str = "diagnose.tmp";
/// The median of so few is not moved by one slow write.
const WRITES: usize = 5;
const BYTES: usize = 4096;
/// A disk that hangs is told of, not waited for.
const WAIT: Duration = Duration::from_secs(5);

/// Looks; blocks a thread of the runtime's blocking pool, not a worker.
pub(super) async fn look(config: &Config) -> pb::Disk {
    let (dir, reserve_mib) = (config.data_dir.clone(), config.raft.disk_reserve_mib);
    let free = rustix::fs::statvfs(&dir).map(|stat| stat.f_bavail.saturating_mul(stat.f_frsize) >> 20);
    let writing = tokio::task::spawn_blocking(move || sync_time(&dir));
    let synced = match tokio::time::timeout(WAIT, writing).await {
        Ok(Ok(Ok(median))) => Ok(median),
        Ok(Ok(Err(error))) => Err(error.to_string()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("a small write was not durable within {WAIT:?}")),
    };
    let (sync_us, error) = match synced {
        Ok(median) => (
            u64::try_from(median.as_micros()).unwrap_or(u64::MAX).max(1),
            String::new(),
        ),
        Err(error) => (0, error),
    };
    pb::Disk {
        free_mib: free.unwrap_or(0),
        reserve_mib,
        sync_us,
        error,
    }
}

fn sync_time(dir: &Path) -> std::io::Result<Duration> {
    let path = dir.join(FILE);
    let timed = (|| {
        let mut file = fs::File::create(&path)?;
        let mut times = [Duration::ZERO; WRITES];
        for time in &mut times {
            let begun = clock::now();
            file.write_all(&[0; BYTES])?;
            file.sync_all()?;
            *time = begun.elapsed();
        }
        times.sort();
        Ok(times[WRITES / 2])
    })();
    // What is left over is overwritten by the next look.
    let _ = fs::remove_file(&path);
    timed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_leaves_nothing_and_a_missing_folder_is_an_error() {
        let folder = tempfile::tempdir().expect("temporary folder");
        assert!(sync_time(folder.path()).expect("writable") > Duration::ZERO);
        assert_eq!(fs::read_dir(folder.path()).expect("readable").count(), 0);
        assert!(sync_time(&folder.path().join("gone")).is_err());
    }
}
