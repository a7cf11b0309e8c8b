//! What the region offers. Pure.

use mesh::model::{Export, ServiceName};

use super::{Outcome, Transaction, not_found};
use crate::catalog::Reply;

impl Transaction<'_> {
    pub(super) fn put_export(&mut self, export: &Export) -> Outcome {
        self.own_region()?;
        let mut export = export.clone();
        if let Some(before) = self.state.exports.get(&export.service) {
            // A wider or narrower audience makes the offer no younger: its age decides conflicts.
            export.created_at = before.created_at;
        }
        self.set_export(&export.service.clone(), Some(export));
        Ok(Reply::Done)
    }

    pub(super) fn remove_export(&mut self, service: &ServiceName) -> Outcome {
        if !self.state.exports.contains_key(service) {
            return Err(not_found("export of service", service));
        }
        self.set_export(service, None);
        Ok(Reply::Done)
    }
}
