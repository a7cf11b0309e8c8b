//! The log on a file system that is cut off at every point: what was acknowledged is there, and it goes on.

use std::{collections::BTreeMap, sync::Arc};

use openraft::CommittedLeaderId;

use super::lossy::{Loss, Lossy};
use crate::raft::{
    log::{Limits, Log, LogError, Pending, recover},
    snapshot::{self, Shelf},
    state_machine::header,
    storage::Files,
    type_config::{LogId, Membership},
};

/// So small that a few entries fill a segment.
const LIMITS: Limits = Limits {
    segment_bytes: 300,
    ahead_bytes: 0,
};

fn id(index: u64, term: u64) -> LogId {
    LogId::new(CommittedLeaderId::new(term, 1), index)
}

fn entry(index: u64, term: u64) -> Pending {
    let payload = format!("entry {index} of term {term}").repeat(1 + (index % 4) as usize);
    Pending {
        log_id: id(index, term),
        payload: payload.into_bytes(),
    }
}

fn open(disk: &Lossy, purged: Option<LogId>) -> Result<Log, LogError> {
    recover(Arc::new(disk.clone()), purged, LIMITS)
}

fn payloads(log: &Log, from: u64, to: u64) -> Vec<Vec<u8>> {
    log.read(from, to + 1, usize::MAX).unwrap()
}

/// What is done to a log, and what must be found after it.
#[derive(Clone, Copy, Debug)]
enum Step {
    Append(u64),
    /// So many from the end; the entries that follow are of another term.
    Truncate(u64),
    /// Up to so many before the end.
    Purge(u64),
    /// So many past the end.
    PurgePast(u64),
}

const STEPS: [Step; 16] = [
    Step::Append(1),
    Step::Append(3),
    Step::Append(4),
    Step::Append(1),
    Step::Append(6),
    Step::Truncate(2),
    Step::Append(5),
    Step::Append(7),
    Step::Truncate(14),
    Step::Append(2),
    Step::Append(6),
    Step::Purge(6),
    Step::Append(4),
    Step::PurgePast(10),
    Step::Append(3),
    Step::Append(5),
];

/// What may be found.
#[derive(Default)]
struct Expected {
    /// Acknowledged, and not touched since.
    sure: BTreeMap<u64, Pending>,
    /// Under way: there or not.
    perhaps: BTreeMap<u64, Vec<Pending>>,
    purged: Option<LogId>,
    term: u64,
}

impl Expected {
    fn last(&self) -> u64 {
        let purged = self.purged.map_or(0, |purged| purged.index);
        self.sure.keys().next_back().copied().unwrap_or(0).max(purged)
    }

    fn run(&mut self, log: &mut Log, step: Step) -> Result<(), LogError> {
        self.perhaps.clear();
        let last = self.last();
        match step {
            Step::Append(count) => {
                let entries: Vec<_> = (last + 1..=last + count).map(|index| entry(index, self.term)).collect();
                let perhaps = entries.iter().map(|entry| (entry.log_id.index, vec![entry.clone()]));
                self.perhaps.extend(perhaps);
                log.append(&entries, last)?;
                self.sure
                    .extend(entries.into_iter().map(|entry| (entry.log_id.index, entry)));
            }
            Step::Truncate(count) => {
                let from = last + 1 - count;
                let gone = self.sure.split_off(&from);
                self.perhaps
                    .extend(gone.into_iter().map(|(index, entry)| (index, vec![entry])));
                self.term += 1;
                log.truncate(from)?;
            }
            Step::Purge(keep) => self.purge(log, last - keep)?,
            Step::PurgePast(more) => self.purge(log, last + more)?,
        }
        self.perhaps.clear();
        Ok(())
    }

    /// The marker counts as durable before any file goes, as `purge_durably` sees to.
    fn purge(&mut self, log: &mut Log, upto: u64) -> Result<(), LogError> {
        self.purged = Some(id(upto, self.term));
        self.sure = self.sure.split_off(&(upto + 1));
        log.purge(id(upto, self.term))
    }

