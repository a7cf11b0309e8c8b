//! One line of the doctor's report. Pure.

use serde::Serialize;

/// How bad it is; the order is that of badness.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Level {
    /// Looked at, and good.
    Ok,
    /// Could not be judged; another finding says why.
    Unknown,
    /// Works, but will not for long, or not as intended.
    Warning,
    /// Does not work.
    Fault,
}

impl Level {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Unknown => "unknown",
            Self::Warning => "warning",
            Self::Fault => "fault",
        }
    }
}

/// What one check found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    pub(super) level: Level,
    /// Which check.
    pub(super) check: &'static str,
    /// Of the fault or warning: stable, for scripts and for the page that tells more; empty otherwise.
    pub(super) name: &'static str,
    /// What was seen, with the part that it was seen at.
    pub(super) seen: String,
    /// What to do; empty where there is nothing to do.
    pub(super) next: String,
}

impl Finding {
    pub(super) fn ok(check: &'static str, seen: impl Into<String>) -> Self {
        Self::new(Level::Ok, check, "", seen, "")
    }

    pub(super) fn unknown(check: &'static str, seen: impl Into<String>) -> Self {
        Self::new(Level::Unknown, check, "", seen, "")
    }

    pub(super) fn warning(
        check: &'static str,
        name: &'static str,
        seen: impl Into<String>,
        next: impl Into<String>,
    ) -> Self {
        Self::new(Level::Warning, check, name, seen, next)
    }

    pub(super) fn fault(
        check: &'static str,
        name: &'static str,
        seen: impl Into<String>,
        next: impl Into<String>,
    ) -> Self {
        Self::new(Level::Fault, check, name, seen, next)
    }

    fn new(
        level: Level,
        check: &'static str,
        name: &'static str,
        seen: impl Into<String>,
        next: impl Into<String>,
    ) -> Self {
        Self {
            level,
            check,
            name,
            seen: seen.into(),
            next: next.into(),
        }
    }
}
