//! Judges a history register by register.

use std::collections::BTreeMap;

use super::{
    check::{Operation, Verdict, check, shortest},
    history::{Event, Kind},
};

/// What the check came to.
#[derive(Debug, Default)]
pub(super) struct Judged {
    pub(super) registers: usize,
    pub(super) operations: usize,
    /// Bad registers with the shortest beginning of their history that is bad.
    pub(super) bad: Vec<(String, Vec<Operation>)>,
    /// Registers whose search was given up.
    pub(super) undecided: Vec<String>,
}

pub(super) fn judge(events: &[Event]) -> Judged {
    let mut registers: BTreeMap<&str, Vec<Operation>> = BTreeMap::new();
    for event in events {
        if let Kind::Operation { operation, .. } = event.kind {
            registers.entry(&event.key).or_default().push(operation);
        }
    }
    let mut judged = Judged {
        registers: registers.len(),
        ..Judged::default()
    };
    for (key, operations) in registers {
        judged.operations += operations.len();
        match check(&operations) {
            Verdict::Linearizable => {}
            Verdict::Violation => judged.bad.push((key.to_owned(), shortest(&operations))),
            Verdict::Undecided(_) => judged.undecided.push(key.to_owned()),
        }
    }
    judged
}