    fn check(&self, disk: &Lossy, context: &str) {
        let mut log = open(disk, self.purged).unwrap_or_else(|error| panic!("{context}: {error}"));
        let (begin, last) = (self.purged.map_or(1, |purged| purged.index + 1), self.last());
        let found_last = log.last().map_or(0, |last| last.index);
        assert!(
            found_last >= last,
            "{context}: {found_last} of {last} acknowledged entries"
        );
        for (at, payload) in (begin..).zip(payloads(&log, begin, found_last)) {
            let sure = self.sure.get(&at).into_iter();
            let allowed: Vec<_> = sure.chain(self.perhaps.get(&at).into_iter().flatten()).collect();
            assert!(
                allowed.iter().any(|entry| entry.payload == payload),
                "{context}: entry {at} is something else"
            );
        }
        let committed = log.committed().unwrap().map_or(0, |committed| committed.index);
        assert!(
            committed <= found_last,
            "{context}: committed {committed} of {found_last}"
        );
        // It goes on, and is whole.
        let next: Vec<_> = (found_last + 1..found_last + 6).map(|index| entry(index, 99)).collect();
        log.append(&next, 0)
            .unwrap_or_else(|error| panic!("{context}: {error}"));
        drop(log);
        let log =
            open(&disk.reboot(Loss::Everything), self.purged).unwrap_or_else(|error| panic!("{context}: {error}"));
        assert_eq!(log.last(), Some(id(found_last + 5, 99)), "{context}");
    }
}

/// Runs the steps until the power is cut.
fn until_cut(disk: &Lossy) -> Expected {
    let mut expected = Expected {
        term: 1,
        ..Expected::default()
    };
    let Ok(mut log) = open(disk, None) else {
        return expected;
    };
    for step in STEPS {
        if expected.run(&mut log, step).is_err() {
            assert!(
                matches!(
                    log.append(&[entry(expected.last() + 1, 50)], 0),
                    Err(LogError::Broken | LogError::File { .. } | LogError::Order { .. })
                ),
                "after a failure nothing is acknowledged"
            );
            break;
        }
    }
    expected
}

#[test]
fn what_was_acknowledged_survives_a_cut_at_every_operation() {
    let whole = Lossy::default();
    until_cut(&whole).check(&whole, "no cut");
    let total = whole.operations();
    assert!(total > 60, "{total} operations");
    let mut losses = vec![Loss::Everything, Loss::Nothing];
    losses.extend((0..40).map(Loss::Some));
    for at in 0..total {
        for loss in &losses {
            let disk = Lossy::default();
            disk.cut_at(at);
            let expected = until_cut(&disk);
            expected.check(&disk.reboot(*loss), &format!("cut at {at} of {total}, {loss:?}"));
        }
    }
}

