//! What a subscriber is given. A small change concerns many subscribers in the same way: its update is made and encoded once
//! for all who see alike and have missed the same changes, and each of them sends the same bytes.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use bytes::{BufMut, Bytes, BytesMut};
use mesh::model::{Held, Timestamp, Update};
use prost::Message as _;
use proto::registry::v1 as pb;

use super::{
    Chunks, Moment, chunks,
    scope::{Sight, Touch, TouchId},
};

/// Updates of one moment that are kept: subscribers that follow have mostly missed the same few changes.
const KEPT_MAX: usize = 32;
/// Changes of an update that is kept; larger ones are rare, and they weigh.
const TOUCHES_MAX: usize = 64;
/// What gRPC puts before each message: not compressed, and its length.
const HEAD_BYTES: usize = 5;

/// An update on its way to one subscriber, perhaps shared with others.
#[derive(Clone, Debug)]
pub struct Given(Arc<Made>);

#[derive(Debug)]
struct Made {
    update: Update,
    /// Encoded for interest 0, once the first of several has asked for it; none where it is not shared.
    wire: Option<OnceLock<Vec<Bytes>>>,
}

impl Given {
    /// For one subscriber alone.
    pub(super) fn alone(update: Update) -> Self {
        Self(Arc::new(Made { update, wire: None }))
    }

    fn shared(update: Update) -> Self {
        let wire = Some(OnceLock::new());
        Self(Arc::new(Made { update, wire }))
    }

    /// The update.
    #[must_use]
    pub fn update(&self) -> &Update {
        &self.0.update
    }

    /// The position after it.
    #[must_use]
    pub fn held(&self) -> Held {
        self.0.update.held
    }

    /// When the oldest change in it was committed.
    #[must_use]
    pub fn committed_at(&self) -> Option<Timestamp> {
        self.0.update.committed_at
    }

    /// The update alone.
    #[must_use]
    pub fn into_update(self) -> Update {
        Arc::try_unwrap(self.0).map_or_else(|shared| shared.update.clone(), |made| made.update)
    }

    /// As messages of the interest with that sequence.
    #[must_use]
    pub fn into_messages(self, interest: u64) -> Messages {
        if self.0.wire.is_some() {
            return Messages(Kind::Shared {
                made: self.0,
                interest,
                next: 0,
            });
        }
        let mut chunks = chunks(self.into_update());
        chunks.head.interest = interest;
        Messages(Kind::Own(Box::new(chunks)))
    }
}

/// The messages of an update, encoded, each with gRPC's head: ready to be sent.
#[derive(Debug)]
pub struct Messages(Kind);

#[derive(Debug)]
enum Kind {
    Shared {
        made: Arc<Made>,
        interest: u64,
        next: usize,
    },
    /// Made and encoded one by one: a reader that is slow holds its update once, not twice.
    Own(Box<Chunks>),
}

impl Iterator for Messages {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        match &mut self.0 {
            Kind::Own(chunks) => chunks.next().map(|chunk| framed(&chunk)),
            Kind::Shared { made, interest, next } => {
                let encode = || chunks(made.update.clone()).map(|chunk| framed(&chunk)).collect();
                let message = made.wire.as_ref()?.get_or_init(encode).get(*next)?;
                *next += 1;
                Some(made_for(message, *interest))
            }
        }
    }
}

fn framed(message: &pb::Update) -> Bytes {
    let len = message.encoded_len();
    let mut bytes = BytesMut::with_capacity(HEAD_BYTES + len);
    head(&mut bytes, len);
    // It grows where it must.
    let _ = message.encode(&mut bytes);
    bytes.freeze()
}

fn head(bytes: &mut BytesMut, len: usize) {
    bytes.put_u8(0);
    // A chunk is far smaller than 4 GiB.
    bytes.put_u32(u32::try_from(len).unwrap_or(u32::MAX));
}

/// A message for another interest than 0: fields may stand in any order, so that the one that is lacking is added.
fn made_for(message: &Bytes, interest: u64) -> Bytes {
    if interest == 0 {
        return message.clone();
    }
    let lacking = pb::Update {
        interest,
        ..pb::Update::default()
    };
    let body = message.get(HEAD_BYTES..).unwrap_or_default();
    let len = body.len() + lacking.encoded_len();
    let mut bytes = BytesMut::with_capacity(HEAD_BYTES + len);
    head(&mut bytes, len);
    bytes.put_slice(body);
    // It grows where it must.
    let _ = lacking.encode(&mut bytes);
    bytes.freeze()
}

/// The shared updates of the newest moment that anybody has looked at.
#[derive(Debug, Default)]
pub(super) struct Kept {
    /// Guards the table only.
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    moment: Weak<Moment>,
    entries: Vec<Entry>,
}

#[derive(Debug)]
struct Entry {
    sight: Sight,
    touches: Vec<TouchId>,
    given: Given,
}

impl Entry {
    fn is_of(&self, sight: &Sight, touches: &[Touch<'_>]) -> bool {
        self.touches.len() == touches.len()
            && self.sight == *sight
            && self.touches.iter().zip(touches).all(|(id, touch)| *id == touch.id)
    }
}

impl Kept {
    /// The update that takes whoever sees like `sight` and has missed exactly `touches` to `moment`; made where there is none
    /// yet.
    pub(super) fn get_or_make(
        &self,
        moment: &Arc<Moment>,
        sight: &Sight,
        touches: &[Touch<'_>],
        make: impl FnOnce() -> Option<Update>,
    ) -> Option<Given> {
        // Where nothing is seen the update is no work.
        if touches.is_empty() || touches.len() > TOUCHES_MAX {
            return make().map(Given::alone);
        }
        let mut table = self.lock();
        if table.moment.as_ptr() != Arc::as_ptr(moment) {
            table.moment = Arc::downgrade(moment);
            table.entries.clear();
        }
        if let Some(entry) = table.entries.iter().find(|entry| entry.is_of(sight, touches)) {
            return Some(entry.given.clone());
        }
        drop(table);
        let given = Given::shared(make()?);
        let mut table = self.lock();
        if table.moment.as_ptr() == Arc::as_ptr(moment) && table.entries.len() < KEPT_MAX {
            table.entries.push(Entry {
                sight: sight.clone(),
                touches: touches.iter().map(|touch| touch.id).collect(),
                given: given.clone(),
            });
        }
        Some(given)
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
