//! Room for each caller: a rate with a burst, and how much it may hold at a time. One caller's flood spends its own room
//! and nobody else's. Accounts that hold nothing are forgotten, so that the table stays as small as the crowd. Pure.

use std::{collections::HashMap, hash::Hash, time::Duration};

use crate::quota::Gcra;

/// An account that holds nothing is forgotten after this long: by then every sensible burst is paid for.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(60);
/// The table is swept at most this often, so that sweeping is no way to make us work.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);
/// Above this many accounts strangers are turned away until the next sweep.
const ACCOUNTS_MAX: usize = 65_536;

/// What one caller may have.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bounds {
    /// How often, on average; 0 is unlimited.
    pub per_second: f64,
    /// How many may come at once.
    pub burst: f64,
    /// How many it may hold at a time.
    pub held_max: u32,
}

/// Which room is used up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Over {
    /// The rate and its burst.
    Rate {
        /// When the next one would be let in.
        wait: Duration,
    },
    /// It holds as many as it may.
    Held,
}

#[derive(Debug)]
struct Account {
    rate: Gcra,
    held: u32,
    used_at: Duration,
}

/// The accounts of all callers. Time is counted from any origin that stays the same.
#[derive(Debug)]
pub struct Accounts<K> {
    accounts: HashMap<K, Account>,
    swept_at: Duration,
}

impl<K> Default for Accounts<K> {
    fn default() -> Self {
        Self {
            accounts: HashMap::new(),
            swept_at: Duration::ZERO,
        }
    }
}

impl<K: Clone + Eq + Hash> Accounts<K> {
    /// Lets one in, which is then held until [`Accounts::leave`].
    ///
    /// # Errors
    /// Which room is used up; nothing is charged then.
    pub fn enter(&mut self, key: &K, bounds: &Bounds, now: Duration) -> Result<(), Over> {
        let account = self.account(key, bounds, now)?;
        if account.held >= bounds.held_max {
            return Err(Over::Held);
        }
        account.rate.admit(now).map_err(|wait| Over::Rate { wait })?;
        account.held += 1;
        Ok(())
    }

    /// Charges the rate alone.
    ///
    /// # Errors
    /// When the next one would be let in.
    pub fn charge(&mut self, key: &K, bounds: &Bounds, now: Duration) -> Result<(), Over> {
        let account = self.account(key, bounds, now)?;
        account.rate.admit(now).map_err(|wait| Over::Rate { wait })
    }

    /// One that was held is over.
    pub fn leave(&mut self, key: &K) {
        if let Some(account) = self.accounts.get_mut(key) {
            account.held = account.held.saturating_sub(1);
        }
    }

    /// How many a caller holds.
    #[must_use]
    pub fn held(&self, key: &K) -> u32 {
        self.accounts.get(key).map_or(0, |account| account.held)
    }

    fn account(&mut self, key: &K, bounds: &Bounds, now: Duration) -> Result<&mut Account, Over> {
        if now.saturating_sub(self.swept_at) >= FORGOTTEN_AFTER {
            self.sweep(now);
        }
        if self.accounts.len() >= ACCOUNTS_MAX && !self.accounts.contains_key(key) {
            if now.saturating_sub(self.swept_at) >= SWEEP_INTERVAL {
                self.sweep(now);
            }
            if self.accounts.len() >= ACCOUNTS_MAX {
                return Err(Over::Rate { wait: SWEEP_INTERVAL });
            }
        }
        let account = self.accounts.entry(key.clone()).or_insert_with(|| Account {
            rate: Gcra::new(bounds.per_second, bounds.burst),
            held: 0,
            used_at: now,
        });
        account.used_at = now;
        Ok(account)
    }

    fn sweep(&mut self, now: Duration) {
        self.swept_at = now;
        let lives = |account: &Account| account.held > 0 || now.saturating_sub(account.used_at) < FORGOTTEN_AFTER;
        self.accounts.retain(|_, account| lives(account));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds {
        per_second: 10.0,
        burst: 2.0,
        held_max: 3,
    };

    #[test]
    fn one_callers_flood_leaves_anothers_room_alone() {
        let (mut accounts, now) = (Accounts::default(), Duration::from_secs(1));
        for _ in 0..2 {
            accounts.enter(&"loud", &BOUNDS, now).expect("its burst");
        }
        let Err(Over::Rate { wait }) = accounts.enter(&"loud", &BOUNDS, now) else {
            panic!("the burst is two")
        };
        assert_eq!(accounts.enter(&"quiet", &BOUNDS, now), Ok(()));
        assert_eq!(
            accounts.enter(&"loud", &BOUNDS, now + wait),
            Ok(()),
            "the wait that it named"
        );
        let later = now + Duration::from_secs(10);
        assert_eq!(accounts.enter(&"loud", &BOUNDS, later), Err(Over::Held));
        accounts.leave(&"loud");
        assert_eq!(accounts.enter(&"loud", &BOUNDS, later), Ok(()));
        assert_eq!((accounts.held(&"loud"), accounts.held(&"quiet")), (3, 1));
    }

    #[test]
    fn a_caller_that_holds_nothing_is_forgotten_in_time() {
        let mut accounts = Accounts::default();
        accounts.enter(&"stays", &BOUNDS, Duration::ZERO).expect("room");
        accounts.charge(&"goes", &BOUNDS, Duration::ZERO).expect("room");
        accounts.charge(&"new", &BOUNDS, FORGOTTEN_AFTER * 2).expect("room");
        assert!(!accounts.accounts.contains_key("goes"));
        assert_eq!(accounts.held(&"stays"), 1);
    }

    #[test]
    fn the_table_is_bounded() {
        let mut accounts = Accounts::default();
        let now = Duration::from_secs(1);
        for caller in 0..ACCOUNTS_MAX {
            accounts.enter(&caller, &BOUNDS, now).expect("room");
        }
        assert!(accounts.enter(&usize::MAX, &BOUNDS, now).is_err());
        assert_eq!(accounts.enter(&0, &BOUNDS, now), Ok(()), "who is known is served");
    }
}
