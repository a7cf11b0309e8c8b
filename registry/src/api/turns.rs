//! Takes turns: of each caller only so many large answers are made at a time, so that readers who do not read hold a
//! bounded part of the memory.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use mesh::identity::SpiffeId;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Large answers of one caller at a time: enough to keep every core busy.
const TURNS_MAX: usize = 8;

type Table = Arc<Mutex<HashMap<SpiffeId, Arc<Semaphore>>>>;

/// The turns of all callers. Clones are the same.
#[derive(Clone, Default)]
pub(super) struct Turns {
    /// Guards the table only; a caller without streams is not in it.
    table: Table,
}

impl Turns {
    /// Those of one caller; of a caller without identity they are its own.
    pub(super) fn of(&self, caller: Option<SpiffeId>) -> CallersTurns {
        let new = || Arc::new(Semaphore::new(TURNS_MAX));
        let turns = match &caller {
            None => new(),
            Some(id) => {
                let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
                Arc::clone(table.entry(id.clone()).or_insert_with(new))
            }
        };
        CallersTurns {
            table: Arc::clone(&self.table),
            caller,
            turns,
        }
    }
}

/// One stream's part in the turns of its caller.
pub(super) struct CallersTurns {
    table: Table,
    caller: Option<SpiffeId>,
    turns: Arc<Semaphore>,
}

impl CallersTurns {
    /// Waits for a turn, which is over when it is dropped. Safe to cancel.
    pub(super) fn take(&self) -> impl Future<Output = Option<OwnedSemaphorePermit>> + Send + use<> {
        let turn = Arc::clone(&self.turns).acquire_owned();
        // It is never closed.
        async move { turn.await.ok() }
    }
}

impl Drop for CallersTurns {
    fn drop(&mut self) {
        let Some(caller) = &self.caller else { return };
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        // The table's and this one.
        if Arc::strong_count(&self.turns) <= 2 {
            table.remove(caller);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn one_callers_turns_are_bounded_and_forgotten() {
        let turns = Turns::default();
        let of = |name: &str| turns.of(SpiffeId::parse(&format!("spiffe://eu/ns/shop/sa/{name}")).ok());
        let streams: Vec<_> = (0..=TURNS_MAX).map(|_| of("loud")).collect();
        let mut held: Vec<_> = streams.iter().map(|stream| stream.take().now_or_never()).collect();
        assert!(held.pop().flatten().is_none(), "one too many");
        assert!(held.iter().all(Option::is_some));
        assert!(
            of("quiet").take().now_or_never().is_some(),
            "another caller's are its own"
        );
        held.pop();
        assert!(streams[TURNS_MAX].take().now_or_never().is_some());
        drop((held, streams));
        assert!(turns.table.lock().expect("whole").is_empty());
    }
}
