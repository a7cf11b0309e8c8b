//! Readiness as held tokens: a process is ready when nobody holds one. Ownership cannot be forgotten.

use std::{collections::BTreeMap, sync::Arc};

use tokio::sync::watch;

/// Collects what a process still waits for.
#[derive(Clone, Debug)]
pub struct Ready {
    pending: Arc<watch::Sender<BTreeMap<&'static str, usize>>>,
}

impl Default for Ready {
    fn default() -> Self {
        Self {
            pending: Arc::new(watch::Sender::new(BTreeMap::new())),
        }
    }
}

impl Ready {
    /// Not ready until the token is dropped. `what` is shown to whoever asks why.
    #[must_use]
    pub fn hold(&self, what: &'static str) -> Pending {
        self.pending
            .send_modify(|pending| *pending.entry(what).or_default() += 1);
        Pending {
            ready: self.clone(),
            what,
        }
    }

    /// What is still waited for; empty = ready.
    #[must_use]
    pub fn pending(&self) -> Vec<&'static str> {
        self.pending.borrow().keys().copied().collect()
    }

    /// Returns when nothing is waited for.
    pub async fn wait(&self) {
        // The sender lives in self, so waiting cannot fail.
        let _ = self.pending.subscribe().wait_for(BTreeMap::is_empty).await;
    }
}

/// Keeps the process unready while it lives.
#[derive(Debug)]
pub struct Pending {
    ready: Ready,
    what: &'static str,
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.ready.pending.send_modify(|pending| {
            let Some(count) = pending.get_mut(self.what) else {
                return;
            };
            *count -= 1;
            if *count == 0 {
                pending.remove(self.what);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn ready_when_the_last_token_is_dropped() {
        let ready = Ready::default();
        let (first, second) = (ready.hold("view"), ready.hold("view"));
        drop(first);
        assert_eq!(ready.pending(), ["view"]);
        drop(second);
        ready.wait().await;
        assert!(ready.pending().is_empty());
    }
}
