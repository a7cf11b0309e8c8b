//! Is a history of one register linearizable? Wing and Gong's search with Lowe's just-in-time linearization and memory of
//! what was tried, as Porcupine does it: an operation takes effect at one moment between its call and its return, and a read
//! returns what the newest write wrote. Pure.
//!
//! A write whose outcome nobody was told may take effect at any time after its call, or never.

use std::collections::HashSet;

/// What was asked of the register. Zero = nothing was ever written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// It is this from now on.
    Write(u64),
    /// It was this.
    Read(u64),
}

/// One operation on one register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operation {
    /// Whose; for people.
    pub client: u32,
    /// What.
    pub act: Act,
    /// When it was called, on the one clock of all clients.
    pub called: u64,
    /// When it returned; none = nobody was told the outcome.
    pub returned: Option<u64>,
}

/// What the search found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// There is an order.
    Linearizable,
    /// There is none.
    Violation,
    /// The search was given up after so many steps.
    Undecided(u64),
}

/// Steps after which a search is given up: a good history of a thousand operations takes some thousands.
const STEPS_MAX: u64 = 20_000_000;

/// One end of an operation, in a list from which operations are lifted and put back.
struct Entry {
    operation: usize,
    /// Where the return stands, in a call; none in a return.
    matching: Option<usize>,
    previous: usize,
    next: usize,
}

/// Calls and returns in the order of time, as a doubly linked list with a head at 0 and an end at the last index.
struct Line {
    entries: Vec<Entry>,
}

impl Line {
    fn new(operations: &[Operation]) -> Self {
        let mut ends: Vec<(u64, bool, usize)> = Vec::with_capacity(operations.len() * 2);
        for (at, operation) in operations.iter().enumerate() {
            ends.push((operation.called, false, at));
            ends.push((operation.returned.unwrap_or(u64::MAX), true, at));
        }
        // What ends and begins at one moment may have overlapped: calls first.
        ends.sort_unstable();
        let mut entries = vec![Entry {
            operation: usize::MAX,
            matching: None,
            previous: 0,
            next: 1,
        }];
        let mut returns = vec![0; operations.len()];
        for (at, (_, is_return, operation)) in ends.iter().enumerate() {
            if *is_return {
                returns[*operation] = at + 1;
            }
        }
        for (at, (_, is_return, operation)) in ends.iter().enumerate() {
            entries.push(Entry {
                operation: *operation,
                matching: (!is_return).then(|| returns[*operation]),
                previous: at,
                next: at + 2,
            });
        }
        Self { entries }
    }

    fn first(&self) -> usize {
        self.entries[0].next
    }

    fn get(&self, at: usize) -> Option<&Entry> {
        self.entries.get(at)
    }

    fn unlink(&mut self, at: usize) {
        let (previous, next) = (self.entries[at].previous, self.entries[at].next);
        self.entries[previous].next = next;
        if let Some(entry) = self.entries.get_mut(next) {
            entry.previous = previous;
        }
    }

    fn relink(&mut self, at: usize) {
        let (previous, next) = (self.entries[at].previous, self.entries[at].next);
        self.entries[previous].next = at;
        if let Some(entry) = self.entries.get_mut(next) {
            entry.previous = at;
        }
    }

    fn lift(&mut self, call: usize, matching: usize) {
        self.unlink(call);
        self.unlink(matching);
    }

    fn put_back(&mut self, call: usize, matching: usize) {
        self.relink(matching);
        self.relink(call);
    }
}

/// Which operations have taken effect, as bits.
type Done = Vec<u64>;

fn flip(done: &mut Done, at: usize) {
    done[at / 64] ^= 1 << (at % 64);
}

