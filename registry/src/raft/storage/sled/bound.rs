//! Keeps sled's page cache within its bound. sled notes each access in a queue per shard of its cache, and drops what is over
//! the bound only when a queue is full: some ten thousand pages of a few kilobytes stay whatever the capacity is. So after
//! many pages were touched, small ones of our own are read until every queue was full. Changes no record.

use std::cell::Cell;

/// Accesses that a queue of sled holds.
const QUEUE: u32 = 64;
/// A leaf holds at least so many entries: it is split in halves of its sixteen.
pub(super) const LEAF_ENTRIES_MIN: usize = 8;
/// Our own entries: at half a leaf each they lie on two pages for each of sled's 256 shards.
const ENTRIES: u32 = 4_096;
const PAGES_A_SHARD: u32 = 2;
/// As many pages may stay beside the bound: about 10 MB.
const TOUCHED_MAX: usize = 2_048;

/// Counts what is touched in one database.
pub(super) struct Bound {
    small: sled::Tree,
    touched: Cell<usize>,
}

impl Bound {
    /// `small` is for nothing else.
    pub(super) fn new(small: sled::Tree) -> Self {
        Self {
            small,
            touched: Cell::new(0),
        }
    }

    /// So many pages were touched, at most.
    pub(super) fn touched(&self, pages: usize) -> sled::Result<()> {
        let touched = self.touched.get() + pages;
        if touched < TOUCHED_MAX {
            self.touched.set(touched);
            return Ok(());
        }
        self.touched.set(0);
        if self.small.is_empty() {
            for entry in 0..ENTRIES {
                self.small.insert(entry.to_be_bytes(), &[])?;
            }
        }
        for _ in 0..QUEUE / PAGES_A_SHARD {
            for entry in (0..ENTRIES).step_by(LEAF_ENTRIES_MIN) {
                self.small.get(entry.to_be_bytes())?;
            }
        }
        Ok(())
    }
}
