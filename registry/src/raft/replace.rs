//! Which member the leader takes out by itself: one that was silent for long, and only when the others are better off
//! without it. Pure.
//!
//! A region has an odd number of voters. A new node that has caught up makes it even, and then the removal of a dead one
//! costs no majority: of four voters three must answer, of the three that are left two. With an odd number nothing is
//! removed: the replacement is not there yet.

use std::time::Duration;

/// A member as the leader sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) id: u64,
    pub(crate) voter: bool,
    /// For how long it has not answered; the leader itself is never silent.
    pub(crate) silent: Duration,
}

/// Who is to be removed now. `alive`: answered more recently than this.
pub(crate) fn due(members: &[Seen], after: Duration, alive: Duration) -> Option<u64> {
    let dead = |seen: &&Seen| seen.silent >= after;
    let longest = |seen: &&Seen| seen.silent;
    // A node that died while it joined.
    let stranded = members.iter().filter(|seen| !seen.voter).filter(dead);
    if let Some(stranded) = stranded.max_by_key(longest) {
        return Some(stranded.id);
    }
    let voters = || members.iter().filter(|seen| seen.voter);
    let (count, live) = (voters().count(), voters().filter(|seen| seen.silent < alive).count());
    // The removal itself needs the majority of those who vote now.
    if !count.is_multiple_of(2) || live < count / 2 + 1 {
        return None;
    }
    let found = voters().filter(dead).max_by_key(longest)?;
    Some(found.id)
}

#[cfg(test)]
mod tests {
    use super::*;

    const AFTER: Duration = Duration::from_secs(600);
    const ALIVE: Duration = Duration::from_secs(2);

    fn members(voters: &[u64], learners: &[u64]) -> Vec<Seen> {
        let seen = |voter| {
            move |(at, silent): (usize, &u64)| Seen {
                id: at as u64 + if voter { 1 } else { 10 },
                voter,
                silent: Duration::from_secs(*silent),
            }
        };
        let voters = voters.iter().enumerate().map(seen(true));
        voters.chain(learners.iter().enumerate().map(seen(false))).collect()
    }

    #[test]
    fn a_dead_voter_goes_only_when_its_replacement_votes() {
        for (voters, removed) in [
            (vec![0, 0, 700], None),
            (vec![0, 0, 700, 0], Some(3)),
            (vec![0, 0, 500, 0], None),
            (vec![0, 0, 0, 0], None),
            // Two of four: nothing can be committed, and nothing may be tried.
            (vec![0, 700, 700, 0], None),
            (vec![0, 700, 900, 100], None),
            (vec![0, 700], None),
            (vec![0], None),
            (vec![0, 0, 700, 800, 0], None),
            (vec![0, 0, 700, 800, 0, 0], Some(4)),
        ] {
            let members = members(&voters, &[]);
            let found = due(&members, AFTER, ALIVE);
            assert_eq!(found, removed, "{voters:?}");
        }
    }

    #[test]
    fn a_node_that_died_while_it_joined_goes_first() {
        assert_eq!(due(&members(&[0, 0, 700, 0], &[900]), AFTER, ALIVE), Some(10));
        assert_eq!(due(&members(&[0, 0, 0], &[10]), AFTER, ALIVE), None);
    }
}