/// Judges the operations of one register, in any order.
#[must_use]
pub fn check(operations: &[Operation]) -> Verdict {
    // A read that was not answered says nothing.
    let told = |one: &&Operation| one.returned.is_some() || matches!(one.act, Act::Write(_));
    let operations: Vec<_> = operations.iter().filter(told).copied().collect();
    let mut line = Line::new(&operations);
    let mut done: Done = vec![0; operations.len().div_ceil(64)];
    let mut seen: HashSet<(Done, u64)> = HashSet::new();
    // Calls that were given effect, with the value before each.
    let mut taken: Vec<(usize, usize, u64)> = Vec::new();
    let (mut value, mut at, mut steps) = (0, line.first(), 0);
    // All that is left never returned: it may never have taken effect.
    let mut open = operations.iter().filter(|one| one.returned.is_some()).count();
    while open > 0 {
        steps += 1;
        if steps > STEPS_MAX {
            return Verdict::Undecided(steps);
        }
        let Some(entry) = line.get(at) else {
            return Verdict::Violation; // the end of the list is never reached while a return is open
        };
        let (operation, next) = (entry.operation, entry.next);
        if let Some(matching) = entry.matching {
            let after = match operations[operation].act {
                Act::Write(new) => Some(new),
                Act::Read(told) => (told == value).then_some(value),
            };
            if let Some(after) = after {
                flip(&mut done, operation);
                if seen.insert((done.clone(), after)) {
                    taken.push((at, matching, value));
                    line.lift(at, matching);
                    open -= usize::from(operations[operation].returned.is_some());
                    value = after;
                    at = line.first();
                    continue;
                }
                flip(&mut done, operation);
            }
            at = next;
        } else {
            // A return: somebody before it must have taken effect otherwise.
            let Some((call, matching, before)) = taken.pop() else {
                return Verdict::Violation;
            };
            let undone = line.entries[call].operation;
            flip(&mut done, undone);
            open += usize::from(operations[undone].returned.is_some());
            value = before;
            line.put_back(call, matching);
            at = line.entries[call].next;
        }
    }
    Verdict::Linearizable
}

/// The shortest beginning of a bad history that is bad by itself: up to one return, with what was under way then.
#[must_use]
pub fn shortest(operations: &[Operation]) -> Vec<Operation> {
    let mut returns: Vec<u64> = operations.iter().filter_map(|one| one.returned).collect();
    returns.sort_unstable();
    // What is linearizable has only linearizable beginnings.
    let (mut good, mut bad) = (0, returns.len());
    while good < bad {
        let middle = good + (bad - good) / 2;
        let until = returns.get(middle).copied().unwrap_or(u64::MAX);
        if check(&beginning(operations, until)) == Verdict::Violation {
            bad = middle;
        } else {
            good = middle + 1;
        }
    }
    let until = returns.get(bad).copied().unwrap_or(u64::MAX);
    let mut found = beginning(operations, until);
    found.sort_by_key(|one| one.called);
    found
}

