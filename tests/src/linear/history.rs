//! What happened, as it happened: operations of clients and deeds of the nemesis, on one clock, one JSON line each.

use std::{
    fs::File,
    io::{BufWriter, Write},
    path::Path,
    sync::{Mutex, PoisonError},
};

use mesh::runtime::clock;
use serde_json::json;
use tokio::time::Instant;

use super::check::{Act, Operation};

/// One line of a history.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// Which register; empty for what is none's.
    pub key: String,
    /// What.
    pub kind: Kind,
}

/// What happened.
#[derive(Clone, Debug, PartialEq)]
pub enum Kind {
    /// An operation through a node, and what became of it.
    Operation {
        /// Through which node.
        node: u64,
        /// The operation.
        operation: Operation,
    },
    /// The nemesis did something, or a check found something.
    Note {
        /// When, in microseconds.
        at: u64,
        /// What.
        text: String,
    },
}

impl Event {
    /// As a line of JSON.
    #[must_use]
    pub fn line(&self) -> String {
        let value = match &self.kind {
            Kind::Operation { node, operation } => {
                let (act, value) = match operation.act {
                    Act::Write(value) => ("write", value),
                    Act::Read(value) => ("read", value),
                };
                json!({"key": self.key, "act": act, "value": value, "client": operation.client, "node": node,
                       "called": operation.called, "returned": operation.returned})
            }
            Kind::Note { at, text } => json!({"note": text, "at": at}),
        };
        value.to_string()
    }
}

/// Takes down events from many tasks.
pub(super) struct History {
    begun: Instant,
    /// Guards the list; held for a push.
    events: Mutex<Vec<Event>>,
}

impl History {
    pub(super) fn new() -> Self {
        Self {
            begun: clock::now(),
            events: Mutex::default(),
        }
    }

    /// Microseconds since the beginning.
    pub(super) fn now(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    pub(super) fn operation(&self, key: &str, node: u64, operation: Operation) {
        self.push(Event {
            key: key.to_owned(),
            kind: Kind::Operation { node, operation },
        });
    }

    pub(super) fn note(&self, text: String) {
        let at = self.now();
        self.push(Event {
            key: String::new(),
            kind: Kind::Note { at, text },
        });
    }

    fn push(&self, event: Event) {
        self.events.lock().unwrap_or_else(PoisonError::into_inner).push(event);
    }

    pub(super) fn take(&self) -> Vec<Event> {
        std::mem::take(&mut self.events.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Writes events, one a line.
pub(super) fn write(path: &Path, events: &[Event]) -> std::io::Result<()> {
    let mut out = BufWriter::new(File::create(path)?);
    for event in events {
        writeln!(out, "{}", event.line())?;
    }
    out.flush()
}