/// What a crash does to a file from an offset on.
type Damage = (&'static str, fn(&mut Vec<u8>, usize));

#[test]
fn a_write_torn_at_any_byte_of_the_last_three_entries_costs_only_what_was_not_acknowledged() {
    let disk = Lossy::default();
    let limits = Limits {
        segment_bytes: 1 << 20,
        ahead_bytes: 0,
    };
    let mut log = recover(Arc::new(disk.clone()), None, limits).unwrap();
    for index in 1..=5 {
        log.append(&[entry(index, 1)], 0).unwrap();
    }
    let name = "log/00000000000000000001.log";
    let kept = disk.open(name).unwrap().length().unwrap() as usize;
    let last = [entry(6, 1), entry(7, 1), entry(8, 1)];
    log.append(&last, 0).unwrap();
    let whole = disk.open(name).unwrap().length().unwrap() as usize;
    drop(log);
    let damages: [Damage; 5] = [
        ("cut", |bytes, at| bytes.truncate(at)),
        ("zeros from", |bytes, at| bytes[at..].fill(0)),
        ("garbage from", |bytes, at| {
            for (offset, byte) in bytes[at..].iter_mut().enumerate() {
                *byte = (offset as u8).wrapping_mul(31) ^ 0xa5;
            }
        }),
        ("one byte changed", |bytes, at| bytes[at] ^= 0x40),
        ("a hole", |bytes, at| {
            let end = bytes.len().min(at + 20);
            bytes[at..end].fill(0);
        }),
    ];
    for at in kept..whole {
        for (what, damage) in damages {
            let torn = disk.copy();
            torn.edit(name, |bytes| damage(bytes, at));
            let context = format!("{what} at byte {at}, {kept} were acknowledged");
            let mut log =
                recover(Arc::new(torn.clone()), None, limits).unwrap_or_else(|error| panic!("{context}: {error}"));
            let found = log.last().unwrap().index;
            assert!((5..=8).contains(&found), "{context}: {found}");
            let expected: Vec<_> = (1..=found).map(|index| entry(index, 1).payload).collect();
            assert_eq!(payloads(&log, 1, found), expected, "{context}");
            log.append(&[entry(found + 1, 2)], 0).unwrap();
            drop(log);
            let log = recover(Arc::new(torn), None, limits).unwrap();
            assert_eq!(log.last(), Some(id(found + 1, 2)), "{context}");
        }
    }
}

#[test]
fn damage_before_the_end_refuses_the_start_and_says_what_to_do() {
    let disk = Lossy::default();
    let mut log = open(&disk, None).unwrap();
    for index in 1..=20 {
        log.append(&[entry(index, 1)], 0).unwrap();
    }
    drop(log);
    let mut names = disk.list("log").unwrap();
    names.sort();
    assert!(names.len() > 3, "{names:?}");
    for (at, name) in names.iter().enumerate().rev().skip(1) {
        let damaged = disk.copy();
        damaged.edit(&format!("log/{name}"), |bytes| bytes[60] ^= 1);
        let error = open(&damaged, None)
            .err()
            .unwrap_or_else(|| panic!("segment {at} is taken"))
            .to_string();
        assert!(
            error.starts_with(&format!("log/{name} is damaged at byte 24")),
            "{error}"
        );
        assert!(
            error.contains("remove this node from the region and add it anew"),
            "{error}"
        );
    }
    let gap = disk.copy();
    gap.remove(&format!("log/{}", names[1])).unwrap();
    let error = open(&gap, None).err().expect("a gap").to_string();
    assert!(error.contains("is missing before log/"), "{error}");
    let newer = disk.copy();
    newer.edit(&format!("log/{}", names[0]), |bytes| {
        bytes[11] = 9;
        let sum = crc32fast::hash(&bytes[..20]).to_be_bytes();
        bytes[20..24].copy_from_slice(&sum);
    });
    let error = open(&newer, None).err().expect("newer").to_string();
    assert!(
        error.contains("has log format 9, this program knows 1; use the newer program"),
        "{error}"
    );
}

#[test]
fn a_log_without_room_says_so_and_takes_entries_again_when_there_is() {
    let disk = Lossy::default();
    let mut log = open(&disk, None).unwrap();
    log.append(&[entry(1, 1)], 0).unwrap();
    disk.set_room(Some(0));
    while log.append(&[entry(log.last().unwrap().index + 1, 1)], 0).is_ok() {}
    let acknowledged = log.last().unwrap().index;
    assert!(
        matches!(log.append(&[entry(acknowledged + 1, 1)], 0), Err(LogError::Broken)),
        "after a failure nothing is acknowledged"
    );
    drop(log);
    disk.set_room(None);
    let mut log = open(&disk.reboot(Loss::Everything), None).unwrap();
    assert_eq!(log.last().unwrap().index, acknowledged);
    log.append(&[entry(acknowledged + 1, 1)], 0).unwrap();
}

#[test]
fn there_is_always_a_whole_snapshot_once_there_was_one() {
    let state = crate::catalog::State::default();
    let make = |index| header(&state, Some(id(index, 1)), Default::default(), &Membership::default());
    let (one, two) = (make(10), make(20));
    let run = |disk: &Lossy| {
        let shelf = Shelf::open(Arc::new(disk.clone()))?;
        shelf.keep(&one, &state).map_err(std::io::Error::other)?;
        let kept = disk.operations();
        shelf.keep(&two, &state).map_err(std::io::Error::other)?;
        Ok::<_, std::io::Error>(kept)
    };
    let whole = Lossy::default();
    let kept = run(&whole).unwrap();
    for at in kept..=whole.operations() {
        for loss in [Loss::Everything, Loss::Nothing]
            .into_iter()
            .chain((0..40).map(Loss::Some))
        {
            let disk = Lossy::default();
            disk.cut_at(at);
            let done = run(&disk).is_ok();
            let shelf = Shelf::open(Arc::new(disk.reboot(loss))).unwrap();
            let (found, file) = shelf
                .newest()
                .unwrap()
                .unwrap_or_else(|| panic!("none after a cut at {at}, {loss:?}"));
            let index = found.last.unwrap().index;
            assert!(index == 20 || (!done && index == 10), "cut at {at}, {loss:?}: {index}");
            let mut reader = snapshot::reader(crate::raft::storage::Sequential::new(file));
            snapshot::read(&mut reader).unwrap();
        }
    }
}
