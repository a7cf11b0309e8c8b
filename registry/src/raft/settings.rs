//! Settings of a replica. Promises that what it accepts works together (a heartbeat that fits into an election timeout, a
//! log that is kept long enough); reads no file itself.

use std::{path::PathBuf, sync::Arc, time::Duration};

use mesh::{model::NodeId, ops::Section};
use openraft::SnapshotPolicy;

/// What a replica needs to know. The timers must be the same on all nodes of a region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The node's own folder; the replica keeps `db/`, `log/` and `snapshots/` in it. Given by the daemon.
    pub data_dir: PathBuf,
    /// Given when the node was made, for good.
    pub node_id: NodeId,
    /// `heartbeat`: how often the leader is heard. Default 100 ms: a region's nodes are within a few milliseconds of each
    /// other. It is also how long the leader waits for one append, so it must exceed three round trips and a disk flush.
    pub heartbeat: Duration,
    /// `election_min`: silence after which the first follower stands for election. Default 600 ms: six heartbeats, so that
    /// one slow flush costs no election.
    pub election_min: Duration,
    /// `election_max`: silence after which the last one does. Default 1.2 s; followers pick a time between the two, so
    /// that they seldom stand at once.
    pub election_max: Duration,
    /// `snapshot_every`: entries between two snapshots. Default 10 000: bounds the replay at a start and the log on disk.
    pub snapshot_every: u64,
    /// `log_mib`: the log on disk that triggers a snapshot, and the purge of what it replaces. Default 64: a follower that
    /// was away for less than half of it catches up from the log.
    pub log_mib: u64,
    /// `disk_reserve_mib`: writes are refused while less is free in `data_dir`. Default 64: the database must never meet
    /// the end of the disk, because after a failed write it has to be opened anew.
    pub disk_reserve_mib: u64,
    /// `replace_after`: a node that was silent for so long is removed once a new node votes in its place, and a node that
    /// died while it joined is removed without one. Default 10 min: longer than a restart of a machine. `0s` = never.
    pub replace_after: Duration,
}

impl Settings {
    /// The defaults for one node.
    #[must_use]
    pub fn new(data_dir: PathBuf, node_id: NodeId) -> Self {
        Self {
            data_dir,
            node_id,
            heartbeat: Duration::from_millis(100),
            election_min: Duration::from_millis(600),
            election_max: Duration::from_millis(1200),
            snapshot_every: 10_000,
            log_mib: 64,
            disk_reserve_mib: 64,
            replace_after: Duration::from_secs(600),
        }
    }

    /// Reads the table `[raft]`; every fault is noted in it. Folder and node id are set by the daemon afterwards.
    #[must_use]
    pub fn read(section: &Section) -> Self {
        let defaults = Self::new(PathBuf::new(), NodeId(0));
        let settings = Self {
            heartbeat: section.or("heartbeat", defaults.heartbeat),
            election_min: section.or("election_min", defaults.election_min),
            election_max: section.or("election_max", defaults.election_max),
            snapshot_every: section.or("snapshot_every", defaults.snapshot_every),
            log_mib: section.or("log_mib", defaults.log_mib),
            disk_reserve_mib: section.or("disk_reserve_mib", defaults.disk_reserve_mib),
            replace_after: section.or("replace_after", defaults.replace_after),
            ..defaults
        };
        settings.check(section);
        section.finish_section();
        settings
    }

    /// As openraft takes them.
    pub(super) fn consensus(&self) -> Result<Arc<openraft::Config>, String> {
        let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let config = openraft::Config {
            cluster_name: "isthmus".to_owned(),
            heartbeat_interval: ms(self.heartbeat),
            election_timeout_min: ms(self.election_min),
            election_timeout_max: ms(self.election_max),
            // A part of a snapshot that takes longer is sent again from the beginning, so this must not be short.
            install_snapshot_timeout: 60_000,
            max_payload_entries: 1024,
            snapshot_policy: SnapshotPolicy::LogsSinceLast(self.snapshot_every),
            // More than is snapshotted at once, else every snapshot would be sent to every follower.
            replication_lag_threshold: self.snapshot_every * 2,
            snapshot_max_chunk_size: 1 << 20,
            max_in_snapshot_log_to_keep: self.snapshot_every / 2,
            purge_batch_size: (self.snapshot_every / 2).min(1000),
            ..openraft::Config::default()
        };
        config.validate().map(Arc::new).map_err(|error| error.to_string())
    }

    fn check(&self, section: &Section) {
        let ms = |time: Duration| humantime_ms(time);
        if self.heartbeat < Duration::from_millis(10) {
            section.fault("heartbeat", "is under 10ms; a flush of the disk alone can take longer");
        }
        if self.heartbeat > self.election_min / 3 {
            section.fault(
                "heartbeat",
                format!(
                    "{} is over a third of election_min {}",
                    ms(self.heartbeat),
                    ms(self.election_min)
                ),
            );
        }
        if self.election_max < self.election_min * 3 / 2 {
            section.fault(
                "election_max",
                format!(
                    "{} is under one and a half of election_min {}; nodes would stand for election at once",
                    ms(self.election_max),
                    ms(self.election_min)
                ),
            );
        }
        if self.election_max > Duration::from_secs(60) {
            section.fault(
                "election_max",
                "is over 60s; the region would not change for so long after a leader's loss",
            );
        }
        if !(100..=1_000_000).contains(&self.snapshot_every) {
            section.fault(
                "snapshot_every",
                format!("{} is not between 100 and 1000000", self.snapshot_every),
            );
        }
        if !self.replace_after.is_zero() && self.replace_after < self.election_max * 10 {
            section.fault(
                "replace_after",
                format!(
                    "{} is under ten times election_max {}; a restart takes longer (0s = never)",
                    ms(self.replace_after),
                    ms(self.election_max)
                ),
            );
        }
        if !(8..=65_536).contains(&self.log_mib) {
            section.fault("log_mib", format!("{} is not between 8 and 65536", self.log_mib));
        }
        if self.disk_reserve_mib < 16 {
            section.fault("disk_reserve_mib", "is under 16, one segment of the database");
        }
    }
}

fn humantime_ms(time: Duration) -> String {
    format!("{}ms", time.as_millis())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(text: &str) -> Vec<String> {
        let file = Section::parse(text).expect("TOML");
        let _ = Settings::read(&file.section("raft"));
        file.finish().map_or_else(|faults| faults.0, |()| Vec::new())
    }

    #[test]
    fn defaults_are_good() {
        assert_eq!(faults(""), Vec::<String>::new());
    }

    #[test]
    fn timers_that_do_not_fit_together_are_reported_together() {
        let found = faults(
            "[raft]\nheartbeat = '400ms'\nelection_min = '900ms'\nelection_max = '1s'\nsnapshot_every = 1\nelektion = 1\n",
        );
        for (fault, start) in found.iter().zip([
            "raft.heartbeat: 400ms is over a third of election_min 900ms",
            "raft.election_max: 1000ms is under",
            "raft.snapshot_every: 1 is not",
            "raft.elektion: is unknown",
        ]) {
            assert!(fault.starts_with(start), "{fault}");
        }
        assert_eq!(found.len(), 4, "{found:?}");
    }
}
