//! Why a command failed, in the two forms its user needs: one line that names the operand and what to do next, and an
//! exit code that a script can branch on. Prints nothing itself.

use std::fmt;

use tonic::{Code, Status};

/// What an exit code means. The numbers are part of the interface and never change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done.
    Done = 0,
    /// Tried, and failed.
    Failed = 1,
    /// The command or one of its values is malformed.
    Usage = 2,
    /// What it names does not exist.
    NotFound = 3,
    /// Refused, or in conflict with what is there.
    Refused = 4,
    /// The registry could not be reached, or did not answer in time.
    Unreachable = 5,
}

/// A failed command.
#[derive(Debug)]
pub struct Failure {
    /// The process ends with it.
    pub exit: Exit,
    error: anyhow::Error,
    next: Option<String>,
}

/// What a command returns.
pub type Outcome<T = ()> = Result<T, Failure>;

impl Failure {
    /// A failure of a kind, from an error or a text.
    pub fn new(exit: Exit, error: impl Into<anyhow::Error>) -> Self {
        Self {
            exit,
            error: error.into(),
            next: None,
        }
    }

    /// A failure with a text of its own.
    pub fn text(exit: Exit, text: impl fmt::Display) -> Self {
        Self::new(exit, anyhow::anyhow!("{text}"))
    }

    /// Adds what to try, usually a command.
    #[must_use]
    pub fn next(mut self, next: impl Into<String>) -> Self {
        self.next = Some(next.into());
        self
    }

    /// Puts what was attempted before the error.
    #[must_use]
    pub fn while_doing(mut self, what: impl fmt::Display + Send + Sync + 'static) -> Self {
        self.error = self.error.context(what.to_string());
        self
    }
}

impl fmt::Display for Failure {
    /// The chain of causes once, then what to do next.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut written = String::new();
        for cause in self.error.chain() {
            let text = cause.to_string();
            let text = text.trim().trim_end_matches('.');
            // Some libraries repeat their source in their own text.
            if text.is_empty() || written.contains(text) {
                continue;
            }
            if !written.is_empty() {
                written.push_str(": ");
            }
            written.push_str(text);
        }
        f.write_str(&written)?;
        match &self.next {
            Some(next) => write!(f, "\n  next: {next}"),
            None => Ok(()),
        }
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::new(Exit::Failed, error)
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::new(Exit::Failed, error)
    }
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        let text = match status.message() {
            "" => status.code().description(),
            message => message,
        };
        let failure = Self::text(exit_of(status.code()), text);
        match status.code() {
            Code::Unauthenticated => {
                failure.next("give the operator's credentials of this region with --credentials DIR")
            }
            Code::Unavailable | Code::DeadlineExceeded => {
                failure.next("isthmus status --local shows what the answering node still knows")
            }
            _ => failure,
        }
    }
}

/// The exit code for what a registry answered.
fn exit_of(code: Code) -> Exit {
    match code {
        Code::Ok => Exit::Done,
        Code::InvalidArgument | Code::OutOfRange => Exit::Usage,
        Code::NotFound => Exit::NotFound,
        Code::AlreadyExists
        | Code::FailedPrecondition
        | Code::PermissionDenied
        | Code::Unauthenticated
        | Code::ResourceExhausted
        | Code::Aborted => Exit::Refused,
        Code::Unavailable | Code::DeadlineExceeded => Exit::Unreachable,
        Code::Cancelled | Code::Unknown | Code::Unimplemented | Code::Internal | Code::DataLoss => Exit::Failed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_refusal_has_its_exit_code() {
        let cases = [
            (Code::InvalidArgument, Exit::Usage),
            (Code::NotFound, Exit::NotFound),
            (Code::FailedPrecondition, Exit::Refused),
            (Code::AlreadyExists, Exit::Refused),
            (Code::PermissionDenied, Exit::Refused),
            (Code::Unavailable, Exit::Unreachable),
            (Code::DeadlineExceeded, Exit::Unreachable),
            (Code::Internal, Exit::Failed),
        ];
        for (code, exit) in cases {
            assert_eq!(Failure::from(Status::new(code, "text")).exit, exit, "{code:?}");
        }
    }

    #[test]
    fn chain_is_printed_once_and_the_next_step_last() {
        let inner = std::io::Error::other("disk full");
        let error = anyhow::Error::new(inner)
            .context("cannot write report.json: disk full")
            .context("report lost");
        let failure = Failure::from(error).next("free some space");
        assert_eq!(
            failure.to_string(),
            "report lost: cannot write report.json: disk full\n  next: free some space"
        );
    }

    #[test]
    fn empty_answer_of_a_registry_still_says_something() {
        let failure = Failure::from(Status::new(Code::NotFound, ""));
        assert!(!failure.to_string().is_empty());
    }
}