fn beginning(operations: &[Operation], until: u64) -> Vec<Operation> {
    let known = |one: &&Operation| {
        one.called <= until && (matches!(one.act, Act::Write(_)) || one.returned.is_some_and(|at| at <= until))
    };
    let cut = |one: &Operation| Operation {
        returned: one.returned.filter(|at| *at <= until),
        ..*one
    };
    operations.iter().filter(known).map(cut).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(value: u64, called: u64, returned: u64) -> Operation {
        Operation {
            client: 0,
            act: Act::Write(value),
            called,
            returned: (returned > 0).then_some(returned),
        }
    }

    fn read(value: u64, called: u64, returned: u64) -> Operation {
        Operation {
            act: Act::Read(value),
            ..write(0, called, returned)
        }
    }

    #[test]
    fn one_after_the_other_is_good() {
        assert_eq!(check(&[]), Verdict::Linearizable);
        assert_eq!(
            check(&[read(0, 1, 2), write(7, 3, 4), read(7, 5, 6)]),
            Verdict::Linearizable
        );
    }

    #[test]
    fn overlapping_reads_may_see_either_but_not_go_back() {
        let under_way = write(7, 1, 20);
        assert_eq!(check(&[under_way, read(0, 2, 4), read(7, 5, 7)]), Verdict::Linearizable);
        assert_eq!(check(&[under_way, read(7, 2, 4), read(0, 5, 7)]), Verdict::Violation);
        assert_eq!(
            check(&[under_way, read(7, 2, 6), read(0, 3, 7)]),
            Verdict::Linearizable,
            "these two overlap"
        );
    }

    #[test]
    fn a_stale_read_is_found() {
        assert_eq!(
            check(&[write(1, 1, 2), write(2, 3, 4), read(1, 5, 6)]),
            Verdict::Violation
        );
    }

    #[test]
    fn a_lost_write_is_found() {
        assert_eq!(check(&[write(1, 1, 2), read(0, 3, 4)]), Verdict::Violation);
        let lost = [
            write(1, 1, 2),
            read(1, 3, 4),
            write(2, 5, 6),
            read(1, 7, 8),
            read(1, 9, 10),
        ];
        assert_eq!(check(&lost), Verdict::Violation);
    }

    #[test]
    fn two_leaders_are_found() {
        // Each side answers its own writes.
        let split = [
            write(1, 1, 2),
            write(2, 3, 10),
            read(2, 11, 12),
            write(3, 3, 10),
            read(3, 11, 12),
            read(2, 13, 14),
        ];
        assert_eq!(check(&split), Verdict::Violation);
        assert_eq!(check(&split[..5]), Verdict::Violation);
        assert_eq!(check(&split[..4]), Verdict::Linearizable);
    }

    #[test]
    fn a_write_without_an_answer_happens_at_any_later_time_or_never_but_once() {
        let unknown = write(5, 1, 0);
        for reads in [
            vec![read(0, 2, 3), read(0, 4, 5)],
            vec![read(0, 2, 3), read(5, 4, 5)],
            vec![read(5, 2, 3), read(5, 400, 500)],
        ] {
            let mut history = vec![unknown];
            history.extend(&reads);
            assert_eq!(check(&history), Verdict::Linearizable, "{reads:?}");
        }
        assert_eq!(check(&[unknown, read(5, 2, 3), read(0, 4, 5)]), Verdict::Violation);
        // What a repetition behind the caller's back does.
        let twice = [unknown, read(5, 2, 3), write(6, 4, 5), read(6, 6, 7), read(5, 8, 9)];
        assert_eq!(check(&twice), Verdict::Violation);
        // A write that nobody was told of cannot have happened before it was asked for.
        assert_eq!(check(&[read(5, 1, 2), write(5, 3, 0)]), Verdict::Violation);
    }

    #[test]
    fn the_shortest_bad_beginning_ends_with_what_cannot_be() {
        let mut history = vec![write(1, 1, 2), write(2, 3, 4), read(2, 5, 6), read(1, 7, 8)];
        for at in 0..50 {
            history.push(read(1, 10 + at * 2, 11 + at * 2));
        }
        history.push(write(9, 200, 0));
        let found = shortest(&history);
        assert_eq!(found.len(), 4, "{found:?}");
        assert_eq!(found.last(), Some(&read(1, 7, 8)));
        assert_eq!(check(&found), Verdict::Violation);
    }

    /// A register as it should be, seen by clients that overlap and are cut off.
    fn made_up(seed: u64, operations: usize) -> Vec<Operation> {
        let mut random = fastrand::Rng::with_seed(seed);
        let (mut clock, mut value, mut history) = (0, 0, Vec::new());
        let mut free = [0_u64; 6];
        for number in 1..=operations as u64 {
            let client = random.usize(..free.len());
            clock += random.u64(1..20);
            let called = (clock - random.u64(0..clock.min(60))).max(free[client] + 1);
            clock = clock.max(called + 1);
            let returned = clock + random.u64(1..60);
            free[client] = returned;
            let (act, lost) = if random.bool() {
                let lost = random.u8(..20) == 0;
                if !lost || random.bool() {
                    value = number;
                }
                (Act::Write(number), lost)
            } else {
                (Act::Read(value), false)
            };
            history.push(Operation {
                client: u32::try_from(client).unwrap(),
                act,
                called,
                returned: (!lost).then_some(returned),
            });
        }
        history
    }

    #[test]
    fn long_good_histories_are_judged_quickly_and_one_wrong_read_spoils_them() {
        for seed in 0..20 {
            let mut history = made_up(seed, 600);
            assert_eq!(check(&history), Verdict::Linearizable, "seed {seed}");
            let reads: Vec<_> = history
                .iter()
                .enumerate()
                .filter(|(_, one)| matches!(one.act, Act::Read(_)))
                .map(|(at, _)| at)
                .collect();
            history[reads[reads.len() / 2]].act = Act::Read(999_999);
            // To exclude every order may be too much work; to find one must not be possible.
            assert_ne!(check(&history), Verdict::Linearizable, "seed {seed}");
        }
    }
}
