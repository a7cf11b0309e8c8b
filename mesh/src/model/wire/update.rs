//! Updates, which are many resources that repeat each other.

use std::sync::Arc;

use proto::registry::v1 as pb;

use super::{WireError, field, policy};
use crate::model::{Key, Resource, Texts, Timestamp, Update};

impl From<Update> for pb::Update {
    fn from(update: Update) -> Self {
        Self {
            region: update.region.to_string(),
            held: Some(update.held.into()),
            full: update.full,
            upserts: update.upserts.into_iter().map(Into::into).collect(),
            removed: update.removed.iter().map(Key::to_string).collect(),
            committed_at_ms: update.committed_at.map_or(0, |at| at.0),
            more: false,
            interest: 0,
        }
    }
}

impl TryFrom<pb::Update> for Update {
    type Error = WireError;
    /// Resources and keys of a kind that a newer version added are skipped: they cannot matter to this one.
    fn try_from(update: pb::Update) -> Result<Self, WireError> {
        let (mut texts, mut last) = (Texts::default(), None);
        let known = update.upserts.into_iter().filter_map(|resource| resource.kind);
        let upserts = known.map(|kind| {
            let mut resource = Resource::try_from(kind)?;
            // Thousands of endpoints have a few zones, clusters and identities, and follow each other by service.
            if let Resource::Endpoint(endpoint) = &mut resource
                && let Some(endpoint) = Arc::get_mut(endpoint)
            {
                endpoint.share(&mut texts);
                match &last {
                    Some(last) if *last == endpoint.service => endpoint.service.clone_from(last),
                    _ => last = Some(endpoint.service.clone()),
                }
            }
            Ok::<_, WireError>(resource)
        });
        let known = update.removed.iter().filter(|key| policy::is_known_kind(key));
        let removed = known.map(|key| Key::parse(key));
        Ok(Self {
            region: field("update.region", update.region.parse())?,
            held: update
                .held
                .ok_or_else(|| WireError::new("update.held", "is missing"))?
                .into(),
            full: update.full,
            upserts: upserts.collect::<Result<_, _>>()?,
            removed: removed.collect::<Result<_, _>>()?,
            committed_at: (update.committed_at_ms != 0).then_some(Timestamp(update.committed_at_ms)),
        })
    }
}
