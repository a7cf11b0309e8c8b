//! What was asked for on a stream, and what the view is therefore complete for: the end of the subscription that knows which
//! update says everything about which interest. Pure.

use super::Interest;
use crate::model::Coverage;

/// A delta came from a registry that may have left out what this subscriber does not hold: only a snapshot is sure.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Unsure;

/// How a stream opens.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Opening {
    /// The number of its interest.
    pub(super) sequence: u64,
    /// Whether the held position may be presented.
    pub(super) resumes: bool,
    /// What the held position was shown under, where that is not the interest of the stream.
    pub(super) shown: Option<Interest>,
}

/// Interests by their numbers.
#[derive(Debug)]
pub(super) struct Asked {
    last: u64,
    newest: Interest,
    /// Sent, and no update was made for it yet. At most one, so that more that is wanted meanwhile travels together.
    outstanding: Option<u64>,
    /// The number that updates of this stream carry; 0 = the registry does not count.
    confirmed: u64,
    complete_for: Option<Interest>,
    coverage: Coverage,
}

impl Asked {
    /// `complete_for` is what the first view, from disk, satisfies.
    pub(super) fn new(complete_for: Option<Interest>) -> Self {
        Self {
            last: 0,
            newest: Interest::default(),
            outstanding: None,
            confirmed: 0,
            coverage: complete_for.as_ref().map(Interest::coverage).unwrap_or_default(),
            complete_for,
        }
    }

    /// The interest that the published view satisfies; none = a snapshot is needed.
    pub(super) fn complete_for(&self) -> Option<&Interest> {
        self.complete_for.as_ref()
    }

    /// Of the newest update.
    pub(super) fn coverage(&self) -> Coverage {
        self.coverage.clone()
    }

    /// The view is no base for a delta any more.
    pub(super) fn forget(&mut self) {
        self.complete_for = None;
    }

    /// A new stream.
    pub(super) fn open(&mut self, interest: Interest) -> Opening {
        let (resumes, shown) = match &self.complete_for {
            Some(before) if *before == interest => (true, None),
            // Whoever holds everything lacks nothing, and drops by itself what is too much.
            Some(before) if interest.names && before.everything => (true, None),
            Some(before) if interest.names && before.names => (true, Some(before.clone())),
            _ => (false, None),
        };
        self.last += 1;
        self.confirmed = 0;
        self.outstanding = Some(self.last);
        self.newest = interest;
        Opening {
            sequence: self.last,
            resumes,
            shown,
        }
    }

    /// Whether another interest may be sent now.
    pub(super) fn may_change(&self) -> bool {
        self.outstanding.is_none()
    }

    /// Another interest on the same stream; gives its number.
    pub(super) fn change(&mut self, interest: Interest) -> u64 {
        if self.confirmed == 0 && !interest.names {
            // Which update brings what it adds will not be said, so that the next stream starts from a snapshot.
            self.complete_for = None;
        }
        self.last += 1;
        self.outstanding = Some(self.last);
        self.newest = interest;
        self.last
    }

    /// An update is complete. `made_for` is the number that it carries. Says whether the view is now complete for another
    /// interest than before.
    pub(super) fn heard(&mut self, made_for: u64, full: bool) -> Result<bool, Unsure> {
        if made_for == 0 {
            return self.heard_uncounted(full);
        }
        if self.outstanding == Some(made_for) {
            self.outstanding = None;
            self.confirmed = made_for;
            self.coverage = self.newest.coverage();
            self.complete_for = Some(self.newest.clone());
            return Ok(true);
        }
        if made_for == self.confirmed {
            return Ok(false);
        }
        self.complete_for = None;
        Err(Unsure)
    }

    /// From a registry that knows neither numbers nor `names`: asked for names it sends everything.
    fn heard_uncounted(&mut self, full: bool) -> Result<bool, Unsure> {
        self.outstanding = None;
        let shown = if self.newest.names {
            Interest::everything()
        } else {
            self.newest.clone()
        };
        if full {
            self.coverage = Coverage::All;
            self.complete_for = Some(shown);
            return Ok(true);
        }
        if self.newest.names && self.complete_for.as_ref() != Some(&shown) {
            self.complete_for = None;
            return Err(Unsure);
        }
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ServiceName;

    fn names(services: &[&str]) -> Interest {
        Interest::names(services.iter().map(|name| ServiceName::parse(name).unwrap()).collect())
    }

    fn opening(sequence: u64, resumes: bool, shown: Option<Interest>) -> Opening {
        Opening {
            sequence,
            resumes,
            shown,
        }
    }

    #[test]
    fn the_update_that_carries_the_number_makes_the_view_complete() {
        let mut asked = Asked::new(None);
        assert_eq!(asked.open(names(&[])), opening(1, false, None));
        assert!(!asked.may_change());
        assert_eq!(asked.heard(1, true), Ok(true));
        assert_eq!(asked.change(names(&["pay.shop"])), 2);
        assert_eq!(asked.heard(1, false), Ok(false), "made before the change was heard");
        assert_eq!(asked.complete_for(), Some(&names(&[])));
        assert!(!asked.may_change());
        assert_eq!(asked.heard(2, false), Ok(true));
        assert_eq!(asked.coverage(), names(&["pay.shop"]).coverage());
        assert_eq!(asked.heard(7, false), Err(Unsure), "never asked for");
        assert_eq!(asked.complete_for(), None);
    }

    #[test]
    fn a_new_stream_resumes_and_says_what_the_position_was_shown_under() {
        let mut asked = Asked::new(Some(names(&["pay.shop"])));
        assert_eq!(asked.open(names(&["pay.shop"])), opening(1, true, None));
        let both = names(&["cart.shop", "pay.shop"]);
        assert_eq!(asked.open(both.clone()), opening(2, true, Some(names(&["pay.shop"]))));
        assert_eq!(asked.heard(2, false), Ok(true));
        assert_eq!(asked.open(Interest::everything()), opening(3, false, None));
        let mut asked = Asked::new(Some(Interest::everything()));
        assert_eq!(asked.open(both), opening(1, true, None));
    }

    #[test]
    fn a_registry_that_does_not_count_sends_everything_and_its_deltas_need_everything() {
        let mut asked = Asked::new(Some(names(&["pay.shop"])));
        asked.open(names(&["pay.shop"]));
        assert_eq!(asked.heard(0, false), Err(Unsure), "it left out what is not held");
        assert_eq!(asked.open(names(&["pay.shop"])), opening(2, false, None));
        assert_eq!(asked.heard(0, true), Ok(true));
        assert_eq!(asked.coverage(), Coverage::All);
        assert_eq!(asked.heard(0, false), Ok(false));
        assert_eq!(asked.open(names(&["pay.shop"])), opening(3, true, None));
        assert_eq!(asked.heard(3, false), Ok(true), "it was replaced by one that counts");
    }
}
