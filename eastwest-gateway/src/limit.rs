//! Bounded counts by key: tunnels of an endpoint, connections of a source. A key that counts nothing takes no room.
//! Pure.

use std::{collections::HashMap, hash::Hash};

/// The bound is met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Full;

/// Counts by key, each at most `each_max`.
#[derive(Debug)]
pub(crate) struct Ledger<K> {
    counts: HashMap<K, u32>,
    each_max: u32,
}

impl<K: Clone + Eq + Hash> Ledger<K> {
    pub(crate) fn new(each_max: u32) -> Self {
        Self {
            counts: HashMap::new(),
            each_max,
        }
    }

    /// One more, unless the key has as many as it may.
    pub(crate) fn enter(&mut self, key: &K) -> Result<(), Full> {
        if let Some(count) = self.counts.get_mut(key) {
            if *count >= self.each_max {
                return Err(Full);
            }
            *count += 1;
        } else if self.each_max == 0 {
            return Err(Full);
        } else {
            self.counts.insert(key.clone(), 1);
        }
        Ok(())
    }

    /// One less.
    pub(crate) fn leave(&mut self, key: &K) {
        let Some(count) = self.counts.get_mut(key) else {
            return;
        };
        *count -= 1;
        if *count == 0 {
            self.counts.remove(key);
        }
    }

    /// How many now.
    pub(crate) fn count(&self, key: &K) -> u32 {
        self.counts.get(key).copied().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_key_is_bounded_by_itself_and_forgotten_at_zero() {
        let mut ledger = Ledger::new(2);
        assert_eq!(
            (ledger.enter(&"a"), ledger.enter(&"a"), ledger.enter(&"a")),
            (Ok(()), Ok(()), Err(Full))
        );
        assert_eq!(ledger.enter(&"b"), Ok(()));
        assert_eq!((ledger.count(&"a"), ledger.count(&"b"), ledger.count(&"c")), (2, 1, 0));
        ledger.leave(&"a");
        assert_eq!(ledger.enter(&"a"), Ok(()));
        for key in ["a", "a", "b", "c"] {
            ledger.leave(&key);
        }
        assert!(ledger.counts.is_empty());
        assert_eq!(Ledger::new(0).enter(&"a"), Err(Full));
    }
}
