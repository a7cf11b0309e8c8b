//! The door of a listener: judges each connection when its caller is known, and each call before its body is read. What
//! the rules are is the daemon's business.

use std::{any::Any, fmt};

use tonic::Status;

use super::Caller;

/// Judges callers. Asked for every call, so it must be quick and wait for nobody.
pub trait Gate: Send + Sync + 'static {
    /// One more connection of this caller.
    ///
    /// # Errors
    /// Why it is closed at once; for the log.
    fn connection(&self, caller: &Caller) -> Result<Pass, String>;

    /// A call of `/package.Service/Method`. The pass is held until its response is over.
    ///
    /// # Errors
    /// What the caller is told instead.
    fn call(&self, caller: &Caller, method: &str) -> Result<Pass, Status>;
}

/// Held for as long as what was let in goes on.
#[derive(Default)]
pub struct Pass {
    _held: Option<Box<dyn Any + Send + Sync>>,
    request_bytes_max: Option<u64>,
}

impl Pass {
    /// Gives `held` back, by dropping it, at the end.
    #[must_use]
    pub fn holding(held: impl Send + Sync + 'static) -> Self {
        Self {
            _held: Some(Box::new(held)),
            request_bytes_max: None,
        }
    }

    /// With a bound on what the caller may send in this call, in bytes.
    #[must_use]
    pub fn with_request_bytes_max(mut self, max: u64) -> Self {
        self.request_bytes_max = Some(max);
        self
    }

    pub(super) fn request_bytes_max(&self) -> Option<u64> {
        self.request_bytes_max
    }
}

impl fmt::Debug for Pass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pass")
    }
}

/// Lets everybody in: for listeners whose handlers judge alone.
#[derive(Clone, Copy, Debug, Default)]
pub struct Open;

impl Gate for Open {
    fn connection(&self, _: &Caller) -> Result<Pass, String> {
        Ok(Pass::default())
    }

    fn call(&self, _: &Caller, _: &str) -> Result<Pass, Status> {
        Ok(Pass::default())
    }
}
