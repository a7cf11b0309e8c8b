//! The newest entries in memory: followers and the state machine would otherwise each read and decode them again. Pure.

use std::collections::VecDeque;

use crate::raft::type_config::Entry;

const RECENT_BYTES_MAX: usize = 4 << 20;
const RECENT_ENTRIES_MAX: usize = 1024;

/// Consecutive entries up to the newest, with their encoded lengths.
#[derive(Default)]
pub(super) struct Recent {
    entries: VecDeque<(Entry, usize)>,
    bytes: usize,
}

impl Recent {
    pub(super) fn push(&mut self, entry: Entry, bytes: usize) {
        let follows = self
            .entries
            .back()
            .is_none_or(|(last, _)| last.log_id.index + 1 == entry.log_id.index);
        if !follows {
            *self = Self::default();
        }
        self.bytes += bytes;
        self.entries.push_back((entry, bytes));
        while self.entries.len() > RECENT_ENTRIES_MAX || (self.bytes > RECENT_BYTES_MAX && self.entries.len() > 1) {
            self.bytes -= self.entries.pop_front().map_or(0, |(_, bytes)| bytes);
        }
    }

    pub(super) fn truncate(&mut self, from: u64) {
        while self.entries.back().is_some_and(|(last, _)| last.log_id.index >= from) {
            self.bytes -= self.entries.pop_back().map_or(0, |(_, bytes)| bytes);
        }
    }

    pub(super) fn purge(&mut self, upto: u64) {
        while self
            .entries
            .front()
            .is_some_and(|(first, _)| first.log_id.index <= upto)
        {
            self.bytes -= self.entries.pop_front().map_or(0, |(_, bytes)| bytes);
        }
    }

    /// The entries from `start` to before `end`, if all that exist of them are here.
    pub(super) fn range(&self, start: u64, end: u64, bytes_max: usize) -> Option<Vec<Entry>> {
        let first = self.entries.front()?.0.log_id.index;
        let skip = usize::try_from(start.checked_sub(first)?).ok()?;
        let mut bytes = 0;
        let take = |(entry, length): &&(Entry, usize)| {
            let first = bytes == 0;
            bytes += length;
            entry.log_id.index < end && (first || bytes <= bytes_max)
        };
        let found = self.entries.iter().skip(skip).take_while(take);
        Some(found.map(|(entry, _)| entry.clone()).collect())
    }
}
