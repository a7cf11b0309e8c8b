//! Turns every failure of the daemon outward: one place that decides the code, the text, and whether a retry helps. Inner
//! causes stay in the log. No catch-all arm: a new failure must decide here.

use std::time::Duration;

use mesh::{identity::SpiffeId, model::WireError};
use thiserror::Error;
use tonic::{Code, Status, metadata::MetadataValue};
use tracing::warn;

use super::rules::Denied;
use crate::{
    authority::attest::Denial,
    catalog::Refusal,
    federation::JoinError,
    ingest::Turned,
    raft::{membership, propose},
};

/// Key of the metadata entry that tells programs what to do next.
const RETRY: &str = "isthmus-retry";

/// Why a call was not answered.
#[derive(Debug, Error)]
pub(crate) enum Error {
    /// The region's log did not take it.
    #[error(transparent)]
    Propose(#[from] propose::Error),
    /// The catalogue refused it.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// A field breaks a bound.
    #[error(transparent)]
    Field(#[from] WireError),
    /// An agent asked for what is not its own.
    #[error(transparent)]
    Turned(#[from] Turned),
    /// The set of nodes was not changed.
    #[error(transparent)]
    Membership(#[from] membership::Error),
    /// Peering failed; told with its cause, which is mostly an address or a certificate to mend.
    #[error("{}", chain(.0))]
    Peering(Box<JoinError>),
    /// The caller's certificate is not of the kind that the call needs.
    #[error("{} may not do this; it needs {needs}", caller.as_ref().map_or("a caller without certificate", SpiffeId::as_str))]
    NotAllowed {
        /// Who called.
        caller: Option<SpiffeId>,
        /// What would be right.
        needs: &'static str,
    },
    /// The method is not for this caller.
    #[error(transparent)]
    Rule(#[from] Denied),
    /// The caller is at its own bound.
    #[error("{bound} {what} are the most that one caller may make ({setting}); come back in {wait:?}")]
    Limited {
        /// What is bounded.
        what: &'static str,
        /// The bound.
        bound: u32,
        /// Where an operator can change it.
        setting: &'static str,
        /// When it makes sense to come back.
        wait: Duration,
    },
    /// A token does not even parse, or is another kind's.
    #[error("token: {0}")]
    Token(String),
    /// No such record.
    #[error("{what} {id:?} is not known here; {hint}")]
    NotFound {
        /// Kind of record.
        what: &'static str,
        /// What was asked for.
        id: String,
        /// Where to look.
        hint: &'static str,
    },
    /// A drill would leave services without endpoints.
    #[error(
        "CAPACITY_CHECK_FAILED: only region {region} has ready endpoints of {}; start them elsewhere, or use --force",
        services.join(", ")
    )]
    Capacity {
        /// The region to evacuate.
        region: String,
        /// The services without a survivor.
        services: Vec<String>,
    },
    /// A bound is met.
    #[error("{what} are at their bound of {bound}; use another node or come back in {wait:?}")]
    Busy {
        /// What is bounded.
        what: &'static str,
        /// The bound.
        bound: usize,
        /// When it makes sense to come back.
        wait: Duration,
    },
    /// The lease that the stream stands for is another stream's now, or is over.
    #[error("lease of {0} has moved on or lapsed; attach again")]
    LeaseGone(String),
    /// The agent was not heard.
    #[error("nothing was heard for {0:?}; attach again")]
    Silent(Duration),
    /// The node is going away.
    #[error("this node is stopping; use another one")]
    Stopping,
    /// A new node's program cannot read the region's catalogue.
    #[error(
        "this program knows feature level {level} and the region is at {region}; use one as new as the region's nodes"
    )]
    OldProgram {
        /// The program's.
        level: u32,
        /// The region's.
        region: u32,
    },
    /// The catalogue has no region yet: the node is still catching up.
    #[error("this node has no catalogue yet; use another one or come back")]
    Empty,
    /// The identity is not given to this caller.
    #[error(transparent)]
    Denied(#[from] Denial),
    /// A certificate could not be made; the cause is in the log.
    #[error("the authority could not issue: {0}")]
    Authority(String),
    /// The catalogue answered something that this code does not expect: a newer node leads.
    #[error("unexpected answer from the catalogue; do all nodes run the same version?")]
    Unexpected,
}

/// What the caller should do next.
#[derive(Clone, Copy)]
enum Retry {
    /// The same call may succeed soon, here or on another node.
    Later,
    /// The outcome is unknown: read before trying again.
    ReadFirst,
    /// Not before something was changed.
    Never,
}

impl Error {
    fn verdict(&self) -> (Code, Retry) {
        match self {
            Self::Propose(error) => propose_verdict(error),
            Self::Refused(refusal) => refusal_verdict(refusal),
            Self::Field(_) | Self::Token(_) => (Code::InvalidArgument, Retry::Never),
            Self::Turned(turned) => match turned {
                Turned::Anonymous => (Code::Unauthenticated, Retry::Never),
                Turned::NotYours { .. } => (Code::PermissionDenied, Retry::Never),
                Turned::Field(_) => (Code::InvalidArgument, Retry::Never),
            },
            Self::Membership(error) => membership_verdict(error),
            Self::Peering(error) => peering_verdict(error),
            Self::Capacity { .. } | Self::OldProgram { .. } => (Code::FailedPrecondition, Retry::Never),
            Self::NotAllowed { caller: None, .. } => (Code::Unauthenticated, Retry::Never),
            Self::NotAllowed { caller: Some(_), .. } => (Code::PermissionDenied, Retry::Never),
            Self::Denied(_) => (Code::PermissionDenied, Retry::Never),
            Self::Rule(Denied::Unknown(_)) => (Code::Unimplemented, Retry::Never),
            Self::Rule(Denied::NotYours { caller: None, .. }) => (Code::Unauthenticated, Retry::Never),
            Self::Rule(Denied::NotYours { caller: Some(_), .. }) => (Code::PermissionDenied, Retry::Never),
            Self::Limited { .. } => (Code::ResourceExhausted, Retry::Later),
            Self::NotFound { .. } => (Code::NotFound, Retry::Never),
            Self::Busy { .. } => (Code::ResourceExhausted, Retry::Later),
            Self::LeaseGone(_) => (Code::Aborted, Retry::Later),
            Self::Silent(_) => (Code::DeadlineExceeded, Retry::Later),
            Self::Stopping | Self::Empty => (Code::Unavailable, Retry::Later),
            Self::Authority(_) | Self::Unexpected => (Code::Internal, Retry::Never),
        }
    }
}

fn propose_verdict(error: &propose::Error) -> (Code, Retry) {
    match error {
        propose::Error::NoLeader { .. } | propose::Error::Stopped => (Code::Unavailable, Retry::Later),
        propose::Error::Level { .. } => (Code::FailedPrecondition, Retry::Never),
        propose::Error::Full { .. } => (Code::ResourceExhausted, Retry::Later),
        propose::Error::TooLarge { .. } => (Code::InvalidArgument, Retry::Never),
        propose::Error::DiskFull { .. } => (Code::ResourceExhausted, Retry::Never),
        propose::Error::Unknown { .. } => (Code::DeadlineExceeded, Retry::ReadFirst),
        propose::Error::Removed => (Code::Unavailable, Retry::Never),
    }
}

fn membership_verdict(error: &membership::Error) -> (Code, Retry) {
    match error {
        membership::Error::NotFound { .. } => (Code::NotFound, Retry::Never),
        membership::Error::Initialised { .. }
        | membership::Error::InUse { .. }
        | membership::Error::LastVoter { .. }
        | membership::Error::QuorumLost { .. }
        | membership::Error::NotCaughtUp { .. } => (Code::FailedPrecondition, Retry::Never),
        membership::Error::Busy => (Code::Aborted, Retry::Later),
        membership::Error::Unknown { .. } => (Code::DeadlineExceeded, Retry::ReadFirst),
        membership::Error::Unavailable(error) => propose_verdict(error),
    }
}

fn peering_verdict(error: &JoinError) -> (Code, Retry) {
    match error {
        JoinError::Token(_) | JoinError::Anchors(_) => (Code::InvalidArgument, Retry::Never),
        JoinError::Refused(_) | JoinError::Impostor { .. } | JoinError::Denied { retry: false, .. } => {
            (Code::FailedPrecondition, Retry::Never)
        }
        JoinError::Unreachable { .. } | JoinError::Denied { retry: true, .. } => (Code::Unavailable, Retry::Later),
        // The token is used up: the next attempt needs a new one.
        JoinError::Commit { .. } => (Code::Aborted, Retry::Never),
    }
}

/// An error with its causes, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

fn refusal_verdict(refusal: &Refusal) -> (Code, Retry) {
    match refusal {
        Refusal::StaleLease(_) => (Code::Aborted, Retry::Later),
        Refusal::NotFound { .. } => (Code::NotFound, Retry::Never),
        Refusal::Token(_) => (Code::Unauthenticated, Retry::Never),
        Refusal::Conflict(_) | Refusal::Initialised => (Code::FailedPrecondition, Retry::Never),
        Refusal::Quota { .. } => (Code::ResourceExhausted, Retry::Never),
        Refusal::NotOwner { .. } => (Code::FailedPrecondition, Retry::Never),
    }
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        let (code, retry) = error.verdict();
        let mut status = Self::new(code, error.to_string());
        if code == Code::Internal {
            warn!(error = &error as &dyn std::error::Error, "call failed");
        }
        let retry = match retry {
            Retry::Later => "later",
            Retry::ReadFirst => "read-first",
            Retry::Never => "never",
        };
        status.metadata_mut().insert(RETRY, MetadataValue::from_static(retry));
        status
    }
}

/// A field's parse fault as an outward error.
pub(crate) fn field<T, E: ToString>(name: &'static str, parsed: Result<T, E>) -> Result<T, Error> {
    parsed.map_err(|fault| WireError::new(name, fault).into())
}

/// Whether a program may simply try again: from the entry that [`Error`] leaves in a status.
pub(crate) fn may_retry(status: &Status) -> bool {
    status.metadata().get(RETRY).is_some_and(|retry| retry == "later")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_says_whether_a_retry_helps() {
        let no_leader = propose::Error::NoLeader {
            waited: Duration::from_secs(5),
            majority: 2,
        };
        let status = Status::from(Error::from(no_leader));
        assert_eq!(status.code(), Code::Unavailable);
        assert!(may_retry(&status));
        let unknown = propose::Error::Unknown {
            waited: Duration::from_secs(5),
        };
        let status = Status::from(Error::from(unknown));
        assert!(!may_retry(&status), "it may have been committed");
        let status = Status::from(Error::Refused(Refusal::Token("expired".into())));
        assert_eq!((status.code(), may_retry(&status)), (Code::Unauthenticated, false));
    }

    #[test]
    fn who_may_not_is_told_what_it_needs() {
        let status = Status::from(Error::NotAllowed {
            caller: SpiffeId::parse("spiffe://eu/ns/shop/sa/pay").ok(),
            needs: "the operator's certificate",
        });
        assert_eq!(status.code(), Code::PermissionDenied);
        assert!(status.message().contains("spiffe://eu/ns/shop/sa/pay") && status.message().contains("operator"));
    }
}
