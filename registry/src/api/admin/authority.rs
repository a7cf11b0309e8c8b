//! The region's authority: when it ends, and how far a change of its root is.

use mesh::model::Timestamp;
use proto::admin::v1 as pb;

use super::Admin;
use crate::{
    api::Error,
    authority::rotate::{Pace, Step},
    catalog::{Command, Refusal, RotateStep, Stage},
    node,
};

impl Admin {
    pub(crate) async fn rotate_authority(&self, _: pb::RotateAuthorityRequest) -> Result<pb::Committed, Error> {
        if self.parts.config.authority.is_some() {
            let text = "the root comes from the files named in [authority]; it is replaced where it was made";
            return Err(Refusal::Conflict(text.to_owned()).into());
        }
        self.committed(Command::Rotate(Box::new(RotateStep::Order))).await
    }

    pub(crate) async fn get_authority(&self, options: pb::ReadOptions) -> Result<pb::AuthorityStatus, Error> {
        let reading = self.read(Some(options)).await?;
        let (state, parts) = (&reading.state, &self.parts);
        let (stage, since) = match state.rotation().map(|rotation| (rotation.stage, rotation.ordered_at)) {
            None => ("", 0),
            Some((Stage::Ordered, at)) => ("ordered", at.0),
            Some((Stage::Made, _)) => ("made", 0),
            Some((Stage::Published { at, .. }, _)) => ("published", at.0),
            Some((Stage::Signing { since }, _)) => ("signing", since.0),
        };
        let now = parts.clock().wall();
        let known = node::facts(state, &parts.federation);
        let step = known.map(|known| node::step(&known, now, Pace::default()));
        let is_leader = parts.replica.position().is_leader;
        let mut waits_for: Vec<String> = Vec::new();
        let next = match (step, stage) {
            (None, _) => "the region has no authority yet".to_owned(),
            (Some(Step::WaitFor(_)), _) if !is_leader => {
                "waits until every peer has the new anchor; the leader knows which are missing".to_owned()
            }
            (Some(Step::WaitFor(peers)), _) => {
                waits_for.extend(peers.iter().map(ToString::to_string));
                "waits until these peers have the new anchor; a peer that will not come back can be removed".to_owned()
            }
            (Some(Step::Wait { until }), "published") => {
                format!(
                    "the new root issues in {} s, when everybody has its anchor",
                    seconds(until, now)
                )
            }
            (Some(Step::Wait { until }), "signing") => {
                let days = seconds(until, now) / 86_400;
                format!("the old root is withdrawn in {days} days, when its last certificate has ended")
            }
            (Some(Step::Wait { .. }), _) => "nothing is due".to_owned(),
            (Some(_), _) => "the leader takes the next step within seconds".to_owned(),
        };
        let bundle = state.own_bundle();
        Ok(pb::AuthorityStatus {
            issuing_ends_ms: state.authority().map_or(0, |record| record.not_after.0),
            anchors: bundle.map_or(0, |bundle| u32::try_from(bundle.anchors().len()).unwrap_or(u32::MAX)),
            sequence: bundle.map_or(0, |bundle| bundle.sequence()),
            stage: stage.to_owned(),
            since_ms: since,
            waits_for,
            next,
            position: Some(reading.position),
        })
    }
}

fn seconds(until: Timestamp, now: Timestamp) -> u64 {
    until.since(now).as_secs()
}
