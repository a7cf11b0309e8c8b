//! Waiting for what is true in the end, and checking that something stays true. Polls; never sleeps in the hope that it is
//! enough.

use std::{fmt::Display, time::Duration};

use mesh::runtime::clock;

/// Room for a busy machine; nothing waits for it to pass.
pub const PATIENCE: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(20);

/// What a condition may say: yes or no, or what it saw instead.
pub trait Met {
    /// What was seen, when it is not met.
    fn unmet(self) -> Option<String>;
}

impl Met for bool {
    fn unmet(self) -> Option<String> {
        (!self).then(String::new)
    }
}

impl<E: Display> Met for Result<(), E> {
    fn unmet(self) -> Option<String> {
        self.err().map(|seen| format!(": {seen}"))
    }
}

/// Polls until `condition` is met, and fails with `what` and what was seen last when that takes longer than [`PATIENCE`].
pub async fn eventually<M: Met>(what: &str, condition: impl AsyncFnMut() -> M) {
    eventually_within(PATIENCE, what, condition).await;
}

/// As [`eventually`], with a time of its own; returns how long it took.
pub async fn eventually_within<M: Met>(
    patience: Duration,
    what: &str,
    mut condition: impl AsyncFnMut() -> M,
) -> Duration {
    let begun = clock::now();
    loop {
        let Some(seen) = condition().await.unmet() else {
            return begun.elapsed();
        };
        assert!(begun.elapsed() < patience, "not within {patience:?}: {what}{seen}");
        tokio::time::sleep(POLL).await;
    }
}

/// Checks again and again for `span` that `condition` holds, and fails with `what` when it does not.
pub async fn holds<M: Met>(span: Duration, what: &str, mut condition: impl AsyncFnMut() -> M) {
    let begun = clock::now();
    while begun.elapsed() < span {
        if let Some(seen) = condition().await.unmet() {
            panic!("did not hold for {span:?}: {what}{seen}");
        }
        tokio::time::sleep(POLL).await;
    }
}
